"""In-distribution photos altered in a place or as a whole: outliers to choose settings on."""

__all__ = ["ALTERATIONS"]

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Alteration = Callable[[Image.Image, Image.Image, np.random.Generator], Image.Image]


def _corner(
    image: Image.Image, width: int, height: int, rng: np.random.Generator
) -> tuple[int, int]:
    return (
        int(rng.integers(0, max(1, image.width - width + 1))),
        int(rng.integers(0, max(1, image.height - height + 1))),
    )


def _paste(low: float, high: float) -> Alteration:
    """A patch of another image of the set, with sides of these shares of the short side."""

    def alter(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
        short = min(*image.size, *other.size)
        width, height = (max(4, int(short * rng.uniform(low, high))) for _ in range(2))
        x, y = _corner(other, width, height, rng)
        altered = image.copy()
        altered.paste(other.crop((x, y, x + width, y + height)), _corner(image, width, height, rng))
        return altered

    return alter


def _scratch(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A thin crooked line, in a colour of another image or its opposite."""
    pixels = np.asarray(other).reshape(-1, 3)
    colour = pixels[rng.integers(len(pixels))].astype(int)
    if rng.random() < 0.5:
        colour = 255 - colour
    short, angle = min(image.size), rng.uniform(0, 2 * np.pi)
    x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
    points = [(x, y)]
    for _ in range(rng.integers(3, 7)):
        angle += rng.normal(0, 0.4)
        x, y = x + np.cos(angle) * short * 0.08, y + np.sin(angle) * short * 0.08
        points.append((x, y))
    altered = image.copy()
    fill = (int(colour[0]), int(colour[1]), int(colour[2]))
    ImageDraw.Draw(altered).line(points, fill=fill, width=max(1, round(short / 100)))
    return altered


def _stain(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A soft round patch of one grey."""
    radius = min(image.size) * rng.uniform(0.06, 0.15)
    x = rng.uniform(radius, image.width - radius)
    y = rng.uniform(radius, image.height - radius)
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=200)
    mask = mask.filter(ImageFilter.GaussianBlur(radius / 4))
    grey = int(rng.integers(0, 256))
    return Image.composite(Image.new("RGB", image.size, (grey, grey, grey)), image, mask)


def _local_blur(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A square of 30 to 50% of the short side, out of focus."""
    side = int(min(image.size) * rng.uniform(0.3, 0.5))
    x, y = _corner(image, side, side, rng)
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (x, y, x + side, y + side))
    return Image.composite(
        image.filter(ImageFilter.GaussianBlur(min(image.size) / 40)), image, mask
    )


def _blend(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Half and half with another image."""
    return Image.blend(image, other.resize(image.size, Image.Resampling.BILINEAR), 0.5)


def _half(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One half from another image, upside down."""
    turned = other.resize(image.size, Image.Resampling.BILINEAR).rotate(180)
    width, height = image.size
    box = (0, 0, width // 2, height) if rng.random() < 0.5 else (0, 0, width, height // 2)
    altered = image.copy()
    altered.paste(turned.crop(box), (0, 0))
    return altered


def _cut_up(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Sixteen cells in another order."""
    width, height = image.width // 4, image.height // 4
    corners = [(i * width, j * height) for j in range(4) for i in range(4)]
    altered = image.copy()
    for corner, k in zip(corners, rng.permutation(16), strict=True):
        x, y = corners[k]
        altered.paste(image.crop((x, y, x + width, y + height)), corner)
    return altered


def _swirl(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned about a point, most in the middle."""
    pixels = np.asarray(image)
    rows, columns = np.mgrid[0 : image.height, 0 : image.width]
    x, y = rng.uniform(0.3, 0.7) * image.width, rng.uniform(0.3, 0.7) * image.height
    far = np.hypot(columns - x, rows - y) / (min(image.size) * 0.35)
    angle = 2 * np.clip(1 - far, 0, 1)
    right, down = columns - x, rows - y
    from_x = x + right * np.cos(angle) - down * np.sin(angle)
    from_y = y + right * np.sin(angle) + down * np.cos(angle)
    return Image.fromarray(
        pixels[
            np.clip(from_y, 0, image.height - 1).astype(int),
            np.clip(from_x, 0, image.width - 1).astype(int),
        ]
    )


def _noise(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Noise of 20 levels on a square of a third of the short side."""
    side = min(image.size) // 3
    x, y = _corner(image, side, side, rng)
    pixels = np.asarray(image).astype(float)
    pixels[y : y + side, x : x + side] += rng.normal(0, 20, (side, side, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Other gains of red, green and blue on a square of 20 to 40% of the short side."""
    side = int(min(image.size) * rng.uniform(0.2, 0.4))
    x, y = _corner(image, side, side, rng)
    pixels = np.asarray(image).astype(float)
    pixels[y : y + side, x : x + side] *= rng.uniform(0.6, 1.4, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


ALTERATIONS: dict[str, Alteration] = {
    "small patch of another": _paste(0.12, 0.2),
    "large patch of another": _paste(0.25, 0.45),
    "scratch": _scratch,
    "stain": _stain,
    "blurred in a place": _local_blur,
    "blended with another": _blend,
    "half of another": _half,
    "cut up": _cut_up,
    "swirl": _swirl,
    "noise in a place": _noise,
    "other colours in a place": _colour,
}
