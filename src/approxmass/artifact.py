"""Files that are whole or not there: atomic writes, and the folder of a saved detector.

A saved detector is a folder of `detector.json` (versioned, readable), `weights.safetensors` and
`calibration.safetensors`. The JSON holds the digests of the other two and of itself. Nothing is
pickled.
"""

__all__ = [
    "FORMAT_VERSION",
    "check_file",
    "check_target",
    "load_folder",
    "replace_folder",
    "save_folder",
    "tensors_below",
    "write_atomic",
    "write_json",
    "write_text",
]

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from .errors import ApproxMassError

FORMAT_VERSION = 1
_MANIFEST = "detector.json"
_TENSOR_FILES = ("weights", "calibration")
_FILES = {_MANIFEST, *(f"{name}.safetensors" for name in _TENSOR_FILES)}


@contextlib.contextmanager
def _plain_os_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ApproxMassError(
            f"cannot write {target}: {reason}; free some space or choose another place "
            "(nothing that was there has been changed)"
        ) from error


def check_file(target: Path) -> None:
    """Refuse a place for a file that is a folder or a device, or where nothing can be written.

    Raises:
        ApproxMassError: as said.
    """
    with _plain_os_errors(target):
        if target.exists() and not target.is_file():
            raise ApproxMassError(f"{target} is not a regular file: choose another name")
        _probe(target)


def _probe(target: Path) -> None:
    """Raise OSError unless something can be made beside `target`; makes its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=target.parent):
        pass


@contextlib.contextmanager
def write_atomic(target: Path) -> Iterator[Path]:
    """Give a path beside `target` to write to; on success it takes the name `target`.

    On any failure the new file is removed and an older `target` stays as it was.

    Raises:
        ApproxMassError: the disk is full, the folder cannot be written to, and the like.

    Example:
        >>> target = Path(tempfile.mkdtemp()) / "scores.csv"
        >>> with write_atomic(target) as path:
        ...     _ = path.write_text("score")
        >>> target.read_text()
        'score'
    """
    target = Path(os.path.realpath(target))  # a link keeps pointing where it did
    check_file(target)
    with _plain_os_errors(target):
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        path = Path(name)
        try:
            yield path
            umask = os.umask(0)
            os.umask(umask)
            path.chmod(0o666 & ~umask)  # mkstemp makes private files
            os.replace(path, target)
        finally:
            path.unlink(missing_ok=True)


def write_json(target: Path, facts: Mapping[str, Any]) -> None:
    """Write facts as indented JSON, whole or not at all."""
    write_text(target, json.dumps(facts, indent=2))


def write_text(target: Path, text: str) -> None:
    """Write text and a last line end, whole or not at all."""
    with write_atomic(target) as path:
        # A file name in it need not be text.
        path.write_text(text + "\n", encoding="utf-8", errors="replace")


@contextlib.contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target` to fill; on success it takes the name `target`.

    Raises:
        ApproxMassError: as `write_atomic`.
    """
    target = Path(os.path.realpath(target))
    with _plain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        fresh, old = beside / "new", beside / "old"
        fresh.mkdir()
        try:
            yield fresh
            if not target.exists():
                os.replace(fresh, target)
            elif not _exchange(fresh, target):
                os.replace(target, old)
                os.replace(fresh, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.replace(old, target)
            raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step, so that no moment is without either; False if that is not to be.

    Only Linux can (renameat2 with RENAME_EXCHANGE), on most file systems.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    at_working_folder, exchange = -100, 2
    status = renameat2(
        at_working_folder, os.fsencode(a), at_working_folder, os.fsencode(b), exchange
    )
    return bool(status == 0)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "digest"}
    return _digest(json.dumps(body, sort_keys=True).encode())


def check_target(folder: Path) -> None:
    """Refuse a place for a detector that holds anything else, or where nothing can be written.

    Raises:
        ApproxMassError: as said.
    """
    with _plain_os_errors(folder):
        if not folder.name:
            raise ApproxMassError(f"{folder} has no name of its own: give a folder to make")
        if not folder.exists():
            _probe(folder)
            return
        if not folder.is_dir():
            raise ApproxMassError(f"{folder} is not a folder: choose another name")
        foreign = sorted({p.name for p in folder.iterdir()} - _FILES)
        if foreign:
            raise ApproxMassError(
                f"{folder} is not a detector, it holds {foreign[0]!r}: choose another folder"
            )
        _probe(folder)


def save_folder(
    folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write a detector's folder; an older detector there is replaced once the new one is whole.

    Arguments:
        folder: Where; made if absent.
        manifest: JSON-ready facts.
        tensors: Named tensors of `weights` and `calibration`.

    Raises:
        ApproxMassError: `folder` holds something else, or as `write_atomic`.
    """
    check_target(folder)
    digests = {}
    with replace_folder(folder) as fresh:
        for name in _TENSOR_FILES:
            data = safetensors.torch.save(
                {key: value.detach().cpu().contiguous() for key, value in tensors[name].items()}
            )
            digests[f"{name}.safetensors"] = _digest(data)
            (fresh / f"{name}.safetensors").write_bytes(data)
        full = {"format_version": FORMAT_VERSION, **manifest, "files": digests}
        full["digest"] = _manifest_digest(full)
        (fresh / _MANIFEST).write_text(json.dumps(full, indent=2) + "\n")


def load_folder(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Read a detector's folder back: its manifest, and its tensors by file name.

    Raises:
        ApproxMassError: the folder is absent, incomplete, cut short, altered, or was written by a
            newer version.
    """
    again = "copy the folder again or fit again"
    path = folder / _MANIFEST
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise ApproxMassError(
            f"{folder} is not a detector: it has no {_MANIFEST}; make one with `approxmass fit`"
        ) from error
    except (OSError, ValueError) as error:
        raise ApproxMassError(f"{path} cannot be read: {again}") from error
    try:
        manifest = json.loads(text)
        version = int(manifest["format_version"])
        digests = dict(manifest["files"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise ApproxMassError(f"{path} was cut short or edited: {again}") from error
    if version > FORMAT_VERSION:
        raise ApproxMassError(
            f"{path} has format {version}, newer than the {FORMAT_VERSION} known here: "
            "upgrade with `pip install -U approxmass`"
        )
    if version < 1 or manifest.get("digest") != _manifest_digest(manifest):
        raise ApproxMassError(f"{path} was edited after it was saved: {again}")
    tensors = {}
    for name in _TENSOR_FILES:
        part = folder / f"{name}.safetensors"
        try:
            data = part.read_bytes()
            if _digest(data) != digests.get(part.name):
                raise ApproxMassError(
                    f"{part} was cut short or changed after it was saved: {again}"
                )
            tensors[name] = safetensors.torch.load(data)
        except OSError as error:
            raise ApproxMassError(f"{part} cannot be read ({error.strerror}): {again}") from error
        except safetensors.SafetensorError as error:
            raise ApproxMassError(f"{part} holds no tensors: {again}") from error
    return manifest, tensors


def tensors_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries under `prefix.`, without it."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
