"""What a network made of images, kept for the next fit; and images that stream past a network."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from approxmass import Detector
from approxmass.models import kinds
from approxmass.models.flow import FlowModel
from approxmass.storage.view_cache import ViewCache
from conftest import mistake
from tiny_network import TinyNetwork

# Images of no one that a detector is tried on after a fit.
PROBE = 4


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyNetwork:
    """A quick network in the place of lite0."""
    network = TinyNetwork()
    monkeypatch.setattr(kinds, "network", lambda name: network)
    return network


def rows(count: int, width: int = 4, start: float = 0) -> np.ndarray:
    return np.arange(start, start + count * width, dtype=np.float32).reshape(count, width)


def keys(count: int, start: int = 0) -> list[bytes]:
    return [f"key {i}".encode() for i in range(start, start + count)]


def test_what_was_put_comes_back_to_the_bit_in_another_opening_too() -> None:
    wild = np.array([[np.pi, -0.0, np.nan, np.inf]], np.float32)
    with ViewCache("a") as cache:
        assert cache.get(keys(2)) == [None, None]
        cache.put(keys(3), rows(3))
        cache.put([b"wild"], wild)
        cache.put([], rows(0))
    with ViewCache("a") as cache:
        found = cache.get([b"key 2", b"wild", b"other", b"key 0"])
        assert found[2] is None
        for row, expected in zip(
            [found[0], found[1], found[3]], [rows(3)[2], wild[0], rows(3)[0]], strict=True
        ):
            assert row is not None
            assert row.dtype == np.float32
            assert row.tobytes() == expected.tobytes()


def test_each_network_has_a_database_of_its_own() -> None:
    with ViewCache("a") as cache:
        cache.put(keys(1), rows(1))
    with ViewCache("b") as cache:
        assert cache.get(keys(1)) == [None]


def test_a_key_has_its_last_row() -> None:
    with ViewCache("a") as cache:
        cache.put(keys(1), rows(1))
        cache.put(keys(1), rows(1, start=50))
        (found,) = cache.get(keys(1))
    np.testing.assert_array_equal(found, rows(1, start=50)[0])


def test_a_row_that_was_altered_or_cut_is_not_there(tmp_path: Path) -> None:
    with ViewCache("a") as cache:
        cache.put(keys(3), rows(3))
    (path,) = tmp_path.glob("**/views-*.sqlite")
    database = sqlite3.connect(path)
    database.execute("UPDATE views SET view = substr(view, 1, 12) WHERE id = 1")
    database.execute("UPDATE views SET view = zeroblob(20) WHERE id = 2")
    database.commit()
    database.close()
    with ViewCache("a") as cache:
        first, second, third = cache.get(keys(3))
        assert first is None
        assert second is None
        np.testing.assert_array_equal(third, rows(3)[2])
        cache.put(keys(1), rows(1))
        np.testing.assert_array_equal(cache.get(keys(1))[0], rows(1)[0])


def test_the_oldest_give_way_at_the_limit() -> None:
    with ViewCache("a", most=10 * 16) as cache:  # ten rows of four numbers
        for start in range(0, 24, 4):
            cache.put(keys(4, start), rows(4, start=start))
        found = cache.get(keys(24))
    assert [row is not None for row in found] == [False] * 14 + [True] * 10


def test_two_processes_may_share_it() -> None:
    with ViewCache("a") as one, ViewCache("a") as other:
        one.put(keys(2), rows(2))
        other.put(keys(2, 1), rows(2, start=4))
        for cache in (one, other):
            assert [row is not None for row in cache.get(keys(4))] == [True, True, True, False]


@pytest.mark.parametrize("damage", ["noise", "cut", "empty"])
def test_a_damaged_database_is_no_error(damage: str, cache: Path) -> None:
    with ViewCache("a") as opened:
        opened.put(keys(200), rows(200, 64))
    (path,) = cache.glob("*.sqlite")
    for rest in cache.glob("*.sqlite-*"):
        rest.unlink()
    whole = path.read_bytes()
    path.write_bytes(
        {"noise": b"noise" * 999, "cut": whole[: len(whole) // 3], "empty": b""}[damage]
    )
    with ViewCache("a") as opened:
        for row, expected in zip(opened.get(keys(200)), rows(200, 64), strict=True):
            assert row is None or row.tobytes() == expected.tobytes()
        opened.put(keys(3, 200), rows(3, 64))
        opened.get(keys(3, 200))


def test_a_row_that_was_cut_is_not_there(cache: Path) -> None:
    with ViewCache("a") as opened:
        opened.put(keys(1), rows(1))
    (path,) = cache.glob("*.sqlite")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE views SET view = ?", (b"1234567",))
    database.close()
    with ViewCache("a") as opened:
        assert opened.get(keys(1)) == [None]


def test_a_folder_that_cannot_be_used_is_no_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file is in its place")
    with ViewCache("a") as opened:
        opened.put(keys(1), rows(1))
        assert opened.get(keys(1)) == [None]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the permissions of POSIX")
def test_a_folder_that_is_read_only_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, sys\n"
        "import numpy as np\n"
        "from approxmass.storage.view_cache import ViewCache\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"  # root may write anywhere
        "assert os.listdir(os.environ['APPROXMASS_CACHE'])\n"
        "for name in ('a', 'b'):\n"
        "    with ViewCache(name) as cache:\n"
        "        cache.put([b'new'], np.ones((1, 4), np.float32))\n"
        "        print(cache.get([b'new']))\n"
    )
    # Not in tmp_path, into which no other user may look.
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setenv("APPROXMASS_CACHE", place)
        with ViewCache("a") as opened:
            opened.put(keys(1), rows(1))
        for path in Path(place).iterdir():
            path.chmod(0o444)
        Path(place).chmod(0o555)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        Path(place).chmod(0o755)
    assert (done.stderr, done.stdout) == ("", "[None]\n[None]\n")


def photos(folder: Path, count: int = 120) -> Path:
    """Colour images of two sizes, too large to be left as they are."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        height, width = [(60, 90), (80, 120)][i % 2]
        small = generator.integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / f"{i:03}.png")
    return folder


