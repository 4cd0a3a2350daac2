"""What one upload, or one value of a JSON, can do: it has its own reason, and costs little."""

import base64
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from PIL import Image, TiffImagePlugin

from approxmass import Detector
from approxmass.rank_sum import group_p_value
from approxmass.serve import Limits, create_app
from conftest import textures

IMAGES = textures(6, seed=5)
COLUMNS = ["a", "b", "c"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = [encoded(Image.fromarray(image)) for image in IMAGES]


def forms(*files: bytes) -> list[Any]:
    return [("image", (f"{i}.png", data)) for i, data in enumerate(files)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(epochs=2).fit(textures(300))


@pytest.fixture(scope="module")
def rows_detector() -> Detector:
    rows = np.random.default_rng(0).normal(size=(200, 3))
    return Detector(epochs=2).fit(pd.DataFrame(rows, columns=COLUMNS))


def client_of(detector: Detector, limits: Limits | None = None) -> TestClient:
    return TestClient(create_app(detector, limits=limits), base_url="http://localhost")


@pytest.fixture(scope="module")
def client(detector: Detector) -> Iterator[TestClient]:
    with client_of(detector) as made:
        yield made


@pytest.fixture(scope="module")
def rows_client(rows_detector: Detector) -> Iterator[TestClient]:
    with client_of(rows_detector) as made:
        yield made


# --- each upload has its row

BAD = {
    "1.png": (FILES[1][:-30], "cannot be decoded"),
    "3.png": (b"", "is empty"),
    "4.png": (encoded(Image.new("L", (20, 12))), "is 20x12 grey, but what is needed is 12x12 grey"),
    "5.png": (encoded(Image.new("L", (12, 12)), "EPS"), "is a PostScript program"),
    "6.png": (encoded(Image.new("1", (1100, 1000))), "has more than 1,000,000 pixels"),
    "7.png": (encoded(Image.new("RGB", (12, 12), (200, 90, 20))), "12x12 RGB"),
    "8.png": (encoded(Image.new("F", (12, 12), 2.0), "TIFF"), "has the value 2"),
}


def mixed() -> list[Any]:
    return [("image", (name, data)) for name, (data, _) in BAD.items()] + [
        ("image", ("0.png", FILES[0])),
        ("image", ("2.png", FILES[2])),
    ]


def test_what_cannot_be_used_has_a_row_of_its_own(detector: Detector) -> None:
    wanted = detector.score(IMAGES[[0, 2]])
    uploads = mixed()
    for order in (uploads, uploads[::-1], [uploads[-2], *uploads[:-2], uploads[-1]]):
        with client_of(detector, Limits(pixels=1_000_000)) as client:
            answer = client.post("/score", files=order)
        assert answer.status_code == 200, answer.text
        results = answer.json()["results"]
        assert [each["name"] for each in results] == [name for _, (name, _) in order]
        by_name = {each["name"]: each for each in results}
        for name, (_, reason) in BAD.items():
            row = by_name[name]
            assert row.pop("name") == name
            assert row.pop("error").startswith(reason) or reason == "12x12 RGB"
            assert set(row.values()) == {None}
        good = [by_name["0.png"], by_name["2.png"]]
        assert [each["error"] for each in good] == [None, None]
        np.testing.assert_array_equal([each["p_value"] for each in good], wanted.p_value)


def test_the_reasons_are_those_of_scoring_a_folder(detector: Detector, tmp_path: Any) -> None:
    limited = {"5.png", "6.png"}  # what only the server refuses
    for name, (data, _) in BAD.items():
        if name not in limited:
            (tmp_path / name).write_bytes(data)
    offline = {
        name: error for chunk in detector.chunks(str(tmp_path)) for name, error in chunk.unreadable
    }
    with client_of(detector) as client:
        results = client.post("/score", files=mixed()).json()["results"]
    served = {each["name"]: each["error"] for each in results if each["error"] is not None}
    assert {name: served[name] for name in offline} == offline
    assert set(offline) == set(BAD) - limited


def test_drift_leaves_out_what_cannot_be_scored_and_says_so(
    client: TestClient, detector: Detector
) -> None:
    answer = client.post("/drift", files=forms(*FILES[:3], b"none", *FILES[3:])).json()
    usual = detector.fitted.calibrated.streamed(detector.statistic)
    assert answer["images"] == 6
    assert answer["group_p_value"] == group_p_value(usual, detector.score(IMAGES).streamed)
    (left_out,) = answer["left_out"]
    assert left_out["name"] == "3.png"
    assert left_out["error"].startswith("cannot be decoded")
    assert client.post("/drift", files=forms(*FILES)).json()["left_out"] == []


def test_where_nothing_can_be_used_the_request_is_refused(client: TestClient) -> None:
    for path in ("/score", "/drift", "/explain"):
        answer = client.post(path, files=forms(b"none"))
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("image 0.png cannot be decoded")
    answer = client.post("/score", files=forms(b"", b"none"))
    assert (answer.status_code, answer.json()["detail"][:17]) == (422, "image 0.png is em")


def test_one_image_in_json_that_is_not_base64(client: TestClient) -> None:
    good = base64.b64encode(FILES[0]).decode()
    body = {"images": ["%%", good, "é"], "names": ["x", "y", "z"]}
    results = client.post("/score", json=body).json()["results"]
    assert [each["error"] and each["error"][:13] for each in results] == [
        "is not base64",
        None,
        "is not base64",
    ]


def test_a_row_of_numbers_that_cannot_be_used(
    rows_client: TestClient, rows_detector: Detector
) -> None:
    rows = [[1.0, 2.0], [0.1, 0.2, 0.3], [1e300, 1, 2], [0, 0, 0, 0], [0.4, 0.5, 0.6]]
    text = json.dumps({"rows": rows}).replace("1e+300", "1e999")
    answer = rows_client.post("/score", content=text, headers={"content-type": "application/json"})
    errors = [each["error"] for each in answer.json()["results"]]
    assert errors[0].startswith("has 2 numbers, not 3")
    assert errors[2] == "has an infinite value for column a: fill it in, or leave the row out"
    assert errors[3].startswith("has 4 numbers, not 3")
    wanted = rows_detector.score(np.array([rows[1], rows[4]])).p_value
    found = [answer.json()["results"][i]["p_value"] for i in (1, 4)]
    np.testing.assert_array_equal(found, wanted)


def test_a_group_holds_for_those_that_can_be_used(detector: Detector, tmp_path: Any) -> None:
    detector.save(tmp_path / "d")
    by_group = Detector.load(tmp_path / "d")
    by_group.calibrate(textures(120, seed=8), per=["day"] * 60 + ["night"] * 60)
    with client_of(by_group) as client:
        answer = client.post("/score", files=forms(b"", FILES[0]), params={"group": "night"})
    failed, scored = answer.json()["results"]
    assert (failed["group"], scored["group"]) == (None, "night")


# --- JSON is counted before it is read


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and how many MiB Python held at most meanwhile."""
    tracemalloc.start()
    try:
        found = work()
        return found, tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


MANY = 700_000


@pytest.mark.parametrize(
    ("start", "item", "where"),
    [
        ('{"images":[', "1", "images.0: "),
        ('{"images":[', "[]", "images.0: "),
        ('{"images":[', '{"a":1}', "images.0: "),
        ('{"images":["","",', "null", "images.2: "),
        ('{"images":["a,[{:\\"\\\\",', "1", "images.1: "),
        ('{"names":[', "1", "images: "),
        ('{"images":[""],"names":[', "1", "names.0: "),
        ('{"images":[""],"other":[', "1", "other: "),
        ('{"images":["a"],"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":[', "1", "a: "),
        ("[", "1", "Input should be"),
        ('{"images":', "[", "Invalid JSON"),
        ('{"images":[tru', "1", "Invalid JSON"),
    ],
)
def test_the_first_wrong_value_of_many_is_the_reason(
    start: str, item: str, where: str, client: TestClient
) -> None:
    text = (start + ",".join([item] * MANY)).encode()
    if item == "[":
        text = start.encode() + b"[" * MANY
    post = lambda: client.post(  # noqa: E731
        "/score", content=text, headers={"content-type": "application/json"}
    )
    answer, peak = peak_of(post)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"the JSON is not as it should be: {where}")
    # Three copies of the body at most: what was sent, what came, and what is read.
    assert peak < 8 * len(text) / 2**20


def test_right_values_that_are_too_many(client: TestClient) -> None:
    for body in (
        {"images": [""] * MANY},
        {"images": ["a"], "names": [""] * MANY},
        {"images": [""] * 600},
        {"images": [""] * 257},
    ):
        answer = client.post("/score", json=body)
        assert answer.status_code == 413
        assert "256" in answer.json()["detail"]


def test_signs_in_names_count_for_nothing(client: TestClient) -> None:
    """Names may hold what stands between values, also behind a quote that is escaped."""
    names = ['a, "b": [{,:,"\\', "\\" * 5 + '"', '"' + "," * 3000, ":" * 3000]
    files = [base64.b64encode(FILES[i]).decode() for i in range(4)]
    answer = client.post("/score", json={"images": files, "names": names})
    assert answer.status_code == 200, answer.text
    assert [each["name"] for each in answer.json()["results"]] == names


def test_rows_are_counted_too(rows_client: TestClient) -> None:
    def asked(text: str) -> Any:
        headers = {"content-type": "application/json"}
        return rows_client.post("/score", content=text, headers=headers)

    for text, where in (
        ('{"rows":[' + "1," * MANY, "rows.0"),
        ('{"rows":[[1,2,3],' + '["a"],' * MANY, "rows.1.0"),
        ('{"rows":[[1,2,3]],' + '"a":1,' * MANY, "a: "),
    ):
        answer = asked(text)
        assert answer.status_code == 422
        assert f"as it should be: {where}" in answer.json()["detail"]
    assert asked('{"rows":[[' + "1," * MANY).status_code == 413
    full = json.dumps({"rows": [[1, 2, 3]] * 256, "names": [f"a,{i}" for i in range(256)]})
    assert asked(full).status_code == 200


# --- the header decides


def deep(kind: str) -> bytes:
    """40 million pixels, which take hundreds of MiB to decode."""
    width, height = 8000, 4990
    if kind == "PNG 16":
        return encoded(Image.new("I;16", (width, height)), "PNG")
    mode = kind.removeprefix("TIFF ")
    return encoded(Image.new(mode, (width, height)), "TIFF", compression="tiff_adobe_deflate")


@pytest.mark.parametrize("kind", ["PNG 16", "TIFF I", "TIFF F"])
def test_an_image_of_another_size_is_refused_by_its_header(
    kind: str, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = deep(kind)
    decoded: list[object] = []
    for of in (Image.Image, TiffImagePlugin.TiffImageFile):
        monkeypatch.setattr(of, "load", lambda self: decoded.append(self))
    for files in (forms(data), [*forms(data), ("image", ("good.png", FILES[0]))]):
        answer, peak = peak_of(lambda files=files: client.post("/score", files=files))
        said = answer.json()
        found = said["detail"] if "detail" in said else "image 0.png " + said["results"][0]["error"]
        assert found.startswith("image 0.png is 8000x4990 grey, but what is needed is 12x12 grey")
        assert peak < 20
        if len(files) == 1:
            assert not decoded


def test_one_lying_on_its_side_is_upright_once_it_is_decoded() -> None:
    flat = np.ascontiguousarray(textures(300)[:, :8])
    detector = Detector(epochs=1).fit(flat)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(flat[0])))
    with client_of(detector) as client:
        answer = client.post("/score", files=forms(encoded(turned, exif=exif), encoded(turned)))
    upright, lying = answer.json()["results"]
    assert upright["p_value"] == detector.score(flat[:1]).p_value[0]
    assert lying["error"].startswith("is 8x12 grey, but what is needed is 12x8 grey")
