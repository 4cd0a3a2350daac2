"""Figures of maps against masks: exact ones on small maps, and what they do not depend on."""

import numpy as np
import pytest

from approxmass.evaluation.localize import Localization, Places
from approxmass.evaluation.metrics import auroc


def images(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Maps and masks; every third has no defect, the others one or two."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        height, width = rng.integers(20, 40, 2)
        mask = np.zeros((height, width), bool)
        for k in range(i % 3):
            row, column = rng.integers(0, 12, 2)
            mask[row + 8 * k : row + 8 * k + 3, column : column + 4 + i % 5] = True
        made.append((rng.normal(size=(height, width)) + 1.2 * mask, mask))
    return made


def figures(made: list[tuple[np.ndarray, np.ndarray]], cell: float = 2) -> Localization:
    places = Places()
    for i, (surface, mask) in enumerate(made):
        places.add(surface, mask, cell=cell, flagged=i % 2 == 0)
    found = places.figures()
    assert found is not None
    return found


def test_pixel_auroc_is_that_of_all_pixels() -> None:
    made = images(150)
    usual = np.concatenate([surface[~mask] for surface, mask in made])
    odd = np.concatenate([surface[mask] for surface, mask in made])
    found = figures(made).pixel_auroc
    assert found.value == pytest.approx(auroc(usual, odd), abs=1e-3)
    assert found.low < found.value < found.high


def test_au_pro_is_the_area_under_the_mean_share_of_each_defect() -> None:
    """Against thresholds taken one by one, on maps whose defects are known."""
    rng = np.random.default_rng(1)
    made, parts = [], []
    for _ in range(40):
        mask = np.zeros((24, 24), bool)
        mask[2:4, 2:4] = mask[10:18, 10:20] = True  # a small and a large one
        surface = rng.normal(size=mask.shape)
        surface[2:4, 2:4] += 1
        surface[10:18, 10:20] += 3
        made.append((surface, mask))
        parts += [surface[2:4, 2:4].ravel(), surface[10:18, 10:20].ravel()]
    usual = np.concatenate([surface[~mask] for surface, mask in made])
    levels = np.sort(usual)[::-1][: int(0.3 * len(usual))]
    shares = [np.mean([(part > level).mean() for part in parts]) for level in levels[::20]]
    assert figures(made).au_pro.value == pytest.approx(np.mean(shares), abs=5e-3)


def test_a_perfect_and_a_blind_map() -> None:
    mask = np.zeros((30, 30), bool)
    mask[5:9, 5:9] = True
    perfect = figures([(mask.astype(float), mask), (0.0 * mask, 0 * mask > 0)] * 5)
    assert perfect.pixel_auroc.value == perfect.au_pro.value == perfect.hits.value == 1
    flat = figures([(np.zeros((30, 30)), mask)] * 5)
    assert flat.pixel_auroc.value == pytest.approx(0.5)


def test_the_hottest_place_may_lie_a_cell_beside_the_defect() -> None:
    mask = np.zeros((20, 20), bool)
    mask[10, 10] = True
    surface = np.zeros((20, 20))
    surface[10, 13] = 1
    assert figures([(surface, mask)] * 4, cell=3).hits.value == 1
    assert figures([(surface, mask)] * 4, cell=2.9).hits.value == 0


def test_images_without_a_defect_count_for_pixels_alone() -> None:
    found = figures(images(90))
    assert found.defects == 60
    assert found.flagged == 30
    assert found.flagged_hits is not None


def test_figures_of_some_kinds_are_those_of_these_images_alone() -> None:
    made = images(60)
    places = Places()
    for i, (surface, mask) in enumerate(made):
        places.add(surface, mask, cell=2, flagged=i % 2 == 0, kind="ab"[i % 2])
    assert places.figures(["a", "b"]) == places.figures()
    alone = figures(made[::2])
    some = places.figures(["a"])
    assert some is not None
    assert some.pixel_auroc.value == pytest.approx(alone.pixel_auroc.value, abs=1e-3)
    assert some.hits == alone.hits
    assert (some.defects, some.flagged) == (20, 20)
    assert places.figures(["c"]) is None


def test_large_maps_are_counted_before_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    made = images(120)
    together = figures(made)
    monkeypatch.setattr("approxmass.evaluation.localize._PIXELS_WAITING", 3000)
    soon = figures(made)
    assert soon.pixel_auroc.value == pytest.approx(together.pixel_auroc.value, abs=2e-3)
    assert soon.au_pro.value == pytest.approx(together.au_pro.value, abs=2e-2)
    assert soon.hits == together.hits


def test_where_the_model_does_not_look_there_is_the_lowest_value() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2, 2] = True
    surface = np.where(mask, 5.0, np.random.default_rng(0).random((10, 10)))
    surface[8:] = np.nan
    found = figures([(surface, mask)] * 3)
    assert found.pixel_auroc.value == found.hits.value == 1
