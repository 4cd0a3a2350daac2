"""A detector as an ONNX file, scored by ONNX Runtime: no PyTorch, and no detector's folder.

The wheel `approxmass-onnx` is this module and what it imports.
"""

__all__ = ["GraphFacts", "OnnxDetector"]

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats, Pixels, Shape
from .data.chunk import Chunk, chunk_size
from .data.frame import Box, Frame, Resample
from .data.region import Region, inside_of
from .data.seen import open_seen
from .data.source import ImageSource
from .errors import ApproxMassError
from .runtime.extras import require_extra
from .scores import Scores

# Of the facts; goes up with every change that an older reader would not understand.
FORMAT = 1
_PREFIX = "approxmass."


@dataclass(frozen=True, kw_only=True)
class GraphFacts:
    """What a graph says of itself, and of what must be done to an image before it.

    In the file each is a text of JSON, `approxmass.NAME` in `metadata_props`.

    Attributes:
        format: Of these facts.
        detector_format: Of the detector's folder.
        versions: Of the packages of the fit, and of the export.
        opset: Of ONNX.
        input: Name of the input of images, or of rows of numbers.
        layout: Of its axes: `NCHW`, or `ND`.
        dtype: Of its numbers: `uint8`; `float32`, of pixels in [0, 1]; or of rows `float64`.
        shape: `(C, H, W)` of the images, C of grey 1 and of RGB 3; of rows `(1, 1, D)`.
        framed: Images are brought into a frame of that size; else they must have it.
        resample: How images are scaled.
        mode: Of the images; this and the next two as in `open_images`.
        background: Under those that are transparent.
        pages: All are read.
        region: Of interest, as the text of a `Region`; None for all of each image.
        columns: Names of the numbers of a row; None for those of images.
        grid: Rows and columns of the places of an image, with parts; else None.
        statistics: Names of those that come out.
        decides: The one behind the p-values.
        mapped: What the map shows, with parts; else None.
        calibration: How many images calibrate.
        folds: Models in the graph.
        false_alarm_rate: Behind verdicts for which nobody asks for another.
        batch: As many images at a time suit it.
    """

    format: int = FORMAT
    detector_format: int
    versions: Mapping[str, str]
    opset: int
    input: str
    layout: str
    dtype: str
    shape: Shape
    framed: bool
    resample: Resample
    mode: str
    background: int
    pages: bool
    region: str | None
    columns: Sequence[str] | None
    grid: tuple[int, int] | None
    statistics: Sequence[str]
    decides: str
    mapped: str | None
    calibration: int
    folds: int
    false_alarm_rate: float
    batch: int

    @property
    def rows(self) -> bool:
        """Whether it is of rows of numbers, not of images."""
        return self.layout == "ND"

    def inside(self, boxes: Sequence[Box | None]) -> NDArray[np.bool_]:
        """Which places are of images in these boxes of the frame, `(N, k)`; None is all of it."""
        assert self.grid is not None
        frame = (self.shape[1], self.shape[2])
        region = None if self.region is None else Region(self.region)
        whole = Box(0, 0, *frame)
        found = [inside_of(box or whole, frame, self.grid, region).ravel() for box in boxes]
        return np.array(found, bool).reshape(len(boxes), self.grid[0] * self.grid[1])

    def texts(self) -> dict[str, str]:
        """For `metadata_props`."""
        return {_PREFIX + name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, name: str, texts: Mapping[str, str]) -> "GraphFacts":
        """From what `texts` gave; `name` is what an error calls the file.

        Raises:
            ApproxMassError: it is no such graph, or one of another version.
        """
        if _PREFIX + "format" not in texts:
            raise ApproxMassError(
                f"{name} is no detector: give a file that `approxmass export` wrote",
                code="not-a-detector",
            )
        try:
            found = {field.name: json.loads(texts[_PREFIX + field.name]) for field in fields(cls)}
            for pair in ("shape", "grid"):
                found[pair] = None if found[pair] is None else tuple(found[pair])
            facts = cls(**found)
            known = facts.format == FORMAT and facts.decides in facts.statistics
        except (LookupError, TypeError, ValueError):
            known = False
        if not known:
            raise ApproxMassError(
                f"{name} was written by another version, or was edited: export it again",
                code="damaged",
            )
        return facts