def test_a_second_fit_does_not_call_the_network_and_scores_to_the_bit(
    tiny: TinyNetwork, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos")
    first = Detector("lite0", epochs=1).fit(folder)
    assert sum(tiny.seen) == 120 + PROBE
    expected = first.score(folder)
    tiny.seen.clear()
    second = Detector("lite0", epochs=1).fit(folder)
    assert tiny.seen == [PROBE]
    assert second.facts.sha256 == first.facts.sha256
    found = second.score(folder)
    for name, values in expected.statistics.items():
        np.testing.assert_array_equal(found.statistics[name], values)
    np.testing.assert_array_equal(found.p_value, expected.p_value)


def test_only_what_is_new_goes_through_the_network(tiny: TinyNetwork, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    Detector("lite0", epochs=1).fit(folder)
    tiny.seen.clear()
    for i in (5, 6, 77):
        Image.fromarray(np.full((60, 90, 3), i, np.uint8)).save(folder / f"{i:03}.png")
    changed = Detector("lite0", epochs=1).fit(folder)
    # Two in one chunk and one in another, padded.
    assert tiny.seen == [4, 4, PROBE]
    tiny.seen.clear()
    Detector("lite0", epochs=1, size=64).fit(folder)  # another frame, other pixels
    assert sum(tiny.seen) == 120 + PROBE
    os.environ["APPROXMASS_CACHE"] = str(tmp_path / "another")
    alone = Detector("lite0", epochs=1).fit(folder)
    np.testing.assert_array_equal(alone.score(folder).statistic, changed.score(folder).statistic)


def test_views_of_one_network_are_not_those_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "photos")
    for seed in (0, 1):
        network = TinyNetwork(seed)
        monkeypatch.setattr(kinds, "network", lambda name, network=network: network)
        Detector("lite0", epochs=1).fit(folder)
        assert sum(network.seen) == 120 + PROBE


def test_a_fit_needs_no_cache(tiny: TinyNetwork, tmp_path: Path, cache: Path) -> None:
    folder = photos(tmp_path / "photos")
    expected = Detector("lite0", epochs=1, parts=False).fit(folder).score(folder).statistic
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
    cache.write_text("a file is in its place")
    found = Detector("lite0", epochs=1, parts=False).fit(folder).score(folder).statistic
    np.testing.assert_array_equal(found, expected)


def test_an_unreadable_image_is_named_in_a_fit(tiny: TinyNetwork, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "050.png").write_bytes(b"broken")
    with mistake("bad-image", "050.png"):
        Detector("lite0", epochs=1).fit(folder, skip_limit=0)


PROGRAM = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from approxmass import Detector
from approxmass.models import kinds
from tiny_network import TinyNetwork

class Slow(TinyNetwork):
    def forward(self, x):
        if len(self.seen) == 20:
            print("encoding", flush=True)
            time.sleep(60)
        return super().forward(x)

kinds.network = lambda name: Slow()
Detector("lite0", epochs=1).fit({folder!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs the signals of POSIX")
def test_a_fit_that_was_killed_goes_on_from_what_it_has_seen(
    tiny: TinyNetwork, tmp_path: Path, cache: Path
) -> None:
    folder = photos(tmp_path / "photos")
    program = PROGRAM.format(tests=str(Path(__file__).parent), folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "APPROXMASS_CACHE": str(cache)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "encoding\n"  # 80 images are through, 64 of them kept
        process.kill()
        assert process.wait() == -signal.SIGKILL
    resumed = Detector("lite0", epochs=1).fit(folder)
    assert sum(tiny.seen) == 120 - 64 + PROBE
    os.environ["APPROXMASS_CACHE"] = str(tmp_path / "another")
    whole = Detector("lite0", epochs=1).fit(folder)
    np.testing.assert_array_equal(resumed.score(folder).statistic, whole.score(folder).statistic)


def test_a_fit_of_photos_holds_few_of_them_at_a_time(
    tiny: TinyNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(1000):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:03}.png")
    sizes: list[int] = []
    view = FlowModel.view

    def counted(self: FlowModel, images: Tensor, boxes: Any = None) -> Tensor:
        sizes.append(len(images))
        return view(self, images, boxes)

    monkeypatch.setattr(FlowModel, "view", counted)
    # Of parts a number is kept that does not grow with the images; here it is small like these.
    monkeypatch.setattr("approxmass.models.flow._MOST_WHOLE", 32)
    monkeypatch.setattr("approxmass.encoders.pooled._PATCHES", 2000)
    detector = Detector("lite0", epochs=1, size=64, threads=1)
    detector.fit(photos(tmp_path / "first"))  # what is imported with the first fit is not counted
    sizes.clear()
    tracemalloc.start()
    try:
        detector.fit(tmp_path / "photos")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(sizes) <= 32
    assert sum(sizes) == 1000 + PROBE
    assert peak < 0.4 * 1000 * np.prod(detector.shape)  # of all of them decoded


def test_a_score_of_photos_holds_few_of_them_at_a_time(
    tiny: TinyNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "photos")
    detector = Detector("lite0", epochs=1, size=64, parts=False).fit(folder)
    assert [len(chunk.names) for chunk, _ in detector.score_chunks(folder)] == [120]
    # As many whole sixteens as make so many bytes, which of photos are few.
    monkeypatch.setattr("approxmass.data.chunk._BYTES", 50 * int(np.prod(detector.shape)))
    assert [len(chunk.names) for chunk, _ in detector.score_chunks(folder)] == [48, 48, 24]
    monkeypatch.setattr("approxmass.data.chunk._BYTES", 1000)
    some = sorted(folder.iterdir())[:3]
    chunks = list(detector.score_chunks(some))
    assert [len(chunk.names) for chunk, _ in chunks] == [1] * 3
    found = np.concatenate([scores.statistic for _, scores in chunks])
    alone = [detector.score(path).statistic[0] for path in some]
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-4)
