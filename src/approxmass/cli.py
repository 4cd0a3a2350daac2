"""The command `approxmass`. Nothing here but parsing and printing; heavy imports wait."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_paper import paper
from .cli_serve import serve
from .cli_watch import watch
from .console import Json, check_outputs, emit, fail, out, say
from .errors import ApproxMassError

if TYPE_CHECKING:
    from .assessment import Assessment
    from .detector import Detector

app = typer.Typer(
    help="Tell which images do not belong, with calibrated p-values, from usual images alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(paper, name="paper")
SOURCE = "A folder of images, an image, .npy, .npz, .parquet or IDX file, hf:NAME, or sample:NAME."
# Unreadable images named on the terminal; all of them are in the table.
_SHOWN = 10
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A fitted detector.")]


def main() -> None:
    """Run the command; mistakes end in one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file name need not be valid text
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ApproxMassError as error:
        fail(str(error))
    except MemoryError:
        fail("there is not enough memory: use a smaller --size, or fewer images")
    except RuntimeError as error:  # PyTorch's own way to say the same
        if "alloc" not in str(error):
            raise
        fail("there is not enough memory: use a smaller network, a smaller --size or fewer images")
    except OSError as error:
        fail(f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}")


@app.callback()
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as of

        out.print(of("approxmass"))
        raise typer.Exit


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", metavar="DIR", help="Where to write.")] = Path(
        "approxmass-demo"
    ),
    seed: Annotated[int, typer.Option(help="Fixes the run.")] = 0,
    json_file: Json = None,
) -> None:
    """Fit on FashionMNIST, find MNIST digits: real images that come with the package."""
    from .demo import run_demo
    from .report import can_report

    check_outputs(json_file, output / "report.html")
    result = run_demo(output, seed=seed)
    emit(result.facts, json_file)
    if json_file != Path("-"):
        _show_evaluation(result.assessment)
        seconds = result.assessment.detector.facts["fit_seconds"]
        out.print(f"Fitted and calibrated in {seconds:.0f} s. Detector and scores are in {output}/")
    if can_report():
        _write_report(result.assessment, output / "report.html")
    else:
        say("no report: it needs the extra `report`, pip install 'approxmass[report]'")


@app.command()
def fit(
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[Path, typer.Option("-o", metavar="DIR", help="Folder for the detector.")],
    space: Annotated[str, typer.Option(help="What the flow models: auto, pca or pixels.")] = "auto",
    alpha: Annotated[str, typer.Option(help="Weight of the mass: a number, or auto.")] = "auto",
    size: Annotated[int | None, typer.Option(help="Resize every image to SIZE x SIZE.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="The flow: compact or paper (pixels); realnvp, nice, maf, nsf, gf (pca)."
        ),
    ] = "auto",
    epochs: Annotated[
        str, typer.Option(help="Passes over the images: a number, or auto.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Fixes the fit.")] = 0,
    method: Annotated[
        str, typer.Option(help="flow, or a rival to compare with; see `approxmass methods`.")
    ] = "flow",
    option: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of a rival; may be repeated."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Classes, for a rival that needs them; if not those that SOURCE carries.",
        ),
    ] = None,
    outliers: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Outliers, for a rival that learns from some."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished fit.")] = False,
    json_file: Json = None,
) -> None:
    """Learn from usual images and calibrate on a held-out tenth of them."""
    from accelerate import PartialState

    from .artifact import check_target
    from .baselines import BASELINES, parse_options
    from .detector import Detector

    kind = BASELINES.get(method)
    if kind is None and option:
        raise ApproxMassError(f"--set is for the methods {', '.join(BASELINES)}")
    options = {} if kind is None else parse_options(kind, option or [])
    check_target(output)
    checkpoint = output.with_name(f"{output.name}.checkpoint.safetensors")
    check_outputs(checkpoint, json_file, inputs=[source])
    if output.exists() and any(output.iterdir()):
        say(f"{output} holds a detector: it is replaced when the new one is whole")
    if checkpoint.exists() and not resume:
        raise ApproxMassError(
            f"{checkpoint} is an unfinished fit: add --resume to go on, or remove it to start anew"
        )
    detector = Detector(
        space,
        _number(alpha, float, "--alpha"),
        seed,
        preset=preset,
        size=size,
        epochs=_number(epochs, int, "--epochs"),
        method=method,
        options=options,
    )
    try:
        detector.fit(source, labels, outliers, checkpoint=checkpoint, resume=resume, progress=True)
    except KeyboardInterrupt:
        if method != "flow":
            say("stopped; repeat the command to go on")
            raise typer.Exit(130) from None
        kept = f"{checkpoint} holds the run: repeat the command with --resume"
        say(f"stopped; {kept if checkpoint.exists() else 'the training had not begun'}")
        raise typer.Exit(130) from None
    if PartialState().is_main_process:
        detector.save(output)
        checkpoint.unlink(missing_ok=True)
        _show(output, detector, json_file)


