"""What a small fit of every kind of model scores, however the code is arranged."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PINNED = Path(__file__).parent / "pinned"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="pinned on x86-64 alone")
def test_every_kind_of_model_scores_as_it_did(tmp_path: Path) -> None:
    """After a change that means to change a score: `make pin`, in a commit that says why."""
    subprocess.run(
        [sys.executable, str(PINNED / "make.py"), str(tmp_path / "scores.json")],
        env={**os.environ, "APPROXMASS_CACHE": str(tmp_path / "cache")},
        check=True,
    )
    found = json.loads((tmp_path / "scores.json").read_text())
    pinned = json.loads((PINNED / "scores.json").read_text())
    assert found.keys() == pinned.keys()
    for model, columns in pinned.items():
        assert found[model].keys() == columns.keys(), model
        for name, values in columns.items():
            np.testing.assert_allclose(
                found[model][name], values, rtol=1e-6, err_msg=f"{model}: {name}"
            )
