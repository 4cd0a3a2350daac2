"""What is too large, slow or of another size is refused by its header, before it is decoded."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from approxmass.data import decode as decoding
from approxmass.data import frames, guard, open_images
from approxmass.data.copies import stored_digests
from approxmass.data.decode import How, decode
from approxmass.data.formats import image_suffixes
from approxmass.data.frame import Frame
from approxmass.data.guard import check_header, pillow_guard, strips
from approxmass.data.shapes import NEEDED
from approxmass.data.unreadable import UnreadableError

GREY = np.random.default_rng(1).integers(0, 256, (9, 7), dtype=np.uint8)

# Prints by how many MiB the memory of the process has grown at most; of each file a line.
GROWTH = """
import resource, sys, io
import numpy as np
from PIL import Image
from approxmass.data import open_images
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for kind in ("png", "tiff"):
    data = io.BytesIO()
    Image.new("I;16", (29, 28)).save(data, kind)
    list(open_images([data.getvalue()]).chunks(shape=(1, 28, 28)))
start = peak()
for name in sys.argv[1:]:
    (chunk,) = open_images(name).chunks(shape=(1, 28, 28))
    print(chunk.codes[0], round(peak() - start), chunk.errors[0])
"""


def grown(*files: Path) -> list[list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return [line.split(" ", 2) for line in done.stdout.splitlines()]


def refused(data: bytes | Image.Image, how: How = decoding.AS_STORED) -> str:
    with pytest.raises(UnreadableError) as info, pillow_guard():
        decode(data, Frame(8, 8) if how.needed is None else None, how)
    return str(info.value)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def test_40_megapixels_for_a_detector_of_28x28_are_refused_by_the_header(tmp_path: Path) -> None:
    wide = (8000, 5000)
    Image.new("I;16", wide, 4000).save(tmp_path / "a.png", compress_level=1)
    Image.new("I", wide, 7).save(tmp_path / "b.tiff", compression="tiff_deflate")
    Image.new("F", wide, 0.5).save(tmp_path / "c.tiff", compression="tiff_deflate")
    Image.new("CMYK", wide).save(tmp_path / "d.jpg")
    Image.new("P", wide).save(tmp_path / "e.gif")
    Image.new("RGBA", wide).save(tmp_path / "f.webp", method=0)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    for code, growth, reason in grown(*files):
        assert code == "wrong-shape"
        assert reason.startswith("is 8000x5000 ")
        assert "what is needed is 28x28 grey" in reason
        assert int(growth) <= 30


def test_a_turned_image_of_the_right_size_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    how = How(channels=1, needed=((1, 9, 7), NEEDED))
    with pillow_guard():
        for kind in ("png", "tiff"):
            turned = saved(Image.fromarray(np.rot90(GREY).copy()), kind, exif=exif)
            np.testing.assert_array_equal(decode(turned, None, how).pixels[0], GREY)
    assert refused(saved(Image.new("L", (7, 8)), "png"), how).startswith("is 7x8 grey")
    assert refused(saved(Image.new("RGB", (8, 8)), "jpeg"), how).startswith("is 8x8 RGB")


def png_header(width: int, height: int, bits: int, colours: int) -> bytes:
    """The start of a PNG, and of its pixels some, with right checksums."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )


@pytest.mark.parametrize(
    ("width", "height", "bits", "colours"),
    [(8100, 8100, 8, 6), (8100, 8100, 16, 2), (8100, 8100, 16, 6), (9500, 9500, 8, 3)],
)
def test_what_takes_too_much_memory(width: int, height: int, bits: int, colours: int) -> None:
    started = time.process_time()
    reason = refused(png_header(width, height, bits, colours))
    assert ("more than 512 MB" if width == 8100 else "89,478,485 pixels") in reason
    assert time.process_time() - started < 1


def test_formats_whose_decoders_take_more_may_hold_fewer_pixels() -> None:
    for kind, most in (("webp", 30), ("jpeg2000", 25), ("avif", 51), ("gif", 89), ("tiff", 64)):
        with Image.open(io.BytesIO(saved(Image.new("RGB", (4, 4)), kind))) as image:
            image._size = (1000, most * 1000)
            check_header(image)
            image._size = (1000, most * 1000 + 1200)
            with pytest.raises(UnreadableError, match=r"more than 512 MB|89,478,485 pixels"):
                check_header(image)


def test_a_frame_that_is_larger_than_the_file_says() -> None:
    """A GIF of 9x9 with a second frame of 30,000 x 2,900."""
    data = saved(Image.new("P", (9, 9), 1), "gif")
    descriptor = b"\x2c" + struct.pack("<HHHHB", 0, 0, 30_000, 2_900, 0)
    grown = data[:-1] + descriptor + b"\x02\x02\x4c\x01\x00;"
    source = open_images([grown], pages=True, size=8)
    errors = [error for chunk in source.chunks() for error in chunk.errors]
    assert errors[0] is None
    assert "for which decoding GIF takes more than 512 MB" in str(errors[1])


