"""The commands that write, as the attacks on files run them: in a child that has all libraries."""

__all__ = [
    "COMMANDS",
    "IMAGES",
    "MAKERS",
    "TRIED",
    "Child",
    "digests",
    "fresh",
    "prepared",
    "whole",
]

import contextlib
import copy
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from PIL import Image
from writes import KINDS, Writes, die

from approxmass import Detector
from approxmass.cli.main import main as command
from approxmass.exporting import onnx_file
from approxmass.report.charts import vega_script
from approxmass.training import loop

IMAGES, TRIED, EXPLAINED = 130, 40, 4


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        words: Of its line; {in} is the folder of inputs, {out} that of outputs.
        outputs: Under {out}, each with what says whether it is whole.
        weight: How often it is attacked, beside the others.
    """

    words: str
    outputs: dict[str, str]
    weight: int = 2


COMMANDS = {
    "fit": Command(
        "fit {in}/images.npy -o {out}/detector --encoder pca --components 4 --epochs 2 "
        "--calibration holdout --resume --json {out}/fit.json",
        {"detector": "detector", "fit.json": "json"},
        4,
    ),
    "fit by folds": Command(
        "fit {in}/images.npy -o {out}/detector --encoder pca --components 4 --epochs 1 "
        "--calibration folds --resume",
        {"detector": "detector"},
        1,
    ),
    "score to csv": Command(
        "score {in}/detector {in}/tried.npy -o {out}/s.csv --json {out}/s.json",
        {"s.csv": "csv", "s.json": "json"},
    ),
    "score to parquet": Command(
        "score {in}/detector {in}/tried.npy -o {out}/s.parquet", {"s.parquet": "parquet"}
    ),
    "score to jsonl": Command(
        "score {in}/detector {in}/tried.npy -o {out}/s.jsonl", {"s.jsonl": "jsonl"}
    ),
    "calibrate": Command(
        "calibrate {in}/detector {in}/tried.npy -o {out}/other --json {out}/c.json",
        {"other": "detector", "c.json": "json"},
    ),
    "evaluate": Command(
        "evaluate {in}/detector --id {in}/tried.npy --ood {in}/odd.npy --json {out}/e.json",
        {"e.json": "json"},
    ),
    "report": Command(
        "report {in}/detector --id {in}/tried.npy --ood {in}/odd.npy -o {out}/r.html",
        {"r.html": "html"},
    ),
    "compare": Command(
        "compare {in}/images.npy --ood {in}/odd.npy --encoder pca --json {out}/m.json",
        {"m.json": "json"},
        1,
    ),
    "explain": Command(
        "explain {in}/detector {in}/few.npy -o {out}/pictures --json {out}/x.json",
        {"x.json": "json", **{f"pictures/{i + 1:03}-{i}.png": "png" for i in range(EXPLAINED)}},
    ),
    "export": Command(
        "export {in}/detector -o {out}/d.onnx",
        {"d.onnx": "onnx", "d.pt2": "pt2"},
    ),
}
# Which commands make each kind of write.
MAKERS = {
    "checkpoint": ("fit", "fit by folds"),
    **{
        kind: tuple(name for name, each in COMMANDS.items() if kind in each.outputs.values())
        for kind in KINDS
        if kind != "checkpoint"
    },
}


def prepared() -> Iterator[Path]:
    """A folder with inputs, for as long as it is needed."""
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name) / "in"
        inputs.mkdir()
        os.environ["APPROXMASS_CACHE"] = str(Path(name) / "cache")
        for file, count in (("images", IMAGES), ("tried", TRIED), ("few", EXPLAINED)):
            pixels = generator.normal(120, 30, (count, 8, 8)).clip(0, 255).astype(np.uint8)
            np.save(inputs / f"{file}.npy", pixels)
        np.save(inputs / "odd.npy", generator.integers(0, 256, (TRIED, 8, 8), dtype=np.uint8))
        detector = Detector("pca", components=4, epochs=1, calibration="holdout")
        detector.fit(inputs / "images.npy").save(inputs / "detector")
        # What takes long and writes nothing, so that the children have it.
        vega_script()
        for part in ("traced", "_as_onnx"):
            setattr(onnx_file, part, remembered(getattr(onnx_file, part)))
        detector.export(Path(name) / "warm.onnx")
        (Path(name) / "inputs.json").write_text(json.dumps(digests(inputs)))
        yield Path(name)


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is called once; of a message that it gives each call has a copy."""
    known: list[Any] = []

    def wrapped(*args: Any) -> Any:
        if not known:
            known.append(function(*args))
        return copy.deepcopy(known[0]) if hasattr(known[0], "ByteSize") else known[0]

    return wrapped