class OnnxDetector:
    """A detector that was exported: opens images as it did, and gives the same scores.

    Arguments:
        file: What `approxmass export` wrote.
        threads: Most threads to compute in; None leaves that to ONNX Runtime.

    Attributes:
        facts: Of the graph.

    Raises:
        ApproxMassError: it is no such file, or ONNX Runtime is not installed.
    """

    def __init__(self, file: str | Path, *, threads: int | None = None) -> None:
        require_extra("onnxruntime", "an ONNX file")
        import onnxruntime

        if not Path(file).is_file():
            raise ApproxMassError(
                f"{file}: there is no such file: give one that `approxmass export` wrote",
                code="not-a-detector",
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it says much of what is no mistake
        options.intra_op_num_threads = threads or 0
        try:
            session: Any = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of a kind of its own for each thing that can be wrong
            raise ApproxMassError(
                f"{file} is cut short, or no ONNX file: export it again", code="damaged"
            ) from error
        self._session = session
        self._threads = threads
        self.facts = GraphFacts.of(str(file), session.get_modelmeta().custom_metadata_map)
        self._names = [output.name for output in session.get_outputs()]

    def __repr__(self) -> str:
        facts = self.facts
        return (
            f"OnnxDetector(shape={facts.shape}, dtype={facts.dtype}, decides by {facts.decides}, "
            f"p >= 1/{facts.calibration + 1:,})"
        )

    def open(self, images: Any) -> ImageSource:
        """Images, or rows, as the detector sees them: of its mode and columns, in its frame.

        Raises:
            ApproxMassError: they cannot be opened, or are of the other kind.
        """
        facts = self.facts
        source = open_seen(
            images,
            rows=facts.rows,
            columns=facts.columns,
            mode=facts.mode,
            background=facts.background,
            pages=facts.pages,
            region=None if facts.region is None else Region(facts.region),
        )
        frame = Frame(*facts.shape[1:], facts.resample)
        return source.resized(frame) if facts.framed else source

    def score_chunks(self, images: Any) -> Iterator[tuple[Chunk, Scores]]:
        """Score images piece by piece, in order and in flat memory.

        Yields:
            Each chunk, with the scores of its readable images.
        """
        shape = self.facts.shape
        for chunk in self.open(images).chunks(
            chunk_size(shape), shape=shape, threads=self._threads
        ):
            yield chunk, self.score_pixels(chunk.images, chunk.boxes).named(chunk.readable)

    def score(self, images: Any) -> Scores:
        """Score images: arrays of one row an image; see `Scores`.

        Raises:
            ApproxMassError: an unreadable image, or one of another size than the detector's.
        """
        source, parts = self.open(images), []
        for chunk, scores in self.score_chunks(source):
            chunk.require_readable(source.name)
            parts.append(scores)
        return Scores.join(parts)

    def score_pixels(self, images: Pixels, boxes: Sequence[Box] | None = None) -> Scores:
        """Score pixels `(N, C, H, W)`, uint8, of images in these boxes of the frame; or rows."""
        facts, found = self.facts, self.outputs(images, boxes)
        statistics = {name: found[name] for name in facts.statistics}
        return Scores.of(statistics, facts.decides, found["p_value"], facts.false_alarm_rate)

    def outputs(self, images: Pixels, boxes: Sequence[Box] | None = None) -> dict[str, Floats]:
        """All that the graph gives, by name, of what `score_pixels` takes; with parts the maps."""
        facts, parts = self.facts, []
        if not len(images):  # what the shapes are, one tells
            one = self.outputs(np.zeros((1, *facts.shape), images.dtype))
            return {name: values[:0] for name, values in one.items()}
        given = images[:, 0, 0] if facts.rows else images
        for start in range(0, len(given), facts.batch):
            some: NDArray[Any] = given[start : start + facts.batch]
            if facts.dtype != some.dtype:
                scale = np.float32(255 if some.dtype == np.uint8 else 1)
                some = some.astype(facts.dtype) / scale
            feeds: dict[str, NDArray[Any]] = {facts.input: some}
            if facts.grid is not None and boxes is not None:
                feeds["inside"] = facts.inside(boxes[start : start + facts.batch])
            parts.append(self._session.run(self._names, feeds))
        joined = (np.concatenate(each) for each in zip(*parts, strict=True))
        return dict(zip(self._names, joined, strict=True))
