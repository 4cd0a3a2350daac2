import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn

from approxmass.encoders.pixels import PixelEncoder
from approxmass.encoders.whitened import WhitenedEncoder
from approxmass.storage.tensors import load_exactly
from conftest import mistake


def fitted(encoder: WhitenedEncoder, images: torch.Tensor) -> WhitenedEncoder:
    encoder.fit_transform(encoder.view(images))
    return encoder


def whiten(encoder: WhitenedEncoder, x: torch.Tensor) -> torch.Tensor:
    """The codes of a fit on what the encoder keeps of images."""
    return encoder.fit_transform(encoder.view(x))


def images(n: int = 600, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(20, side * side, generator=generator)
    flat = 0.5 + 0.03 * torch.randn(n, 20, generator=generator) @ mix
    noise = 0.02 * torch.randn(n, side * side, generator=generator)
    return (flat + noise).clamp(0, 1).view(n, 1, side, side)


def test_code_of_the_training_images_is_white() -> None:
    x = images()
    code = fitted(WhitenedEncoder(15), x)(x)
    assert code.shape == (600, 16)
    torch.testing.assert_close(code.mean(0), torch.zeros(16), rtol=0, atol=1e-3)
    torch.testing.assert_close(code.std(0), torch.ones(16), rtol=0, atol=2e-3)
    coefficients = code[:, :15]
    correlation = coefficients.T @ coefficients / 599
    torch.testing.assert_close(correlation, torch.eye(15), rtol=0, atol=2e-3)


def test_components_are_those_of_scikit_learn_and_the_residual_is_what_is_left() -> None:
    x = images()
    flat = x.flatten(1).double().numpy()
    pca = PCA(10, whiten=True, svd_solver="full").fit(flat)
    encoder = fitted(WhitenedEncoder(10), x)
    code = encoder(x).double().numpy()
    expected = pca.transform(flat)
    sign = np.sign((code[:, :10] * expected).sum(0))
    np.testing.assert_allclose(code[:, :10] * sign, expected, atol=2e-2)
    energy = np.log(((flat - pca.inverse_transform(expected)) ** 2).sum(1))
    np.testing.assert_allclose(
        code[:, 10], (energy - energy.mean()) / energy.std(ddof=1), atol=2e-2
    )


def test_a_gradient_reaches_the_pixels_and_is_the_true_one() -> None:
    x = images()
    encoder = fitted(WhitenedEncoder(10), x).double()
    probe = x[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(encoder, (probe,), atol=1e-4)


def test_uint8_and_floats_fit_alike() -> None:
    as_bytes = (images() * 255).round().to(torch.uint8)
    floats = as_bytes.float() / 255
    first, second = fitted(WhitenedEncoder(10), as_bytes), fitted(WhitenedEncoder(10), floats)
    assert torch.equal(first(floats), second(floats))


def test_an_image_inside_the_subspace_has_a_finite_code_and_gradient() -> None:
    x = images()
    encoder = fitted(WhitenedEncoder(10), x)
    mean = encoder.mean.view(1, 1, 8, 8).clone().requires_grad_()
    code = encoder(mean)
    (gradient,) = torch.autograd.grad(code.sum(), mean)
    assert code.isfinite().all()
    assert gradient.isfinite().all()


def test_directions_without_variance_are_left_out() -> None:
    x = images()
    x[:, :, :4] = 0.5  # half of the pixels never change
    encoder = fitted(WhitenedEncoder(60), x)
    assert encoder.dimension == 32 + 1
    assert encoder(x).abs().max() < 20
    x[0, 0, 0, 0] = 0.9  # where nothing ever changed, a change stands out in the residual
    assert encoder(x[:1])[0, -1] > 100


def test_few_images_keep_few_components() -> None:
    assert fitted(WhitenedEncoder(60), images(100)).dimension == 20 + 1


def test_features_of_any_module_are_whitened() -> None:
    x = images()
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 12))
    encoder = fitted(WhitenedEncoder(12, features), x)
    code = encoder(x)
    assert code.shape == (600, 12)  # every direction is kept: nothing is left for a residual
    torch.testing.assert_close(code.T @ code / 599, torch.eye(12), rtol=0, atol=1e-2)
    probe = x[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(encoder(probe).sum(), probe)
    assert gradient.abs().sum() > 0
    # the module of the caller stays as it was
    assert all(p.requires_grad for p in features.parameters())
    assert features.training


def test_pixels_are_left_alone() -> None:
    x = images(3)
    encoder = PixelEncoder((1, 8, 8))
    assert encoder.dimension == 64
    assert encoder(x) is x


def test_mistakes_are_named() -> None:
    with mistake("no-variation"):
        fitted(WhitenedEncoder(), torch.full((50, 1, 4, 4), 0.3))
    with mistake("no-variation"):
        fitted(WhitenedEncoder(), torch.full((200, 1, 64, 64), 7, dtype=torch.uint8))
    with mistake("too-few"):
        fitted(WhitenedEncoder(), images(9))
    with mistake("bad-image"):
        fitted(WhitenedEncoder(4, nn.Threshold(2.0, float("nan"))), images())


def test_the_codes_of_a_fit_are_those_of_the_encoder() -> None:
    for features in (None, nn.Sequential(nn.Flatten(), nn.Linear(64, 12))):
        encoder = WhitenedEncoder(9, features)
        views = encoder.view(images())
        codes = encoder.fit_transform(views)
        torch.testing.assert_close(codes, encoder(images()), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoder.codes(views), codes, rtol=1e-5, atol=1e-5)


def test_a_view_is_the_image_itself_or_the_features_of_a_module() -> None:
    x = (255 * images(20)).round().to(torch.uint8)
    for encoder in (PixelEncoder((1, 8, 8)), WhitenedEncoder(3)):
        assert encoder.view(x) is x
        assert encoder.view_digest is None
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    views = WhitenedEncoder(3, module).view(x)
    torch.testing.assert_close(views, module(x.float() / 255).flatten(1))
    assert (views.dtype, views.requires_grad) == (torch.float32, False)


class Counting(nn.Module):
    """Features that count the images they are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.weight = nn.Parameter(torch.randn(64, 12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        return x.flatten(1) @ self.weight


def test_in_a_fit_every_image_goes_through_the_module_once_in_batches_of_one_size() -> None:
    encoder = WhitenedEncoder(5, Counting())
    whiten(encoder, images(2500))
    assert isinstance(encoder.module, Counting)
    assert encoder.module.rows == [64] * 40  # of which 60 rows are copies, so that no batch differs


PROCESS = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
from test_encoders import Counting, images, whiten
from approxmass.encoders import WhitenedEncoder
from approxmass.runtime.machine import end_processes, is_main_process, shared_by_processes
torch.manual_seed(0)
encoder = WhitenedEncoder(5, Counting())
with shared_by_processes():
    codes = whiten(encoder, images(1001))
rows = torch.tensor(sum(encoder.module.rows))
torch.distributed.all_reduce(rows)
assert sum(encoder.module.rows) == 512  # 500 or 501 in batches of 64
if is_main_process():
    torch.save({{"codes": codes, "rows": rows}}, {result!r})
end_processes()
"""


def test_of_two_processes_each_encodes_its_share(tmp_path: Path) -> None:
    script, result = tmp_path / "worker.py", tmp_path / "codes.pt"
    script.write_text(PROCESS.format(tests=str(Path(__file__).parent), result=str(result)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    subprocess.run([*command, str(script)], env=environment, check=True, timeout=120)
    found = torch.load(result, weights_only=True)
    assert found["rows"] == 1024
    torch.manual_seed(0)
    alone = whiten(WhitenedEncoder(5, Counting()), images(1001))
    torch.testing.assert_close(found["codes"], alone, rtol=1e-4, atol=1e-4)


def test_what_was_learnt_is_in_the_state_and_comes_back() -> None:
    encoder = fitted(WhitenedEncoder(10), images())
    other = WhitenedEncoder(10)
    load_exactly(other, encoder.state_dict())
    assert torch.equal(other(images()), encoder(images()))
    assert other.names == [*map(str, range(1, 11)), "residual"]


def test_print_says_what_it_is() -> None:
    assert "not fitted" in repr(WhitenedEncoder())
    assert "dimension=11" in repr(fitted(WhitenedEncoder(10), images()))
    assert repr(PixelEncoder((1, 8, 8))) == "PixelEncoder(shape=(1, 8, 8))"
