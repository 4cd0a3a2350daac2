"""Scores of a small fit of every kind of model on the sample: `python tests/pinned/make.py FILE`.

The numbers are a function of the code alone: one thread, float32, and the instructions that every
x86-64 processor of the last ten years has.
"""

import os
import sys

EVERYWHERE = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "DNNL_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    "OMP_NUM_THREADS": "1",
}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in EVERYWHERE.items()):
    os.environ.update(EVERYWHERE)  # libraries read them when they are loaded
    os.execv(sys.executable, [sys.executable, *sys.argv])

import json
from pathlib import Path
from typing import Any

import approxmass.runtime.machine

if __name__ == "__main__":  # whoever imports this keeps his own
    approxmass.runtime.machine.fast_bf16 = lambda device: False  # type: ignore[assignment]

import numpy as np
import torch
from torch import nn

from approxmass import Detector, open_images
from approxmass.baselines import BASELINES

SMALL = {"epochs": 1}
WIDE = {"epochs": 1, "depth": 10, "width": 1}
OPTIONS: dict[str, dict[str, Any]] = {
    "godin": WIDE,
    "mahalanobis": WIDE | {"layers": "ensemble"},
    "mahalanobis-sees-ood": WIDE,
    "energy": WIDE | {"tuning_epochs": 1},
    "gradcon": SMALL,
    "ocgan": SMALL | {"width": 4},
    "autoencoder": SMALL | {"width": 4},
}


def features() -> nn.Module:
    """A module of the caller's."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.Tanh(), nn.Flatten())


def held_out(*given: Any, **options: Any) -> Detector:
    """A detector that holds images out: four fits would pin no more than one."""
    return Detector(*given, calibration="holdout", **options)


def detectors() -> dict[str, Detector]:
    """One of every kind, not fitted."""
    made = {
        "pca": held_out("pca", epochs=2),
        "pca, mass, nice": held_out("pca", epochs=1, preset="nice", statistic="mass", components=9),
        "pca, vanilla": held_out("pca", alpha=0.0, epochs=1, statistic="nll", seed=3, size=20),
        "pixels": held_out("pixels", epochs=1, size=12, draws=2),
        "module": held_out(features(), epochs=1, statistic="typicality"),
    }
    for name in BASELINES:
        made[name] = held_out(method=name, size=28, **OPTIONS.get(name, {}))
    return made


def main() -> None:
    """Fit them all."""
    torch.set_num_threads(1)
    usual = open_images("sample:fashion_mnist/train").read()[:400]
    colour = usual[:, [0, 0, 0]] // np.array([1, 2, 3], np.uint8)[:, None, None]
    labels = (usual.mean((1, 2, 3)) > np.median(usual.mean((1, 2, 3)))).astype(int)
    odd = open_images("sample:mnist").read()
    probe = np.concatenate([open_images("sample:fashion_mnist/test").read()[:8], odd[:8]])
    pinned = {}
    in_colour = {"colour": held_out("pixels", epochs=1, size=8), "photos": held_out(epochs=1)}
    in_colour["parts"] = held_out(epochs=1, parts=True)
    for name, detector in (detectors() | in_colour).items():
        images, asked = (usual, probe) if name not in in_colour else (colour, colour[:16] // 2)
        kind = BASELINES.get(name)
        given: dict[str, Any] = {}
        if kind is not None and kind.needs_labels:
            given["labels"] = labels
        if kind is not None and kind.takes_outliers:
            given["outliers"] = odd[100:200]
        scores = detector.fit(images, **given).score(asked)
        columns = {**scores.statistics, "p_value": scores.p_value}
        pinned[name] = {key: values.tolist() for key, values in columns.items()}
        print(name, flush=True)
    Path(sys.argv[1]).write_text(json.dumps(pinned, indent=1) + "\n")


if __name__ == "__main__":
    main()