def test_many_scans_of_a_large_jpeg() -> None:
    data = bytearray(saved(Image.new("L", (64, 64)), "jpeg", progressive=True))
    at = data.index(b"\xff\xc2") + 5
    struct.pack_into(">HH", data, at, 5000, 6000)
    scan = bytes(data[data.index(b"\xff\xda") : -2])
    assert "scans, each of all pixels" in refused(bytes(data[:-2]) + scan * 40 + b"\xff\xd9")
    small = saved(Image.new("L", (64, 64)), "jpeg", progressive=True)
    with pillow_guard():
        decode(small)


def test_what_is_packed_in_ways_that_are_slow_to_undo() -> None:
    data = bytearray(saved(Image.new("RGB", (4, 4)), "qoi"))
    struct.pack_into(">II", data, 4, 3000, 3000)
    assert "slow to undo" in refused(bytes(data))


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(4_000_000_000)
    (tmp_path / "b.png").hardlink_to(tmp_path / "a.png")
    for code, growth, reason in grown(tmp_path / "a.png"):
        assert (code, int(growth) < 30) == ("bad-image", True)
        assert "a file of 4,000 MB" in reason


def test_pipes_of_a_folder_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        os.mkfifo(tmp_path / name)
    Image.fromarray(GREY).save(tmp_path / "c.png")
    source = open_images(tmp_path)
    assert len(set(stored_digests(source).tolist())) == 3
    assert [e for chunk in source.chunks() for _, e in chunk.unreadable] == [
        "is not a file: remove it"
    ] * 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I"])
@pytest.mark.parametrize("background", [255, 7])
def test_strip_by_strip_it_is_the_same(
    mode: str, background: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (23, 11, 4), dtype=np.uint8))
    if mode.startswith("I"):
        values = rng.integers(0, 256, (23, 11)) * (200 if mode == "I;16" else 1)
        values[:4] = 3  # a dark strip of a bright image
        image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    elif mode in ("LA", "RGBA"):
        image = image.convert(mode)
    elif mode == "PA":
        image = image.convert("P").convert("PA")
        image.putalpha(Image.fromarray(rng.integers(0, 256, (23, 11), dtype=np.uint8)))
    else:
        image = image.convert("RGB").convert(mode)
    for channels in (1, 3):
        found = []
        for strip in (1 << 20, 33):
            monkeypatch.setattr(guard, "_STRIP", strip)
            notes: list[Any] = []
            how = How(channels=channels, luminance=True, background=background)
            with pillow_guard():
                pixels = decode(image, None, how, notes).pixels
            found.append((pixels, {k: max(v for n, v in notes if n == k) for k, _ in notes}))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]
    monkeypatch.setattr(guard, "_STRIP", 33)
    assert [top for top, _ in strips(image)] == list(range(0, 23, 3))


def test_8_bits_in_16_are_found_in_strips_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_STRIP", 14)
    image = Image.fromarray(GREY.astype(np.uint16))
    assert "16-bit values" in refused(image)


def test_threads_wait_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    room, most, now = guard._Room(), [0], [0]
    lock = threading.Lock()

    def work() -> None:
        with room.taken(guard.LARGEST):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(9)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert most[0] == 2
    with room.taken(100 * guard.LARGEST):  # alone, whatever it takes
        pass


def test_more_pages_than_anybody_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frames, "MOST_PAGES", 4)
    monkeypatch.setattr(decoding, "MOST_PAGES", 4)
    for kind in ("gif", "tiff"):
        for count in (4, 5):
            some = [Image.new("L", (5, 5), 9 * k) for k in range(count)]
            some[0].save(tmp_path / f"{count}.{kind}", save_all=True, append_images=some[1:])
    source = open_images(tmp_path, pages=True)
    errors = {name: error for chunk in source.chunks() for name, error in chunk.unreadable}
    assert set(errors) == {"5.gif", "5.tiff"}
    assert errors["5.gif"] == "has more than 4 frames or pages: split it"
    assert len(source) == 10


def test_no_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "eight_bit", full)
    assert refused(saved(Image.new("L", (3, 3)), "gif")).startswith("needs more memory")


def test_no_program_is_run_for_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("Ghostscript")

    monkeypatch.setattr(subprocess, "check_call", run)
    monkeypatch.setattr(subprocess, "Popen", run)
    eps = saved(Image.new("RGB", (5, 5)), "eps")
    assert "a PostScript program" in refused(eps)
    assert not {".eps", ".ps", ".wmf", ".mpg"} & image_suffixes()
