"""The pictures of the README: the report and the page of the server, as they are.

    python tools/screenshots.py approxmass-demo docs/figures

Takes what `approxmass demo` has left, and needs Debian's packages chromium and chromium-driver.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver

from approxmass import open_images

WIDTH, HEIGHT = 1180, 1010


def browser() -> webdriver.Chrome:
    """A window as on a desk, by day."""
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(word)
    options.binary_location = "/usr/bin/chromium"
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return driver


def until(driver: webdriver.Chrome, condition: str) -> None:
    """Wait for a JavaScript expression to be true."""
    while not driver.execute_script(f"return Boolean({condition})"):
        time.sleep(0.1)
    time.sleep(0.5)  # whatever moves comes to rest


def shoot(driver: webdriver.Chrome, target: Path) -> None:
    """Save what the window shows, with few colours, as befits a page."""
    with tempfile.TemporaryDirectory() as folder:
        driver.save_screenshot(f"{folder}/shot.png")
        with Image.open(f"{folder}/shot.png") as shot:
            shot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(target, optimize=True)


def main(demo: Path, folder: Path) -> None:
    """Both pictures."""
    driver = browser()
    driver.get((demo / "report.html").resolve().as_uri())
    charts = "[...document.querySelectorAll('[data-chart]')]"
    until(driver, f"{charts}.every(e => e.querySelector('svg'))")
    shoot(driver, folder / "report.png")

    command = ["approxmass", "serve", str(demo / "detector"), "--port", "0"]
    with (
        subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE) as server,
        tempfile.TemporaryDirectory() as place,
    ):
        assert server.stdout is not None
        address = re.search(rb"http://\S+", server.stdout.readline())
        assert address is not None
        files = []
        for name, source in (("sneaker", "sample:fashion_mnist/test"), ("digit", "sample:mnist")):
            files.append(f"{place}/{name}.png")
            Image.fromarray(open_images(source).read()[0, 0]).save(files[-1])
        driver.get(address[0].decode())
        driver.find_element("id", "files").send_keys("\n".join(files))
        drawn = "document.querySelectorAll('.card .heat img').length == 2"
        until(driver, f"{drawn} && document.querySelectorAll('.card .chart svg').length == 2")
        shoot(driver, folder / "page.png")
        driver.quit()
        server.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
