"""The page of the server, used as a person does, in a browser without a window."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from approxmass import Detector, open_images
from approxmass.serve import create_app
from conftest import show, two_classes

TOKEN = "correct-horse"
WIDTHS = [1280, 390]


@contextmanager
def served(detector: Detector, token: str | None = None) -> Iterator[str]:
    """Address of the application in a thread."""
    config = uvicorn.Config(create_app(detector, token=token), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def fashion() -> Detector:
    return Detector(epochs=4).fit(open_images("sample:fashion_mnist/train").read()[:3000])


@pytest.fixture(scope="module")
def address(fashion: Detector) -> Iterator[str]:
    with served(fashion) as url:
        yield url


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An image that belongs, one that does not, one of the wrong size and one that is none."""
    folder = tmp_path_factory.mktemp("images")
    for name, source in (("boot", "sample:fashion_mnist/test"), ("digit", "sample:mnist")):
        Image.fromarray(open_images(source).read()[0, 0]).save(folder / f"{name}.png")
    Image.new("L", (40, 30)).save(folder / "large.png")
    (folder / "broken.png").write_bytes(b"not an image")
    return {path.stem: str(path) for path in folder.iterdir()}


class Page:
    """The page at one width."""

    def __init__(self, browser: webdriver.Chrome, url: str, width: int, scheme: str) -> None:
        self.browser, self.url = browser, url
        show(browser, width, scheme == "dark")
        browser.get(url)
        browser.execute_script("sessionStorage.clear()")
        self.until(lambda: self.text("#detector"))

    def until(self, true: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, 20, 0.05).until(lambda _: true())

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.all(selector)[0].text

    def script(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def choose(self, *paths: str) -> None:
        self.all("#files")[0].send_keys("\n".join(paths))

    def verdicts(self) -> list[str]:
        self.until(lambda: self.all(".card") and not self.all(".waiting"))
        return [each.text for each in self.all(".verdict")]

    def complaints(self) -> list[str]:
        """What the console holds against the page, and requests to anywhere else."""
        severe = [e["message"] for e in self.browser.get_log("browser") if e["level"] == "SEVERE"]
        asked = [
            entry["message"].partition('"url":"')[2].partition('"')[0]
            for entry in self.browser.get_log("performance")
            if '"method":"Network.requestWillBeSent"' in entry["message"]
        ]
        assert asked
        own = (self.url, "blob:", "data:")
        return severe + [url for url in asked if not url.startswith(own)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_two_images(
    width: int, scheme: str, browser: webdriver.Chrome, address: str, files: dict[str, str]
) -> None:
    page = Page(browser, address, width, scheme)
    assert page.text("#detector") == "grey images, 28\u00d728 · method flow"
    page.choose(files["boot"], files["digit"])
    assert page.verdicts() == ["Seems to belong", "Does not belong"]
    assert [each.text for each in page.all(".file")] == ["boot.png", "digit.png"]
    assert page.text("#summary") == "1 does not belong, 1 seems to belong"
    for words in page.all(".why"):
        assert "of the 225 images of the fit that were held out" in words.text
        assert "the chance of a score at least this high would be" in words.text
    page.until(lambda: len(page.all(".heat img")) == 2)
    for selector in (".own img", ".heat img"):
        widths = page.script(
            f"[...document.querySelectorAll('{selector}')].map(i => i.naturalWidth)"
        )
        assert len(widths) == 2
        assert min(widths) > 0
    for card in page.all(".card"):
        browser.execute_script("arguments[0].scrollIntoView()", card)
        page.until(lambda card=card: card.find_elements(By.CSS_SELECTOR, ".chart svg"))
    # The charts: the bars, and the mark, right of the threshold for the outlier alone.
    page.until(
        lambda: all("lies" in (c.get_attribute("aria-label") or "") for c in page.all(".chart"))
    )
    labels = [each.get_attribute("aria-label") for each in page.all(".chart")]
    assert ["before" in label for label in labels] == [True, False]
    for chart in page.all(".chart"):
        bars = chart.find_elements(By.CSS_SELECTOR, ".mark-rect.role-mark path")
        assert len(bars) > 20
        line, mark = (
            rule.rect["x"] for rule in chart.find_elements(By.CSS_SELECTOR, ".mark-rule line")[-2:]
        )
        assert (mark > line) == ("beyond" in (chart.get_attribute("aria-label") or ""))
    assert page.script("document.documentElement.scrollWidth <= innerWidth")
    assert page.complaints() == []
    page.all("#clear")[0].click()
    assert page.all(".card") == []
    assert page.script("document.activeElement.id") == "files"


def test_what_cannot_be_scored_says_why(
    browser: webdriver.Chrome, address: str, files: dict[str, str]
) -> None:
    page = Page(browser, address, 390, "light")
    page.choose(files["large"], files["broken"], files["boot"])
    assert page.verdicts() == ["Not scored", "Not scored", "Seems to belong"]
    first, second, _ = (each.text for each in page.all(".why"))
    needed = "what is needed is 28x28 grey: convert it to 28x28 grey."
    assert first == f"Image large.png is 40x30 grey, but {needed}"
    assert second.startswith("Image broken.png cannot be decoded")
    assert page.text("#summary") == "1 seems to belong, 2 not scored"
    assert page.script("document.documentElement.scrollWidth <= innerWidth")


def test_the_keyboard_is_enough(
    browser: webdriver.Chrome, address: str, files: dict[str, str]
) -> None:
    page = Page(browser, address, 1280, "light")
    keys = ActionChains(browser)
    keys.send_keys(Keys.TAB).perform()
    assert page.script("document.activeElement.id") == "files"
    ring = "getComputedStyle(document.querySelector('#files + label')).outlineStyle"
    assert page.script(ring) == "solid"
    page.choose(files["boot"])
    assert page.verdicts() == ["Seems to belong"]
    keys.send_keys(Keys.TAB).perform()
    assert page.script("document.activeElement.id") == "clear"
    keys.send_keys(Keys.ENTER).perform()
    assert page.all(".card") == []


def test_a_drop_and_a_paste(browser: webdriver.Chrome, address: str) -> None:
    page = Page(browser, address, 1280, "light")
    picture = """
      const canvas = new OffscreenCanvas(28, 28), done = arguments[arguments.length - 1];
      const drawing = canvas.getContext("2d");
      drawing.fillStyle = "orange";
      drawing.fillRect(5, 5, 9, 9);
      canvas.convertToBlob().then((blob) => {
        const data = new DataTransfer();
        data.items.add(new File([blob], "made.png", {type: "image/png"}));
        %s;
        done();
      });"""
    drop = 'dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}))'
    paste = 'dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}))'
    for i, event in enumerate((drop, paste), 1):
        browser.execute_async_script(picture % event)
        page.verdicts()
        assert len(page.all(".card")) == i
        # It is in colour: the server says what to do about it.
        assert "convert it to 28x28 grey" in page.text(".why")


def test_the_token_is_asked_for(
    browser: webdriver.Chrome, fashion: Detector, files: dict[str, str]
) -> None:
    with served(fashion, TOKEN) as url:
        page = Page(browser, url, 390, "dark")
        page.choose(files["boot"])
        ask = page.all("#ask")[0]
        page.until(ask.is_displayed)
        page.all("#token")[0].send_keys("wrong", Keys.ENTER)
        page.until(lambda: page.all("#wrong")[0].is_displayed())
        page.all("#token")[0].send_keys(TOKEN, Keys.ENTER)
        assert page.verdicts() == ["Seems to belong"]
        page.until(lambda: page.all(".heat img"))
        assert page.script("sessionStorage.token") == TOKEN
        assert page.script("localStorage.length") == 0
        # Without it, each image says so.
        browser.execute_script("sessionStorage.clear()")
        page.choose(files["digit"])
        page.until(ask.is_displayed)
        page.all("#token")[0].send_keys(Keys.ESCAPE)
        assert page.verdicts() == ["Not scored", "Seems to belong"]
        assert page.text(".why") == "The server needs its token."


def test_a_baseline_has_no_heat_map_and_says_so(browser: webdriver.Chrome, tmp_path: Path) -> None:
    images, _ = two_classes(300)
    Image.fromarray(images[0]).save(tmp_path / "a.png")
    with served(Detector(method="gaussian").fit(images)) as url:
        page = Page(browser, url, 1280, "light")
        assert page.text("#detector") == "grey images, 12\u00d712 · method gaussian"
        page.choose(str(tmp_path / "a.png"))
        page.verdicts()
        page.until(lambda: page.text(".heat .frame"))
        assert page.text(".heat .frame") == "the method gaussian has no density to map"
        page.until(lambda: page.all(".chart svg"))
        assert page.complaints() == []


def test_a_server_that_is_gone(
    fashion: Detector, browser: webdriver.Chrome, files: dict[str, str]
) -> None:
    with served(fashion) as url:
        page = Page(browser, url, 1280, "light")
    page.choose(files["boot"])
    assert page.verdicts() == ["Not scored"]
    assert "The server did not answer" in page.text(".why")


def test_the_description_needs_no_network(browser: webdriver.Chrome, fashion: Detector) -> None:
    with served(fashion, TOKEN) as url:
        show(browser, 1280, False)
        browser.get(url)
        browser.execute_script(f"sessionStorage.setItem('token', '{TOKEN}')")
        browser.get(f"{url}docs")
        routes = lambda: browser.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")  # noqa: E731
        WebDriverWait(browser, 20).until(lambda _: len(routes()) >= 5)
        assert {"/score", "/drift", "/explain"} <= {each.text for each in routes()}
        own = (url, "blob:", "data:")
        log = browser.get_log("performance")
        asked = [
            entry["message"].partition('"url":"')[2].partition('"')[0]
            for entry in log
            if '"method":"Network.requestWillBeSent"' in entry["message"]
        ]
        assert any("openapi.json" in entry["message"] for entry in log)
        assert all(each.startswith(own) for each in asked)


def test_of_rows_it_says_how_to_send_them(browser: webdriver.Chrome) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 9))
    with served(Detector().fit(rows)) as url:
        page = Page(browser, url, 390, "light")
        assert page.text("#detector") == "rows of 9 numbers · method flow"
        assert "POST /score" in page.text("#lead")
        assert not page.all("#drop")[0].is_displayed()
        assert not page.complaints()
