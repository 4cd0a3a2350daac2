"""The same images through every door: Python, the command, the server, ONNX, Ray."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from approxmass import Detector
from approxmass.runtime.extras import has_extra
from approxmass.serve import create_app
from conftest import textures

# A log-likelihood is computed by other kernels there; a p-value moves by at most a rank.
_RELATIVE = 1e-4


@pytest.mark.slow
def test_every_door_gives_the_same_rows(tmp_path: Path) -> None:
    detector = Detector("pca", epochs=2, seed=0).fit(textures(1500))
    detector.save(tmp_path / "d")
    usual, other = textures(60, seed=8), textures(20, seed=9, shift=1.5)
    (tmp_path / "images").mkdir()
    for i, image in enumerate((*usual, *other)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i:02}.png")

    def command(*words: object) -> None:
        line = [sys.executable, "-m", "approxmass", *map(str, words)]
        subprocess.run(line, check=True, capture_output=True)

    def scored(*words: object) -> pd.DataFrame:
        command("score", *words, tmp_path / "images", "-o", tmp_path / "t.parquet")
        return pd.read_parquet(tmp_path / "t.parquet")

    doors = {"command": scored(tmp_path / "d")}
    with TestClient(create_app(detector), base_url="http://localhost") as client:
        files = sorted((tmp_path / "images").iterdir())
        sent = [("image", (file.name, file.read_bytes())) for file in files]
        doors["server"] = pd.DataFrame(client.post("/score", files=sent).json()["results"])
    command("export", tmp_path / "d", "-o", tmp_path / "m.onnx")
    doors["onnx"] = scored(tmp_path / "m.onnx", "--engine", "onnx")
    if has_extra("ray"):
        doors["ray"] = scored(tmp_path / "d", "--engine", "ray")
    lines = subprocess.run(
        [sys.executable, "-m", "approxmass", "score", str(tmp_path / "d"),
         str(tmp_path / "images"), "-o", "-", "--format", "jsonl"],
        check=True, capture_output=True,
    ).stdout  # fmt: skip
    doors["pipe"] = pd.DataFrame(map(json.loads, lines.splitlines()))

    wanted = detector.score(tmp_path / "images").to_pandas()
    assert 0 < wanted.is_outlier.sum() < 80
    rank = 1 / (1 + len(detector.calibration_scores))
    for door, found in doors.items():
        assert list(found.name) == list(wanted.name), door
        for name in ("log_prob", "mass", "statistic"):
            np.testing.assert_allclose(found[name], wanted[name], rtol=_RELATIVE, err_msg=door)
        assert (found.p_value - wanted.p_value).abs().max() < 1.01 * rank, door
        assert (found.p_value == wanted.p_value).mean() > 0.97, door
        if door != "onnx":
            assert (found.is_outlier == wanted.is_outlier).all(), door
