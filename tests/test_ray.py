"""Scores by Ray are those of the command; finished blocks are kept and not scored again."""

import io
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from approxmass import Detector
from approxmass.cli.main import app
from approxmass.data import open_images
from approxmass.data.vectors import open_vectors
from approxmass.integrations import ray as door
from approxmass.runtime.extras import has_extra
from approxmass.storage.blocks import Blocks
from conftest import mistake

needs_ray = pytest.mark.skipif(not has_extra("ray"), reason="ray is not installed: ray[data]")
BAD = (17, 100)


def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (150, 8, 8), np.uint8)


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def encoded() -> list[bytes]:
    return [b"no image" if i in BAD else png(image) for i, image in enumerate(pictures())]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector by folds, two folders of images and a Parquet file."""
    folder = tmp_path_factory.mktemp("ray")
    detector = Detector("pca", components=4, epochs=1, calibration="folds").fit(pictures()[:60])
    detector.save(folder / "detector")
    for i, data in enumerate(encoded()):
        place = folder / "photos" / ("a" if i % 2 else "b") / f"{i:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    # Groups of rows that no block begins or ends with; some rows have no name.
    images = [
        {"bytes": data, "path": f"{i}.png" if i % 3 else None} for i, data in enumerate(encoded())
    ]
    pq.write_table(pa.table({"image": images}), folder / "photos.parquet", row_group_size=47)
    return folder


def test_some_images_of_a_source_are_those_of_the_whole(saved: Path) -> None:
    sources: list[Any] = [pictures(), saved / "photos", saved / "photos.parquet"]
    for source in [*(open_images(each) for each in sources), open_images("sample:mnist")]:
        whole = list(source.chunks(1000))
        names = [name for chunk in whole for name in chunk.names]
        errors = [error for chunk in whole for error in chunk.errors]
        for start, stop in ((0, 1), (16, 48), (90, 150)):
            chunks = list(source.span(start, stop).chunks(7, shape=source.shape))
            assert [name for chunk in chunks for name in chunk.names] == names[start:stop]
            assert [error for chunk in chunks for error in chunk.errors] == errors[start:stop]
            good = [i for i, error in enumerate(errors) if error is None]
            rows = [i for i, place in enumerate(good) if start <= place < stop]
            found = np.concatenate([chunk.images for chunk in chunks])
            assert np.array_equal(found, np.concatenate([c.images for c in whole])[rows])


def test_rows_of_numbers_can_be_had_from_a_place_on(tmp_path: Path) -> None:
    rows = np.arange(40.0).reshape(20, 2)
    table = pa.table({"a": rows[:, 0], "b": rows[:, 1]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    whole = open_vectors(rows)
    marks = np.ones(20, bool)
    marks[[1, 9]] = False
    sources: list[Any] = [whole, open_vectors(table), open_vectors(tmp_path / "rows.parquet")]
    wanted = [rows, rows, rows, rows[marks]]
    for source, values in zip([*sources, whole.part(marks, "some")], wanted, strict=True):
        for start, stop in ((0, 2), (3, 9), (7, 8), (10, 18)):
            chunks = list(source.span(start, stop).chunks(4))
            assert [n for chunk in chunks for n in chunk.names] == [*map(str, range(start, stop))]
            found = np.concatenate([chunk.images for chunk in chunks])
            assert np.array_equal(found[:, 0, 0], values[start:stop])


def test_images_behind_a_url_are_those_of_the_folder(saved: Path) -> None:
    memory = fsspec.filesystem("memory")
    for path in sorted((saved / "photos").rglob("*.png")):
        memory.pipe(f"/far/{path.relative_to(saved / 'photos').as_posix()}", path.read_bytes())
    memory.pipe("/far/notes.txt", b"none")
    memory.pipe("/far/.hidden/1.png", encoded()[0])
    data = (saved / "photos.parquet").read_bytes()
    memory.pipe("/shards/1.parquet", data)
    memory.pipe("/shards/2.parquet", data)
    detector = Detector.load(saved / "detector")
    for name, here in (("memory://far", "photos"), ("memory://shards/1.parquet", "photos.parquet")):
        far, near = (list(detector.score_chunks(s)) for s in (name, str(saved / here)))
        assert [c.names for c, _ in far] == [c.names for c, _ in near]
        assert [c.errors for c, _ in far] == [c.errors for c, _ in near]
        assert np.array_equal(far[0][1].p_value, near[0][1].p_value)
        assert np.array_equal(far[0][1].statistic, near[0][1].statistic)
    both = open_images("memory://shards")
    assert len(both) == 300
    names = [name for chunk in both.span(140, 160).chunks(3) for name in chunk.names]
    assert names[7:13] == ["row 147", "148.png", "149.png", "row 150", "1.png", "2.png"]


def test_a_url_that_leads_nowhere_is_said() -> None:
    with mistake("bad-source", "no such file or folder"):
        open_images("memory://nothing/here")
    with mistake("bad-source", "cannot be reached"):
        open_images("nonsense://x")
    fsspec.filesystem("memory").pipe("/texts/a.txt", b"a text")
    fsspec.filesystem("memory").pipe("/texts/b.txt", b"a text")
    with mistake("bad-source", "no image and no Parquet file"):
        open_images("memory://texts")


def table(rows: range) -> Any:
    return pa.table({"row": [*rows]})


def test_blocks_are_of_one_run_and_one_process(tmp_path: Path) -> None:
    place = tmp_path / "blocks"
    with Blocks(place, {"of": "a"}, count=5, size=2) as blocks:
        blocks.keep(2, table(range(4, 5)))
        with mistake("in-use"), Blocks(place, {"of": "a"}, count=5, size=2):
            pass
        with pytest.raises(ValueError, match="not 2"):
            blocks.keep(0, table(range(1)))
    for identity, count in (({"of": "b"}, 5), ({"of": "a"}, 6)):
        with mistake("other-run", "another"), Blocks(place, identity, count=count, size=2):
            pass
    with Blocks(place, {"of": "a"}, count=5, size=2) as blocks:
        assert blocks.missing() == [0, 1]
        (place / "00000002.parquet").write_bytes(b"PAR1")  # as a full disk leaves it
        assert blocks.missing() == [0, 1, 2]
        blocks.remove()
    assert list(tmp_path.iterdir()) == []
    place.mkdir()
    (place / "mine.txt").write_text("keep me")
    with mistake("would-overwrite", "mine.txt"), Blocks(place, {}, count=1, size=1):
        pass
    assert (place / "mine.txt").read_text() == "keep me"


def command(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_an_address_is_for_ray_alone(saved: Path, tmp_path: Path) -> None:
    words = ["score", saved / "detector", saved / "photos", "-o", tmp_path / "x.csv"]
    with mistake("bad-option", "--engine ray"):
        command(*words, "--address", "auto")


@needs_ray
@pytest.mark.slow
def test_the_rows_are_those_of_the_command(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two actors; blocks of 40; unreadable images; a run that was broken off."""
    import ray

    monkeypatch.setattr(door, "scored_blocks", _in_blocks_of(40))
    source = f"file://{saved / 'photos'}"
    plain, output = tmp_path / "plain.parquet", tmp_path / "ray.parquet"
    command("score", saved / "detector", saved / "photos", "-o", plain, "--json", tmp_path / "1")
    kept = tmp_path / "ray.parquet.blocks"
    scored: list[int] = []
    keep = Blocks.keep

    def broken(self: Blocks, number: int, rows: Any) -> None:
        if len(scored) == 2:
            raise KeyboardInterrupt
        keep(self, number, rows)
        scored.append(number)

    words = ["score", saved / "detector", source, "-o", output, "--engine", "ray"]
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20)
    try:
        monkeypatch.setattr(Blocks, "keep", broken)
        CliRunner().invoke(app, [str(word) for word in words])
        assert sorted(int(p.stem) for p in kept.glob("*.parquet")) == sorted(scored)
        assert len(scored) == 2
        assert not output.exists()
        again: list[int] = []

        def counted(self: Blocks, number: int, rows: Any) -> None:
            keep(self, number, rows)
            again.append(number)

        monkeypatch.setattr(Blocks, "keep", counted)
        command(*words, "--json", tmp_path / "2")
        assert sorted(scored + again) == [0, 1, 2, 3]
    finally:
        ray.shutdown()
    found, wanted = pq.read_table(output), pq.read_table(plain)
    assert found.schema == wanted.schema
    assert found.equals(wanted)
    errors = [row for row in found.to_pylist() if row["error"] is not None]
    assert [row["name"] for row in errors] == ["a/017.png", "b/100.png"]
    assert all(row["p_value"] is None for row in errors)
    facts = [json.loads((tmp_path / name).read_text()) for name in ("1", "2")]
    assert facts[0] | {"output": ""} == facts[1] | {"output": ""}
    assert not kept.exists()


def _in_blocks_of(size: int) -> Any:
    whole = door.scored_blocks

    def scored_blocks(*args: Any, **given: Any) -> Any:
        return whole(*args, **given, block=size)

    return scored_blocks
