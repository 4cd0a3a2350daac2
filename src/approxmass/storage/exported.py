"""A module as bytes that need no code of its own: its graph by torch.export, without any pickle.

What torch.export writes can hold pickled objects, and its reader loads them unasked. So an archive
is stripped of the sample inputs, and read only if nothing else in it is pickled.
"""

__all__ = ["exported", "program_of"]

import io
import json
import re
import types
import warnings
import zipfile
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_SAMPLES = re.compile(r"[^/]+/data/sample_inputs/[^/]+\.pt")
_PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/[^/]+|models/[^/]+\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+)"
)
_PAYLOADS = re.compile(r"[^/]+/data/(weights|constants)/[^/]+_config\.json")


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
        stripped = _stripped(buffer.getvalue())
        again = program_of(stripped)
        one = example[:1]
        if not torch.equal(again(one), module(one)):  # its graph is that of two rows alone
            return None
    except Exception:  # what cannot be exported fails in many ways, and load(encoder=...) is there
        return None
    return stripped


def program_of(written: Tensor) -> nn.Module:
    """The module that was exported.

    Raises:
        ValueError: no such bytes, or some of them are pickled.
    """
    data = written.numpy().tobytes()
    for name, content in _files(data):
        if _SAMPLES.fullmatch(name) and not content:
            continue
        if _PAYLOADS.fullmatch(name):
            _check_payloads(content)
        elif not _PLAIN.fullmatch(name):
            raise ValueError(f"{name} has no place in an exported module")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = torch.export.load(io.BytesIO(data)).module()
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


def _stripped(data: bytes) -> Tensor:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in _files(data):
            archive.writestr(name, b"" if _SAMPLES.fullmatch(name) else content)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _check_payloads(content: bytes) -> None:
    payloads = json.loads(content).get("config", {})
    for payload in payloads.values():
        name = str(payload["path_name"])
        if payload["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", name):
            raise ValueError(f"{name} of the exported module is pickled")
