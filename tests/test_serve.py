"""The server: every limit, who may enter, and answers that are those of offline scoring."""

import asyncio
import base64
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from schemathesis.specs.openapi.checks import ignored_auth
from typer.testing import CliRunner

from approxmass import Detector
from approxmass.cli.main import app as command_line
from approxmass.data import Chunk
from approxmass.errors import ApproxMassError, Code
from approxmass.explain.picture import picture, shown_size
from approxmass.serve import Limits, create_app
from approxmass.serve.batching import Batcher
from conftest import mistake, textures, two_classes

IMAGES = np.concatenate([textures(20, seed=5), textures(20, shift=1.0, seed=6)])
TOKEN = "correct-horse"


def png(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = [png(image) for image in IMAGES]


def forms(files: Sequence[bytes], names: Sequence[str] | None = None) -> list[Any]:
    names = names or [f"{i}.png" for i in range(len(files))]
    return [("image", (name, data)) for name, data in zip(names, files, strict=True)]


def in_json(*files: bytes) -> dict[str, Any]:
    return {"images": [base64.b64encode(data).decode() for data in files]}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(epochs=4).fit(textures(600))


@pytest.fixture(scope="module")
def folder(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "d"
    detector.save(place)
    return place


def client_of(
    detector: Detector, *, token: str | None = None, limits: Limits | None = None
) -> TestClient:
    return TestClient(
        create_app(detector, token=token, limits=limits), base_url="http://localhost:8000"
    )


@pytest.fixture(scope="module")
def client(detector: Detector) -> Iterator[TestClient]:
    with client_of(detector) as made:
        yield made


def metric(client: TestClient, name: str) -> float:
    for line in client.get("/metrics").text.splitlines():
        if line.startswith(f"approxmass_{name} "):
            return float(line.split()[-1])
    raise AssertionError(name)


def same(results: list[dict[str, Any]], detector: Detector, images: NDArray[np.uint8]) -> None:
    scores = detector.score(images)
    # The mass is a gradient, which jumps where rounding takes a ReLU over its kink.
    for name, digits in (("log_prob", 1e-5), ("mass", 1e-3), ("statistic", 1e-3)):
        found = [result[name] for result in results]
        np.testing.assert_allclose(found, getattr(scores, name), rtol=digits, atol=1e-4)
    rank = 1 / (1 + len(detector.calibration_scores))
    found = [result["p_value"] for result in results]
    np.testing.assert_allclose(found, scores.p_value, atol=1.001 * rank)


# --- answers


def test_scores_are_those_of_offline_scoring(client: TestClient, detector: Detector) -> None:
    for answer in (
        client.post("/score", files=forms(FILES)),
        client.post("/score", json=in_json(*FILES)),
    ):
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        same(results, detector, IMAGES)
        calls = [result["is_outlier"] for result in results]
        assert calls == [result["p_value"] <= 0.05 for result in results]
        assert any(calls)
        assert not all(calls)


def test_names(client: TestClient) -> None:
    def names(**body: Any) -> list[str]:
        answer = client.post("/score", **body)
        assert answer.status_code == 200, answer.text
        return [result["name"] for result in answer.json()["results"]]

    assert names(files=forms(FILES[:2], ["a.png", "ü ☃.png"])) == ["a.png", "ü ☃.png"]
    assert names(json=in_json(*FILES[:2])) == ["0", "1"]
    assert names(json=in_json(*FILES[:2]) | {"names": ["x", "y"]}) == ["x", "y"]
    any_field = [("one", ("1.png", FILES[0])), ("two[]", ("2.png", FILES[1]))]
    assert names(files=any_field) == ["1.png", "2.png"]


def test_an_image_beside_its_heat_map(client: TestClient, detector: Detector) -> None:
    answer = client.post("/explain", files=forms(FILES[:1]))
    assert answer.headers["content-type"] == "image/png"
    (chunk,) = detector.chunks(IMAGES[:1])
    found = detector.explain_pixels(chunk.images, chunk.boxes, [shown_size(chunk.sizes[0])])
    p = float(detector.score(IMAGES[:1]).p_value[0])
    offline = picture(chunk.images[0], None, found, 0, name="0.png", p_value=p)
    served = Image.open(io.BytesIO(answer.content))
    difference = np.abs(np.asarray(served, int) - np.asarray(offline, int))
    assert difference.max() <= 2
    two = client.post("/explain", files=forms(FILES[:2]))
    assert (two.status_code, two.json()["detail"]) == (
        422,
        "there are 2 images: send one at a time",
    )


def test_drift(client: TestClient, detector: Detector) -> None:
    inside, outside = (
        client.post("/drift", files=forms(part)).json() for part in (FILES[:20], FILES[20:])
    )
    assert inside["images"] == outside["images"] == 20
    assert outside["group_p_value"] < 0.01 < inside["group_p_value"]
    assert inside["group_p_value"] == pytest.approx(detector.group_p_value(IMAGES[:20]), rel=0.05)


def test_a_detector_of_several_groups_wants_to_know_which(folder: Path) -> None:
    detector = Detector.load(folder)
    darker = textures(120, seed=8) // 2
    usual = np.concatenate([darker[:60], textures(60, seed=9)])
    detector.calibrate(usual, per=["night"] * 60 + ["day & dusk"] * 60)
    images = [png(image) for image in darker[60:]]
    with client_of(detector) as client:
        groups = client.get("/healthz").json()["detector"]["groups"]
        assert groups == ["day & dusk", "night"]
        by_group = {}
        for name in groups:
            answer = client.post("/score", files=forms(images), params={"group": name})
            by_group[name] = answer.json()["results"]
            assert {result["group"] for result in by_group[name]} == {name}
            same(by_group[name], detector.calibrated_for(name), darker[60:])
            answer = client.post("/drift", files=forms(images), params={"group": name})
            expected = detector.calibrated_for(name).group_p_value(darker[60:])
            assert answer.json()["group_p_value"] == pytest.approx(expected, rel=0.05, abs=1e-3)
        p = {name: [row["p_value"] for row in rows] for name, rows in by_group.items()}
        assert np.mean(p["night"]) > 2 * np.mean(p["day & dusk"])
        one = forms(images[:1])
        assert client.post("/explain", files=one, params={"group": "night"}).is_success
        assert client.get("/histogram.json", params={"group": "night"}).is_success
        for group in ({}, {"group": "dawn"}, {"group": ""}):
            for path in ("/score", "/drift", "/explain"):
                answer = client.post(path, files=one, params=group)
                assert answer.status_code == 422
                assert "night" in answer.json()["detail"]
            assert client.get("/histogram.json", params=group).status_code == 422


def test_a_detector_of_one_calibration_takes_no_group(client: TestClient) -> None:
    answer = client.post("/score", files=forms(FILES[:1]), params={"group": "day"})
    assert answer.status_code == 422
    assert "one calibration for all" in answer.json()["detail"]
    assert client.get("/healthz").json()["detector"]["groups"] == []


def test_any_size_for_a_detector_that_resizes(tmp_path: Path) -> None:
    detector = Detector(epochs=1, size=12).fit(textures(300, side=16))
    large = textures(6, side=40, seed=3)
    for i, image in enumerate(large):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    with client_of(detector) as client:
        assert client.get("/healthz").json()["detector"]["resizes"]
        answer = client.post("/score", files=forms([png(image) for image in large]))
    found = [result["statistic"] for result in answer.json()["results"]]
    np.testing.assert_allclose(found, detector.score(tmp_path).statistic, rtol=1e-4, atol=1e-4)


def test_a_baseline_has_no_density(tmp_path: Path) -> None:
    detector = Detector(method="gaussian").fit(two_classes(300)[0])
    with client_of(detector) as client:
        (result,) = client.post("/score", files=forms(FILES[:1])).json()["results"]
        assert result["log_prob"] is None
        assert result["mass"] is None
        assert 0 < result["p_value"] <= 1
        assert not client.get("/healthz").json()["detector"]["explains"]
        answer = client.post("/explain", files=forms(FILES[:1]))
        assert answer.status_code == 422
        assert "decides in gaussian cannot be drawn" in answer.json()["detail"]


# --- batching


class Held:
    """Scoring that waits until it is let go, and remembers how many images came together."""

    def __init__(self, detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun, self.sizes = threading.Event(), threading.Event(), list[int]()
        score = detector.score_pixels

        def held(images: NDArray[np.uint8], boxes: Any = None, groups: Any = None) -> Any:
            self.begun.set()
            assert self.go.wait(10)
            self.sizes.append(len(images))
            return score(images, boxes, groups)

        monkeypatch.setattr(detector, "score_pixels", held)
        self.queued = 0
        enter = Batcher.score

        async def counted(batcher: Batcher, chunk: Chunk) -> Any:
            self.queued += len(chunk.images)
            return await enter(batcher, chunk)

        monkeypatch.setattr(Batcher, "score", counted)


def at_once(work: Sequence[Callable[[], Any]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each) for each in work]
    for thread in threads:
        thread.start()
    return threads


def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


def test_what_waits_is_scored_together_and_never_mixed(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(detector, monkeypatch)
    answers: dict[int, Any] = {}
    with client_of(detector) as client:

        def send(i: int) -> Callable[[], None]:
            files = forms([FILES[i], FILES[(i + 1) % len(FILES)]])
            return lambda: answers.update({i: client.post("/score", files=files)})

        first = at_once([send(0)])
        assert held.begun.wait(10)
        rest = at_once([send(i) for i in range(1, len(FILES))])
        until(lambda: held.queued == 2 * len(FILES))
        assert metric(client, "images_waiting") == 2 * len(FILES)
        # The event loop is free all the while.
        assert client.get("/healthz").status_code == 200
        held.go.set()
        for thread in [*first, *rest]:
            thread.join()
        assert metric(client, "batch_images_count") == 2
        assert metric(client, "images_scored_total") == 2 * len(FILES)
        assert metric(client, "images_waiting") == 0
        called = sum(r["is_outlier"] for a in answers.values() for r in a.json()["results"])
        assert metric(client, "outliers_total") == called > 0
    assert held.sizes == [2, 2 * len(FILES) - 2]
    monkeypatch.undo()
    for i, answer in answers.items():
        same(answer.json()["results"], detector, IMAGES[[i, (i + 1) % len(IMAGES)]])


def test_a_batch_has_a_size(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(detector, monkeypatch)
    with client_of(detector, limits=Limits(batch=5)) as client:
        threads = at_once([lambda: client.post("/score", files=forms(FILES[:1]))])
        assert held.begun.wait(10)
        threads += at_once([lambda: client.post("/score", files=forms(FILES[:2]))] * 4)
        until(lambda: held.queued == 9)
        held.go.set()
        for thread in threads:
            thread.join()
    assert held.sizes == [1, 4, 4]


def test_an_image_that_cannot_be_scored_is_no_harm_to_others(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(detector, monkeypatch)
    score = detector.score_pixels

    def particular(images: NDArray[np.uint8], boxes: Any = None, groups: Any = None) -> Any:
        if (images == 255).all(axis=(1, 2, 3)).any():
            raise ApproxMassError("a score is NaN", code="diverged")
        return score(images, boxes, groups)

    monkeypatch.setattr(detector, "score_pixels", particular)
    white, codes = png(np.full((12, 12), 255, np.uint8)), []
    with client_of(detector) as client:

        def send(file: bytes) -> Callable[[], None]:
            return lambda: codes.append(client.post("/score", files=forms([file])).status_code)

        threads = at_once([send(FILES[0])])
        assert held.begun.wait(10)
        threads += at_once([send(file) for file in (white, *FILES[1:4])])
        until(lambda: held.queued == 5)
        held.go.set()
        for thread in threads:
            thread.join()
    assert sorted(codes) == [200, 200, 200, 200, 422]


# --- limits


def refused(answer: Any, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    (reason,) = answer.json().values()
    assert "\n" not in reason
    for word in words:
        assert word in reason


FORM = {"content-type": "multipart/form-data; boundary=b"}
JSON = {"content-type": "application/json"}
PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"files": forms([FILES[0] + bytes(70_000)])}, 413, ["60,000 bytes"]),
        ({"files": forms(FILES[:9])}, 413, ["more than 8 images"]),
        ({"json": in_json(*FILES[:9])}, 413, ["more than 8 images"]),
        ({"files": forms([bomb(2000)])}, 422, ["0.png", "1,000,000 pixels"]),
        ({"files": forms([bomb(20_000)])}, 422, ["0.png", "1,000,000 pixels"]),
        ({"files": forms([b""], ["b"])}, 422, ["image b is empty"]),
        ({"files": forms([FILES[1][:-30]])}, 422, ["0.png", "cannot be decoded"]),
        ({"content": FILES[0], "headers": {"content-type": "image/png"}}, 415, ["multipart"]),
        ({"content": FILES[0]}, 415, ["application/json"]),
        ({"json": {}, "headers": {"content-encoding": "gzip"}}, 415, ["uncompressed"]),
        ({"files": forms([os.urandom(900)], ["x"])}, 422, ["image x cannot be decoded"]),
        (
            {"files": forms([png(textures(1, side=20)[0])])},
            422,
            ["0.png is 20x20 grey", "12x12 grey", "convert it to 12x12 grey"],
        ),
        (
            {"files": forms([png(np.full((12, 12, 3), (200, 90, 20), np.uint8))])},
            422,
            ["12x12 RGB"],
        ),
        # Pillow would start Ghostscript, and write a file for it.
        ({"files": forms([png(IMAGES[0], "EPS")])}, 422, ["0.png is a PostScript program"]),
        ({"data": {"image": "cat.png"}, "files": {"x": b""}}, 422, ["-F image=@FILE"]),
        ({"content": b"", "headers": FORM}, 422, ["damaged or breaks off"]),
        ({"content": PART + FILES[0], "headers": FORM}, 422, ["breaks off"]),
        ({"content": b"--b--\r\n", "headers": FORM}, 422, ["no image"]),
        (
            {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
            422,
            ["damaged"],
        ),
        ({"content": os.urandom(5000), "headers": FORM}, 422, ["damaged"]),
        ({"content": b"--b\r\n" + 9000 * b"a: b\r\n", "headers": FORM}, 422, ["damaged"]),
        ({"content": b"{", "headers": JSON}, 422, ["Invalid JSON"]),
        ({"content": b"\xff\xfe", "headers": JSON}, 422, ["JSON"]),
        ({"content": b'{"images":' + 50_000 * b"[", "headers": JSON}, 422, ["JSON"]),
        ({"content": b'{"images":["\\ud800"]}', "headers": JSON}, 422, ["JSON"]),
        ({"json": {}}, 422, ["images: "]),
        ({"json": {"images": []}}, 422, ["images: "]),
        ({"json": {"images": [3]}}, 422, ["images.0: "]),
        ({"json": {"images": "abc"}}, 422, ["images: "]),
        ({"json": in_json(FILES[0]) | {"name": "x"}}, 422, ["name: "]),
        ({"json": in_json(FILES[0]) | {"names": ["x", "y"]}}, 422, ["2 names for 1 images"]),
        ({"json": {"images": ["%%%%"]}}, 422, ["image 0 is not base64"]),
        ({"json": {"images": ["é"]}}, 422, ["image 0 is not base64"]),
        ({"json": {"images": ["AAAA"]}}, 422, ["image 0 cannot be decoded"]),
    ],
)
def test_what_is_refused_and_why(
    request_: dict[str, Any], status: int, words: list[str], detector: Detector
) -> None:
    limits = Limits(body_bytes=60_000, images=8, pixels=1_000_000, request_pixels=1_500_000)
    with client_of(detector, limits=limits) as client:
        for route in ("/score", "/drift", "/explain"):
            refused(client.post(route, **request_), status, *words)
        assert metric(client, "images_waiting") == 0
        assert client.post("/score", files=forms(FILES[:2])).status_code == 200


class Wire:
    """A request to the application, piece by piece."""

    def __init__(self, app: Any, headers: dict[str, str]) -> None:
        self.app, self.headers, self.taken = app, headers, 0

    async def send(self, pieces: AsyncIterator[bytes]) -> tuple[int, dict[str, Any]]:
        said: list[Any] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": "/score",
            "raw_path": b"/score",
            "query_string": b"",
            "headers": [
                (k.encode(), v.encode()) for k, v in {"host": "localhost", **self.headers}.items()
            ],
        }

        async def receive() -> dict[str, Any]:
            try:
                piece = await anext(pieces)
            except StopAsyncIteration:
                return {"type": "http.disconnect"}
            self.taken += len(piece)
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: Any) -> None:
            said.append(message)

        await self.app(scope, receive, send)
        return said[0]["status"], json.loads(said[1]["body"])


@pytest.mark.parametrize("length", [{}, {"content-length": "10"}])
def test_a_body_is_counted_whatever_it_claims(length: dict[str, str], detector: Detector) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1000)

    wire = Wire(create_app(detector, limits=Limits(body_bytes=50_000)), FORM | length)
    status, body = asyncio.run(wire.send(endless()))
    assert status == 413
    assert "50,000 bytes" in body["detail"]
    # Some of what follows is thrown away, so that the client gets to the answer; not all.
    assert wire.taken < 10 * 50_000


def test_a_body_that_does_not_come(detector: Detector) -> None:
    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b"-"
            await asyncio.sleep(0.02)

    app = create_app(detector, limits=Limits(seconds=0.2, patience=0.2))
    status, body = asyncio.run(Wire(app, FORM).send(slow()))
    assert status == 408
    assert "within 0.2 seconds" in body["detail"]

    async def cut() -> AsyncIterator[bytes]:
        yield PART

    status, body = asyncio.run(Wire(app, FORM).send(cut()))
    assert status == 408
    assert "broke off" in body["detail"]


def test_a_full_queue(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(detector, monkeypatch)
    with client_of(detector, limits=Limits(waiting=5)) as client:
        threads = at_once([lambda: client.post("/score", files=forms(FILES[:4]))])
        assert held.begun.wait(10)
        answer = client.post("/score", files=forms(FILES[:2]))
        refused(answer, 429, "try again")
        assert answer.headers["retry-after"] == "1"
        held.go.set()
        threads[0].join()
        assert client.post("/score", files=forms(FILES[:5])).status_code == 200


def test_bodies_held_at_once(detector: Detector) -> None:
    with client_of(detector, limits=Limits(held_bytes=3000)) as client:
        answer = client.post("/score", files=forms([FILES[0] + bytes(5000)]))
        refused(answer, 429, "try again")
        assert answer.headers["retry-after"] == "1"
        assert client.post("/score", files=forms(FILES[:1])).status_code == 200


# --- nothing on disk


def test_no_upload_touches_the_disk(tmp_path: Path) -> None:
    detector = Detector(epochs=1, size=12).fit(textures(300))
    large = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    files = [png(large, "BMP"), png(large, "TIFF")]
    opened: list[str] = []
    listening = False

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if listening and event == "open":
            path, mode, flags = details
            if (mode and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR):
                opened.append(str(path))

    sys.addaudithook(hook)  # for good: there is no way to take it back
    grey = [png(large[..., 0], kind) for kind in ("BMP", "TIFF", "PNG", "JPEG")]
    with client_of(detector) as client:
        client.post("/score", files=forms(FILES[:1]))  # what is loaded on first use
        listening = True
        refused(client.post("/score", files=forms(files)), 422, "RGB")
        answer = client.post("/score", files=forms(grey))
        assert answer.status_code == 200, answer.text
        assert client.post("/score", json=in_json(*grey)).status_code == 200
        assert client.post("/explain", files=forms(grey[:1])).status_code == 200
        assert opened == []
        (tmp_path / "seen").write_bytes(b"")
        listening = False
    assert opened == [str(tmp_path / "seen")]


# --- who may enter

GUARDED = [
    ("POST", "/score"),
    ("POST", "/explain"),
    ("POST", "/drift"),
    ("GET", "/metrics"),
    ("GET", "/histogram.json"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]


def test_the_token(detector: Detector) -> None:
    with client_of(detector, token=TOKEN) as client:
        for given in (
            {},
            {"authorization": "Bearer"},
            {"authorization": f"Bearer {TOKEN}x"},
            {"authorization": f"Bearer {TOKEN[:-1]}"},
            {"authorization": f"Basic {TOKEN}"},
            {"authorization": TOKEN},
            {"authorization": b"Bearer \xff\xfe"},
        ):
            for method, path in GUARDED:
                answer = client.request(method, path, headers=given)
                refused(answer, 401, "Authorization: Bearer TOKEN")
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"authorization": f"Bearer {TOKEN}"}
        files = forms(FILES[:1])
        assert client.post("/score", files=files, headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200
        for path in ("/", "/page.css", "/page.js", "/vega.js", "/healthz"):
            assert client.get(path).status_code == 200
        # With a token any name of the host will do.
        assert client.get("/healthz", headers={"host": "example.org"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("127.1.2.3", 200),
        ("[::1]:8000", 200),
        ("example.org", 403),
        ("localhost.example.org", 403),
        ("127.0.0.1.example.org:8000", 403),
        ("192.168.0.7:8000", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_without_a_token_only_localhost(host: str, status: int, client: TestClient) -> None:
    for path in ("/", "/healthz", "/metrics"):
        assert client.get(path, headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_posts_from_other_sites(headers: dict[str, str], status: int, client: TestClient) -> None:
    answer = client.post("/score", files=forms(FILES[:1]), headers=headers)
    assert answer.status_code == status


# --- what else is there


def test_the_page_and_its_files(client: TestClient, detector: Detector) -> None:
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("http://www.w3.org/2000/svg", "")
    vega = client.get("/vega.js")
    assert "max-age" in vega.headers["cache-control"]
    again = client.get("/vega.js", headers={"if-none-match": vega.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    spec = client.get("/histogram.json").json()
    assert spec["params"][0]["name"] == "score"
    shares = [bar["share"] for bar in spec["layer"][0]["data"]["values"]]
    assert sum(shares) == pytest.approx(1)
    health = client.get("/healthz").json()
    assert health["status"] == "ok"
    assert health["detector"]["calibration_images"] == len(detector.calibration_scores)


def test_metrics_count_requests_by_route_and_status(detector: Detector) -> None:
    with client_of(detector) as client:
        client.post("/score", files=forms(FILES[:1]))
        client.post("/score")
        client.get("/secret/path")
        text = client.get("/metrics").text
    assert 'approxmass_requests_total{route="/score",status="200"} 1.0' in text
    assert 'approxmass_requests_total{route="/score",status="415"} 1.0' in text
    assert 'approxmass_requests_total{route="other",status="404"} 1.0' in text
    assert 'approxmass_request_seconds_count{route="/score"} 2.0' in text


# --- its own description, by schemathesis

schemathesis.openapi.format(
    "base64-image", st.sampled_from([base64.b64encode(file).decode() for file in FILES])
)
schemathesis.openapi.media_type("image/*", st.sampled_from(FILES))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("token", [None, TOKEN])
def test_it_does_what_its_description_says(
    token: str | None, mode: schemathesis.GenerationMode, detector: Detector
) -> None:
    app = create_app(detector, token=token)
    headers = {"host": "localhost"} | ({"authorization": f"Bearer {token}"} if token else {})
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if mode == schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
            continue  # which takes nothing that could be wrong

        @seed(0)
        @settings(
            max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(mode))
        def check(case: schemathesis.Case) -> None:
            if (
                mode == schemathesis.GenerationMode.POSITIVE
                and case.media_type == JSON["content-type"]
            ):
                # As many names as images: no schema can say that.
                assert isinstance(case.body, dict)
                case.body.pop("names", None)
            if mode == schemathesis.GenerationMode.POSITIVE and case.query:
                case.query.pop("group", None)  # this detector has none, which no schema can say
            # The token has a test of its own; here it is in the headers of every call.
            case.call_and_validate(headers=headers, excluded_checks=[ignored_auth])

        check()
        tried += 1
    assert tried >= 3


# --- as its own process


def start(*words: object, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k != "APPROXMASS_TOKEN"}
    return subprocess.Popen(
        [sys.executable, "-m", "approxmass", "serve", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment},
    )


def address(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://"), process.communicate()[1]
    host, _, port = line.split()[2].removeprefix("http://").rpartition(":")
    return host, int(port)


def test_ctrl_c_lets_requests_under_way_finish(folder: Path) -> None:
    process = start(folder, "--port", 0)
    try:
        host, port = address(process)
        body = PART + FILES[0] + b"\r\n--b--\r\n"
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.putrequest("POST", "/score")
        connection.putheader("Content-Type", FORM["content-type"])
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:100])
        idle = socket.create_connection((host, port))
        until(lambda: "approxmass" in get(host, port, "/metrics"))
        process.send_signal(signal.SIGINT)
        threading.Event().wait(0.5)
        assert process.poll() is None
        connection.send(body[100:])
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["results"]) == 1
        assert process.communicate(timeout=30) == ("", "stopped\n")
        assert process.returncode == 0
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, port))
    finally:
        process.kill()


def get(host: str, port: int, path: str, **headers: str) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("GET", path, headers=headers)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_beyond_this_machine_with_a_token_from_the_environment(folder: Path) -> None:
    process = start(folder, "--host", "0.0.0.0", "--port", 0, APPROXMASS_TOKEN=TOKEN)
    try:
        host, port = address(process)
        assert host == "0.0.0.0"
        assert "a token is needed" in get("127.0.0.1", port, "/metrics")
        right = f"Bearer {TOKEN}"
        assert "images_waiting" in get("127.0.0.1", port, "/metrics", Authorization=right)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_a_mistake_is_one_line_and_exit_code_2(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(folder, "--port", taken.getsockname()[1])
        output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.startswith("error[address]: ")
    assert "address already in use" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--host", "0.0.0.0"], "address", "0.0.0.0"),
        (["--host", "::"], "address", "::"),
        (["--host", "0.0.0.0", "--token", ""], "address", "0.0.0.0"),
        (["--host", "nowhere.invalid"], "address", "nowhere.invalid"),
        (["--host", ""], "address", "--host"),
        (["--host", "192.0.2.1", "--token", "x"], "address", "192.0.2.1"),
        (["--token", "two words"], "bad-option", "token"),
        (["--token", "schlüssel"], "bad-option", "token"),
    ],
)
def test_what_it_does_not_listen_to(
    words: list[str], code: Code, named: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APPROXMASS_TOKEN", raising=False)
    with mistake(code, named):
        serve(folder, *words)


def serve(*words: object) -> None:
    CliRunner().invoke(command_line, ["serve", *map(str, words)], catch_exceptions=False)


@pytest.mark.parametrize("package", ["uvicorn", "altair", "prometheus_client"])
def test_without_the_extra(package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("approxmass.serve")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with mistake("missing-library", package.replace("_", "-")):
        serve(folder)


def test_no_detector(tmp_path: Path) -> None:
    with mistake("not-a-detector", str(tmp_path)):
        serve(tmp_path, "--port", 0)
