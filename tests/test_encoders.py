import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from approxmass import ApproxMassError
from approxmass.encoders import PixelEncoder, WhitenedEncoder


def images(n: int = 600, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(20, side * side, generator=generator)
    flat = 0.5 + 0.03 * torch.randn(n, 20, generator=generator) @ mix
    noise = 0.02 * torch.randn(n, side * side, generator=generator)
    return (flat + noise).clamp(0, 1).view(n, 1, side, side)


def test_code_of_the_training_images_is_white() -> None:
    x = images()
    code = WhitenedEncoder(15).fit(x)(x)
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
    encoder = WhitenedEncoder(10).fit(x)
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
    encoder = WhitenedEncoder(10).fit(x).double()
    probe = x[:2].double().requires_grad_()
    assert torch.autograd.gradcheck(encoder, (probe,), atol=1e-4)


def test_uint8_and_floats_fit_alike() -> None:
    as_bytes = (images() * 255).round().to(torch.uint8)
    floats = as_bytes.float() / 255
    first, second = WhitenedEncoder(10).fit(as_bytes), WhitenedEncoder(10).fit(floats)
    assert torch.equal(first(floats), second(floats))


def test_an_image_inside_the_subspace_has_a_finite_code_and_gradient() -> None:
    x = images()
    encoder = WhitenedEncoder(10).fit(x)
    mean = encoder.mean.view(1, 1, 8, 8).clone().requires_grad_()
    code = encoder(mean)
    (gradient,) = torch.autograd.grad(code.sum(), mean)
    assert code.isfinite().all()
    assert gradient.isfinite().all()


def test_directions_without_variance_are_left_out() -> None:
    x = images()
    x[:, :, :4] = 0.5  # half of the pixels never change
    encoder = WhitenedEncoder(60).fit(x)
    assert encoder.dimension == 32 + 1
    assert encoder(x).abs().max() < 20
    x[0, 0, 0, 0] = 0.9  # where nothing ever changed, a change stands out in the residual
    assert encoder(x[:1])[0, -1] > 100


def test_few_images_keep_few_components() -> None:
    assert WhitenedEncoder(60).fit(images(100)).dimension == 20 + 1


def test_features_of_any_module_are_whitened() -> None:
    x = images()
    features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 12))
    encoder = WhitenedEncoder(12, features).fit(x)
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
    with pytest.raises(ApproxMassError, match="all images are the same"):
        WhitenedEncoder().fit(torch.full((50, 1, 4, 4), 0.3))
    with pytest.raises(ApproxMassError, match="all images are the same"):
        WhitenedEncoder().fit(torch.full((200, 1, 64, 64), 7, dtype=torch.uint8))
    with pytest.raises(ApproxMassError, match="at least 10 images"):
        WhitenedEncoder().fit(images(9))
    with pytest.raises(ApproxMassError, match="NaN or infinite"):
        WhitenedEncoder(4, nn.Threshold(2.0, float("nan"))).fit(images())
