"""The commands `fit`, `inspect` and `methods`."""

__all__ = ["fit", "inspect", "methods", "show_detector"]

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ApproxMassError
from .console import check_outputs, emit, out, say
from .options import SOURCE, Device, Folder, Json, SkipLimit, Threads, say_skipped

if TYPE_CHECKING:
    from ..detector import Detector

_FLOW = "Of the flow: "
Text = str | None


Output = Annotated[Path, typer.Option("-o", metavar="DIR", help="Folder for the detector.")]
Encoder = Annotated[
    Text,
    typer.Option(help=f"{_FLOW}what it models: pca, pixels, lite0, lite2, hf:NAME or timm:NAME."),
]
Alpha = Annotated[Text, typer.Option(help=f"{_FLOW}weight of the mass in the loss.")]
Preset = Annotated[
    Text,
    typer.Option(
        help=f"{_FLOW}compact or paper (pixels); realnvp, identity, nice, maf, nsf, gf (else)."
    ),
]
Components = Annotated[Text, typer.Option(help="Most principal components.")]
Epochs = Annotated[Text, typer.Option(help="Passes over the images.")]
Statistic = Annotated[
    Text,
    typer.Option(
        help=f"{_FLOW}the score behind the p-values: nll, mass, latent_fit, residual, neighbour, "
        "patch_nll, patch_mass, patch_residual, typicality or fused."
    ),
]
Draws = Annotated[Text, typer.Option(help=f"{_FLOW}dequantisation draws an image (pixels).")]
Parts = Annotated[
    bool | None,
    typer.Option(
        "--parts/--no-parts", help=f"{_FLOW}look at the places of an image too (networks)."
    ),
]
Method = Annotated[
    str, typer.Option(help="flow, or a baseline to compare with; see `approxmass methods`.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any option of the method; may be repeated."),
]
Size = Annotated[
    int | None, typer.Option(help="Bring images to about SIZE x SIZE pixels, unsquashed.")
]
Mode = Annotated[str, typer.Option(help="auto, grey or rgb: what all images are taken for.")]
Background = Annotated[
    int, typer.Option(min=0, max=255, help="Grey under transparent images; 255 is white.")
]
Pages = Annotated[
    bool, typer.Option("--pages", help="Read all frames and pages of a file, not the first alone.")
]
Roi = Annotated[
    Text,
    typer.Option(
        metavar="FILE",
        help="Region of interest: an image, stretched over all others, that is not black where to "
        "look.",
    ),
]
Calibration = Annotated[
    str,
    typer.Option(
        metavar="auto|holdout|folds",
        help="By images held out, or by folds: several fits, so that every image calibrates. auto: "
        "folds where few would be held out and a fit is quick.",
    ),
]
Trim = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Leave out the most outlying share of the images, below 0.5, found by a first pass "
        "of four fits: for images that are not all usual.",
    ),
]
Group = Annotated[
    Text,
    typer.Option(
        metavar="HOW",
        help="What belongs together, as frames of a film, and is kept on one side: subfolder, a "
        "column of the Parquet file, or a regular expression with one group (...) for the names.",
    ),
]
Columns = Annotated[
    Text,
    typer.Option(
        metavar="A,B,...",
        help="Of a table (CSV or Parquet) those that count, in this order; all, if not given.",
    ),
]
Labels = Annotated[
    Text,
    typer.Option(
        metavar="SOURCE",
        help="Classes, for a baseline that needs them; if not those that SOURCE carries.",
    ),
]
Outliers = Annotated[
    Text, typer.Option(metavar="SOURCE", help="Outliers, for a baseline that learns from some.")
]
Rate = Annotated[
    float,
    typer.Option(metavar="RATE", help="Threshold and false alarms are shown at this rate."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an unfinished fit.")]


def fit(
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Output,
    encoder: Encoder = None,
    alpha: Alpha = None,
    preset: Preset = None,
    components: Components = None,
    epochs: Epochs = None,
    statistic: Statistic = None,
    draws: Draws = None,
    parts: Parts = None,
    method: Method = "flow",
    option: Set = None,
    size: Size = None,
    mode: Mode = "auto",
    background: Background = 255,
    pages: Pages = False,
    roi: Roi = None,
    seed: Annotated[int, typer.Option(help="Fixes the fit.")] = 0,
    holdout: Annotated[float, typer.Option(help="Share of the images held out.")] = 0.1,
    calibration: Calibration = "auto",
    trim: Trim = 0.0,
    group: Group = None,
    columns: Columns = None,
    labels: Labels = None,
    outliers: Outliers = None,
    skip_limit: SkipLimit = 0.05,
    device: Device = None,
    threads: Threads = None,
    resume: Resume = False,
    json_file: Json = None,
) -> None:
    """Learn from in-distribution images and calibrate on a held-out tenth of them, or by folds."""
    from ..detector import Detector

    words = _given(encoder=encoder, alpha=alpha, preset=preset, components=components)
    words |= _given(epochs=epochs, statistic=statistic, draws=draws, parts=parts)
    options = _options(method, _together(words, option or []))
    detector = Detector(
        method=method,
        seed=seed,
        size=size,
        mode=mode,
        background=background,
        pages=pages,
        roi=roi,
        holdout=holdout,
        calibration=calibration,
        columns=None if columns is None else columns.split(","),
        trim=trim,
        device=device,
        threads=threads,
        **options,
    )
    given: dict[str, Any] = {"images": source, "labels": labels, "outliers": outliers}
    given |= {"groups": group, "skip_limit": skip_limit, "resume": resume}
    with _alone(output):
        inputs = [source, labels, outliers, roi]
        checkpoint = _check_target(output, json_file, inputs, resume=resume)
        _learn(detector, output, json_file, checkpoint, **given)


def _alone(output: Path) -> AbstractContextManager[None]:
    """The first of the processes of this fit shuts out those of others."""
    from ..runtime.machine import is_main_process
    from ..storage.artifact import check_target
    from ..storage.locks import alone

    check_target(output)
    return alone(output, "fits into") if is_main_process() else nullcontext()


def _learn(
    detector: "Detector", output: Path, json_file: Path | None, checkpoint: Path, **given: Any
) -> None:
    """Fit and save; whoever stops it is told how to go on."""
    from ..runtime.machine import end_processes, is_main_process
    from ..runtime.stop import exit_code

    try:
        detector.fit(**given, checkpoint=checkpoint, progress=True)
        if is_main_process():
            _keep(detector, output, checkpoint, json_file)
    except KeyboardInterrupt as stopped:
        if is_main_process():
            _say_stopped(checkpoint)
        raise typer.Exit(exit_code(stopped)) from None
    finally:
        end_processes()


def _options(method: str, words: dict[str, str]) -> dict[str, Any]:
    from ..models.registry import parse_options

    return parse_options(method, words)


def _keep(detector: "Detector", output: Path, checkpoint: Path, json_file: Path | None) -> None:
    detector.save(output)
    _remove(checkpoint)
    show_detector(output, detector, json_file)
    say_skipped(detector.facts.skipped, detector.fitted.unit)


def methods(json_file: Json = None) -> None:
    """List the methods that `fit --method` knows besides the flow, with their options."""
    from ..baselines import BASELINES
    from .tables import describe_methods, methods_table

    check_outputs(json_file)
    facts = describe_methods(BASELINES)
    emit(facts, json_file)
    if json_file != Path("-"):
        out.print(methods_table(facts))


def inspect(folder: Folder, false_alarm_rate: Rate = 0.05, json_file: Json = None) -> None:
    """Show what a detector is, what it learnt from and how finely it decides."""
    from ..detector import Detector

    check_outputs(json_file)
    show_detector(folder, Detector.load(folder, device="cpu"), json_file, false_alarm_rate)


def show_detector(
    folder: Path,
    detector: "Detector",
    json_file: Path | None,
    rate: float = 0.05,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Print what there is to know of a detector at a false-alarm rate, as a table and as JSON.

    Into the JSON goes `more`, too.
    """
    from ..describe import describe
    from ..drift import drift_power
    from .tables import facts_table

    facts = describe(detector, rate)
    runs = detector.fitted.calibrations
    rates = {name or "all": group.rate_facts(rate) for name, group in runs[-1].groups.items()}
    known = {"realised_rate": rates, "calibrations": [run.facts() for run in runs], **(more or {})}
    fewest = min(len(group.streamed(detector.statistic)) for group in runs[-1].groups.values())
    known["trimmed_names"] = list(detector.facts.trimmed)
    known["skipped_names"] = list(detector.facts.skipped)
    known["drift_power"] = [asdict(each) for each in drift_power(fewest)]
    emit(facts | known, json_file)
    if json_file != Path("-"):
        out.print(facts_table(str(folder), facts))


def _say_stopped(checkpoint: Path) -> None:
    kept = "repeat the command to go on"
    if files := _kept(checkpoint):
        kept = f"{files[0]} holds the run: repeat the command with --resume"
    say(f"stopped; {kept}")


def _remove(checkpoint: Path) -> None:
    """What an unfinished fit has kept."""
    for each in _kept(checkpoint):
        each.unlink(missing_ok=True)


def _kept(checkpoint: Path) -> list[Path]:
    """The files that hold an unfinished fit: one a training, of passes, folds and parts."""
    from ..models.folded import FOLDS
    from ..training.checkpoint import first_pass_of, fold_of, second_of

    passes = (checkpoint, first_pass_of(checkpoint))
    runs = [run for each in passes for run in (each, *(fold_of(each, k) for k in range(FOLDS)))]
    return [each for run in runs for each in (run, second_of(run)) if each.exists()]


def _given(**named: str | bool | None) -> dict[str, str]:
    """Those options that were given, as text."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in named.items()
        if value is not None
    }


def _together(words: dict[str, str], more: list[str]) -> dict[str, str]:
    """Options given by their own names and by `--set NAME=VALUE`, each once."""
    words = dict(words)
    for word in more:
        name, sign, text = word.partition("=")
        if not sign:
            raise ApproxMassError(
                f"--set takes NAME=VALUE, not {word!r}; see `approxmass methods`",
                code="unknown-option",
            )
        if name in words:
            raise ApproxMassError(f"{name} is given twice: give it once", code="bad-option")
        words[name] = text
    return words


def _check_target(
    output: Path, json_file: Path | None, inputs: list[str | None], *, resume: bool
) -> Path:
    """Before any work: the detector can be written; returns where its checkpoint goes."""
    from ..runtime.machine import is_main_process

    checkpoint = output.with_name(f"{output.name}.checkpoint.safetensors")
    check_outputs(checkpoint, json_file, inputs=inputs, making=output)
    if output.exists() and any(output.iterdir()) and is_main_process():
        say(f"{output} holds a detector: it is replaced when the new one is whole")
    if (files := _kept(checkpoint)) and not resume:
        listed = " and ".join(map(str, files))
        raise ApproxMassError(
            f"{listed}: an unfinished fit: add --resume to go on, or remove it to start anew",
            code="would-overwrite",
        )
    return checkpoint
