"""What a fitted detector leaves on the disk, and how it comes back: a folder, or one ONNX file."""

__all__ = ["Saving"]

from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from .card import card
from .errors import ApproxMassError
from .exporting import export_onnx
from .fitted import Fitted
from .mass import LogProb
from .models.settings import check_whole
from .runtime.machine import pick_device
from .runtime.plain import plain_process, plainly
from .scoring import Scoring


class Saving(Scoring):
    """The part of a `Detector` that is about files.

    Arguments:
        device: As of `Detector`; so is
        threads.

    Attributes:
        skipped: Images that the last `fit` or `calibrate` could not read, each with its reason.
    """

    _given: dict[str, Any]

    def __init__(
        self, *, device: str | torch.device | None = None, threads: int | None = None
    ) -> None:
        self.device = pick_device(device)
        self.threads = None if threads is None else check_whole("threads", threads, 1, 4096)
        self.skipped: tuple[str, ...] = ()
        self._fitted: Fitted | None = None

    @plainly
    def export(self, file: str | Path, *, dtype: str | None = None) -> None:
        """Write the detector as one ONNX graph, with the gradient and the calibration inside.

        Beside it, as `.pt2`, goes the same program as torch.export keeps it. In go pixels or rows,
        as many as there are; out come every statistic, p-values and, with parts, the map. What
        must be done to an image before is in docs/export.md; `approxmass.onnx_engine.OnnxDetector`
        does it without PyTorch.

        Arguments:
            file: To write; ends in .onnx.
            dtype: Of what goes in: `uint8`, or `float32` for pixels in [0, 1]; of rows of numbers
                `float64` or `float32`. None for the first.

        Raises:
            ApproxMassError: a baseline, a calibration per group, an encoder or flow that ONNX has
                no words for, or the extra `onnx` is not installed.
        """
        try:
            self.model.to(torch.device("cpu"))
            export_onnx(self.fitted, Path(file), dtype)
        finally:
            self.model.to(self.device)

    @plainly
    def save(self, folder: str | Path) -> None:
        """Write the detector to a folder; an older detector there is replaced when this is whole.

        Raises:
            ApproxMassError: the folder holds something else, or cannot be written.
        """
        self.fitted.save(Path(folder), card(self, Path(folder).name))

    @classmethod
    @plainly
    def load(
        cls,
        folder: str | Path,
        *,
        encoder: nn.Module | None = None,
        log_prob: LogProb | None = None,
        device: str | torch.device | None = None,
        threads: int | None = None,
    ) -> Self:
        """Read a saved detector.

        Arguments:
            folder: Where it was saved.
            encoder: The module that was its encoder, if torch could not export it.
            log_prob: The density that it was made from, of `from_log_prob`.
            device: As for a new detector; it need not be that of the fit.
            threads: As for a new detector.

        Raises:
            ApproxMassError: no whole detector of this version there, both an encoder and a density,
                or no such device.
        """
        detector = cls(device=device, threads=threads)
        if encoder is not None and log_prob is not None:
            raise ApproxMassError(
                "a detector has an encoder of yours or a density of yours, not both: give one",
                code="bad-option",
            )
        given = log_prob if encoder is None else encoder
        with plain_process(detector.threads):
            fitted = Fitted.load(Path(folder), given, detector.device)
        detector._fitted, detector._asked = fitted, fitted.settings
        detector._given = dict(fitted.settings.options)
        if log_prob is not None:
            detector._given["log_prob"] = log_prob
        elif (module := encoder or fitted.model.module) is not None:
            detector._given["encoder"] = module
        return detector