@app.command()
def score(
    folder: Folder,
    source: Annotated[str, typer.Argument(help=SOURCE)],
    output: Annotated[
        Path, typer.Option("-o", metavar="FILE", help="Table to write: .parquet or .csv.")
    ],
    strict: Annotated[bool, typer.Option("--strict", help="Stop at an unreadable image.")] = False,
    json_file: Json = None,
) -> None:
    """Score images: log-likelihood, mass, p-value and verdict, one row an image."""
    import numpy as np

    from .artifact import write_atomic
    from .calibration import group_p_value
    from .detector import Detector
    from .score_file import ScoreFile, check_suffix

    check_suffix(output)
    detector = Detector.load(folder)
    check_outputs(output, json_file, inputs=[source], folder=folder)
    outliers = 0
    statistic: list[Any] = []
    skipped: list[str] = []
    with write_atomic(output) as path, ScoreFile(path, output) as file:
        for chunk, scores in detector.score_chunks(source):
            if strict:
                chunk.require_readable(source)
            for name, error in chunk.unreadable:
                skipped.append(f"image {name} {error}")
                if len(skipped) <= _SHOWN:
                    say(f"skipped: {skipped[-1]}")
            file.write(chunk, scores)
            statistic.append(scores.statistic)
            outliers += int(scores.is_outlier.sum())
        scored = np.concatenate(statistic)
        if len(scored) == 0:
            raise ApproxMassError(f"{source}: no image can be scored; the first, {skipped[0]}")
    if len(skipped) > _SHOWN:
        say(f"and {len(skipped) - _SHOWN:,} more, in the column error of {output}")
    calibration = detector.calibration[detector.settings.statistic]
    facts = {
        "scored": len(scored),
        "skipped": len(skipped),
        "outliers_at_5_percent": outliers,
        "group_p_value": group_p_value(calibration, scored),
        "output": str(output),
    }
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import facts_table

        out.print(facts_table(f"{source}", facts))


IdSource = Annotated[
    str, typer.Option("--id", metavar="SOURCE", help="Usual images, not those of the fit.")
]
OodSources = Annotated[
    list[str], typer.Option("--ood", metavar="SOURCE", help="Outliers; may be repeated.")
]
MoreOod = Annotated[
    list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More sources for --ood.")
]
GroupSize = Annotated[int, typer.Option(min=1, help="Score groups of N images.")]
Seed = Annotated[int, typer.Option(min=0, help="Fixes balancing, groups and intervals.")]