def fresh(folder: Path, name: str) -> Path:
    """An empty folder for outputs."""
    shutil.rmtree(folder / name, ignore_errors=True)
    (folder / name).mkdir()
    return folder / name


def digests(folder: Path) -> dict[str, str]:
    """Of every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def whole(name: str, out: Path) -> dict[str, bool]:
    """Of each output of a command whether it is there and whole."""
    results = {}
    for output, kind in COMMANDS[name].outputs.items():
        results[output] = False
        with contextlib.suppress(Exception):
            results[output] = WHOLE[kind](out / output)
    return results


def _image(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
    return True


def _onnx(path: Path) -> bool:
    from approxmass.onnx_engine import OnnxDetector

    return OnnxDetector(path).facts.calibration > 0


# By kind, whether a file or folder is whole; what raises is not.
WHOLE: dict[str, Callable[[Path], bool]] = {
    "detector": lambda path: Detector.load(path, device="cpu").facts.images == IMAGES,
    "csv": lambda path: len(pyarrow.csv.read_csv(path)) == TRIED,
    "parquet": lambda path: len(pq.read_table(path)) == TRIED,
    "jsonl": lambda path: len([json.loads(x) for x in path.read_text().splitlines()]) == TRIED,
    "json": lambda path: len(json.loads(path.read_text())) > 0,
    "html": lambda path: path.read_text().rstrip().endswith("</html>"),
    "png": _image,
    "onnx": _onnx,
    "pt2": lambda path: zipfile.ZipFile(path).testzip() is None,
}


class Child:
    """A command in a child process.

    Arguments:
        name: Which.
        folder: Of its inputs.
        out: Of its outputs.
        at: The call that writes at which something is done, by number; None for none.
        after: That call is made first.
        act: What is done.
        log: Where to tell all its calls that write.
        user: The number of the user that it becomes; None for this one.
        before: Called before the command.
        first: Called before it writes.

    Attributes:
        text: What it has printed, once it has ended.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        out: Path,
        *,
        at: int | None = None,
        after: bool = False,
        act: Callable[[], None] = die,
        log: Path | None = None,
        user: int | None = None,
        before: Callable[[], object] | None = None,
        first: Callable[[Writes], None] | None = None,
    ) -> None:
        self.text = ""
        self._pipe, own = os.pipe()
        words = COMMANDS[name].words.replace("{in}", f"{folder}/in").replace("{out}", str(out))
        self.pid = os.fork()
        if not self.pid:
            code = 1
            try:
                os.dup2(own, 1)
                os.dup2(own, 2)
                sys.stdout, sys.stderr = (os.fdopen(fd, "w") for fd in (1, 2))
                if at is not None or log is not None or first is not None:
                    Writes(out, at, after=after, act=act, first=first).install()
                often()
                if before is not None:
                    before()
                if user is not None:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                sys.argv = ["approxmass", *words.split()]
                try:
                    command()
                    code = 0
                except SystemExit as left:
                    code = int(left.code or 0)
                if log is not None:
                    log.write_text(json.dumps(Writes.told))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(own)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        with open(self._pipe, errors="replace") as pipe:
            self.text = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> bool:
        """Kill it; whether it was still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def said(self) -> str:
        """The last line that it printed."""
        return (self.text.strip().splitlines() or ["nothing"])[-1]


def often() -> None:
    """Keep a checkpoint after every step."""
    begin = loop.Loop.__init__

    def beginning(self: Any, plan: loop.Plan, *rest: Any, **more: Any) -> None:
        begin(self, replace(plan, checkpoint_seconds=0.0), *rest, **more)

    loop.Loop.__init__ = beginning  # type: ignore[method-assign]
