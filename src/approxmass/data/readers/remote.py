"""Images behind a URL: `s3://`, `gs://` and whatever else fsspec knows."""

__all__ = ["is_url", "listed", "open_remote"]

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ...errors import ApproxMassError
from ..decode import Encoded
from ..formats import image_suffixes
from ..remarks import Remarks
from ..source import ImageSource
from .common import KINDS
from .folder import kind_of_file, left_out
from .parquet import images_of
from .shards import Shards

# Images that are fetched together where single ones are looked at.
_TOGETHER = 64
# What file systems know of a file that changes with it.
_VERSION = ("size", "etag", "ETag", "md5Hash", "generation", "mtime", "LastModified", "created")


def is_url(name: str) -> bool:
    """Whether a name is a URL.

    Example:
        >>> is_url("s3://bucket/photos"), is_url("sample:mnist"), is_url("C:/photos")
        (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def open_remote(name: str) -> ImageSource:
    """Images at a URL: files in a folder and below, an image, a Parquet file or a folder of some.

    Raises:
        ApproxMassError: nothing there holds images, or it cannot be reached.
    """
    files = _Files(name)
    found = [each for each in files.found if not re.search(r"(^|/)[.]", files.called(each))]
    others = Counter({"hidden": len(files.found) - len(found)})
    suffixes = image_suffixes()
    images = [each for each in found if os.path.splitext(each)[1].lower() in suffixes]
    tables = [each for each in found if each.lower().endswith(".parquet")]
    if images or (len(found) == 1 and not tables):
        read = images or found
        others.update(kind_of_file(each) for each in set(found) - set(read))
        return _images(files, read, others)
    if tables:
        others.update(kind_of_file(each) for each in set(found) - set(tables))
        return images_of(Shards(name, tables, files.system, others))
    raise ApproxMassError(
        f"{name}: no image and no Parquet file there; give {KINDS}", code="bad-source"
    )


def listed(name: str) -> list[tuple[str, str]]:
    """The files at a URL, and of each what changes when it is written again."""
    files = _Files(name)
    return [
        (path, " ".join(str((facts or files.system.info(path)).get(word)) for word in _VERSION))
        for path, facts in files.found.items()
    ]


class _Files:
    """The files at a URL, by their path, sorted; and their bytes.

    Arguments:
        name: The URL.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            from fsspec.core import url_to_fs  # late: the wheel without PyTorch has it not

            self.system, self.root = url_to_fs(name)
            self.found: dict[str, Any] = self.system.find(self.root, detail=True)
        except ImportError as error:
            raise ApproxMassError(f"{name}: {error}", code="missing-library") from error
        except Exception as error:  # each file system has kinds of its own
            raise self._failed(name, error) from error
        if not self.found:
            raise ApproxMassError(
                f"{name}: there is no such file or folder; give {KINDS}", code="bad-source"
            )
        self.found = dict(sorted(self.found.items()))

    def called(self, path: str) -> str:
        """A file as seen from the folder, or the name of the only one."""
        return path[len(self.root) :].lstrip("/") or path.rpartition("/")[2]

    def fetched(self, paths: Sequence[str]) -> list[bytes]:
        """The bytes of some.

        Raises:
            ApproxMassError: one cannot be fetched: what cannot be reached is no bad image.
        """
        found = self.system.cat_ranges(list(paths), None, None, on_error="return")
        for path, data in zip(paths, found, strict=True):
            if isinstance(data, Exception):
                raise self._failed(path, data) from data
        return list(found)

    def _failed(self, what: str, error: Exception) -> ApproxMassError:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return ApproxMassError(
            f"{what}: cannot be reached: {reason}; check the URL and the right to read it",
            code="bad-source",
        )


def _images(files: _Files, paths: list[str], others: Counter[str]) -> ImageSource:
    def batches(n: int, start: int = 0) -> Iterator[tuple[list[str], Sequence[Encoded]]]:
        for i in range(start, len(paths), n):
            some = paths[i : i + n]
            yield [files.called(path) for path in some], files.fetched(some)

    def some(places: list[int]) -> Iterator[tuple[int, Encoded]]:
        for i in range(0, len(places), _TOGETHER):
            those = places[i : i + _TOGETHER]
            yield from zip(those, files.fetched([paths[place] for place in those]), strict=True)

    remarks = Remarks(*filter(None, [left_out(others)]))
    return ImageSource(files.name, len(paths), batches, some=some, remarks=remarks, onward=batches)
