"""The command as a person runs it: exit codes, files, and one line for every mistake."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

import approxmass
from approxmass import Detector, open_images
from approxmass.cli.main import app
from approxmass.drift import drift_power, power_in_words
from approxmass.errors import ApproxMassError, Code
from conftest import SHARED, mistake, textures, two_classes

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*words: object) -> Result:
    """Run in this process; what would be printed by `main` for a mistake is in `exception`."""
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(code: Code, *words: object, naming: str = "") -> None:
    """The command is refused as this kind of mistake."""
    with mistake(code, naming):
        result = run(*words)
        assert isinstance(result.exception, ApproxMassError), (result.output, result.exception)
        raise result.exception


def command(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run as its own process."""
    return subprocess.run(
        [sys.executable, "-m", "approxmass", *map(str, words)],
        capture_output=True,
        text=True,
        env=ONE_THREAD,
        check=False,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector and some sources of images."""
    folder = tmp_path_factory.mktemp("place")
    np.save(folder / "inside.npy", textures(600))
    np.save(folder / "new.npy", textures(120, seed=5))
    np.save(folder / "other.npy", textures(90, shift=1.0, seed=6))
    Detector(epochs=4).fit(folder / "inside.npy").save(folder / "detector")
    (folder / "images").mkdir()
    for i, image in enumerate(textures(12, seed=7)):
        Image.fromarray(image).save(folder / "images" / f"{i:02}.png")
    return folder


def test_fit_score_evaluate_inspect(place: Path, tmp_path: Path) -> None:
    result = run("fit", place / "inside.npy", "-o", tmp_path / "d", "--epochs", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert "a shift of half a standard" in result.output  # what drift will be found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d"]  # the checkpoint is gone
    loaded = Detector.load(tmp_path / "d")
    settings = loaded.settings
    chosen = settings.options["epochs"], settings.options["encoder"]
    assert (settings.seed, *chosen) == (3, 2, "pca")
    expected = Detector(seed=3, epochs=2).fit(place / "inside.npy").score(place / "new.npy")

    for suffix in ("csv", "parquet"):
        target = tmp_path / f"scores.{suffix}"
        assert run("score", tmp_path / "d", place / "new.npy", "-o", target).exit_code == 0
    table = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    np.testing.assert_array_equal(table["mass"], expected.mass)
    np.testing.assert_array_equal(table["p_value"], expected.p_value)
    np.testing.assert_array_equal(table["is_outlier"], expected.is_outlier)
    assert table["name"][:2] == ["0", "1"]
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["p_value"]) for row in rows] == table["p_value"]
    assert list(rows[0]) == list(table)

    facts = tmp_path / "facts.json"
    result = run(
        "evaluate",
        place / "detector",
        "--id",
        place / "new.npy",
        "--ood",
        place / "other.npy",
        "--json",
        facts,
    )
    assert result.exit_code == 0, result.output
    found = json.loads(facts.read_text())
    assert found["protocol"] == "per image, balanced"
    scores = {row["score"]: row["metrics"] for row in found["rows"]}
    assert set(scores) == {"nll", "mass", "typicality", "fused"}
    assert scores["fused"]["auroc"]["value"] > 0.9
    assert scores["fused"]["n_id"] == scores["fused"]["n_ood"] == 90
    assert "AUROC" in result.output
    assert "flagged at a false-alarm rate of 5%" in result.output

    shown = run("inspect", place / "detector", "--json", "-")
    facts = json.loads(shown.output)
    assert facts["encoder"] == "pca"
    count = len(Detector.load(place / "detector").calibration_scores)
    assert facts["drift"] == power_in_words(count)
    assert facts["drift_power"] == [asdict(each) for each in drift_power(count)]
    assert "calibrated on" in run("inspect", place / "detector").output


def test_inspect_says_how_far_one_calibration_may_lie_off(place: Path) -> None:
    shown = json.loads(run("inspect", place / "detector", "--json", "-").output)
    # 45 images calibrate: of two ranks, which are 2 in 46.
    assert shown["realised_rate"]["all"]["average"] == pytest.approx(2 / 46)
    assert shown["false alarms at 5%"].startswith("4.3% on average over fits; of this detector 0.5")
    words = ["inspect", place / "detector", "--false-alarm-rate"]
    shown = json.loads(run(*words, 0.1, "--json", "-").output)
    assert shown["realised_rate"]["all"]["asked"] == 0.1
    assert "threshold at 10%" in shown
    refused("rate", *words, 0.01)


def test_report_and_evaluate_write_the_same_page(place: Path, tmp_path: Path) -> None:
    words = [place / "detector", "--id", place / "new.npy", "--ood", place / "other.npy"]
    assert run("report", *words, "-o", tmp_path / "a.html").exit_code == 0
    facts = tmp_path / "facts.json"
    done = run("evaluate", *words, "-o", tmp_path / "b.html", "--json", facts)
    assert done.exit_code == 0, done.output
    assert "b.html" in done.stderr
    a, b = (
        re.sub(r"[\d-]+ [\d:]+ UTC|\d+\.\d\d</td>", "", (tmp_path / f"{name}.html").read_text())
        for name in "ab"
    )
    assert a == b  # but for the time and the seconds
    flagged = json.loads(facts.read_text())["flagged_at_5_percent"]
    assert f"{flagged[str(place / 'new.npy')]:.1%}" in a


def test_explain_writes_a_picture_for_each_image(place: Path, tmp_path: Path) -> None:
    done = run(
        "explain", place / "detector", place / "images", "-o", tmp_path / "out", "--json", "-"
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["images"]
    assert [row["name"] for row in rows] == [f"{i:02}.png" for i in range(12)]
    for row in rows:
        Image.open(tmp_path / "out" / row["picture"]).verify()
    table = run("explain", place / "detector", place / "images" / "03.png", "-o", tmp_path / "out")
    assert "03.png" in table.output
    assert rows[3]["components"][0]["component"] in table.output


def test_groups_and_several_outlier_sets(place: Path, tmp_path: Path) -> None:
    facts = tmp_path / "facts.json"
    words = ["evaluate", place / "detector", "--id", place / "new.npy", "--group-size", 10]
    sets = [place / "other.npy", place / "inside.npy"]
    for given in (["--ood", sets[0], "--ood", sets[1]], ["--ood", *sets]):
        assert run(*words, *given, "--json", facts).exit_code == 0
        found = json.loads(facts.read_text())
        assert found["protocol"] == "per group of 10, balanced"
        assert [r["ood"] for r in found["rows"]][::4] == [str(s) for s in sets]
        assert found["rows"][0]["metrics"]["n_ood"] == 9


def test_unreadable_images_get_a_row_with_the_reason(place: Path, tmp_path: Path) -> None:
    images = shutil.copytree(place / "images", tmp_path / "images")
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:60])
    (images / "05.png").write_bytes(b"")
    Image.fromarray(textures(1, side=10)[0]).save(images / "07.png")
    target = tmp_path / "scores.csv"
    result = run("score", place / "detector", images, "-o", target)
    assert result.exit_code == 0
    assert result.stderr.count("skipped") == 3
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{i:02}.png" for i in range(12)]
    bad = {row["name"] for row in rows if row["error"]}
    assert bad == {"03.png", "05.png", "07.png"}
    assert all((row["p_value"] == "") == bool(row["error"]) for row in rows)
    good = [float(row["mass"]) for row in rows if not row["error"]]
    whole = Detector.load(place / "detector").score(textures(12, seed=7)).mass
    np.testing.assert_allclose(good, np.delete(whole, [3, 5, 7]), rtol=1e-4)


def test_a_skip_limit_of_none_stops_and_keeps_the_older_table(place: Path, tmp_path: Path) -> None:
    images = shutil.copytree(place / "images", tmp_path / "images")
    (images / "03.png").write_bytes(b"not an image")
    target = tmp_path / "scores.csv"
    target.write_text("older")
    words = ["score", place / "detector", images, "-o", target, "--skip-limit", 0]
    refused("bad-image", *words, naming="03.png")
    assert target.read_text() == "older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "scores.csv"]


def test_one_file_of_another_kind_costs_one_row_wherever_it_sorts(
    place: Path, tmp_path: Path
) -> None:
    images = shutil.copytree(place / "images", tmp_path / "images")
    Image.new("RGB", textures(1).shape[1:], (200, 90, 20)).save(images / "000.png")
    assert run("score", place / "detector", images, "-o", tmp_path / "s.csv").exit_code == 0
    with (tmp_path / "s.csv").open() as file:
        assert [row["name"] for row in csv.DictReader(file) if row["error"]] == ["000.png"]


def test_a_first_chunk_without_a_readable_image(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(2100):
        (tmp_path / "images" / f"{i:04}.png").write_bytes(b"")
    Image.fromarray(textures(1)[0]).save(tmp_path / "images" / "good.png")
    result = run("score", place / "detector", tmp_path / "images", "-o", tmp_path / "s.parquet")
    assert result.exit_code == 0, result.exception
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.num_rows == 2101
    assert table["mass"].null_count == 2100
    assert result.stderr.count("skipped") == 10
    assert "2,090 more" in result.stderr


def test_an_output_never_takes_the_place_of_an_input(place: Path, tmp_path: Path) -> None:
    source = shutil.copy(place / "new.npy", tmp_path / "new.parquet")
    before, files = source.read_bytes(), sorted((place / "detector").iterdir())
    for words in (
        ["score", place / "detector", source, "-o", source],
        ["score", place / "detector", source, "-o", tmp_path / "s.csv", "--json", source],
        ["score", place / "detector", source, "-o", place / "detector" / "s.csv"],
        ["evaluate", place / "detector", "--id", source, "--ood", source, "--json", source],
    ):
        refused("would-overwrite", *words)
    assert source.read_bytes() == before
    assert sorted((place / "detector").iterdir()) == files


def test_strange_names_are_shown_as_they_are(place: Path, tmp_path: Path) -> None:
    (tmp_path / "ph[" / "old]").mkdir(parents=True)
    source = shutil.copy(place / "new.npy", tmp_path / "ph[" / "old]" / "[red].npy")
    result = run("score", place / "detector", source, "-o", tmp_path / "s.csv")
    assert result.exit_code == 0, result.exception
    assert "ph[/old]/[red].npy" in result.output.replace("\n", "")
    done = command("inspect", "a\nb")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_full_standard_output_is_one_line(place: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "approxmass", "inspect", str(place / "detector")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


Bad = Callable[[Path, Path], list[object]]


def corrupt_weights(place: Path, tmp: Path) -> list[object]:
    folder = shutil.copytree(place / "detector", tmp / "detector")
    with (folder / "weights.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    return ["inspect", folder]


def truncated(place: Path, tmp: Path) -> list[object]:
    folder = shutil.copytree(place / "detector", tmp / "detector")
    (folder / "detector.json").write_text((folder / "detector.json").read_text()[:200])
    return ["score", folder, place / "new.npy", "-o", tmp / "s.csv"]


def newer(place: Path, tmp: Path) -> list[object]:
    folder = shutil.copytree(place / "detector", tmp / "detector")
    manifest = json.loads((folder / "detector.json").read_text())
    manifest["format_version"] = 99
    (folder / "detector.json").write_text(json.dumps(manifest))
    return ["inspect", folder]


def enough_images(folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(textures(100)):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    return folder


def corrupt_image(place: Path, tmp: Path) -> list[object]:
    images = enough_images(tmp / "images")
    (images / "04.png").write_bytes(b"\x89PNG broken")
    return ["fit", images, "-o", tmp / "d", "--skip-limit", 0]


def empty_folder(place: Path, tmp: Path) -> list[object]:
    (tmp / "empty").mkdir()
    return ["fit", tmp / "empty", "-o", tmp / "d"]


def wrong_kind(place: Path, tmp: Path) -> list[object]:
    (tmp / "notes.txt").write_text("hello")
    return ["fit", tmp / "notes.txt", "-o", tmp / "d"]


def not_a_number(place: Path, tmp: Path) -> list[object]:
    x = textures(200).astype(float) / 255
    x[17, 3, 3] = np.nan
    np.save(tmp / "x.npy", x)
    return ["fit", tmp / "x.npy", "-o", tmp / "d"]


def infinite(place: Path, tmp: Path) -> list[object]:
    x = textures(200).astype(np.float32) / 255
    x[17, 3, 3] = np.inf
    np.save(tmp / "x.npy", x)
    return ["score", place / "detector", tmp / "x.npy", "-o", tmp / "s.csv"]


def occupied(place: Path, tmp: Path) -> list[object]:
    (tmp / "d").mkdir()
    (tmp / "d" / "precious.txt").write_text("mine")
    return ["fit", place / "inside.npy", "-o", tmp / "d"]


def unfinished(place: Path, tmp: Path) -> list[object]:
    (tmp / "d.checkpoint.safetensors").write_bytes(b"")
    return ["fit", place / "inside.npy", "-o", tmp / "d"]


def resume_nothing(place: Path, tmp: Path) -> list[object]:
    (tmp / "d.checkpoint.safetensors").write_bytes(b"cut")
    return ["fit", place / "inside.npy", "-o", tmp / "d", "--resume"]


def simple(*words: object) -> Bad:
    def make(place: Path, tmp: Path) -> list[object]:
        names = {"DETECTOR": place / "detector", "NEW": place / "new.npy", "TMP": tmp}
        return [names.get(w, tmp / w[4:] if str(w).startswith("TMP/") else w) for w in words]  # type: ignore[call-overload, index]

    return make


@pytest.mark.parametrize(
    ("make", "code", "culprit"),
    [
        (corrupt_weights, "damaged", "weights.safetensors"),
        (truncated, "damaged", "detector.json"),
        (newer, "damaged", "detector.json"),
        (corrupt_image, "bad-image", "04.png"),
        (empty_folder, "bad-source", "empty"),
        (wrong_kind, "bad-source", "notes.txt"),
        (not_a_number, "bad-image", "17"),
        (infinite, "bad-image", "17"),
        (occupied, "would-overwrite", "precious.txt"),
        (unfinished, "would-overwrite", "d.checkpoint.safetensors"),
        (resume_nothing, "damaged", "d.checkpoint.safetensors"),
        (simple("fit", "sample:mmist", "-o", "TMP/d"), "bad-source", "mmist"),
        (simple("fit", "TMP/absent", "-o", "TMP/d"), "bad-source", "absent"),
        (simple("fit", "NEW", "-o", "TMP/d", "--encoder", "latent"), "bad-option", "latent"),
        (simple("fit", "NEW", "-o", "TMP/d", "--statistic", "odds"), "bad-option", "odds"),
        (simple("fit", "NEW", "-o", "TMP/d", "--alpha", "much"), "bad-option", "much"),
        (simple("fit", "NEW", "-o", "TMP/d", "--alpha", "-1"), "bad-option", "-1"),
        (simple("fit", "NEW", "-o", "TMP/d", "--epochs", "1.5"), "bad-option", "1.5"),
        (simple("fit", "NEW", "-o", "TMP/d", "--components", "0"), "bad-option", "components"),
        (simple("fit", "NEW", "-o", "TMP/d", "--draws", "many"), "bad-option", "many"),
        (simple("fit", "NEW", "-o", "TMP/d", "--holdout", "1"), "bad-option", "holdout"),
        (simple("fit", "NEW", "-o", "TMP/d", "--preset", "huge"), "bad-option", "huge"),
        (simple("fit", "NEW", "-o", "TMP/d", "--set", "epochs"), "unknown-option", "epochs"),
        (
            simple("fit", "NEW", "-o", "TMP/d", "--epochs", "3", "--set", "epochs=7"),
            "bad-option",
            "epochs is given twice",
        ),
        (simple("score", "DETECTOR", "NEW", "-o", "TMP/s.xlsx"), "bad-option", "s.xlsx"),
        (simple("score", "TMP", "NEW", "-o", "TMP/s.csv"), "not-a-detector", "approxmass fit"),
        (
            simple("score", "DETECTOR", "sample:mnist", "-o", "TMP/s.csv"),
            "wrong-shape",
            "28x28",
        ),
        (
            simple("score", "DETECTOR", "NEW", "-o", "TMP/s.csv", "--json", "TMP/s.csv"),
            "would-overwrite",
            "s.csv",
        ),
        (simple("fit", "NEW", "-o", "/"), "would-overwrite", "/"),
        (simple("fit", "NEW", "-o", "TMP/" + 250 * "x"), "cannot-write", "xxx"),
        (simple("fit", "NEW", "-o", "TMP/d", "--seed", "-1"), "bad-option", "seed"),
        (simple("fit", "NEW", "-o", "TMP/d", "--size", "200000"), "bad-option", "size"),
        (simple("inspect", "DETECTOR", "--json", "/dev/null"), "would-overwrite", "/dev/null"),
        (simple("evaluate", "DETECTOR", "--id", "NEW", "--ood", ""), "bad-source", ""),
        (
            simple("report", "DETECTOR", "--id", "NEW", "--ood", "NEW", "-o", "TMP/r.pdf"),
            "bad-option",
            "r.pdf",
        ),
        (
            simple("explain", "DETECTOR", "sample:mnist", "-o", "TMP/out"),
            "wrong-shape",
            "28x28",
        ),
        (simple("explain", "DETECTOR", "NEW", "-o", "NEW"), "would-overwrite", "new.npy"),
        (simple("explain", "DETECTOR", "NEW", "-o", "DETECTOR"), "would-overwrite", "detector"),
        (
            simple("explain", "DETECTOR", "NEW", "-o", "TMP/o", "--json", "TMP/o/1.png"),
            "would-overwrite",
            "1.png",
        ),
        (
            simple("evaluate", "DETECTOR", "--id", "NEW", "--ood", "NEW", "--group-size", "500"),
            "too-few",
            "500",
        ),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_trace(
    make: Bad, code: Code, culprit: str, place: Path, tmp_path: Path
) -> None:
    given = make(place, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    refused(code, *given, naming=culprit)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_mistake_ends_the_process_with_2_and_one_line_on_stderr(tmp_path: Path) -> None:
    done = command("fit", tmp_path / "absent [x]", "-o", tmp_path / "d")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error[bad-source]: ")
    assert done.stderr.count("\n") == 1
    assert "absent [x]" in done.stderr


def test_a_full_disk_is_one_line_and_destroys_nothing(place: Path, tmp_path: Path) -> None:
    older = shutil.copytree(place / "detector", tmp_path / "d")
    before = {p.name: p.read_bytes() for p in older.iterdir()}

    def limit() -> None:  # the kernel refuses to let any file grow beyond 100 kB
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    fit = ["fit", place / "inside.npy", "-o", older, "--epochs", 1]
    done = command(*fit, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error[cannot-write]: ")
    assert "Traceback" not in done.stderr
    assert {p.name: p.read_bytes() for p in older.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]

    target = tmp_path / "scores.csv"
    target.write_text("older")
    np.save(tmp_path / "many.npy", textures(4000))
    done = command("score", older, tmp_path / "many.npy", "-o", target, preexec_fn=limit)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error[cannot-write]: ")
    assert done.stderr.count("\n") == 1
    assert target.read_text() == "older"


def fit_process(place: Path, folder: Path) -> subprocess.Popen[str]:
    words = ["fit", place / "inside.npy", "-o", folder, "--epochs", 40, "--resume"]
    words += ["--calibration", "holdout"]
    return subprocess.Popen(
        [sys.executable, "-m", "approxmass", *map(str, words)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ONE_THREAD,
    )


def test_ctrl_c_then_resume_gives_the_detector_of_a_fit_never_stopped(
    place: Path, tmp_path: Path
) -> None:
    whole = fit_process(place, tmp_path / "whole")
    assert whole.wait() == 0
    stopped = fit_process(place, tmp_path / "stopped")
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if line.startswith("training 10%"):
            break
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait() == 130
    rest = stopped.stderr.read()
    assert "--resume" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped.checkpoint.safetensors").exists()
    again = fit_process(place, tmp_path / "stopped")
    assert again.wait() == 0
    assert again.stderr is not None
    first = again.stderr.read().split("training ")[1]
    assert int(first.split("epoch")[1].split()[0]) > 4  # it went on, it did not start anew
    assert not (tmp_path / "stopped.checkpoint.safetensors").exists()
    for name in ("weights.safetensors", "calibration.safetensors"):
        first, second = load_file(tmp_path / "whole" / name), load_file(tmp_path / "stopped" / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key])


def test_the_demo_writes_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from approxmass.cli import demo

    # The whole demo takes half a minute; here it runs on a part of the same images.
    np.save(tmp_path / "part.npy", open_images("sample:fashion_mnist/train").read()[:1500])
    monkeypatch.setattr(demo, "TRAIN", str(tmp_path / "part.npy"))
    result = run("demo", "-o", tmp_path / "demo", "--json", "-")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts == json.loads((tmp_path / "demo" / "demo.json").read_text())
    area = {r["score"]: r["metrics"]["auroc"]["value"] for r in facts["evaluation"]["rows"]}
    assert set(area) == {"mass", "nll", "fused", "1-nearest-neighbour", "PCA residual"}
    assert min(area.values()) > 0.9
    scores = pq.read_table(tmp_path / "demo" / "mnist.parquet")
    assert scores.num_rows == 1000
    share = np.mean(scores["is_outlier"].to_pylist())
    assert share == pytest.approx(facts["flagged_at_5_percent"]["sample:mnist"])
    page = (tmp_path / "demo" / "report.html").read_text()
    assert f"catches {share:.1%} of sample:mnist" in page
    assert "1-nearest-neighbour" in page
    detector = Detector.load(tmp_path / "demo" / "detector")
    mass = detector.score("sample:mnist").mass
    np.testing.assert_array_equal(mass, scores["mass"].to_numpy())


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys; from approxmass.cli.main import app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    helped = command("--help")
    assert helped.returncode == 0
    for word in ("demo", "fit", "score", "evaluate", "inspect"):
        assert word in helped.stdout


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_parquet_files_of_real_sets(tmp_path: Path) -> None:
    inside, other = SHARED / "mnist" / "test.parquet", SHARED / "kmnist" / "test.parquet"
    assert run("fit", inside, "-o", tmp_path / "d", "--epochs", 2).exit_code == 0
    words = ["--id", inside, "--ood", other, "--json", tmp_path / "facts.json"]
    assert run("evaluate", tmp_path / "d", *words).exit_code == 0
    rows = json.loads((tmp_path / "facts.json").read_text())["rows"]
    area = {row["score"]: row["metrics"]["auroc"]["value"] for row in rows}
    assert area["fused"] > 0.95


def test_a_baseline_from_the_command_line(tmp_path: Path) -> None:
    images, labels = two_classes(240)
    np.savez(tmp_path / "inside.npz", images=images, labels=labels)
    np.save(tmp_path / "outliers.npy", textures(60, shift=0.8, seed=9))
    np.save(tmp_path / "new.npy", two_classes(60, seed=5)[0])
    small = ["--set", "depth=10", "--set", "width=1", "--epochs", 2]
    words = ["fit", tmp_path / "inside.npz", "-o", tmp_path / "d", "--method", "energy", *small]
    tuning = ["--set", "tuning_epochs=1", "--outliers", tmp_path / "outliers.npy"]
    result = run(*words, *tuning)
    assert result.exit_code == 0, result.output
    shown = json.loads(run("inspect", tmp_path / "d", "--json", "-").output)
    assert shown["method"] == "energy"
    assert "depth 10" in shown["options"]
    assert "epochs 2" in shown["options"]
    assert shown["has seen outliers"] == str(tmp_path / "outliers.npy")

    target = tmp_path / "scores.csv"
    assert run("score", tmp_path / "d", tmp_path / "new.npy", "-o", target).exit_code == 0
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "energy", "statistic", "p_value", "is_outlier", "error"]
    assert all(0 < float(row["p_value"]) <= 1 for row in rows)
    facts = tmp_path / "facts.json"
    evaluated = run(
        "evaluate",
        tmp_path / "d",
        "--id",
        tmp_path / "new.npy",
        "--ood",
        tmp_path / "outliers.npy",
        "--json",
        facts,
    )
    assert evaluated.exit_code == 0, evaluated.output
    assert [row["score"] for row in json.loads(facts.read_text())["rows"]] == ["energy"]

    # Labels of their own, in a file beside.
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    words = ["fit", tmp_path / "images.npy", "-o", tmp_path / "e", "--method", "mahalanobis"]
    assert run(*words, *small, "--labels", tmp_path / "labels.npy").exit_code == 0


def test_a_baseline_that_cannot_be_fitted(place: Path, tmp_path: Path) -> None:
    words = ["fit", place / "inside.npy", "-o", tmp_path / "d"]
    refused("bad-option", *words, "--method", "glow")
    refused("unknown-option", *words, "--set", "depth=10")
    energy = [*words, "--method", "energy"]
    refused("bad-labels", *energy)
    refused("unknown-option", *energy, "--set", "deep=1")
    refused("bad-option", *energy, "--set", "depth=deep")
    np.save(tmp_path / "labels.npy", np.zeros(600, int))
    refused("bad-labels", *energy, "--labels", tmp_path / "labels.npy")
    gaussian = [*words, "--method", "gaussian"]
    refused("unknown-option", *gaussian, "--alpha", 3)
    refused("unknown-option", *gaussian, "--encoder", "pca")
    refused("bad-outliers", *gaussian, "--outliers", place / "other.npy")
    refused("bad-labels", *gaussian, "--labels", tmp_path / "labels.npy")
    assert not (tmp_path / "d").exists()
    result = command(*energy)
    assert result.returncode == 2
    assert result.stderr.startswith("error[bad-labels]: ")
    assert len(result.stderr.splitlines()) == 1


def test_no_output_takes_the_place_of_a_detector_or_of_what_is_read(tmp_path: Path) -> None:
    images, labels = tmp_path / "images.npy", tmp_path / "labels.npy"
    np.save(images, textures(150))
    np.save(labels, np.arange(150) % 2)
    detector = str(tmp_path / "d")
    fit = ("fit", str(images), "--method", "gaussian", "-o", detector)
    before = labels.read_bytes()
    for words in (
        (*fit, "--json", f"{detector}/detector.json"),
        (*fit, "--json", f"{detector}/x.json"),
        (*fit, "--labels", str(labels), "--json", str(labels)),
        (*fit, "--outliers", str(images), "--json", str(images)),
    ):
        refused("would-overwrite", *words)
    assert labels.read_bytes() == before
    assert not (tmp_path / "d").exists()
    Detector(method="png-size").fit(images).save(detector)
    Detector(method="png-size").fit(images).save(tmp_path / "other")
    inspected = ("inspect", str(tmp_path / "other"), "--json", f"{detector}/detector.json")
    evaluated = ("evaluate", str(tmp_path / "other"), "--id", str(images), "--ood", "sample:mnist")
    refused("would-overwrite", *evaluated, "--json", f"{detector}/detector.json")
    refused("would-overwrite", *inspected)
    Detector.load(detector)


def test_methods_lists_all_of_them() -> None:
    facts = json.loads(run("methods", "--json", "-").output)
    assert facts["energy"]["labels"]
    assert facts["energy"]["outliers"] == "possible"
    assert facts["mahalanobis-sees-ood"]["outliers"] == "needed"
    assert not facts["gradcon"]["labels"]
    assert facts["gradcon"]["options"]["beta"] == 0.12
    assert "nearest-neighbour" in run("methods").output


@pytest.mark.slow
def test_a_baseline_stopped_by_ctrl_c_goes_on(tmp_path: Path) -> None:
    images = open_images("sample:fashion_mnist/train").read()[:2000]
    np.save(tmp_path / "inside.npy", images)
    environment = {**ONE_THREAD, "APPROXMASS_CACHE": str(tmp_path / "cache")}
    words = ["fit", tmp_path / "inside.npy", "-o", tmp_path / "d", "--method", "autoencoder"]
    call = [sys.executable, "-m", "approxmass", *map(str, words), "--epochs", "10"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    assert "autoencoder 10%" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate()[1]
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "stopped; repeat the command to go on"
    again = subprocess.run(call, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0, again.stderr
    assert "epoch 1 " not in again.stderr  # that part was done
    assert (tmp_path / "d" / "detector.json").exists()


def test_the_version(tmp_path: Path) -> None:
    done = command("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{approxmass.__version__}\n", "")


def test_fit_sets_what_python_sets(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    init = Detector.__init__

    def seen(self: Detector, *given: object, **options: object) -> None:
        init(self, *given, **options)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(Detector, "__init__", seen)
    words = ["fit", place / "inside.npy", "-o", tmp_path / "d", "--seed", 5, "--size", 10]
    words += [
        "--holdout",
        0.2,
        "--calibration",
        "holdout",
        "--device",
        "cpu",
        "--threads",
        1,
        "--encoder",
        "pca",
    ]
    words += ["--alpha", 0.5, "--preset", "nice", "--components", 20, "--epochs", 1]
    assert run(*words, "--statistic", "mass").exit_code == 0
    assert (made[0].device.type, made[0].threads) == ("cpu", 1)
    manifest = json.loads((tmp_path / "d" / "detector.json").read_text())
    assert manifest["settings"] == {
        "method": "flow",
        "seed": 5,
        "size": 10,
        "mode": "auto",
        "background": 255,
        "pages": False,
        "roi": None,
        "resample": "bilinear",
        "holdout": 0.2,
        "calibration": "holdout",
        "trim": 0.0,
        "columns": None,
        "options": {
            "encoder": "pca",
            "alpha": 0.5,
            "preset": "nice",
            "components": 20,
            "epochs": 1,
            "statistic": "mass",
            "draws": 1,
            "parts": False,
        },
    }
    assert manifest["facts"]["training"] == 480
    assert manifest["facts"]["reference"] + manifest["facts"]["calibration"] == 120
    assert Detector.load(tmp_path / "d").statistic == "mass"
    drawn = [
        "fit",
        place / "inside.npy",
        "-o",
        tmp_path / "e",
        "--epochs",
        1,
        "--encoder",
        "pixels",
    ]
    assert run(*drawn, "--draws", 2).exit_code == 0
    assert Detector.load(tmp_path / "e").settings.options["draws"] == 2


def test_set_gives_any_option_of_a_method(place: Path, tmp_path: Path) -> None:
    for i, words in enumerate((["--set", "components=8"], ["--components", 8])):
        folder = tmp_path / f"{i}"
        fit = ["fit", place / "inside.npy", "-o", folder, "--method", "pca-residual"]
        assert run(*fit, *words).exit_code == 0
        assert Detector.load(folder).settings.options == {"components": 8}


def commands(place: Path, folder: Path) -> dict[str, list[object]]:
    """Every command that computes, each with its outputs in a folder."""
    detector, new = place / "detector", place / "new.npy"
    sets = ["--id", new, "--ood", place / "other.npy"]
    return {
        "demo": ["demo", "-o", folder / "demo"],
        "fit": ["fit", place / "inside.npy", "-o", folder / "d"],
        "score": ["score", detector, new, "-o", folder / "s.csv"],
        "evaluate": ["evaluate", detector, *sets, "-o", folder / "e.html"],
        "report": ["report", detector, *sets, "-o", folder / "r.html"],
        "explain": ["explain", detector, new, "-o", folder / "pictures"],
        "watch": ["watch", detector, place / "images", "-o", folder / "w.csv"],
        "serve": ["serve", detector, "--port", 0],
    }


def test_a_device_that_is_not_there_is_refused_by_every_command(
    place: Path, tmp_path: Path
) -> None:
    for words in commands(place, tmp_path).values():
        assert "--device" in run(words[0], "--help").output
        refused("no-device", *words, "--device", "nonsense")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", ["score", "evaluate", "report", "explain", "watch"])
def test_outputs_are_checked_before_the_detector_is_loaded(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        pytest.fail("the detector was loaded")

    monkeypatch.setattr(Detector, "load", load)
    (tmp_path / "file").write_text("kept")
    refused("cannot-write", *commands(place, tmp_path / "file")[name])
    if name != "report":
        json_file = ["--json", tmp_path / "file" / "facts.json"]
        refused("cannot-write", *commands(place, tmp_path)[name], *json_file)
    taken = tmp_path / "taken"
    for output in ("s.csv", "e.html", "r.html", "w.csv"):
        (taken / output).mkdir(parents=True)
    (taken / "pictures").write_text("kept")
    refused("would-overwrite", *commands(place, taken)[name])
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["file", "pictures"]


def test_no_advice_asks_an_index_for_this_package() -> None:
    # It is on none, and whoever is there under its name is someone else.
    for path in Path(approxmass.__file__).parent.rglob("*"):
        if path.suffix in (".py", ".pyi", ".html", ".js"):
            assert not re.search(r"pip install\W+approxmass", path.read_text()), path


@pytest.mark.parametrize(
    ("name", "gone", "wanted"),
    [
        ("report", ["altair", "jinja2"], "altair jinja2"),
        ("evaluate", ["vl_convert"], "vl-convert-python"),
        ("serve", ["python_multipart", "uvicorn"], "uvicorn python-multipart"),
    ],
)
def test_what_is_not_installed_is_named_as_pip_knows_it(
    name: str,
    gone: list[str],
    wanted: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from approxmass.runtime import extras

    monkeypatch.setattr(extras, "find_spec", lambda module: None if module in gone else module)
    words = commands(place, tmp_path)[name]
    refused("missing-library", *words, naming=f"pip install {wanted}")
    assert not list(tmp_path.iterdir())
