"""What becomes of the files of a new user's folder: the table in docs/images.md, made here.

python tests/test_images_table.py       writes it anew
"""

import io
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from approxmass import open_images
from approxmass.data.source import describe_shape

PAGE = Path(__file__).parents[1] / "docs" / "images.md"
TABLE = re.compile(r"(?<=<!-- folder -->\n).*?(?=<!-- /folder -->)", re.DOTALL)

ROWS, COLUMNS = np.mgrid[0:24, 0:16]
RGB = np.stack([8 * ROWS, 12 * COLUMNS, 255 - 8 * ROWS], 2).clip(0, 255).astype(np.uint8)
GREY = RGB[..., 0]
HALF = np.where(COLUMNS < 8, 255, 0).astype(np.uint8)
INDEX = (COLUMNS // 4).astype(np.uint8)
PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]], np.uint8)


class Kind(NamedTuple):
    """A kind of file.

    Attributes:
        what: In words.
        name: Of the file.
        data: What is in it.
        pixels: What comes out, `(H, W)` or `(H, W, 3)`; None where it cannot be read.
        lossy: How far from that, on average, the pixels may be.
        others: What else is in the folder, in the order of names after it.
        extra: Whether pillow-heif is there; None where that is no matter.
    """

    what: str
    name: str
    data: bytes
    pixels: Any
    lossy: float = 0
    others: tuple[Any, ...] = ()
    extra: bool | None = None


