"""The images that say most about a detector: the most and least typical, and its mistakes."""

__all__ = ["Card", "Gallery", "galleries"]

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Pixels
from ..data.png import png_bytes
from ..evaluation.assess import Assessment, ScoredSet

_CARDS = 10


@dataclass(frozen=True)
class Card:
    """An image as a PNG in base64, its name, its p-value, and whether it is called an outlier."""

    name: str
    png: str
    p_value: float
    is_outlier: bool


@dataclass(frozen=True)
class Gallery:
    """Some images under a title; `note` says of how many, and which they are."""

    title: str
    note: str
    cards: list[Card]


def galleries(assessment: Assessment) -> list[Gallery]:
    """The most and least typical images of every set, the false alarms, and the misses.

    Of false alarms and misses a seeded sample, in order of their p-values.
    """
    rng = np.random.default_rng(assessment.seed)
    statistic = assessment.detector.statistic
    found = []
    for place, (name, scored) in enumerate(assessment.sets.items()):
        order = np.argsort(scored.statistics[statistic], kind="stable")
        wrong = np.flatnonzero(scored.is_outlier if place == 0 else ~scored.is_outlier)
        sample = rng.permutation(wrong)[:_CARDS]
        sample = sample[np.argsort(scored.p_value[sample], kind="stable")]
        most, least = order[:_CARDS], order[::-1][:_CARDS]
        cards = _cards(scored, np.concatenate([most, least, sample]))
        total = f"of {len(order):,}"
        mistake = "False alarms" if place == 0 else "Misses"
        cause = "called outliers at 5%" if place == 0 else "not called outliers at 5%"
        shown = f", {len(sample)} of them at random" if len(sample) < len(wrong) else ""
        found += [
            Gallery(f"Most typical of {name}", total, cards[: len(most)]),
            Gallery(f"Least typical of {name}", total, cards[len(most) : len(most) + len(least)]),
            Gallery(
                f"{mistake} in {name}",
                f"{len(wrong):,} {total} are {cause}{shown}",
                cards[len(most) + len(least) :],
            ),
        ]
    return found


def _cards(scored: ScoredSet, places: NDArray[np.int64]) -> list[Card]:
    pngs = _pngs(scored, set(places.tolist()))
    return [
        Card(scored.names[i], pngs[i], float(scored.p_value[i]), bool(scored.is_outlier[i]))
        for i in places.tolist()
    ]


def _pngs(scored: ScoredSet, places: set[int]) -> dict[int, str]:
    """Images by their places, read again from their source: all of them would not fit in memory."""
    found = {}
    start = 0
    for chunk in scored.source.chunks():
        for i in places:
            if start <= i < start + len(chunk.images):
                found[i] = _png(chunk.images[i - start])
        start += len(chunk.images)
        if len(found) == len(places):  # the rest need not be read
            break
    return found


def _png(image: Pixels) -> str:
    return base64.b64encode(png_bytes(image)).decode()
