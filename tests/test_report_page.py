from pathlib import Path

import pytest

from approxmass import Detector
from approxmass.evaluation.assess import assess
from approxmass.report import write_report
from conftest import Window, textures


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("report") / "report.html"
    detector = Detector(epochs=3).fit(textures(600))
    inside, out = textures(300, seed=5), textures(200, shift=1.0, seed=6)
    write_report(assess(detector, inside, [out, textures(99, seed=8)]), page)
    return Path(page).as_uri()


CHARTS = 10  # four histograms, two curves, the p-values, three of the training


def test_the_report_in_a_browser(address: str, window: Window) -> None:
    window.open(address)
    window.wait(f"document.querySelectorAll('[data-chart] svg').length == {CHARTS}")
    window.check()
    # Nothing was asked of any server.
    names = "performance.getEntriesByType('resource').map(each => each.name)"
    assert [n for n in window.run(f"return {names}") if not n.startswith("data:")] == []

    # Every chart has marks in it, and is as wide as its place.
    marks = window.run(
        "return [...document.querySelectorAll('[data-chart] svg')].map(svg =>"
        "[svg.querySelectorAll('[role=graphics-symbol] path, path[role=graphics-symbol]').length,"
        "svg.getBoundingClientRect().width / svg.closest('[data-chart]').clientWidth])"
    )
    for drawn, share in marks:
        assert drawn >= 1
        assert 0.85 < share <= 1.01

    # Text can be read: that of the charts is as light or dark as that of the page.
    light = "const light = c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0) / 765;"
    paper, ink, label = window.run(
        light + "const of = (e, k) => light(getComputedStyle(e)[k]);"
        "return [of(document.body, 'backgroundColor'), of(document.body, 'color'),"
        "of(document.querySelector('[data-chart] svg text'), 'fill')]"
    )
    if window.dark:
        assert paper < 0.2 < 0.5 < label
    else:
        assert paper > 0.9 > 0.5 > label
    assert abs(ink - paper) > 0.6


def test_all_images_of_the_report_are_shown(address: str, window: Window) -> None:
    window.open(address)
    widths = window.run("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 40
    assert set(widths) == {12, 216}  # images and their maps
    shown = window.run("return [...document.images].map(image => [image.width, image.height])")
    assert all(abs(width - height) <= 1 and width > 50 for width, height in shown)


def test_the_charts_follow_the_colours_and_the_width_of_the_window(
    address: str, window: Window
) -> None:
    window.open(address)
    window.wait(f"document.querySelectorAll('[data-chart] svg').length == {CHARTS}")
    fill = "getComputedStyle(document.querySelector('[data-chart] svg text')).fill"
    before = window.run(f"return {fill}")

    def scheme(dark: bool) -> None:
        value = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [value]})

    scheme(not window.dark)
    window.wait(f"{fill} != '{before}'")
    scheme(window.dark)
    window.wait(f"{fill} == '{before}'")
    window.check()


def test_a_set_chosen_in_the_legend_stands_out(address: str, window: Window) -> None:
    window.open(address)
    window.wait(f"document.querySelectorAll('[data-chart] svg').length == {CHARTS}")
    bars = "[...document.querySelectorAll('[data-chart=histogram-1] svg .mark-rect path')]"
    faint = f"{bars}.filter(bar => bar.getAttribute('opacity') < 0.2).length"
    assert window.run(f"return {faint}") == 0
    labels = window.driver.find_elements(
        "css selector", "[data-chart=histogram-1] .role-legend-label text"
    )
    labels[1].click()
    window.wait(f"{faint} > 0")
    assert window.run(f"return {faint} < {bars}.length")
