"""Batches of one size, several at a time: the same numbers whoever computes them."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from approxmass import Detector
from approxmass.runtime.batches import map_batches

ROWS = np.random.default_rng(0).normal(size=(4500, 5))


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_batch_comes_once_and_in_order_and_two_are_under_way_at_a_time() -> None:
    both = threading.Barrier(2, timeout=60)

    def seen(batch: torch.Tensor) -> tuple[list[int], int]:
        both.wait()  # nobody gets here alone
        return batch.tolist(), torch.get_num_threads()

    found = map_batches(seen, torch.arange(23), 3)
    assert [count for _, count in found] == [3] * 7 + [2]
    rows = [row for (batch, _), count in found for row in batch[:count]]
    assert rows == list(range(23))
    assert {threads for (_, threads), _ in found} == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_rows_come_in_larger_batches_of_whole_parts(threads: int) -> None:
    torch.set_num_threads(threads)
    found = map_batches(lambda batch: batch.tolist(), torch.arange(101), 4, 16)
    assert [len(batch) for batch, _ in found] == [16] * 6 + [8]
    assert [row for batch, count in found for row in batch[:count]] == list(range(101))
    # So that every thread has some.
    found = map_batches(lambda batch: batch.tolist(), torch.arange(8 * threads), 4, 16)
    assert len(found) >= threads


@pytest.mark.parametrize("count", [3, 11])
def test_a_few_batches_have_all_threads_each(count: int) -> None:
    found = map_batches(lambda batch: torch.get_num_threads(), torch.arange(count), 4)
    assert {threads for threads, _ in found} == {2}


def test_an_error_of_one_batch_ends_the_others_and_gives_the_threads_back() -> None:
    seen: list[int] = []

    def fails(batch: torch.Tensor) -> None:
        seen.append(int(batch[0]))
        raise KeyError(int(batch[0]))

    with pytest.raises(KeyError, match=r"^0$"):
        map_batches(fails, torch.arange(1000), 1)
    assert len(seen) < 1000
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_taken_as_the_caller_takes_them(enabled: bool) -> None:
    with torch.set_grad_enabled(enabled):
        found = map_batches(lambda batch: torch.is_grad_enabled(), torch.arange(9), 2)
    assert {each for each, _ in found} == {enabled}


def test_a_row_scores_the_same_in_many_batches_as_alone() -> None:
    detector = Detector(epochs=2).fit(ROWS)
    together = detector.score(ROWS)
    # Of either side of the border of a part, of a batch, and at the end.
    for row in (0, 255, 256, 1023, 1024, 4499):
        alone = detector.score(ROWS[row : row + 1])
        assert alone.p_value[0] == together.p_value[row]
        for name, values in together.statistics.items():
            np.testing.assert_allclose(alone.statistics[name][0], values[row], rtol=1e-5)