def file(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    data = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(data, kind, **options)
    return data.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def palette() -> Image.Image:
    image = Image.fromarray(INDEX, "P")
    image.putpalette(PALETTE.ravel().tolist())
    return image


def several(kind: str) -> bytes:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    options = {"lossless": True} if kind == "webp" else {}
    return file(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def heic() -> bytes:
    if find_spec("pillow_heif") is None:  # the start of one
        return b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(400)
    import pillow_heif

    data = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(RGB)).save(data, quality=95)
    return data.getvalue()


def kinds() -> Iterator[Kind]:
    on_white = np.where(HALF[..., None] > 0, RGB, 255)
    deep = (GREY.astype(int) * 257).astype(np.uint16)
    wide = b"P6 16 24 65535\n" + (RGB.astype(int) * 257).astype(">u2").tobytes()
    cut = file(RGB, "jpeg")
    yield Kind("a photo held upright: EXIF orientation", "a.jpg",
               file(np.rot90(RGB).copy(), "jpeg", exif=turned(), quality=95), RGB, 4)  # fmt: skip
    yield Kind("CMYK", "a.jpg", file(RGB, "jpeg", "CMYK", quality=95), RGB, 4)
    yield Kind("16-bit grey", "a.png", file(deep, "png"), GREY)
    yield Kind("16-bit colour", "a.ppm", wide, RGB, 1)
    yield Kind("palette", "a.png", file(palette(), "png"), PALETTE[INDEX])
    yield Kind("palette with a transparent entry", "a.png",
               file(palette(), "png", transparency=3),
               np.where(INDEX[..., None] == 3, 255, PALETTE[INDEX]))  # fmt: skip
    yield Kind("alpha channel", "a.png", file(np.dstack([RGB, HALF]), "png"), on_white)
    for kind, words in (("gif", "animated GIF"), ("png", "animated PNG (APNG)"),
                        ("webp", "animated WebP"), ("tiff", "TIFF of several pages")):  # fmt: skip
        yield Kind(words, f"a.{kind}", several(kind), GREY, 1)
    yield Kind("HEIC, pillow-heif not installed", "a.heic", heic(), None, extra=False)
    yield Kind("HEIC, pillow-heif installed", "a.heic", heic(), RGB, 12, extra=True)
    yield Kind("a PDF called .jpg", "a.jpg", b"%PDF-1.7\n%\xe2\xe3\n", None)
    yield Kind("a video called .jpg", "a.jpg", b"\0\0\0\x18ftypisom\0\0\2\0", None)
    yield Kind("a JPEG that breaks off", "a.jpg", cut[:-60], None)
    yield Kind("an empty file", "a.png", b"", None)
    yield Kind("a PNG called .jpg", "a.jpg", file(RGB, "png"), RGB)
    yield Kind("no suffix", "a", file(RGB, "png"), None)
    yield Kind("DICOM", "a.dcm", bytes(128) + b"DICM", None)
    yield Kind("a hidden file", ".a.png", file(RGB, "png"), None)
    yield Kind("one grey among nine in colour", "a.png", file(GREY, "png"),
               np.dstack([GREY] * 3), others=(RGB,) * 9)  # fmt: skip
    yield Kind("one in colour among nine grey", "a.png", file(RGB, "png"),
               np.asarray(Image.fromarray(RGB).convert("L")), others=(GREY,) * 9)  # fmt: skip
    yield Kind("grey stored as RGB (R = G = B)", "a.png", file(np.dstack([GREY] * 3), "png"),
               GREY, others=(np.dstack([255 - GREY] * 3),))  # fmt: skip


@contextmanager
def heif(there: bool | None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if there is False:
            patch.setitem(sys.modules, "pillow_heif", None)
        yield


def stored_as(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.mode}, {image.width}x{image.height}"
    except OSError:
        return "HEIC" if data[4:12] == b"ftypheic" else "no image"


def row_of(kind: Kind, folder: Path) -> tuple[str, str]:
    """The folder is opened as any other, and what comes of the file is held to what it shows."""
    (folder / kind.name).write_bytes(kind.data)
    others = kind.others or ((RGB,) if kind.pixels is None else ())
    for i, pixels in enumerate(others):
        (folder / f"b{i}.png").write_bytes(file(pixels, "png"))
    with heif(kind.extra):
        source = open_images(folder)
        (chunk,) = source.chunks()
        remarks = source.remarks()
    if kind.name not in chunk.names:
        assert kind.pixels is None
        return "left out", "; ".join(remarks)
    assert chunk.names[0] == kind.name
    if chunk.errors[0] is not None:
        assert kind.pixels is None, chunk.errors[0]
        return "unreadable", str(chunk.errors[0])
    found = chunk.images[0]
    seen = found[0] if len(found) == 1 else found.transpose(1, 2, 0)
    assert seen.shape == kind.pixels.shape, (kind.what, seen.shape)
    assert np.abs(seen.astype(int) - kind.pixels).mean() <= kind.lossy, kind.what
    return describe_shape(found.shape), "; ".join(remarks)


def table() -> dict[str, str]:
    """The rows, by kind."""
    rows = {}
    for kind in kinds():
        if kind.extra and find_spec("pillow_heif") is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            read, said = row_of(kind, Path(folder))
        rows[kind.what] = f"| {kind.what} | {stored_as(kind.data)} | {read} | {said} |"
    return rows


def test_the_table_of_a_folder_is_what_happens() -> None:
    known = TABLE.search(PAGE.read_text())
    assert known is not None
    written = {line.split(" | ")[0].strip("| "): line for line in known[0].splitlines()[2:]}
    assert set(written) == {kind.what for kind in kinds()}
    for what, line in table().items():
        assert written[what] == line


def test_heic_without_its_library_is_skipped_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(heic())
    (tmp_path / "b.png").write_bytes(file(RGB, "png"))
    with heif(False):
        (chunk,) = open_images(tmp_path).chunks()
    assert chunk.names == ["a.heic", "b.png"]
    assert chunk.codes == ["missing-library", None]
    assert "pip install pillow-heif" in str(chunk.errors[0])


def test_heic_leaves_pillow_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    (tmp_path / "a.heic").write_bytes(heic())
    before = dict(Image.OPEN)
    assert open_images(tmp_path / "a.heic").shape == (3, 24, 16)
    assert open_images([heic()], size=8).read().shape == (1, 3, 8, 8)
    assert before.keys() == Image.OPEN.keys()


def main() -> None:
    head = "| in the folder | stored as | read as | what is said |\n|---|---|---|---|\n"
    text = PAGE.read_text()
    rows = "\n".join(table().values())
    PAGE.write_text(TABLE.sub(lambda _: f"{head}{rows}\n", text))


if __name__ == "__main__":
    main()
