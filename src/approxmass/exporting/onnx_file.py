"""A fitted detector as an ONNX file, and the same program as PyTorch keeps it."""

__all__ = ["export_onnx"]

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..calibration import FALSE_ALARM_RATE
from ..errors import ApproxMassError
from ..fitted import Fitted
from ..models.probe import probe_images, probe_rows
from ..onnx_engine import GraphFacts, OnnxDetector
from ..runtime.extras import require_extra
from ..storage.artifact import FORMAT_VERSION
from ..storage.atomic import write_atomic
from ..storage.exported import stripped
from .graph import Graph
from .tracing import traced

# What ONNX Runtime may differ by from PyTorch, as a share of one plus the statistic: far above
# rounding, and far below what tells images apart.
_ROUNDING = 1e-4


def export_onnx(fitted: Fitted, file: Path, dtype: str | None = None) -> None:
    """Write a detector as one ONNX graph, and beside it, as `.pt2`, the program of torch.export.

    Before it takes its name, the graph is tried on the images that a loaded detector is tried on.

    Arguments:
        fitted: On the CPU, with one calibration for all images.
        file: To write; ends in .onnx.
        dtype: Of what goes in: `uint8`, or `float32` for pixels in [0, 1]; of rows of numbers
            `float64` or `float32`. None for the first.

    Raises:
        ApproxMassError: a detector of which no graph can be made, another ending, or what is
            needed for it is not installed.
    """
    if file.suffix.lower() != ".onnx":
        raise ApproxMassError(f"{file}: give a name that ends in .onnx", code="bad-option")
    graph = Graph(fitted, dtype)
    require_extra("onnx", "an export")
    options = fitted.settings.options
    what = f"a detector of the encoder {options['encoder']} and the preset {options['preset']}"
    with _quietly():
        program = traced(graph, graph.example(), what)
        model = _as_onnx(program, graph, what)
    facts = _facts(graph, model.opset_import[0].version)
    if graph.grid is not None:
        _inside_all_over(model, facts)
    for name, text in facts.texts().items():
        model.metadata_props.add(key=name, value=text)
    buffer = io.BytesIO()
    with _quietly():
        extra = {"approxmass.json": json.dumps({**facts.texts(), "outputs": graph.outputs})}
        torch.export.save(program, buffer, extra_files=extra)
    with write_atomic(file.with_suffix(".pt2")) as beside, write_atomic(file) as path:
        beside.write_bytes(stripped(buffer.getvalue()))
        path.write_bytes(model.SerializeToString())
        _check(fitted, path, file)


def _as_onnx(program: "torch.export.ExportedProgram", graph: Graph, what: str) -> Any:
    """The program as a model of ONNX, without remarks on the code that it came from."""
    try:
        found = torch.onnx.export(
            program,
            (),
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamo=True,
            # It would take what is added to keep a root or a logarithm finite for nothing.
            optimize=False,
            verbose=False,
        )
        assert found is not None
        model: Any = found.model_proto
    except MemoryError:
        raise
    except Exception as error:  # of as many kinds as there are steps
        raise ApproxMassError(
            f"{what} has a step that ONNX does not know: export one of another encoder or preset",
            code="no-export",
        ) from error
    for part in (model.graph, *model.functions):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
        part.ClearField("value_info")
        for node in part.node:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
    model.ClearField("metadata_props")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    return model


def _inside_all_over(model: Any, facts: GraphFacts) -> None:
    """Give `inside` a value where nobody gives one: images that fill the frame."""
    from onnx import helper, numpy_helper

    (given,) = (value for value in model.graph.input if value.name == "inside")
    given.type.tensor_type.shape.dim[0].dim_param = "N or 1"
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "inside":
                node.input[place] = "inside_of_each"
    model.graph.initializer.append(numpy_helper.from_array(facts.inside([None]), "inside"))
    assert facts.grid is not None
    cells = np.array([math.prod(facts.grid)], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(cells, "inside_cells"))
    nodes = [
        helper.make_node("Shape", [facts.input], ["inside_count"], start=0, end=1),
        helper.make_node("Concat", ["inside_count", "inside_cells"], ["inside_shape"], axis=0),
        helper.make_node("Expand", ["inside", "inside_shape"], ["inside_of_each"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def _facts(graph: Graph, opset: int) -> GraphFacts:
    fitted, settings = graph.fitted, graph.fitted.settings
    versions = dict(fitted.facts.versions)
    versions |= {f"{name} of the export": version(name) for name in ("approxmass", "torch", "onnx")}
    return GraphFacts(
        detector_format=FORMAT_VERSION,
        versions=versions,
        opset=opset,
        input=graph.inputs[0],
        layout="ND" if fitted.vectors else "NCHW",
        dtype=graph.dtype,
        shape=fitted.facts.shape,
        framed=settings.size is not None,
        resample=settings.resample,
        mode=settings.mode,
        background=settings.background,
        pages=settings.pages,
        region=settings.roi,
        columns=settings.columns,
        grid=graph.grid,
        statistics=graph.statistics,
        decides=fitted.model.decides,
        mapped=None if graph.grid is None else fitted.model.mapped,
        calibration=fitted.calibrated.count,
        folds=fitted.facts.folds,
        false_alarm_rate=FALSE_ALARM_RATE,
        batch=graph.batch,
    )


def _check(fitted: Fitted, path: Path, file: Path) -> None:
    """Refuse a graph that does not score as the detector does."""
    shape, seed = fitted.facts.shape, fitted.settings.seed
    images = (probe_rows(shape[2], seed) if fitted.vectors else probe_images(shape, seed)).numpy()
    found, wanted = OnnxDetector(path).score_pixels(images), fitted.score(images)
    for name, there in wanted.statistics.items():
        here = found.statistics[name]
        if not np.allclose(here, there, rtol=_ROUNDING, atol=_ROUNDING):
            raise ApproxMassError(
                f"{file} would not score as the detector does (its {name} of a test image is "
                f"{here.max():.6g}, and not {there.max():.6g}): install other versions of onnx, "
                "onnxscript or onnxruntime",
                code="no-export",
            )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch says of steps that are none of anybody's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
