"""What is fuzzed of what we write ourselves, and of the bodies of requests."""

__all__ = ["readers_of_ours"]

import base64
import contextlib
import dataclasses
import functools
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from fuzz_corpus import SIDE, Reader, images, mutated, refusing, spoilt_json, spoilt_text

from approxmass import Detector
from approxmass.serve.limits import Limits
from approxmass.serve.rows import rows_in, rows_of
from approxmass.serve.uploads import images_of, uploads_of
from approxmass.storage import artifact
from approxmass.storage.blocks import Blocks
from approxmass.training.checkpoint import pack, taken, unpack
from approxmass.training.loop import State
from approxmass.watch.log import open_log

# --- what we write ourselves


def _small(folder: Path) -> tuple[Detector, Detector]:
    """A detector of images and one of rows, saved there."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, SIDE, SIDE), dtype=np.uint8)
    seen = Detector(method="gaussian", threads=1).fit(pixels)
    seen.save(folder / "images")
    rows = Detector(epochs=1, threads=1, columns=["0", "1", "2"]).fit(rng.normal(size=(120, 3)))
    return seen, rows


def _folder_readers(folder: Path) -> Iterator[Reader]:
    saved = folder / "images"
    files = {each.name: each.read_bytes() for each in saved.iterdir()}
    manifest = json.loads(files["detector.json"])

    def load(part: str, data: bytes, place: Path) -> bool:
        for name, content in files.items():
            (place / name).write_bytes(data if name == part else content)
        Detector.load(place, device="cpu", threads=1)
        return True

    def of_json(data: bytes, r: random.Random, place: Path) -> bool:
        return load("detector.json", data, place)

    def of_tensors(part: str, data: bytes, r: random.Random, place: Path) -> bool:
        known = json.loads(files["detector.json"])
        known["files"][part] = artifact._digest(data)
        known["digest"] = artifact._manifest_digest(known)
        (place / "x").mkdir(exist_ok=True)
        for name, content in files.items():
            (place / "x" / name).write_bytes(data if name == part else content)
        (place / "x" / "detector.json").write_text(json.dumps(known))
        Detector.load(place / "x", device="cpu", threads=1)
        return True

    def spoilt(data: bytes, others: list[bytes], r: random.Random) -> bytes:
        """Fields of other types and ranges, with the digest made anew; or any other text."""
        if r.random() < 0.2:
            return spoilt_text(data, others, r)
        found = spoilt_json(manifest, r)
        if isinstance(found, dict):
            with contextlib.suppress(TypeError, ValueError):
                found["digest"] = artifact._manifest_digest(found)
        return json.dumps(found).encode()

    json_corpus = [files["detector.json"]]
    yield Reader("detector.json", json_corpus, spoilt, refusing(of_json), 0.03, 400)
    for part in ("weights.safetensors", "calibration.safetensors"):
        read = refusing(functools.partial(of_tensors, part))
        yield Reader(part, [files[part]], mutated, read, 0.03, 400)


def _checkpoint() -> Reader:
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        module = torch.nn.Linear(3, 2)
        return module, torch.optim.Adam(module.parameters())

    torch.manual_seed(0)
    module, optimizer = made()
    module(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    state = State(step=1, seconds=1.0, smooth=0.5, lowest=0.5, last={"loss": 0.5})
    tensors = taken({"m": module}, {"o": optimizer})
    packed = pack(tensors, {"seed": 0}, dataclasses.asdict(state))

    def read(data: bytes, r: random.Random, folder: Path) -> bool:
        one, two = made()
        unpack(data, "x", {"m": one}, {"o": two}, {"seed": 0}, State.of)
        return True

    def spoilt(data: bytes, others: list[bytes], r: random.Random) -> bytes:
        if r.random() < 0.5:
            return mutated(data, others, r)
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        for key in ("state", "identity"):
            if r.random() < 0.6:
                value = spoilt_json(json.loads(header["__metadata__"][key]), r)
                header["__metadata__"][key] = json.dumps(value)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    return Reader("checkpoint", [packed], spoilt, refusing(read), 0.3)


def _score_readers() -> Iterator[Reader]:
    table = pa.table({
        "name": ["a.png", "b\n.png", 'c".png'],
        "statistic": [0.5, None, 1.5],
        "p_value": [0.25, None, 1.0],
        "is_outlier": [False, None, True],
        "error": [None, "cannot be decoded", None],
    })  # fmt: skip
    text, binary = io.BytesIO(), io.BytesIO()
    pyarrow.csv.write_csv(table, text)
    pq.write_table(table, binary)

    def of_log(suffix: str, data: bytes, r: random.Random, folder: Path) -> bool:
        path = folder / f"log{suffix}"
        if suffix:
            path.write_bytes(data)
        else:
            path.mkdir(exist_ok=True)
            (path / "part-000000.parquet").write_bytes(data)
        log = open_log(path, table.schema)
        try:
            log.read()
        finally:
            log.close()
        return True

    def of_block(data: bytes, r: random.Random, folder: Path) -> bool:
        with Blocks(folder / "blocks", {"a": 1}, count=3, size=3) as blocks:
            (folder / "blocks" / "00000000.parquet").write_bytes(data)
            return not blocks.missing()

    csv_read = refusing(functools.partial(of_log, ".csv"))
    yield Reader("log, csv", [text.getvalue()], spoilt_text, csv_read)
    parts = refusing(functools.partial(of_log, ""))
    yield Reader("log, parquet", [binary.getvalue()], mutated, parts)
    yield Reader("block of scores", [binary.getvalue()], mutated, refusing(of_block), 0.3)


# --- bodies of requests


def _body_readers(seen: Detector, rows: Detector) -> Iterator[Reader]:
    limits = Limits()
    pictures = [each for kind in ("png", "jpeg", "gif", "bmp") for each in images(kind)[:2]]
    coded = [base64.b64encode(each).decode() for each in pictures]
    in_json = [json.dumps({"images": coded[i : i + 2]}).encode() for i in range(0, len(coded), 2)]
    in_json.append(json.dumps({"images": coded[:2], "names": ["a", "b\n"]}).encode())
    form = [
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="%d.png"\r\n'
        b"Content-Type: image/png\r\n\r\n%b\r\n--x--\r\n" % (i, each)
        for i, each in enumerate(pictures)
    ]
    table = [
        json.dumps({"rows": [[1.5, 2, -3], [0, 1e300, 2]], "names": ["a", "b"]}).encode(),
        json.dumps({"rows": [[0.25, 1, 2]] * 5}).encode(),
    ]

    def uploaded(kind: str, data: bytes, r: random.Random, folder: Path) -> bool:
        found = uploads_of(bytearray(data), kind, limits)
        return len(images_of(found, seen, limits).images) > 0

    def of_rows(data: bytes, r: random.Random, folder: Path) -> bool:
        return len(rows_of(rows_in(bytearray(data), limits, 3), rows, limits).images) > 0

    def json_of(data: bytes, others: list[bytes], r: random.Random) -> bytes:
        if r.random() < 0.5:
            return spoilt_text(data, others, r)
        return json.dumps(spoilt_json(json.loads(data), r)).encode()

    as_json = refusing(functools.partial(uploaded, "application/json"))
    as_form = refusing(functools.partial(uploaded, "multipart/form-data; boundary=x"))
    yield Reader("body, JSON of images", in_json, json_of, as_json)
    yield Reader("body, form", form, spoilt_text, as_form)
    yield Reader("body, JSON of rows", table, json_of, refusing(of_rows))


def readers_of_ours(folder: Path) -> Iterator[Reader]:
    """With detectors that are put into a folder."""
    seen, rows = _small(folder)
    yield from _folder_readers(folder)
    yield _checkpoint()
    yield from _score_readers()
    yield from _body_readers(seen, rows)
