import base64
import io
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from approxmass import Detector
from approxmass.calibration import threshold
from approxmass.evaluation.assess import Assessment, assess
from approxmass.report import write_report
from approxmass.report.charts import histogram
from conftest import mistake, textures


class Page(HTMLParser):
    """What a test asks of a page: its text, its JSON, its images, and all addresses in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.json: dict[str, dict] = {}
        self.images: list[tuple[str, np.ndarray]] = []
        self.maps: list[tuple[str, np.ndarray]] = []
        self.sizes: list[tuple[int, int]] = []  # of the images, on the screen
        self.addresses: list[str] = []
        self.text = ""
        self._into: str | None = None
        self._hidden = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.addresses += [found[key] or "" for key in ("src", "href", "action") if key in found]
        self._hidden = tag in ("script", "style")
        self._into = found.get("id") if found.get("type") == "application/json" else None
        if tag == "img":
            data = base64.b64decode((found["src"] or "").partition(";base64,")[2])
            alt = found["alt"] or ""
            with Image.open(io.BytesIO(data)) as image:
                (self.maps if alt.startswith("map of ") else self.images).append(
                    (alt.removeprefix("map of "), np.asarray(image))
                )
            if not alt.startswith("map of "):
                self.sizes.append((int(found["height"] or 0), int(found["width"] or 0)))

    def handle_endtag(self, tag: str) -> None:
        self._hidden, self._into = False, None

    def handle_data(self, data: str) -> None:
        if self._into:
            self.json[self._into] = json.loads(data)
        elif not self._hidden:
            self.text += " " + " ".join(data.split())


SETS = {
    "inside": textures(300, seed=5),
    "out <script>alert(1)</script>": textures(200, shift=1.0, seed=6),
    "a & b": textures(100, shift=0.1, seed=7),
}


@pytest.fixture(scope="module")
def assessment(tmp_path_factory: pytest.TempPathFactory) -> Assessment:
    folder = tmp_path_factory.mktemp("sets")
    for i, images in enumerate(SETS.values()):
        np.save(folder / f"{i}.npy", images)
    detector = Detector(epochs=6).fit(textures(600))
    found = assess(detector, folder / "0.npy", [folder / "1.npy", folder / "2.npy"])
    # File names cannot hold all that names of other sources can.
    names = dict(zip([str(folder / f"{i}.npy") for i in range(3)], SETS, strict=True))
    sets = {names[name]: scored for name, scored in found.sets.items()}
    rows = [type(row)(names[row.ood], row.score, row.metrics) for row in found.evaluation.rows]
    evaluation = type(found.evaluation)("inside", found.evaluation.protocol, rows)
    return Assessment(detector=detector, sets=sets, evaluation=evaluation, group_size=1, seed=0)


@pytest.fixture(scope="module")
def html(assessment: Assessment, tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("report") / "report.html"
    write_report(assessment, page)
    return page.read_text()


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_it_needs_nothing_from_outside(page: Page, html: str) -> None:
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert not re.search(r"@import|url\(", html.split("</style>")[0])


def test_names_are_text_whatever_they_hold(page: Page, html: str) -> None:
    assert "<script>alert" not in html
    for name in SETS:
        assert " ".join(name.split()) in page.text


def test_the_verdict_says_what_was_measured(page: Page, assessment: Assessment) -> None:
    flagged = assessment.flagged
    caught = [share for name, share in flagged.items() if name != "inside"]
    worst = min(caught)
    assert f"catches between {worst:.1%} (" in page.text
    assert f"and {max(caught):.1%} of the sets of outliers" in page.text
    assert f"flags {flagged['inside']:.1%} of inside" in page.text
    assert "promises for 300 images" in page.text


def test_a_set_of_outliers_breaks_the_promise_in_words(
    assessment: Assessment, tmp_path: Path
) -> None:
    sets = assessment.sets
    inside, out, _ = sets
    rows = [type(row)(inside, row.score, row.metrics) for row in assessment.evaluation.rows]
    turned = Assessment(
        detector=assessment.detector,
        sets={out: sets[out], inside: sets[inside]},
        evaluation=type(assessment.evaluation)(out, "per image, balanced", rows),
        group_size=1,
        seed=0,
    )
    write_report(turned, tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "differs from what the detector learnt" in text


def layers(spec: dict) -> list[list[dict]]:
    parts = [part.get("data", spec.get("data"))["values"] for part in spec.get("layer", [spec])]
    return [part for part in parts if part]


def test_histograms_hold_every_image_and_the_threshold(page: Page, assessment: Assessment) -> None:
    detector = assessment.detector
    assert set(detector.statistics) == {"nll", "mass", "typicality", "fused"}
    for i, (name, statistic) in enumerate(detector.statistics.items(), start=1):
        assert statistic.shown_axis in json.dumps(page.json[f"histogram-{i}"])
        bars, line = layers(page.json[f"histogram-{i}"])
        for which in SETS:
            assert sum(bar["share"] for bar in bars if bar["set"] == which) == pytest.approx(1)
        limit = threshold(detector.calibration[name], 0.05)
        assert line == [{"threshold": -limit if name == "nll" else limit}]
    # Beyond the threshold lie the images that are called outliers, to within a bar.
    assert list(detector.statistics).index("fused") == 3
    bars, line = layers(page.json["histogram-4"])
    for which, scored in assessment.sets.items():
        mine = [bar for bar in bars if bar["set"] == which]
        sure = sum(bar["share"] for bar in mine if bar["from"] > line[0]["threshold"])
        most = sum(bar["share"] for bar in mine if bar["to"] >= line[0]["threshold"])
        assert sure <= scored.flagged + 1e-9 <= most + 2e-9


def test_the_point_on_the_curves_is_the_verdict(page: Page, assessment: Assessment) -> None:
    inside, *others = assessment.flagged.items()
    _, points = layers(page.json["roc"])
    assert points == [{"set": name, "x": inside[1], "y": share} for name, share in others]
    curve, _ = layers(page.json["roc"])
    for name, share in others:
        # It lies on its curve: between the neighbours to its left and right.
        mine = [(point["x"], point["y"]) for point in curve if point["set"] == name]
        left = max(y for x, y in mine if x <= inside[1])
        right = min([y for x, y in mine if x > inside[1]], default=1)
        assert left - 0.05 <= share <= right + 0.05
        rows = [r for r in assessment.evaluation.rows if (r.ood, r.score) == (name, "fused")]
        area = np.trapezoid([y for _, y in mine], [x for x, _ in mine])
        assert area == pytest.approx(rows[0].metrics.auroc.value, abs=0.02)
    _, points = layers(page.json["precision"])
    for point, (_, share) in zip(points, others, strict=True):
        assert point["x"] == share
        assert point["y"] == pytest.approx(share / (share + inside[1]))


def test_the_calibration_chart_counts_p_values(page: Page, assessment: Assessment) -> None:
    rows = layers(page.json["p-values"])[0]
    p = assessment.sets["inside"].p_value
    for row in rows[:: len(rows) // 10]:
        assert row["share"] == pytest.approx((p <= row["e"] + 1e-12).mean())
        assert row["low"] <= row["e"] <= row["high"]
    assert rows[-1]["e"] < 1


def test_training_curves_are_the_history(page: Page, assessment: Assessment) -> None:
    for i, name in enumerate(("nll", "mass", "learning_rate"), start=1):
        drawn = [row["value"] for row in layers(page.json[f"training-{i}"])[0]]
        assert drawn == [getattr(record, name) for record in assessment.detector.model.history]


def test_the_gallery_shows_the_right_images(page: Page, assessment: Assessment) -> None:
    shown = page.images
    for (name, scored), images in zip(assessment.sets.items(), SETS.values(), strict=True):
        order = np.argsort(scored.statistics["fused"], kind="stable")
        most, least = shown[:10], shown[10:20]
        for cards, places in ((most, order[:10]), (least, order[::-1][:10])):
            for (alt, pixels), i in zip(cards, places, strict=True):
                assert alt == f"image {i}"
                np.testing.assert_array_equal(pixels, images[i])
        wrong = scored.is_outlier if name == "inside" else ~scored.is_outlier
        count = min(10, wrong.sum())
        mistakes, shown = shown[20 : 20 + count], shown[20 + count :]
        places = [int(alt.removeprefix("image ")) for alt, _ in mistakes]
        assert wrong[places].all()
        assert len(set(places)) == count
    assert not shown


def is_red(pixels: np.ndarray) -> bool:
    """Whether some of a map is hotter than the middle of the scale."""
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return bool(((red > 150) & (green < 70) & (blue < 100)).any())


def test_beside_each_image_is_its_map(page: Page, assessment: Assessment) -> None:
    assert [alt for alt, _ in page.maps] == [alt for alt, _ in page.images]
    assert all(pixels.shape == (216, 216, 3) for _, pixels in page.maps)
    detector = assessment.detector
    checked = {True: 0, False: 0}
    # Of the first set: the most and the least typical.
    for alt, pixels in page.maps[:20]:
        found = detector.explain(SETS["inside"][int(alt.removeprefix("image "))])
        beyond = found.peaks[0] / found.threshold()
        if abs(beyond - 1) > 0.2:
            assert is_red(pixels) == (beyond > 1)
            checked[bool(beyond > 1)] += 1
    assert all(checked.values())
    usual = detector.fitted.calibrated.peaks
    assert f"exceeds what 95% of {len(usual)} usual images keep below" in page.text
    assert f"{threshold(usual, 0.05):.3g}, contour" in page.text


def test_long_images_keep_their_shape_without_what_is_around_them(tmp_path: Path) -> None:
    usual = [np.asarray(Image.fromarray(i).resize((80, 80))) for i in textures(120)]
    detector = Detector("pca", epochs=1, size=80).fit(usual)
    long = [np.asarray(Image.fromarray(i).resize((60, 160))) for i in textures(3, seed=1)]
    wide = [each.T for each in long]
    black = np.zeros_like(long[0])
    black[:, 20:30] = 255
    inside = [Image.fromarray(each) for each in [*long, *wide]]
    found = assess(detector, inside, [[black] * 3], masks=[[black > 0] * 3])
    write_report(found, tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    shapes = [(height, width) for height, width in page.sizes]
    assert {round(height / width, 1) for height, width in shapes} == {0.4, 2.7}
    assert all(max(shape) > 200 for shape in shapes)
    for (_, image), (_, shown), (height, width) in zip(
        page.images, page.maps, page.sizes, strict=True
    ):
        assert image.shape[:2] == shown.shape[:2] == (round(1.5 * height), round(1.5 * width))
    # What is marked has a blue outline, on both sides of the white line.
    blue = page.images[-1][1].astype(int)
    outline = (blue[..., 2] > 150) & (blue[..., 0] < 90)
    columns = np.flatnonzero(outline.mean(0) > 0.8) / blue.shape[1] * 60
    assert columns.min() == pytest.approx(20, abs=1)
    assert columns.max() == pytest.approx(30, abs=1)
    assert "Blue outline: the defect" in page.text


def test_settings_versions_and_fingerprints_are_there(page: Page, assessment: Assessment) -> None:
    facts = assessment.facts()
    wanted = [facts["fit"]["sha256"], facts["machine"]["packages"]["torch"]]
    wanted += [each["sha256"] for each in facts["images"].values()]
    wanted += ["AUPR, ID positive", "FPR at 95% TPR, OOD positive", "Per image, balanced"]
    for word in wanted:
        assert word in page.text


def test_groups_are_named(assessment: Assessment, tmp_path: Path) -> None:
    sources = [scored.source for scored in assessment.sets.values()]
    inside, *others = [source.read() for source in sources]
    grouped = assess(assessment.detector, inside, others[:1], group_size=10)
    write_report(grouped, tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text())
    assert "Per group of 10, balanced" in page.text
    # The threshold is one for images, so that no point is drawn for groups.
    assert len(layers(page.json["roc"])) == 1
    assert "The points are where" not in page.text


def test_a_few_images_prove_nothing(assessment: Assessment, tmp_path: Path) -> None:
    write_report(assess(assessment.detector, textures(5), [textures(1)]), tmp_path / "r.html")
    assert "5 of them are too few to tell" in Page((tmp_path / "r.html").read_text()).text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name")
def test_the_name_of_a_source_need_not_be_text(assessment: Assessment, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npy")
    with open(name, "wb") as file:
        np.save(file, textures(30))
    write_report(assess(assessment.detector, name, [textures(20)]), tmp_path / "r.html")
    assert "caf?.npy" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_threshold_without_end_is_not_drawn() -> None:
    spec = histogram({"inside": np.arange(9.0)}, "mass", np.inf)
    bars, line = (part["data"]["values"] for part in spec["layer"])
    assert sum(bar["share"] for bar in bars) == pytest.approx(1)
    assert line == []


def test_two_arrays_have_two_names(assessment: Assessment) -> None:
    found = assess(assessment.detector, textures(50, seed=1), [textures(40), textures(30)])
    assert list(found.sets) == ["array", "array'", "array''"]
    assert [len(scored.names) for scored in found.sets.values()] == [50, 40, 30]


def test_a_baseline_has_a_report_too(tmp_path: Path) -> None:
    detector = Detector(method="nearest-neighbour").fit(textures(200))
    write_report(
        assess(detector, textures(60, seed=1), [textures(60, shift=1)]), tmp_path / "r.html"
    )
    page = Page((tmp_path / "r.html").read_text())
    assert sorted(page.json) == ["histogram-1", "p-values", "precision", "roc"]
    assert page.images
    assert not page.maps
    assert "contour" not in page.text
    assert "AUROC of nearest-neighbour" in page.text


@pytest.mark.slow
def test_size_for_four_sets_of_two_thousand(assessment: Assessment, tmp_path: Path) -> None:
    sets = [np.random.default_rng(i).integers(0, 256, (2000, 12, 12), np.uint8) for i in range(4)]
    write_report(assess(assessment.detector, sets[0], sets[1:]), tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size <= 8e6


def test_where_it_cannot_be_written(assessment: Assessment, tmp_path: Path) -> None:
    with mistake("bad-option"):
        write_report(assessment, tmp_path / "report.pdf")
    (tmp_path / "file").write_text("kept")
    with mistake("cannot-write"):
        write_report(assessment, tmp_path / "file" / "r.html")
    assert (tmp_path / "file").read_text() == "kept"
