"""The server with a detector of rows of numbers: as in Python, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from approxmass import Detector
from approxmass.rank_sum import group_p_value
from approxmass.serve import create_app

COLUMNS = ["a", "b", "c"]
ROWS = np.random.default_rng(0).normal(size=(200, 3))
NEW = np.random.default_rng(1).normal(0.5, 1, (40, 3))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(seed=0).fit(pd.DataFrame(ROWS, columns=COLUMNS))


@pytest.fixture(scope="module")
def client(detector: Detector) -> Iterator[TestClient]:
    with TestClient(create_app(detector), base_url="http://localhost") as client:
        yield client


def test_rows_have_the_scores_that_they_have_in_python(
    client: TestClient, detector: Detector
) -> None:
    wanted = detector.score(NEW)
    names = [f"r{i}" for i in range(len(NEW))]
    for size in (1, 7, 40):
        found: list[dict[str, Any]] = []
        for i in range(0, len(NEW), size):
            part = {"rows": NEW[i : i + size].tolist(), "names": names[i : i + size]}
            found += client.post("/score", json=part).json()["results"]
        assert [each["name"] for each in found] == names
        np.testing.assert_array_equal([each["p_value"] for each in found], wanted.p_value)
        np.testing.assert_allclose([each["statistic"] for each in found], wanted.statistic)
    drift = client.post("/drift", json={"rows": NEW.tolist()}).json()
    usual = detector.fitted.calibrated.streamed(detector.statistic)
    p = group_p_value(usual, wanted.streamed)
    assert drift == {"images": 40, "group_p_value": p, "left_out": []}


def test_numbers_stand_in_the_order_of_the_fit_whatever_columns_are_called() -> None:
    """Those of a frame whose columns are numbers, which are places to an array."""
    frame = pd.DataFrame(ROWS)[[2, 0, 1]]
    detector = Detector(epochs=1).fit(frame)
    with TestClient(create_app(detector), base_url="http://localhost") as client:
        assert client.get("/healthz").json()["detector"]["columns"] == ["2", "0", "1"]
        answer = client.post("/score", json={"rows": frame[:5].to_numpy().tolist()}).json()
    found = [each["statistic"] for each in answer["results"]]
    np.testing.assert_allclose(found, detector.score(frame[:5]).statistic)


def test_what_it_takes_is_said(client: TestClient) -> None:
    told = client.get("/healthz").json()["detector"]
    assert (told["columns"], told["explains"]) == (COLUMNS, False)
    body = client.get("/openapi.json").json()["paths"]["/score"]["post"]["requestBody"]
    assert list(body["content"]) == ["application/json"]
    assert set(body["content"]["application/json"]["schema"]["properties"]) == {"rows", "names"}


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"rows": [[1.0, 2.0]]}, 422, "row 0 has 2 numbers, not 3"),
        ({"rows": [[1, 2, 3], [1, 2, None]]}, 422, "rows.1.2"),
        ({"rows": [[1, 2, "3"]]}, 422, "rows.0.2"),
        ({"rows": []}, 422, "rows"),
        ({"rows": [[1, 2, 3]], "names": ["a", "b"]}, 422, "2 names for 1 rows"),
        ({"rows": [[1, 2, 3]] * 257}, 413, "256 rows"),
        ({"images": ["aaaa"]}, 422, "rows"),
    ],
)
def test_what_is_no_row_is_refused(
    client: TestClient, body: dict[str, Any], status: int, reason: str
) -> None:
    answer = client.post("/score", json=body)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


def test_numbers_that_are_none_and_other_kinds_are_refused(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    far = client.post("/score", content='{"rows": [[1, 2, 1e999]]}', headers=kind)
    assert far.status_code == 422
    assert "infinite" in far.json()["detail"] or "rows.0.2" in far.json()["detail"]
    files = client.post("/score", files={"image": b"x"})
    assert (files.status_code, "rows" in files.json()["detail"]) == (415, True)
    map_of = client.post("/explain", json={"rows": [[1, 2, 3]]})
    assert map_of.status_code == 422
    assert "approxmass explain" in map_of.json()["detail"] or "rows" in map_of.json()["detail"]
