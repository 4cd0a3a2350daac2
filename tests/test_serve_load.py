"""Valid and hostile clients at once, against a server that is its own process."""

import os
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from approxmass import Detector, open_images

SECONDS = float(os.environ.get("APPROXMASS_LOAD_SECONDS", "6"))


def test_no_wrong_answer_and_no_crash_whatever_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import serve

    train = open_images("sample:fashion_mnist/train").read()[:1500]
    detector = Detector(epochs=2).fit(train)
    detector.save(tmp_path / "d")
    images = [
        open_images(f"sample:{name}").read()[:60, 0] for name in ("fashion_mnist/test", "mnist")
    ]
    expected = serve.expected_of(detector, np.concatenate(images))
    with serve.serving(tmp_path / "d", OMP_NUM_THREADS="1") as url:
        load = serve.run_load(url, expected, SECONDS)
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            metrics = answer.read().decode()
        # Alone again: alive, and as right as before.
        after = serve.run_load(url, expected, 0.5, hostile=0, seed=1)
    assert load.valid > 50
    assert after.valid > 10
    assert set(load.hostile) == set(serve.ATTACKS)
    value = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line[0] != "#")
    assert value["approxmass_images_waiting"] == "0.0"
    batches = float(value["approxmass_batch_images_count"])
    assert float(value["approxmass_images_scored_total"]) >= load.images
    assert batches < float(value["approxmass_images_scored_total"])
    assert 'status="500"' not in metrics
