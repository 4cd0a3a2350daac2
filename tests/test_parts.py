"""The patch level: codes of places, their statistics, and what of an image counts."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from approxmass import Detector
from approxmass.data.frame import Box, Frame, box_in
from approxmass.data.region import inside_of
from approxmass.encoders import PooledEncoder
from approxmass.encoders.patches import PatchEncoder, Patches, patch_maps
from approxmass.evaluation.patch_lines import PatchLines
from approxmass.flows import VectorFlow
from approxmass.models.parts import PARTS, Parts, highest
from approxmass.storage.spool import Spool
from conftest import mistake
from tiny_network import WIDTHS, TinyNetwork


def tensors(n: int, height: int = 64, width: int = 64, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand((n, 3, height // 8, width // 8), generator=generator)
    large = torch.nn.functional.interpolate(low, (height, width), mode="bilinear")
    noise = 0.1 * torch.rand(large.shape, generator=generator)
    return (255 * (0.9 * large + noise)).byte()


def patches(n: int, places: int, dimension: int, *, seed: int = 0) -> Patches:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, places, dimension, generator=generator)
    return Patches(values, torch.arange(places).expand(n, -1))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TinyNetwork:
    made = TinyNetwork()
    monkeypatch.setattr("approxmass.models.kinds.network", lambda name: made)
    return made


# --- codes


def test_codes_of_training_patches_are_white_about_the_mean_of_their_place() -> None:
    given = patches(4000, 3, 5)
    scale, offset = torch.tensor([1.0, 2, 3, 4, 5]), 3 * torch.eye(5)[:3]
    encoder = PatchEncoder([5], 3)
    codes = encoder.fit_transform(Patches(given.values * scale + offset, given.places))
    np.testing.assert_allclose(torch.cov(codes.T), np.eye(5), atol=0.05)
    by_place = codes.view(4000, 3, 5).mean(0)
    np.testing.assert_allclose(by_place, np.zeros((3, 5)), atol=0.06)


def test_places_count_only_where_they_differ() -> None:
    """Where all places are alike their means are drawn to one, where not they stay."""
    alike, apart = patches(40, 50, 4), patches(40, 50, 4)
    shift = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    encoder = PatchEncoder([4], 50)
    encoder.fit_transform(alike)
    raw = torch.nn.functional.normalize(alike.values, dim=-1).mean(0)
    assert encoder.center.std(0).max() < 0.35 * raw.std(0).min()
    encoder.fit_transform(Patches(apart.values + 5 * shift, apart.places))
    raw = torch.nn.functional.normalize(apart.values + 5 * shift, dim=-1).mean(0)
    np.testing.assert_allclose(encoder.center, raw, atol=0.05)


def test_what_a_place_varies_in_more_than_others_counts_less_there_and_nothing_counts_more() -> (
    None
):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000, 3, 6, generator=generator) + 20 * torch.eye(6)[0]
    values[:, 1, 4] *= 5  # loose there
    values[:, 2] = 20 * torch.eye(6)[0] + 0.05 * (values[:, 2] - 20 * torch.eye(6)[0])  # stiff
    given = Patches(values, torch.arange(3).expand(3000, -1))
    encoder = PatchEncoder([6], 3)
    encoder.fit_transform(given)
    centered = encoder.centered(given)
    plain, codes = centered @ encoder.whitening, encoder.codes(centered)
    before, after = (torch.linalg.eigvalsh(torch.cov(each[:, 1].T)) for each in (plain, codes))
    assert before[-1] > 2
    assert after[-1] == pytest.approx(1, abs=0.15)
    np.testing.assert_allclose(codes[:, 2], plain[:, 2], atol=1e-5)
    assert (codes.norm(dim=2) <= plain.norm(dim=2) + 1e-5).all()
    # The determinant is that of the linear map of the place.
    basis = torch.linalg.lstsq(plain[:, 1].double(), codes[:, 1].double()).solution
    assert encoder.logdet[1].item() == pytest.approx(torch.logdet(basis).item(), abs=1e-3)
    assert encoder.logdet[2].item() == pytest.approx(0, abs=1e-6)


def test_the_code_of_a_training_image_is_as_if_it_were_new() -> None:
    """With few images of many dimensions their own covariance would make their codes short."""
    given, new = patches(60, 4, 30), patches(60, 4, 30, seed=1)
    encoder = PatchEncoder([30], 4)
    own = encoder.fit_transform(given).square().sum(1).mean()
    seen = encoder.codes(encoder.centered(given)).square().sum(2).mean()
    unseen = encoder.codes(encoder.centered(new)).square().sum(2).mean()
    assert own == pytest.approx(unseen.item(), rel=0.05)
    assert seen < 0.95 * unseen


def test_the_code_of_an_image_does_not_depend_on_what_comes_with_it() -> None:
    given = patches(100, 4, 12)
    encoder = PatchEncoder([12], 4)
    encoder.fit_transform(given)
    centered = encoder.centered(given)
    together = encoder.codes(centered)
    for some in (1, 3, 17, 40):
        np.testing.assert_array_equal(encoder.codes(centered[:some]), together[:some])


def test_contrast_is_not_seen_and_each_map_has_its_say() -> None:
    encoder = PatchEncoder([3, 2], 4)
    given = patches(200, 4, 5)
    encoder.fit_transform(given)
    louder = given.values.clone()
    louder[..., 3:] *= 100
    louder[..., :3] *= 0.1
    np.testing.assert_allclose(
        encoder.centered(given), encoder.centered(Patches(louder, given.places)), atol=1e-5
    )


def test_patches_outside_of_an_image_are_not_learnt_from() -> None:
    given = patches(100, 4, 5)
    places = given.places.clone()
    places[:, 3] = -1
    wild = given.values.clone()
    wild[:, 3] = 1e3 * torch.rand(100, 5)
    one, other = PatchEncoder([5], 4), PatchEncoder([5], 4)
    codes = one.fit_transform(Patches(given.values, places))
    np.testing.assert_array_equal(codes, other.fit_transform(Patches(wild, places)))
    assert len(codes) == 300


def test_the_largest_of_a_cell_is_what_the_grid_has() -> None:
    fine, coarse = torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 4, 4)
    fine[0, 1, 5, 2] = 7.0
    found = patch_maps([fine, coarse, torch.zeros(1, 4, 2, 2)], (64, 64))
    assert [tuple(each.shape) for each in found] == [(1, 2, 4, 4), (1, 3, 4, 4)]
    assert found[0][0, 1].argmax() == 2 * 4 + 1
    # Where every map is coarse, the finest is taken.
    (only,) = patch_maps([coarse, torch.zeros(1, 4, 2, 2)], (256, 256))
    assert only.shape == coarse.shape


def test_inside_are_the_cells_whose_middle_an_image_covers() -> None:
    box = box_in(100, 200, Frame(64, 64))  # rows 16 to 48
    inside = inside_of(box, (64, 64), (8, 8))
    assert inside.all(1).tolist() == [False, False, True, True, True, True, False, False]
    thin = inside_of(Box(31, 0, 2, 64), (64, 64), (4, 4))
    assert thin.any(1).sum() == 1
    assert thin.all(1).sum() == 1


# --- statistics


def test_at_the_start_of_the_flow_the_statistics_are_those_of_a_gaussian() -> None:
    given = patches(30, 6, 8)
    code = PatchEncoder([8], 6)
    code.fit_transform(given)
    parts = Parts(code, VectorFlow("patches", 8).requires_grad_(False))
    found = parts.maps(given)
    codes = code.codes(code.centered(given)).double()
    squared = codes.square().sum(2)
    # Of the patch before it is whitened by its place: the determinant belongs to it.
    expected = 0.5 * (squared + 8 * math.log(2 * math.pi)) - code.logdet
    np.testing.assert_allclose(found["patch_nll"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["patch_mass"], squared.sqrt(), rtol=1e-4)


def test_of_an_image_the_highest_twentieth_of_its_places_counts() -> None:
    values = torch.arange(40.0).repeat(2, 1)
    values[1, 20:] = -torch.inf
    np.testing.assert_allclose(highest(values), [38.5, 19.0])


def test_what_lies_outside_of_an_image_changes_nothing() -> None:
    given = patches(5, 6, 4)
    code = PatchEncoder([4], 6)
    code.fit_transform(patches(200, 6, 4, seed=1))
    parts = Parts(code, VectorFlow("patches", 4).requires_grad_(False))
    places = given.places.clone()
    places[:, 4:] = -1
    wild = given.values.clone()
    wild[:, 4:] = 1e4
    for name, values in parts(Patches(given.values, places)).items():
        np.testing.assert_array_equal(values, parts(Patches(wild, places))[name])
    assert list(parts(given)) == list(PARTS)


# --- plain lines


def test_plain_lines_on_patches_know_what_they_are_called_after() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 4.0])[:, None]  # of two places
    values = torch.randn(4000, 2, 5, generator=generator) * scale
    places = torch.arange(2).expand(4000, 2)
    lines = PatchLines(Patches(values, places), seed=0)
    probe = torch.zeros(3, 2, 5)
    probe[0, 0, 0] = probe[1, 1, 0] = 4.0
    probe[2, 1, :] = 9.0
    found = lines.scores(Patches(probe, places[:3]))
    # Four deviations of the first place are one of the second; to all together they are alike.
    np.testing.assert_allclose(found["patches: Gaussian a place"][:2], [4, 1], rtol=0.1)
    one, other, _ = found["patches: Mahalanobis"]
    assert one == pytest.approx(other, rel=0.05)
    assert one == pytest.approx(4 / 8.5**0.5, rel=0.05)
    memory = lines.scores(Patches(values[:50], places[:50]))["patches: nearest neighbour"]
    assert (memory < 1e-2).all()
    assert found["patches: nearest neighbour"][2] > 3
    assert found["patches: PCA residual"][2] > found["patches: PCA residual"][0]
    outside = Patches(probe, torch.tensor([[0, -1]] * 3))
    np.testing.assert_allclose(lines.scores(outside)["patches: Gaussian a place"][1:], 0, atol=0.1)


# --- views


def test_a_view_goes_on_with_the_patches_and_their_places() -> None:
    network = TinyNetwork()
    plain, seeing = PooledEncoder(network), PooledEncoder(network, parts_of=(3, 64, 64))
    images = tensors(5)
    views = seeing.view(images)
    torch.testing.assert_close(views[:, : sum(seeing.pools)], plain.view(images))
    assert seeing.widths == list(WIDTHS[:-1])
    found = seeing.patches(views)
    assert found.values.shape == (5, math.prod(seeing.grid), sum(WIDTHS[:-1]))
    assert (found.places == torch.arange(math.prod(seeing.grid))).all()
    maps = network(images[:1] / 255)
    expected = patch_maps(maps, (64, 64))[0][0, :, 0, 1]
    torch.testing.assert_close(found.values[0, 1, : WIDTHS[0]], expected)
    assert plain.view_digest != seeing.view_digest


def test_what_is_kept_of_an_image_follows_from_its_place_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("approxmass.encoders.pooled._PATCHES", 60)
    encoder = PooledEncoder(TinyNetwork(), parts_of=(3, 64, 64))
    boxes = [box_in(20, 64, Frame(64, 64))] * 6
    views = encoder.view(tensors(6), boxes)
    kept = encoder.kept(views, range(6), 6, seed=3)
    again = torch.cat([encoder.kept(views[i : i + 1], [i], 6, seed=3) for i in range(6)])
    np.testing.assert_array_equal(kept, again)
    few, all_of_them = encoder.patches(kept), encoder.patches(views)
    assert few.places.shape == (6, 10)
    for row in range(6):
        inside = set(all_of_them.places[row][all_of_them.places[row] >= 0].tolist())
        places = [place for place in few.places[row].tolist() if place >= 0]
        assert len(set(places)) == min(10, len(inside))
        assert set(places) <= inside
        for place, values in zip(few.places[row].tolist(), few.values[row], strict=True):
            if place >= 0:
                np.testing.assert_array_equal(values, all_of_them.values[row, place])
    other = encoder.patches(encoder.kept(views, range(6), 6, seed=4))
    assert (other.places != few.places).any()


# --- the detector


def test_a_detector_finds_a_part_that_does_not_belong_and_comes_back(
    tiny: TinyNetwork, tmp_path: Path
) -> None:
    usual = tensors(160).numpy()
    detector = Detector("lite0", size=64, parts=True).fit(usual)
    new = tensors(40, seed=1).numpy()
    odd = new.copy()
    odd[:, :, 40:52, 12:24] = 255 * (np.indices((12, 12)).sum(0) % 2)
    found = detector.explain(odd)
    assert found.of == "patch_nll"
    hottest = [np.unravel_index(np.nanargmax(each), each.shape) for each in found.maps]
    near = [36 <= row < 56 and 8 <= column < 28 for row, column in hottest]
    assert np.mean(near) > 0.9
    seen = detector.model.view(torch.from_numpy(odd))
    by_place = detector.model.scorer.parts.maps(detector.model.encoder.patches(seen))
    np.testing.assert_array_equal(found.peaks, by_place["patch_nll"].max(1).values)
    for name, values in detector.score(odd).statistics.items():
        np.testing.assert_array_equal(found.scores.statistics[name], values)
    usual_p = detector.explain(new).p_value
    assert found.p_value.mean() < 0.5 * usual_p.mean()

    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    for name, values in loaded.score(odd).statistics.items():
        np.testing.assert_array_equal(values, detector.score(odd).statistics[name])
    again = loaded.explain(odd)
    np.testing.assert_array_equal(again.peaks, found.peaks)
    np.testing.assert_array_equal(again.usual, found.usual)


def test_of_photos_parts_are_seen_unasked_and_of_small_images_not(tiny: TinyNetwork) -> None:
    large = Detector(epochs=1).fit(tensors(120, 72, 72).numpy())
    assert large.settings.options["parts"] is True
    assert set(PARTS) < set(large.statistics)
    small = Detector(epochs=1).fit(tensors(120, 40, 40).numpy())
    assert small.settings.options["parts"] is False
    assert not set(PARTS) & set(small.statistics)


def test_without_parts_there_are_no_statistics_of_them(tiny: TinyNetwork) -> None:
    detector = Detector("lite0", size=64, parts=False).fit(tensors(120).numpy())
    assert not any(name.startswith("patch") for name in detector.statistics)
    found = detector.explain(tensors(3, seed=1).numpy())
    assert found.of == "gradient of fused"
    assert [each.shape for each in found.maps] == [(64, 64)] * 3


def test_the_reflection_around_an_image_counts_for_no_part_of_it(tiny: TinyNetwork) -> None:
    detector = Detector("lite0", size=64, seed=1, parts=True).fit(tensors(120).numpy())
    image = tensors(1, seed=2).numpy()
    box = [Box(16, 0, 32, 64)]
    other = image.copy()
    other[:, :, 60:] = 255 - other[:, :, 60:]  # far from the box: the network is a local one
    one = detector.score_pixels(image, box).statistics
    two = detector.score_pixels(other, box).statistics
    for name in PARTS:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-6)
    assert detector.score_pixels(image).statistics["patch_nll"] != one["patch_nll"]


def test_parts_are_refused_where_there_are_none() -> None:
    with mistake("bad-option", "parts"):
        Detector("pca", parts=True).fit(np.zeros((120, 8, 8), np.uint8))
    with mistake("bad-option", "parts"):
        Detector("pca", statistic="patch_mass").fit(np.zeros((120, 8, 8), np.uint8))
    with mistake("bad-option", "parts"):
        Detector(parts="some")  # type: ignore[arg-type]


def test_a_spool_gives_back_what_was_put_in_any_order() -> None:
    rows = torch.arange(70.0).view(10, 7)
    with Spool() as spool:
        for place in (3, 9, 0, 1, 2, 8, 7, 4, 6, 5):
            spool.put([place], rows[place : place + 1])
        spool.put([], rows[:0])
        found = list(spool.chunks(4))
    assert [len(each) for each in found] == [4, 4, 2]
    np.testing.assert_array_equal(torch.cat(found), rows)
