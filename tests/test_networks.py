"""Networks of transformers and of timm as encoders, without a download."""

import contextlib
import io
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from approxmass import Detector
from approxmass.data.frame import Frame, box_in
from approxmass.encoders import PooledEncoder, network
from approxmass.models.flow import FlowModel
from approxmass.runtime import extras
from approxmass.storage import artifact
from conftest import mistake, unsquashed

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIDE = 32


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests have kept is not this one's."""
    monkeypatch.setenv("APPROXMASS_CACHE", str(tmp_path / "cache"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers prints."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def vit(folder: Path, seed: int = 0) -> str:
    """A small vision transformer with random weights, and its processor; its name."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=SIDE,
        patch_size=8,
    )
    processor = transformers.ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD, resample=3
    )
    with quiet():
        transformers.ViTModel(config).save_pretrained(folder)
        processor.save_pretrained(folder)
    return f"hf:{folder}"


def convolutional(folder: Path) -> str:
    """As `vit`: a small ResNet, with a processor that cuts out the middle."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 10, 12, 14], depths=[1, 1, 1, 1], layer_type="basic"
    )
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 72},
        crop_size={"height": 64, "width": 64},
        image_mean=MEAN,
        image_std=STD,
        resample=2,
    )
    with quiet():
        transformers.ResNetModel(config).save_pretrained(folder)
        processor.save_pretrained(folder)
    return f"hf:{folder}"


