"""What computes the scores of `score`: PyTorch in this process, Ray, or ONNX Runtime."""

__all__ = ["Engine", "by_ray", "detector_for", "fewest_of", "here"]

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

from ..errors import ApproxMassError
from .options import loaded

if TYPE_CHECKING:
    from ..data import ImageSource
    from ..detector import Detector
    from ..onnx_engine import OnnxDetector

Engine = Literal["torch", "ray", "onnx"]
Scorer = Union["Detector", "OnnxDetector"]


def detector_for(
    engine: Engine, place: Path, group: str | None, device: str | None, threads: int | None
) -> Any:
    """The detector in a folder, or for the engine onnx in a file.

    Raises:
        ApproxMassError: it is for the other, or an option is not for it.
    """
    if engine == "onnx":
        return _exported(place, group, device, threads)
    if place.suffix.lower() == ".onnx" and place.is_file():
        raise ApproxMassError(
            f"{place} is the file of an export: add --engine onnx", code="not-a-detector"
        )
    return loaded(place, group, device, threads)


def _exported(
    file: Path, group: str | None, device: str | None, threads: int | None
) -> "OnnxDetector":
    from ..onnx_engine import OnnxDetector

    for option, value, cure in (
        ("--for", group, "give it to `approxmass export`"),
        ("--device", device, "the engine onnx computes on the CPU: leave it out"),
    ):
        if value is not None:
            raise ApproxMassError(
                f"{option} is not for an exported detector: {cure}", code="bad-option"
            )
    return OnnxDetector(file, threads=threads)


def fewest_of(detector: Scorer) -> int:
    """How many images calibrate, of the group that has the fewest."""
    from ..onnx_engine import OnnxDetector

    if isinstance(detector, OnnxDetector):
        return detector.facts.calibration
    return detector.fitted.in_use.fewest


def here(detector: Scorer, images: "ImageSource", strict: bool) -> Iterator[Any]:
    """The tables of all images in order, scored by this process."""
    from ..storage.score_file import whole_table

    for chunk, scores in detector.score_chunks(images):
        if strict:
            chunk.require_readable(images.name)
        yield whole_table(chunk, scores)


def by_ray(
    stack: ExitStack,
    detector: "Detector",
    folder: Path,
    opened: "Sequence[ImageSource]",
    output: Path,
    **given: Any,
) -> list[Iterator[Any]]:
    """The same by Ray; finished blocks of each source wait beside the output until all is done."""
    from ..integrations.ray import scored_blocks

    found = []
    for place, images in enumerate(opened):
        kept = output.with_name(f"{output.name}.blocks{place or ''}")
        blocks = scored_blocks(detector, folder, images, kept, progress=True, **given)
        found.append(stack.enter_context(blocks))
    return found
