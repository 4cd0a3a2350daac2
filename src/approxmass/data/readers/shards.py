"""Parquet files: one, or all of a folder or a pattern, read as one table."""

__all__ = [
    "Shards",
    "encoded_columns",
    "image_column",
    "is_shards",
    "remarks_of",
    "shards_of",
    "table_of",
]

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import ApproxMassError
from ..formats import image_suffixes
from ..remarks import Remarks
from .common import check_regular, one_column, reading, rows_within
from .folder import files_below, left_out

_WANTED = "a Parquet file: copy it again"
_SUFFIX = ".parquet"


class Shards:
    """Parquet files one after the other, of which a few rows are in memory.

    Arguments:
        name: What an error calls them.
        files: Their paths, in order, at least one.
        system: The file system of fsspec that they are in; None for this machine's.
        others: What else is there, by its kind; None to look.

    Attributes:
        name: See above.
        schema: That of the first.
        num_rows: Of all together.

    Raises:
        ApproxMassError: one cannot be read.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[Path | str],
        system: Any = None,
        others: Counter[str] | None = None,
    ) -> None:
        import pyarrow.parquet as pq

        self.name = name
        self._files, self._system = list(files), system
        self._others = _others(name) if others is None else others
        self._counts = []
        held = 0
        for file in files:
            if system is None:
                check_regular(self._called(file), file)
            with reading(self._called(file), _WANTED):
                facts = pq.read_metadata(file, filesystem=system)
                self._counts.append(facts.num_rows)
                held += sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
        with reading(self._called(files[0]), _WANTED):
            self.schema = pq.read_schema(files[0], filesystem=system)
        self.num_rows = sum(self._counts)
        self._row_bytes = held / max(1, self.num_rows)

    def __len__(self) -> int:
        return len(self._files)

    def remarks(self) -> Remarks:
        """What is said of several files, and of what else is in their folder."""
        return _remarks(len(self), self._others)

    def kind(self, column: str) -> Any:
        """The Arrow type of a column, which must be one of that name."""
        one_column(self.name, column, self.schema.names)
        return self.schema.field(column).type

    def iter_batches(self, n: int, columns: list[str], start: int = 0) -> Iterator[Any]:
        """Record batches of some columns, up to `n` rows each, in order from a row on.

        Of large rows, by what the files say of themselves, fewer come at a time. Files and groups
        of rows that lie before it are not read.

        Raises:
            ApproxMassError: a file breaks off, or its columns are not those of the first.
        """
        n = rows_within(n, self._row_bytes)
        for path, count in zip(self._files, self._counts, strict=True):
            if start < count:
                with reading(self._called(path), _WANTED):
                    yield from _onward(self._opened(path, columns), n, columns, max(0, start))
            start -= count

    def rows(self, column: str, places: list[int]) -> Iterator[tuple[int, Any, int]]:
        """Where single rows are, which rise: the place, a batch of the column, the row in it."""
        start = 0
        for path, count in zip(self._files, self._counts, strict=True):
            inside = [place - start for place in places if start <= place < start + count]
            if inside:
                with reading(self._called(path), _WANTED):
                    for place, batch, row in _rows(self._opened(path, [column]), column, inside):
                        yield start + place, batch, row
            start += count

    def column(self, column: str) -> Any:
        """A whole column, as Arrow knows it."""
        import pyarrow as pa

        kind = self.kind(column)
        parts = [batch.column(0) for batch in self.iter_batches(65536, [column])]
        return pa.chunked_array(parts, kind)

    def _opened(self, path: Path | str, columns: list[str]) -> Any:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path, filesystem=self._system)
        for column in columns:
            one_column(self._called(path), column, file.schema_arrow.names)
            kind, first = file.schema_arrow.field(column).type, self.schema.field(column).type
            if kind != first:
                other = self._called(self._files[0])
                raise ApproxMassError(
                    f"{self._called(path)}: the column {column} is {kind}, but in {other} it is "
                    f"{first}: give all files the same columns",
                    code="bad-source",
                )
        return file

    def _called(self, path: Path | str) -> str:
        return self.name if len(self._files) == 1 else str(path)


def _onward(file: Any, n: int, columns: list[str], start: int) -> Iterator[Any]:
    """Record batches of a file from a row on."""
    place, groups = 0, list(range(file.metadata.num_row_groups))
    while groups and place + file.metadata.row_group(groups[0]).num_rows <= start:
        place += file.metadata.row_group(groups.pop(0)).num_rows
    for batch in file.iter_batches(n, row_groups=groups, columns=columns):
        rest = batch.slice(min(len(batch), max(0, start - place)))
        place += len(batch)
        if len(rest):
            yield rest


def _rows(file: Any, column: str, places: list[int]) -> Iterator[tuple[int, Any, int]]:
    """The rows of a file, out of the groups that they are in."""
    start = 0
    for group in range(file.metadata.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = [place for place in places if start <= place < end]
        for batch in file.iter_batches(256, row_groups=[group], columns=[column]) if inside else ():
            for place in inside:
                if start <= place < start + len(batch):
                    yield place, batch.column(0), place - start
            start += len(batch)
            if start > inside[-1]:
                break
        start = end


def shards_of(name: str) -> tuple[list[Path], str | None] | None:
    """The Parquet files behind a name, in the order of theirs, and the column that it asks for.

    Arguments:
        name: A file, a folder of some, or a pattern such as `shards/*.parquet`; `:COLUMN` may
            follow. All else has none.

    Example:
        >>> shards_of("photo.png") is None
        True
    """
    if found := _files(name):
        return found, None
    match = re.fullmatch(r"(.+):(\w[\w .-]*)", name)
    if match is None or os.path.lexists(name) or not (found := _files(match[1])):
        return None
    return found, match[2]


def table_of(name: str) -> Shards | None:
    """The Parquet files behind a name as one table; None of any other name.

    Raises:
        ApproxMassError: one cannot be read.
    """
    found = shards_of(name)
    return None if found is None else Shards(name, found[0])


def remarks_of(name: str) -> Remarks:
    """What is said of a source where its name is of several files."""
    found = shards_of(name)
    return _remarks(1 if found is None else len(found[0]), _others(name))


def _remarks(count: int, others: Counter[str]) -> Remarks:
    remarks = Remarks(*filter(None, [left_out(others)]))
    if count > 1:
        remarks.say(f"table: {count:,} Parquet files are read as one, in the order of names")
    return remarks


def _others(name: str) -> Counter[str]:
    """What is in a folder beside Parquet files, by its kind."""
    others: Counter[str] = Counter()
    folder = name if os.path.isdir(name) else name.rpartition(":")[0]
    if os.path.isdir(folder):
        files_below(name, Path(folder), [_SUFFIX], others)
    return others


def is_shards(folder: Path) -> bool:
    """Whether a folder and those below hold Parquet files, and no images."""
    found, waiting = False, [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                suffix = os.path.splitext(entry.name)[1].lower()
                if entry.name.startswith("."):
                    continue
                if suffix in image_suffixes():
                    return False
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                found = found or (suffix == _SUFFIX and entry.is_file())
    return found


def _files(name: str) -> list[Path]:
    path = Path(name)
    if os.path.isfile(path):  # False, too, of a name that none can have
        return [path] if _is_parquet(name) else []
    if os.path.isdir(path):
        try:
            if not is_shards(path):
                return []
        except OSError:  # the reader of folders says why
            return []
        return [path / each for each in files_below(name, path, [_SUFFIX])]
    if not glob.has_magic(name):
        return []
    matched = sorted(glob.glob(name, recursive=True))
    return [Path(file) for file in matched] if all(map(_is_parquet, matched)) else []


def _is_parquet(name: str) -> bool:
    return os.path.splitext(name)[1].lower() == _SUFFIX


def encoded_columns(schema: Any, *, plain: bool = False) -> list[str]:
    """Columns of encoded images: structs of bytes; with `plain` of bytes alone, too."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            at = kind.get_field_index("bytes")
            return at >= 0 and _is_bytes(kind.field(at).type)
        return plain and _is_bytes(kind)

    return [field.name for field in schema if holds(field.type)]


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def image_column(name: str, known: Sequence[str], images: Sequence[str], how: str) -> str:
    """The column that holds the images: `image`, or the only one of images.

    Arguments:
        name: What an error calls the table.
        known: Its columns.
        images: Those that hold images, by their type.
        how: How to choose another, where `{}` is its name.

    Raises:
        ApproxMassError: there is none, or several among which nothing chooses.

    Example:
        >>> image_column("x", ["photo", "label"], ["photo"], "x:{}")
        'photo'
    """
    if "image" in known:
        return one_column(name, "image", known)
    if len(images) == 1:
        return images[0]
    if images:
        raise ApproxMassError(
            f"{name}: has several columns of images, {', '.join(images)}: choose one, as in "
            f"{how.format(images[0])}",
            code="bad-source",
        )
    raise ApproxMassError(
        f"{name}: has no column image, only {', '.join(known[:20]) or 'an empty schema'}: choose "
        f"the one of the images, as in {how.format(known[0] if known else 'NAME')}",
        code="bad-source",
    )