def photos(count: int, height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    """Colour images `(count, height, width, 3)` of coarse noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((width, height))) for c in coarse])


def tensors(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def pooled(maps: list[Tensor], summary: Tensor) -> np.ndarray:
    """Views written out: means, deviations of the last two maps, and the summary."""
    arrays = [each.double().numpy() for each in maps]
    means = [each.mean((2, 3)) for each in arrays]
    deviations = [each.std((2, 3)) for each in arrays[-2:]]
    return np.concatenate([*means, *deviations, summary.double().numpy()], 1)


@torch.no_grad()
def test_views_of_a_transformer_are_of_its_states_on_the_pixels_of_its_processor(
    tmp_path: Path,
) -> None:
    transformers = pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    found = network(name)
    assert (found.name, found.side, found.square, found.resample) == (name, SIDE, True, "bicubic")
    assert found.widths == (16, 16, 16, 16)
    encoder = PooledEncoder(found)
    images = photos(6, SIDE, SIDE)
    views = encoder.view(tensors(images))
    assert views.shape == (6, 16 * 6)
    assert encoder.dimension == 16 * 5

    model = transformers.ViTModel.from_pretrained(tmp_path / "m").eval()
    processor = transformers.ViTImageProcessor.from_pretrained(tmp_path / "m")
    pixels = processor(images=list(images), return_tensors="pt", do_resize=False)
    out = model(**pixels, output_hidden_states=True)
    # Of five states those in the middle, at three quarters and at the end; the class stands first.
    maps = [out.hidden_states[i][:, 1:].mT.reshape(6, 16, 4, 4) for i in (2, 3, 4)]
    np.testing.assert_allclose(views.numpy(), pooled(maps, out.pooler_output), rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(found(tensors(images).float() / 255), maps, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_views_of_a_convolutional_network_are_of_its_stages(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    found = network(convolutional(tmp_path / "m"))
    assert (found.side, found.resample) == (64, "bilinear")  # what its processor cuts out
    assert found.widths == (10, 12, 14, 14)
    images = photos(5, 64, 64)
    views = PooledEncoder(found).view(tensors(images))
    model = transformers.ResNetModel.from_pretrained(tmp_path / "m").eval()
    mean, std = (torch.tensor(of).reshape(1, 3, 1, 1) for of in (MEAN, STD))
    out = model((tensors(images) / 255 - mean) / std, output_hidden_states=True)
    expected = pooled(list(out.hidden_states[2:]), out.pooler_output.flatten(1))
    np.testing.assert_allclose(views.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("make", [vit, convolutional])
def test_a_view_depends_on_its_image_alone_to_the_bit(make: Any, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    encoder = PooledEncoder(network(make(tmp_path / "m")))
    images = tensors(photos(7, encoder.network.side, encoder.network.side))
    views = encoder.view(images)
    assert torch.equal(encoder.view(images.flip(0)).flip(0), views)
    for i in (0, 6):
        assert torch.equal(encoder.view(images[i : i + 1]), views[i : i + 1])


def test_a_detector_is_saved_without_the_weights_and_comes_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    detector = Detector(name, epochs=1).fit(photos(120))
    assert detector.shape == (3, SIDE, SIDE)
    assert detector.settings.options["encoder"] == name
    new = photos(9, 50, 20, seed=1)
    scores = detector.score(new)
    assert scores.statistics.keys() >= {"nll", "mass", "residual", "neighbour", "fused"}

    # Images are brought to the square with the resampling of the processor, unsquashed.
    assert detector.open(new).frame == Frame(SIDE, SIDE, "bicubic")
    framed = [unsquashed(Image.fromarray(i), SIDE, SIDE, Image.Resampling.BICUBIC) for i in new]
    boxes = [box_in(50, 20, Frame(SIDE, SIDE))] * len(new)
    pixels = np.stack(framed).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(scores.statistic, detector.score_pixels(pixels, boxes).statistic)

    detector.save(tmp_path / "d")
    loaded = Detector.load(tmp_path / "d")
    for statistic, values in loaded.score(new).statistics.items():
        np.testing.assert_array_equal(values, scores.statistics[statistic])
    assert isinstance(loaded.model, FlowModel)
    assert not any("network" in part for part in loaded.model.state())
    written = b"".join(path.read_bytes() for path in (tmp_path / "d").iterdir())
    model = transformers.ViTModel.from_pretrained(tmp_path / "m")
    for part, weight in model.named_parameters():
        if weight.numel() > 64 and weight.any():
            assert weight.detach().numpy().tobytes() not in written, part
    assert len(loaded.explain(new[:2]).maps) == 2


def test_other_weights_in_the_same_folder_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    Detector(name, epochs=1).fit(photos(120)).save(tmp_path / "d")
    vit(tmp_path / "m", seed=1)
    with mistake("wrong-encoder", "other weights"):
        Detector.load(tmp_path / "d")
    vit(tmp_path / "m")
    Detector.load(tmp_path / "d")


def test_another_input_of_the_same_weights_is_refused(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    Detector(name, epochs=1).fit(photos(120)).save(tmp_path / "d")
    size = {"height": SIDE, "width": SIDE}
    with quiet():
        transformers.ViTImageProcessor(
            size=size, image_mean=MEAN, image_std=(0.5, 0.5, 0.5), resample=3
        ).save_pretrained(tmp_path / "m")
    with mistake("wrong-encoder"):
        Detector.load(tmp_path / "d")


def test_a_saved_detector_whose_network_is_gone_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    Detector(name, epochs=1).fit(photos(120)).save(tmp_path / "d")
    (tmp_path / "m").rename(tmp_path / "elsewhere")
    (tmp_path / "m").mkdir()
    with mistake("bad-source", "cannot be had"):  # it is not the detector that is damaged
        Detector.load(tmp_path / "d")


def test_a_network_of_one_size_takes_no_other(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    name = vit(tmp_path / "m")
    with mistake("bad-option", "leave the size out"):
        Detector(name, epochs=1, size=64).fit(photos(120))
    grey = Detector(name, epochs=1, size=SIDE).fit(photos(120)[..., 0])
    assert grey.shape == (1, SIDE, SIDE)


def test_what_is_no_vision_model_is_one_line(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "empty").mkdir()
    with mistake("bad-source", "cannot be had"):
        network(f"hf:{tmp_path / 'empty'}")
    config = transformers.BertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        vocab_size=9,
    )
    with quiet():
        transformers.BertModel(config).save_pretrained(tmp_path / "text")
    with mistake("bad-source", "cannot be had"):
        network(f"hf:{tmp_path / 'text'}")
    vit(tmp_path / "m")
    with quiet():  # the words of a model that sees images, and a processor of one
        transformers.BertModel(config).save_pretrained(tmp_path / "m")
    with mistake("bad-option", "give it as a module"):
        network(f"hf:{tmp_path / 'm'}")


class Stages(nn.Module):
    """What a model of timm has."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        widths = (3, 4, 5, 6, 7)
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.pretrained_cfg = {
            "input_size": (3, 40, 40),
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
        }

    def forward_intermediates(
        self, x: Tensor, *, indices: int, output_fmt: str
    ) -> tuple[Tensor, list[Tensor]]:
        """The last features, and the maps of the last stages."""
        assert output_fmt == "NCHW"
        maps = []
        for stage in self.stages:
            x = stage(x).tanh()
            maps.append(x)
        return 2 * x, maps[-indices:]

    def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor:
        """The summary."""
        assert pre_logits
        return x.mean((2, 3))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for the library."""
    module = ModuleType("timm")
    module.__spec__ = ModuleSpec("timm", None)
    module.asked = []  # type: ignore[attr-defined]

    def create_model(name: str, **options: object) -> Stages:
        module.asked.append((name, options))
        if name == "missing":
            raise RuntimeError("Unknown model (missing)\nand more")
        return Stages()

    module.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@torch.no_grad()
def test_views_of_a_model_of_timm(timm: ModuleType) -> None:
    found = network("timm:some.model")
    assert timm.asked == [("some.model", {"pretrained": True, "num_classes": 0})]
    assert (found.name, found.side, found.square) == ("timm:some.model", 40, True)
    assert (found.resample, found.widths) == ("bicubic", (5, 6, 7, 7))
    images = tensors(photos(5, 40, 40))
    views = PooledEncoder(found).view(images)
    mean, std = (torch.tensor(of).reshape(1, 3, 1, 1) for of in (MEAN, STD))
    y, maps = (images / 255 - mean) / std, []
    for stage in Stages().stages:
        assert isinstance(stage, nn.Conv2d)
        y = F.conv2d(y, stage.weight, stage.bias, stride=2, padding=1).tanh()
        maps.append(y)
    expected = pooled(maps[1:], 2 * y.mean((2, 3)))
    np.testing.assert_allclose(views.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_detector_on_a_model_of_timm_comes_back(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector("timm:some", epochs=1).fit(photos(120))
    assert detector.open(photos(1)).frame == Frame(40, 40, "bicubic")
    detector.save(tmp_path / "d")
    _, saved = artifact.load_folder(tmp_path / "d")
    assert not any("stages" in name or "network" in name for name in saved["weights"])
    new = photos(9, seed=1)
    loaded = Detector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.score(new).statistic, detector.score(new).statistic)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: Stages(seed=1))
    with mistake("wrong-encoder", "other weights"):
        Detector.load(tmp_path / "d")


def test_a_model_of_timm_that_cannot_be_had_or_used_is_one_line(
    timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mistake("bad-source", "Unknown model (missing)"):
        network("timm:missing")
    monkeypatch.delattr(Stages, "forward_intermediates")
    with mistake("bad-option", "gives no intermediate maps"):
        network("timm:some")


def test_an_input_that_is_not_understood_is_one_line(
    timm: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd: list[dict[str, Any]] = [
        {"interpolation": "nearest"},
        {"mean": None},
        {"input_size": (None,)},
    ]
    for facts in odd:
        model = Stages()
        model.pretrained_cfg |= facts
        monkeypatch.setattr(timm, "create_model", lambda name, model=model, **options: model)
        with mistake("bad-option", "does not say what input it wants"):
            network("timm:some")


@pytest.mark.parametrize("library", ["transformers", "timm"])
def test_a_library_that_is_missing_is_named(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "hf:some/model" if library == "transformers" else "timm:some"
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with mistake("missing-library", f"pip install {library}"):
        Detector(name).fit(photos(120))


def test_a_detector_whose_library_is_missing_says_so(
    timm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Detector("timm:some", epochs=1).fit(photos(120)).save(tmp_path / "d")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with mistake("missing-library", "pip install timm"):
        Detector.load(tmp_path / "d")


@pytest.mark.parametrize("error", ["RuntimeError", "ImportError"])
def test_timm_that_does_not_import_is_one_line(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm").mkdir()
    program = f"raise {error}('operator torchvision::nms does not exist')\n"
    (tmp_path / "timm" / "__init__.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [each for each in sys.modules if each.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    with mistake("missing-library", "does not import here"):
        network("timm:some")


def test_the_real_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs timm, which does not import: {error}")
    create = timm.create_model

    def untrained(name: str, **options: Any) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = create(name, **{**options, "pretrained": False})
        return model

    monkeypatch.setattr(timm, "create_model", untrained)
    for name in ("resnet10t", "vit_tiny_patch16_224"):
        found = network(f"timm:{name}")
        side = found.side
        encoder = PooledEncoder(found)
        views = encoder.view(tensors(photos(2, side, side)))
        assert views.shape == (2, encoder.dimension + found.widths[-1])
        assert views.isfinite().all()
