"""The detector: fit on in-distribution images, then score, decide, explain, save and load."""

__all__ = ["Detector"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import nn

from .arrays import Bools, Pixels
from .calibrated import GIVEN
from .calibrating import recalibrated
from .data.groups import check_groups, groups_of
from .data.open_region import open_region
from .data.skipping import SKIP_LIMIT, Skips, check_skip_limit
from .fit_input import FitInput
from .mass import LogProb
from .models.base import FitRun
from .models.kinds import MODULE
from .models.registry import make_model
from .runtime.machine import is_main_process, shared_by_processes
from .runtime.plain import plainly
from .saving import Saving
from .settings import Settings
from .training.checkpoint import alone_with
from .trimming import fitted_on_readable

# Of a density from elsewhere most images calibrate.
_NOTHING_TRAINED = 0.75


class Detector(Saving):
    """Learns from in-distribution images alone, and then tells which images do not belong.

    Images are anything that `open_images` takes: arrays, folders, files, named sources. In their
    place rows of numbers, embeddings or a table, are anything that `open_vectors` takes.

    Arguments:
        encoder: What the flow models: `pca` (whitened principal components), `pixels`, `lite0`
            (what a network that comes along sees, whitened), `lite2`, `hf:NAME` or `timm:NAME`
            (other networks), `auto` (pca for grey images of at most 32 pixels a side, else
            lite0), or a module from pixels in [0, 1] to features, whitened like `pca`. `vectors`
            are embeddings and tables, rows of numbers, which `auto` knows.
        method: `flow`, or a baseline to compare with, one of `approxmass.baselines.BASELINES`,
            which is calibrated in the same way.
        seed: Fixes the split, the initial weights, the training and the scores.
        size: Bring every image into a frame of about `size x size` pixels, of the median aspect
            of the images of the fit, unsquashed. None: 256 for `lite0` (128 if no side is above
            64), else 64 if they are larger.
        mode: See `open_images`; so are
        background: and
        pages.
        roi: Region of interest: a path of an image, or an array `(H, W)`, bool or uint8, stretched
            over every image. Where it is 0, nothing is in fit, score or map. None for all.
        holdout: Share of the images held out to calibrate, never trained on.
        calibration: `holdout`, or `folds`: four fits, each without a fold of the images, so that
            all of them calibrate; for the guarantee see `calibration.fold_p_values`. `auto` is
            folds where fewer than 100 images would be held out to calibrate and a fit is quick
            (codes of small images, or of a network without parts), or where there are fewer than
            100 images.
        columns: Of a table those that count, in this order; None for all.
        trim: Share of the images of the fit, from 0 to below 0.5, that is left out as the most
            outlying: a first pass, by folds, scores each by a model that has not seen it. What
            p-values promise is then for images like those that are left; their names are in
            `facts.trimmed`.
        device: Where to compute, as torch names it; None for a GPU where there is one.
        threads: Most threads to compute in; None leaves that to the libraries.
        alpha: Of the flow: weight of the approximate mass in the loss, at least 0. `auto` is
            `0.35 sqrt(dimension)` of whitened codes, 2/32 in `pixels`, as released, and
            `sqrt(dimension)` of what a network sees.
        preset: Of the flow: `compact` or `paper` on `pixels`; a name of `VECTOR_FLOWS` elsewhere.
        components: Of the flow: most principal components of whitened codes.
        epochs: Of the flow: passes over the training images; `auto` follows from their number.
        statistic: Of the flow: the score behind the p-values, one of `STATISTICS`; `auto` is
            `latent_fit` for colour images on pixels, else `fused`.
        draws: Of the flow: dequantisation draws an image (`pixels` only).
        parts: Of the flow: look at the places of an image too; `auto` does where a network sees
            images of more than 64 pixels a side.
        options: Of another method: what its class takes, such as `epochs` or `components`.

    Attributes:
        skipped: Images that the last `fit` or `calibrate` could not read, each with its reason.

    Raises:
        ApproxMassError: a value out of range, or an option that the method does not have.

    Example:
        >>> import numpy as np
        >>> generator = np.random.default_rng(0)
        >>> images = generator.normal(0.5, 0.1, (400, 8, 8)).clip(0, 1)
        >>> detector = Detector(epochs=2).fit(images)
        >>> others = generator.uniform(0, 1, (20, 8, 8))
        >>> bool(detector.predict(others).mean() > 0.9)
        True
    """

    @overload
    def __init__(
        self,
        encoder: str | nn.Module = ...,
        *,
        method: Literal["flow"] = ...,
        seed: int = ...,
        size: int | None = ...,
        mode: str = ...,
        background: int = ...,
        pages: bool = ...,
        roi: str | Path | Bools | Pixels | None = ...,
        holdout: float = ...,
        calibration: str = ...,
        columns: Sequence[str] | None = ...,
        trim: float = ...,
        device: str | torch.device | None = ...,
        threads: int | None = ...,
        alpha: float | Literal["auto"] = ...,
        preset: str = ...,
        components: int = ...,
        epochs: int | Literal["auto"] = ...,
        statistic: str = ...,
        draws: int = ...,
        parts: bool | Literal["auto"] = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        encoder: str | nn.Module = ...,
        *,
        method: str,
        seed: int = ...,
        size: int | None = ...,
        mode: str = ...,
        background: int = ...,
        pages: bool = ...,
        roi: str | Path | Bools | Pixels | None = ...,
        holdout: float = ...,
        calibration: str = ...,
        columns: Sequence[str] | None = ...,
        trim: float = ...,
        device: str | torch.device | None = ...,
        threads: int | None = ...,
        **options: Any,
    ) -> None: ...

    def __init__(
        self,
        encoder: str | nn.Module = "auto",
        *,
        method: str = "flow",
        seed: int = 0,
        size: int | None = None,
        mode: str = "auto",
        background: int = 255,
        pages: bool = False,
        roi: str | Path | Bools | Pixels | None = None,
        holdout: float = 0.1,
        calibration: str = "auto",
        columns: Sequence[str] | None = None,
        trim: float = 0.0,
        device: str | torch.device | None = None,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(device=device, threads=threads)
        unsaid = isinstance(encoder, str) and encoder == "auto"
        given = options if unsaid else {"encoder": encoder, **options}
        self._given, self._said = given, given
        self._asked = Settings(
            method=method,
            seed=seed,
            size=size,
            mode=mode,
            background=background,
            pages=pages,
            roi=None if roi is None else open_region(roi).text,
            holdout=holdout,
            calibration=calibration,
            columns=columns,
            options=_named(encoder) if method == "flow" else {},
            trim=trim,
        )
        make_model(method, self._asked.seed, given)  # for its checks: a fit makes its own

    def __repr__(self) -> str:
        said = self._asked.said()
        said |= {n: type(v) if isinstance(v, nn.Module) else v for n, v in self._said.items()}
        line = f"Detector({', '.join(f'{name}={value!r}' for name, value in said.items())})"
        if self._fitted is None:
            return f"{line}, not fitted"
        facts, calibration = self.facts, self.fitted.in_use
        return (
            f"{line}, fitted on {facts.images:,} {self.fitted.unit}s of {facts.source}\n"
            f"  {self.model!r}, decides by {self.statistic}, p >= 1/{calibration.fewest + 1:,}"
        )

    @plainly
    def fit(
        self,
        images: Any,
        labels: Any = None,
        outliers: Any = None,
        *,
        groups: Any = None,
        skip_limit: float = SKIP_LIMIT,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> "Detector":
        """Learn from in-distribution images.

        Nine tenths train the flow. Of the rest, a quarter gives the in-distribution range of each
        statistic and the others the p-values. By folds, each of four flows is trained without a
        fold of the images, which calibrates it: see `calibration`. Copies of an image are on one
        side and count once.

        Arguments:
            images: In-distribution images, at least 30, better 100 and more.
            labels: Their classes, for methods that learn a classifier: whatever `open_labels`
                takes; None for those that come with the images. The flow needs none.
            outliers: Images for methods that learn from some outliers (`energy`).
            groups: What belongs together, as frames of a film, and is on one side: whatever
                `data.groups.open_groups` takes. One image of each group calibrates.
            skip_limit: Share of the images that are left out where they cannot be read, as if they
                had not been there; 0 stops at the first. They are in `facts.skipped`.
            checkpoint: File for the state of the training of a flow; other methods keep their own.
            resume: Go on from `checkpoint` if it is there.
            progress: Show remarks and a progress bar on standard error.

        Raises:
            ApproxMassError: what cannot be used, or options that do not go together.
            TrainingDivergedError: the loss became NaN or grew without bound.
        """
        run = FitRun(
            threads=self.threads,
            device=self.device,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            resume=resume,
            progress=progress and is_main_process(),
        )
        asked = FitInput(
            source=self._asked.open(images),
            labels=labels,
            outliers=outliers,
            groups=groups,
            settings=self._asked,
            options=self._given,
            skip_limit=check_skip_limit(skip_limit),
        )
        # A fit that fails leaves an earlier one as it was.
        with shared_by_processes(), alone_with(run.checkpoint):
            self._fitted = fitted_on_readable(asked, run)
        self.skipped = self.facts.skipped
        return self

    @classmethod
    def from_log_prob(
        cls,
        log_prob: LogProb,
        images: Any,
        *,
        statistic: str = "auto",
        columns: Sequence[str] | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        threads: int | None = None,
        progress: bool = False,
    ) -> "Detector":
        """Calibrated p-values from the NLL and the mass of a density that was trained elsewhere.

        Such as a flow of zuko, normflows or nflows, or an energy model, for which a log-density up
        to a constant will do. Nothing is trained: under half of the images give the in-distribution
        range of each statistic, the others the p-values; fewer than 100 do so by folds.

        Arguments:
            log_prob: From inputs, float32 on `device`, to log-densities `(N,)` in nats that can be
                differentiated. The value at an input depends on that input alone, so a model is in
                eval mode and draws no noise. Images go in as pixels `(N, C, H, W)` in [0, 1], of
                the size that they have, rows of numbers as `(N, D)`.
            images: In-distribution images or rows that it was not trained on, at least 30, or 10
                rows; better 200 and more.
            statistic: `nll`, `mass`, `typicality` or `fused`, which is what `auto` means.
            columns: As of `Detector`; so are the others.
            seed: Fixes which images are for which purpose.
            device: Where inputs are put.
            threads: Most threads to compute in.
            progress: Show a progress bar on standard error.

        Raises:
            ApproxMassError: as `fit`, or a density that is none.

        Example:
            >>> normal = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
            >>> rows = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
            >>> detector = Detector.from_log_prob(normal.log_prob, rows)
            >>> detector.predict(torch.tensor([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]])).tolist()
            [False, True]
        """
        detector = cls(
            method="density",
            log_prob=log_prob,
            statistic=statistic,
            holdout=_NOTHING_TRAINED,
            columns=columns,
            seed=seed,
            device=device,
            threads=threads,
        )
        detector.fit(images, progress=progress)
        return detector

    @plainly
    def calibrate(
        self,
        images: Any,
        *,
        per: str | Sequence[Any] | None = None,
        skip_limit: float = SKIP_LIMIT,
    ) -> "Detector":
        """Give new p-values from new in-distribution images, without a new fit.

        For images of another camera or another day. The guarantee of the p-values is then for
        images like these. The earlier calibrations are kept, `fitted.calibrations`.

        Arguments:
            images: In-distribution images, none of those of the fit: at least 19, of each group.
            per: What tells groups of images apart, such as cameras, each of which gets its own
                p-values: the group of each image, or what `data.groups.groups_of` takes, such as
                a column, which is then looked up for the images scored too. None for one
                calibration for all.
            skip_limit: As of `fit`; those left out are in `skipped`.

        Raises:
            ApproxMassError: images that cannot be used, too few of a group, or an image in none.

        Example:
            >>> import numpy as np
            >>> generator = np.random.default_rng(0)
            >>> images, new = generator.normal(0.5, 0.1, (2, 200, 8, 8)).clip(0.1, 1)
            >>> detector = Detector(method="gaussian").fit(images)
            >>> darker = new[:100] - 0.1  # by other cameras
            >>> cameras = ["east"] * 50 + ["west"] * 50
            >>> scores = detector.calibrate(darker, per=cameras).score(darker[:2], per=["west"] * 2)
            >>> scores.group.tolist(), detector.fitted.in_use.count
            (['west', 'west'], 100)
        """
        source = self.open(images)
        by, groups = None, None
        if isinstance(per, str):
            by, groups = per, groups_of(source, per)
        elif per is not None:
            by, groups = GIVEN, check_groups(per, source)
        skips = Skips(source, skip_limit)
        self._fitted = recalibrated(
            self.fitted, source, by, groups, device=self.device, threads=self.threads, skips=skips
        )
        self.skipped = skips.lines
        return self


def _named(encoder: str | nn.Module) -> dict[str, Any]:
    return {"encoder": encoder if isinstance(encoder, str) else MODULE}
