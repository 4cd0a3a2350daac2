"""The folder of a saved detector.

It holds `detector.json` (versioned, readable), `weights.safetensors` and
`calibration.safetensors`. The JSON has the digests of the other two and of itself. Nothing is
pickled. `card.md` is for people, and not read.
"""

__all__ = ["FORMAT_VERSION", "WRITTEN", "check_target", "is_detector", "load_folder", "save_folder"]

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import ApproxMassError
from ..runtime.schema import Digest, held_to
from .atomic import plain_os_errors, probe, replace_folder

FORMAT_VERSION = 4
_MANIFEST = "detector.json"
# What it has besides the facts of whoever saves.
WRITTEN = ("format_version", "files", "digest")
_TENSOR_FILES = ("weights", "calibration")
_CARD = "card.md"
_FILES = {_MANIFEST, _CARD, *(f"{name}.safetensors" for name in _TENSOR_FILES)}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return _digest(json.dumps(body, sort_keys=True).encode())


def is_detector(folder: Path) -> bool:
    """Whether a folder holds a saved detector, whole or damaged."""
    return (folder / _MANIFEST).exists()


def check_target(folder: Path) -> None:
    """Refuse a place for a detector that holds anything else, or where nothing can be written.

    Raises:
        ApproxMassError: as said.
    """
    with plain_os_errors(folder):
        if not folder.name:
            raise ApproxMassError(
                f"{folder} has no name of its own: give a folder to make", code="would-overwrite"
            )
        if not folder.exists():
            probe(folder)
            return
        if not folder.is_dir():
            raise ApproxMassError(
                f"{folder} is not a folder: choose another name", code="would-overwrite"
            )
        foreign = sorted({p.name for p in folder.iterdir()} - _FILES)
        if foreign:
            raise ApproxMassError(
                f"{folder} is not a detector, it holds {foreign[0]!r}: choose another folder",
                code="would-overwrite",
            )
        probe(folder)


def save_folder(
    folder: Path,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    card: str,
) -> None:
    """Write a detector's folder; an older detector there is replaced once the new one is whole.

    Arguments:
        folder: Where; made if absent.
        manifest: JSON-ready facts.
        tensors: Named tensors of `weights` and `calibration`.
        card: What a person should know of it, as Markdown.

    Raises:
        ApproxMassError: `folder` holds something else, or as `write_atomic`.
    """
    check_target(folder)
    digests = {}
    with replace_folder(folder) as fresh:
        for name in _TENSOR_FILES:
            data = safetensors.torch.save(
                # Copies: tensors that share memory, as tied weights do, are refused.
                {
                    key: value.detach().cpu().clone().contiguous()
                    for key, value in tensors[name].items()
                }
            )
            digests[f"{name}.safetensors"] = _digest(data)
            (fresh / f"{name}.safetensors").write_bytes(data)
        full = {"format_version": FORMAT_VERSION, **manifest, "files": digests}
        full["digest"] = _manifest_digest(full)
        # A name in it need not be text, nor the language of this process one that has all letters.
        (fresh / _CARD).write_text(card, encoding="utf-8", errors="backslashreplace")
        (fresh / _MANIFEST).write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")


def _bytes_of(path: Path) -> bytes:
    """What a file holds; of a pipe, which would be waited for, an error."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no file")
    return path.read_bytes()


def _not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor in which a number is infinite or NaN; None where all are right.

    Of what the detector was tried on a score may be.
    """
    for name, values in tensors.items():
        floats = values.is_floating_point() and not name.startswith("probe.")
        if floats and not bool(values.isfinite().all()):
            return name
    return None


def load_folder(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a detector's folder back: its manifest, and its tensors by file name.

    Raises:
        ApproxMassError: the folder is absent, incomplete, cut short, altered, or was written by a
            newer version.
    """
    again = "copy the folder again or fit again"
    path = folder / _MANIFEST
    try:
        text = _bytes_of(path).decode()
    except FileNotFoundError as error:
        raise ApproxMassError(
            f"{folder} is not a detector: it has no {_MANIFEST}; make one with `approxmass fit`",
            code="not-a-detector",
        ) from error
    except (OSError, ValueError) as error:
        raise ApproxMassError(f"{path} cannot be read: {again}", code="damaged") from error
    try:
        manifest = json.loads(text)
        version = held_to(int, manifest["format_version"], "format_version")
        digests = held_to(dict[str, Digest], manifest["files"], "files")
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ApproxMassError(f"{path} was cut short or edited: {again}", code="damaged") from error
    if version > FORMAT_VERSION:
        raise ApproxMassError(
            f"{path} has format {version}, newer than the {FORMAT_VERSION} known here: "
            "upgrade approxmass",
            code="damaged",
        )
    if version < FORMAT_VERSION:
        raise ApproxMassError(
            f"{path} has format {version}, older than the {FORMAT_VERSION} known here: fit again",
            code="damaged",
        )
    if manifest.get("digest") != _manifest_digest(manifest):
        raise ApproxMassError(f"{path} was edited after it was saved: {again}", code="damaged")
    tensors = {}
    for name in _TENSOR_FILES:
        part = folder / f"{name}.safetensors"
        try:
            data = _bytes_of(part)
            if _digest(data) != digests.get(part.name):
                raise ApproxMassError(
                    f"{part} was cut short or changed after it was saved: {again}",
                    code="damaged",
                )
            tensors[name] = safetensors.torch.load(data)
            if odd := _not_finite(tensors[name]):
                raise ApproxMassError(
                    f"{part} holds numbers that are none, in {odd}: {again}", code="damaged"
                )
        except OSError as error:
            raise ApproxMassError(
                f"{part} cannot be read ({error.strerror}): {again}", code="damaged"
            ) from error
        except safetensors.SafetensorError as error:
            raise ApproxMassError(f"{part} holds no tensors: {again}", code="damaged") from error
    return manifest, tensors