@app.command()
def evaluate(
    folder: Folder,
    id_source: IdSource,
    ood: OodSources,
    more_ood: MoreOod = None,
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Also write a report, as .html.")
    ] = None,
    group_size: GroupSize = 1,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Measure how well each score tells usual images from outliers."""
    assessment = _assess(
        folder, id_source, [*ood, *(more_ood or [])], output, group_size, seed, json_file
    )
    emit(assessment.facts(), json_file)
    if json_file != Path("-"):
        _show_evaluation(assessment)
    if output is not None:
        _write_report(assessment, output)


@app.command()
def report(
    folder: Folder,
    id_source: IdSource,
    ood: OodSources,
    output: Annotated[Path, typer.Option("-o", metavar="FILE", help="The page, as .html.")],
    more_ood: MoreOod = None,
    group_size: GroupSize = 1,
    seed: Seed = 0,
) -> None:
    """Write what `evaluate` measures as one HTML page, with charts and images."""
    sources = [*ood, *(more_ood or [])]
    _write_report(_assess(folder, id_source, sources, output, group_size, seed, None), output)


@app.command()
def explain(
    folder: Folder,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help=SOURCE)],
    output: Annotated[Path, typer.Option("-o", metavar="DIR", help="Folder for the pictures.")],
    json_file: Json = None,
) -> None:
    """Show where in an image, and in which components, its approximate mass comes from."""
    from .detector import Detector
    from .explain_files import explain_files

    detector = Detector.load(folder)
    check_outputs(json_file, inputs=images, folder=folder)
    if output.is_dir():
        check_outputs(output / "001.png", folder=folder)
    if json_file is not None and json_file.suffix == ".png":
        raise ApproxMassError(f"{json_file} could be one of the pictures: choose another name")
    facts = explain_files(detector, images, output)
    for reason in facts["skipped"][:_SHOWN]:
        say(f"skipped: {reason}")
    if len(facts["skipped"]) > _SHOWN:
        say(f"and {len(facts['skipped']) - _SHOWN:,} more; --json has them all")
    emit(facts, json_file)
    if json_file != Path("-"):
        from .tables import explanations_table

        out.print(explanations_table(facts))
        out.print(f"Pictures are in {output}/", soft_wrap=True, markup=False)


@app.command()
def methods(json_file: Json = None) -> None:
    """List the methods that `fit --method` knows, with their options."""
    from .baselines import BASELINES
    from .tables import describe_methods, methods_table

    facts = describe_methods(BASELINES)
    emit(facts, json_file)
    if json_file != Path("-"):
        out.print(methods_table(facts))


@app.command()
def inspect(folder: Folder, json_file: Json = None) -> None:
    """Show what a detector is, what it learnt from and how finely it decides."""
    from .detector import Detector

    _show(folder, Detector.load(folder), json_file)


app.command()(serve)
app.command()(watch)


def _show(folder: Path, detector: "Detector", json_file: Path | None) -> None:
    from .tables import describe, facts_table

    facts = describe(detector)
    emit(facts, json_file)
    if json_file != Path("-"):
        out.print(facts_table(str(folder), facts))


def _assess(
    folder: Path,
    id_source: str,
    ood: list[str],
    page: Path | None,
    group_size: int,
    seed: int,
    json_file: Path | None,
) -> "Assessment":
    from .assessment import assess
    from .detector import Detector

    if page is not None:
        from .report import check_page

        check_page(page)
    detector = Detector.load(folder)
    check_outputs(page, json_file, inputs=[id_source, *ood], folder=folder)
    return assess(detector, id_source, ood, group_size=group_size, seed=seed)


def _write_report(assessment: "Assessment", page: Path) -> None:
    from .report import write_report

    write_report(assessment, page)
    say(f"report: {page}")


def _show_evaluation(assessment: "Assessment") -> None:
    from .tables import LEGEND, evaluation_tables

    for table in evaluation_tables(assessment.evaluation):
        out.print(table)
    out.print(LEGEND, style="dim")
    for name, share in assessment.flagged.items():
        line = f"{name}: {share:.1%} flagged at a false-alarm rate of 5%"
        out.print(line, soft_wrap=True, markup=False)


def _number(text: str, kind: type, option: str) -> Any:
    if text == "auto":
        return text
    try:
        return kind(text)
    except ValueError:
        raise ApproxMassError(f"{option} takes a number or auto, not {text!r}") from None
