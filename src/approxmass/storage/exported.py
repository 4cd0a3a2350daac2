"""A module as bytes that need no code of its own: its graph by torch.export, without any pickle.

What torch.export writes can hold pickled objects and expressions that its reader evaluates. So an
archive is stripped of sample inputs and remarks, and read only if it is a graph of ATen operators
whose every word is a plain name or number.
"""

__all__ = ["exported", "program_of", "stripped"]

import io
import json
import re
import types
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ApproxMassError

_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
_GRAPH = re.compile(r"[^/]+/models/[^/]+\.json")
_PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/[^/]+"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+)"
)
_PAYLOADS = re.compile(r"[^/]+/data/(weights|constants)/[^/]+_config\.json")
# What may stand in a graph: names, numbers, operators of ATen and of Python's integers, and the
# number of rows.
_WORD = re.compile(r"[A-Za-z0-9_.+\-]*")
_TARGET = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|getitem)")
_KEYS = re.compile(r"null|\[(\"\w+\"(, )?)*\]")
_ROWS = re.compile(r"Symbol\('s\d+', (positive|integer)=True(, (positive|integer)=True)?\)|-?\d+")


def exported(module: nn.Module, example: Tensor) -> Tensor | None:
    """The bytes of a module, uint8 `(n,)`, or None where it cannot be exported.

    Arguments:
        module: In eval mode.
        example: An input `(N, ...)`, N at least 2; any number of rows will do later.

    Example:
        >>> written = exported(nn.Linear(2, 3).eval(), torch.zeros(2, 2))
        >>> program_of(written)(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = {0: torch.export.Dim.AUTO}
            program = torch.export.export(module, (example,), dynamic_shapes=(rows,))
            torch.export.save(program, buffer)
        written = torch.frombuffer(bytearray(stripped(buffer.getvalue())), dtype=torch.uint8)
        again = program_of(written)
        generator = torch.Generator().manual_seed(0)  # not the caller's
        for count in (len(example), 1, 2 * len(example)):
            tried = torch.rand(count, *example.shape[1:], generator=generator).to(example)
            if not torch.allclose(again(tried), module(tried)):  # a graph of two rows alone
                return None
    except Exception:  # what cannot be exported fails in many ways, and load(encoder=...) is there
        return None
    return written


def program_of(written: Tensor) -> nn.Module:
    """The module that was exported.

    Raises:
        ValueError: no such bytes, or they hold more than a plain graph and tensors.
        ApproxMassError: this version of torch cannot read them.
    """
    data = written.numpy().tobytes()
    for name, content in _files(data):
        if _SAMPLES.fullmatch(name) and not content:
            continue
        if _GRAPH.fullmatch(name):
            _check_graph(json.loads(content))
        elif _PAYLOADS.fullmatch(name):
            _check_payloads(content)
        elif not _PLAIN.fullmatch(name):
            raise ValueError(f"{name} has no place in an exported module")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module: nn.Module = torch.export.load(io.BytesIO(data)).module()
    except MemoryError:
        raise
    except Exception as error:  # of another version of torch
        raise ApproxMassError(
            f"torch {torch.__version__} cannot read the module that is saved with it: load it "
            "with encoder=...",
            code="wrong-encoder",
        ) from error
    # It is in eval mode for good, and says so with an error to whatever holds it.
    for name in ("train", "eval"):
        setattr(module, name, types.MethodType(_as_it_is, module))
    return module


def _as_it_is(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _files(data: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name, archive.read(name)
    except zipfile.BadZipFile as error:
        raise ValueError("the exported module is damaged") from error


def stripped(data: bytes) -> bytes:
    """What torch.export wrote, without sample inputs, which are pickled, and remarks on the code.

    Arguments:
        data: As `torch.export.save` gave it.

    Raises:
        ValueError: it is no such archive.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _files(data):
            if _SAMPLES.fullmatch(name):
                content = b""
            elif _GRAPH.fullmatch(name):  # remarks tell where the code lay on this machine
                graph = json.loads(content)
                for node in graph["graph_module"]["graph"]["nodes"]:
                    node["metadata"] = {}
                content = json.dumps(graph).encode()
            archive.writestr(name, content)
    return buffer.getvalue()


def _check_graph(graph: dict[str, Any]) -> None:
    if graph.get("guards_code"):
        raise ValueError("the exported module has guards")
    _check_words(graph, "")


def _check_words(value: Any, key: str) -> None:
    """Every word is one that means nothing to an interpreter of Python."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_words(name, "")
            _check_words(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check_words(inner, key)
    elif isinstance(value, str) and key in ("in_spec", "out_spec"):  # of the arguments, as JSON
        _check_words(json.loads(value), "")
    elif isinstance(value, str):
        allowed = {"target": _TARGET, "expr_str": _ROWS, "context": _KEYS}.get(key, _WORD)
        if not allowed.fullmatch(value):
            raise ValueError(f"{value!r} has no place in an exported module")


def _check_payloads(content: bytes) -> None:
    payloads = json.loads(content).get("config", {})
    for payload in payloads.values():
        name = str(payload["path_name"])
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", name):
            raise ValueError(f"{name} of the exported module is pickled")
