"""What several test files share."""

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import Phase, settings
from numpy.typing import NDArray
from PIL import Image

from approxmass import fitting
from approxmass.errors import ApproxMassError, Code

if TYPE_CHECKING:
    from selenium import webdriver

SHARED = Path(__file__).parents[2] / "shared" / "data"


# The tensors of the tests are small: more threads would only wait for each other.
torch.set_num_threads(1)

# Of `make mutants`: the same examples each time, and the first that fails is enough.
settings.register_profile(
    "mutants",
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
)


@contextmanager
def mistake(code: Code, words: str = "") -> Iterator[pytest.ExceptionInfo[ApproxMassError]]:
    """What happens within is refused as this kind of mistake, in one line with these words."""
    with pytest.raises(ApproxMassError) as info:
        yield info
    message = str(info.value)
    assert info.value.code == code, f"{info.value.code}: {message}"
    assert words in message
    assert "\n" not in message


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _one_fit() -> Iterator[None]:
    """Few images are held out all the same: tests of other things are quicker by one fit of four.

    `test_folds.py` undoes it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "few_left", lambda count, holdout: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks trained by the tests are not those of the user."""
    before = os.environ.get("APPROXMASS_CACHE")
    os.environ["APPROXMASS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["APPROXMASS_CACHE"]
    else:
        os.environ["APPROXMASS_CACHE"] = before


@dataclass
class Window:
    """A headless browser, its size and its colours."""

    driver: "webdriver.Chrome"
    width: int
    dark: bool

    def open(self, address: str) -> None:
        """Open a page."""
        self.driver.get(address)

    def run(self, script: str) -> Any:
        """What a piece of JavaScript returns."""
        return self.driver.execute_script(script)

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < until, f"not within {seconds} s: {condition}"
            time.sleep(0.05)

    def check(self) -> None:
        """No error has been logged, and nothing is wider than the window."""
        assert self.driver.get_log("browser") == []
        assert self.run("return document.documentElement.scrollWidth") <= self.width


@pytest.fixture(scope="session")
def browser() -> "Iterator[webdriver.Chrome]":
    """Debian's Chromium without a window; its tests are skipped where it is absent."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    # No sandbox: it needs rights that containers do not have.
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield made
    made.quit()


def show(browser: "webdriver.Chrome", width: int, dark: bool) -> None:
    """Give a browser the width of a desk's or, below 600, a phone's, by day or by night."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    # What was logged before is another test's.
    browser.get_log("browser"), browser.get_log("performance")


@pytest.fixture(
    params=[(1280, False), (1280, True), (390, True)],
    ids=["desktop", "desktop-dark", "phone-dark"],
)
def window(browser: "webdriver.Chrome", request: pytest.FixtureRequest) -> Window:
    """A browser on a desk by day and by night, and on a phone."""
    width, dark = request.param
    show(browser, width, dark)
    return Window(browser, width, dark)


def textures(n: int, side: int = 12, *, shift: float = 0.0, seed: int = 0) -> NDArray[np.uint8]:
    """Grey images `(n, side, side)` with smooth structure; `shift` > 0 makes them another kind."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    phase = generator.uniform(0, 2 * np.pi, (n, 1, 1))
    angle = generator.normal(0.3 + shift, 0.2, (n, 1, 1))
    wave = np.sin(4 * np.pi * (np.cos(angle) * rows + np.sin(angle) * columns) + phase)
    noisy = 128 + 70 * wave + generator.normal(0, 8, (n, side, side))
    return noisy.clip(0, 255).astype(np.uint8)


def unsquashed(
    image: Image.Image,
    height: int,
    width: int,
    resample: Image.Resampling = Image.Resampling.BILINEAR,
) -> NDArray[np.uint8]:
    """An image in a frame, by Pillow and NumPy: scaled, in its middle, then reflected outwards."""
    h, w = image.height, image.width
    if height * w <= width * h:  # it is as high as the frame, or as wide
        inside = height, max(1, min(width, round(Fraction(height * w, h))))
    else:
        inside = max(1, min(height, round(Fraction(width * h, w)))), width
    pixels = np.asarray(image.resize(inside[::-1], resample))
    free = [(all_ - used) for all_, used in zip((height, width), inside, strict=True)]
    around = [(n // 2, n - n // 2) for n in free] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, around, mode="reflect")


def two_classes(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `(n, 12, 12)` of two directions of stripes, and which is which."""
    images = [textures(n // 2, shift=shift, seed=seed + i) for i, shift in enumerate((0.0, 1.5))]
    order = np.random.default_rng(seed).permutation(n)
    return np.concatenate(images)[order], np.repeat([0, 1], n // 2)[order]


def write_images(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """A Parquet file as the sets of the catalogue are: PNGs in `image`, and `label`."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": encoded, "label": labels}), path)
