"""Scores by many processes or machines, with Ray Data.

The rows of a source are cut into blocks. Each is scored whole by one actor, of which there is one
a GPU or a core; the driver alone writes, each block as it comes, and joins them when all are there.
"""

__all__ = ["BLOCK", "scored_blocks"]

import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data import ImageSource
from ..data.groups import groups_of
from ..data.readers.remote import is_url, listed
from ..detector import Detector
from ..errors import ApproxMassError
from ..runtime.cores import cores
from ..runtime.extras import require_extra
from ..runtime.progress import TrainingBar
from ..storage.blocks import Blocks
from ..storage.score_file import whole_table

# Images of a block: what a crash can lose of each actor, and more than a task costs.
BLOCK = 4096
# More blocks than these would be too many files, and too much for Ray to keep in mind.
_MOST_BLOCKS = 50_000
# Bytes for what actors have made and the driver has not yet written.
_STORE = 256 << 20


@contextmanager
def scored_blocks(
    detector: Detector,
    folder: Path,
    source: ImageSource,
    kept: Path,
    *,
    address: str | None = None,
    device: str | None = None,
    group: str | None = None,
    strict: bool = False,
    progress: bool = False,
    block: int = BLOCK,
) -> Iterator[Iterator[Any]]:
    """Score the images of a source with Ray; within, the tables of all blocks, in order.

    Finished blocks wait in `kept` and are not scored again by a later run of the same. They are
    removed once the caller has left without an error.

    Arguments:
        detector: The fitted one.
        folder: Where it was saved.
        source: Its images as `detector.open` gives them, by a name that the actors can open.
        kept: A folder for finished blocks.
        address: Of a Ray cluster; None for a local one, which ends with the run.
        device: Of each actor; None for a GPU each where the cluster has some.
        group: That of all images, of a detector calibrated per group; None for each image's own.
        strict: Stop at an unreadable image.
        progress: Show remarks and a progress bar on standard error.
        block: Images of a block, at least; more where there would be too many blocks.

    Raises:
        ApproxMassError: Ray is missing or cannot be reached, `kept` holds another run, or what
            scoring raises.
    """
    require_extra("ray", "the engine ray")
    identity = {
        "detector": _digest(_files_of(folder)),
        "source": source.name,
        "files of the source": _stamp(source.name),
        "group": group,
    }
    size = max(block, -(-len(source) // _MOST_BLOCKS))
    made = {"source": source.name, "count": len(source), "group": group, "strict": strict}
    with Blocks(kept, identity, count=len(source), size=size) as blocks:
        missing = blocks.missing()
        if missing:
            worker = made | {"files": _files_of(folder), "folder": os.getcwd(), "device": device}
            _score(blocks, missing, worker, address, progress=progress)
        yield blocks.tables()
        blocks.remove()


def _score(
    blocks: Blocks,
    missing: list[int],
    worker: dict[str, Any],
    address: str | None,
    *,
    progress: bool,
) -> None:
    """Have the missing blocks scored, and keep each as it comes."""
    done = len(blocks) - len(missing)
    rows = sum(stop - start for start, stop in map(blocks.span, missing))
    with TrainingBar("scoring") as bar, _cluster(address) as ray:
        if progress and done:
            bar.remark(f"{done:,} of {len(blocks):,} blocks are there from before")
        started, scored = time.monotonic(), 0
        for number, table in _from_actors(ray, blocks, missing, worker):
            blocks.keep(number, table)
            scored += len(table)
            if progress:
                rate = scored / (time.monotonic() - started)
                bar.show(scored, rows, f"{scored:,} images  {rate:,.0f} images/s")


@contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; the process's own connection where it has one."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of Ray's own processes
    import ray

    if ray.is_initialized():
        yield ray
        return
    local = {
        "num_cpus": cores(),
        "include_dashboard": False,
        "object_store_memory": _STORE,
    }
    given: dict[str, Any] = local if address is None else {"address": address}
    try:
        ray.init(**given, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ApproxMassError(
            f"Ray cannot be reached{f' at {address}' if address else ''}: {reason}; start it (ray "
            "start --head), or check the address",
            code="address",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _from_actors(
    ray: Any, blocks: Blocks, missing: list[int], worker: dict[str, Any]
) -> Iterator[tuple[int, Any]]:
    """The tables of blocks, as they come."""
    from ray.data import ActorPoolStrategy, DataContext, from_items

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    there = ray.cluster_resources()
    cpus = max(1, int(there.get("CPU", 1)))
    gpus = int(there.get("GPU", 0)) if worker["device"] in (None, "cuda") else 0
    worker = worker | {"threads": max(1, cpus // gpus) if gpus else 1}
    # A row a block, a block a row: Ray neither joins nor cuts them.
    rows = [
        {"number": number, "start": start, "stop": stop}
        for number in missing
        for start, stop in [blocks.span(number)]
    ]
    data = from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_kwargs=worker,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(gpus or cpus, len(rows))),
        num_cpus=1,
        num_gpus=1 if gpus else None,
        udf_modifying_row_count=False,
    )
    for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
        for number, table, reason, code in zip(
            batch["number"], batch["table"], batch["reason"], batch["code"], strict=True
        ):
            if code:
                raise ApproxMassError(str(reason), code=code)
            yield int(number), pa.ipc.open_stream(table).read_all()


class _Worker:
    """An actor: the detector and the source, open, and the table of any block of it."""

    def __init__(
        self,
        *,
        files: Mapping[str, bytes],
        folder: str,
        source: str,
        count: int,
        group: str | None,
        device: str | None,
        threads: int,
        strict: bool,
    ) -> None:
        self.count, self.strict = count, strict
        self.problem: ApproxMassError | None = None
        if os.path.isdir(folder):  # where a relative name means what it did
            os.chdir(folder)
        try:
            with tempfile.TemporaryDirectory() as copy:
                for name, data in files.items():
                    (Path(copy) / name).write_bytes(data)
                detector = Detector.load(copy, device=device, threads=threads)
            self.detector = detector if group is None else detector.calibrated_for(group)
            self.source = self.detector.open(source)
            per = self.detector.fitted.in_use.per
            self.groups = None if per is None else groups_of(self.source, per)
            if len(self.source) != count:
                raise ApproxMassError(
                    f"{source}: has {len(self.source):,} images for an actor, and {count:,} for "
                    "the driver: leave it as it is while it is scored, where all can read it",
                    code="bad-source",
                )
        except ApproxMassError as error:
            self.problem = error  # Ray would try again for ever

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        start, stop = int(batch["start"][0]), int(batch["stop"][0])
        found: dict[str, list[Any]] = {"number": [int(batch["number"][0])]}
        found |= {"table": [b""], "reason": [""], "code": [""]}
        try:
            if self.problem is not None:
                raise self.problem
            return found | {"table": [self._scored(start, stop)]}
        except ApproxMassError as error:
            return found | {"reason": [str(error)], "code": [error.code]}

    def _scored(self, start: int, stop: int) -> bytes:
        """The table of some rows, as an Arrow stream."""
        per = None if self.groups is None else self.groups[start:stop]
        tables = []
        for chunk, scores in self.detector.score_chunks(self.source.span(start, stop), per=per):
            if self.strict:
                chunk.require_readable(self.source.name)
            tables.append(whole_table(chunk, scores))
        table, sink = pa.concat_tables(tables), pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue())


def _files_of(folder: Path) -> dict[str, bytes]:
    """The files of a detector: what actors on other machines cannot read."""
    return {each.name: each.read_bytes() for each in sorted(folder.iterdir()) if each.is_file()}


def _digest(files: Mapping[str, bytes]) -> str:
    sha256 = hashlib.sha256()
    for name, data in files.items():
        sha256.update(f"{name} {len(data)} ".encode() + data)
    return sha256.hexdigest()


def _stamp(name: str) -> str:
    """A digest of what files there are in a source, and when each was last written."""
    if is_url(name):
        found = listed(name)
    elif os.path.isdir(name):
        walked = ((parent, each) for parent, _, names in os.walk(name) for each in names)
        paths = sorted(os.path.join(parent, each) for parent, each in walked)
        found = [(path, _written(path)) for path in paths]
    else:
        found = [(name, _written(name))]
    text = "\n".join(f"{path} {written}" for path, written in found)
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _written(path: str) -> str:
    """What changes when a file is written again; nothing of what is none."""
    if not os.path.exists(path):
        return ""
    facts = os.stat(path)
    return f"{facts.st_size} {facts.st_mtime_ns}"
