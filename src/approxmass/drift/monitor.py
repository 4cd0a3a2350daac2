"""The monitor: scores to p-values of a stream, evidence and alarms.

Looking again and again at a p-value of the latest images must in the end raise an alarm, even if
nothing changes. This test may be looked at after every image, for ever.
"""

__all__ = ["BLANDER", "OUTWARD", "DriftMonitor", "DriftSteps", "online_p_values"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import Bools, Floats
from ..calibration import tied
from ..errors import ApproxMassError
from .evidence import Evidence

# Where a drift may lead.
OUTWARD = "out-of-distribution"
BLANDER = "blander"
# Scores that are compared with each other all at once, in a square of this side; the first after
# an alarm in a smaller one, as another alarm may be near.
_PIECE, _FIRST = 512, 64


@dataclass(frozen=True, eq=False)
class DriftSteps:
    """What the monitor found after each of m scores; every array is `(m,)`.

    Attributes:
        p_value: Online p-values in (0, 1]; small = towards out-of-distribution.
        drift: The evidence of a drift, as a share of what raises an alarm; at least 0.
        alarm: Whether this score raised an alarm: `drift >= 1`.
        outward: Whether more of the evidence is for larger scores, towards out-of-distribution,
            than for smaller ones, of images that are blander than the usual.
    """

    p_value: Floats
    drift: Floats
    alarm: Bools
    outward: Bools

    @property
    def direction(self) -> NDArray[np.str_]:
        """`outward` in words, `OUTWARD` or `BLANDER`, `(m,)`."""
        return np.where(self.outward, OUTWARD, BLANDER)


def online_p_values(bag: Floats, scores: Floats, theta: Floats) -> Floats:
    """Smoothed conformal p-values of scores that join, one after the other, those to come after.

    `p_t = (#{larger than s_t} + theta_t #{equal to s_t}) / n_t`, counted among the bag and the
    scores up to and including `s_t`. If all these are exchangeable and theta is uniform, then the
    p-values are independent and uniform, exactly (Vovk, Gammerman & Shafer, Algorithmic Learning
    in a Random World, 2005).

    Arguments:
        bag: Earlier scores `(n,)`, sorted.
        scores: Scores `(m,)`, in the order of their arrival; larger = more OOD.
        theta: `(m,)` in (0, 1].

    Returns:
        p-values `(m,)` in (0, 1].

    Example:
        >>> online_p_values(np.array([1.0, 2.0]), np.array([3.0, 2.0]), np.array([0.5, 0.5]))
        array([0.16666667, 0.5 ])
    """
    m = len(scores)
    up_to = np.searchsorted(bag, scores, side="right")
    larger, equal = len(bag) - up_to, up_to - np.searchsorted(bag, scores, side="left") + 1
    if m > 1:  # those that joined before
        before = np.arange(m) < np.arange(m)[:, None]
        larger += ((scores > scores[:, None]) & before).sum(1)
        equal += ((scores == scores[:, None]) & before).sum(1)
    p: Floats = (larger + theta * equal) / (len(bag) + 1 + np.arange(m))
    return p


class DriftMonitor:
    """Watches scores one after the other and raises an alarm when they are no longer as usual.

    It looks for scores that are larger than the calibration scores, all or a few of them, and for
    smaller ones; `Evidence` says by what bets, and proves: while nothing changes, it takes
    `false_alarm_every` scores or more, on average, from the start to the first alarm, and an alarm
    within t scores has at most the chance `2% + t / false_alarm_every`. The 2% are for a drift that
    is there from the start, which few calibration scores could not tell otherwise. What can be
    found, and how soon: `drift_power`.

    A score within the tolerance of one that several calibration images have is taken for that: in a
    long stream of images that come again, rounding to one side would be found, and called a drift.

    This rests on independent, uniform p-values. Those from the calibration scores alone are not
    independent: they all share its sampling error, which a test without an end would find sooner or
    later and call a drift. The online ones count the earlier scores of the stream beside the
    calibration scores. The price: a drift so slow that they take it in is not seen.

    After an alarm all starts anew from the calibration scores: the scores that raised it do not
    join them, and a drift that stays is found again, as soon as at first. While nothing changes
    every stretch from one alarm to the next has the same law as the first, and so a mean that is no
    shorter. Like that of the p-values, the promise is an average over calibration sets: one and the
    same set may bring alarms often, and then goes on to, another never.

    Arguments:
        calibration: Scores `(n,)` of in-distribution images, not trained on; larger = more OOD.
        false_alarm_every: In-distribution images to a false alarm, on average, at least.
        seed: Fixes how ties are broken; the t-th score has the t-th draw.

    Raises:
        ApproxMassError: no calibration scores, NaN among them, or a rate below 1.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> monitor = DriftMonitor(generator.normal(size=500), false_alarm_every=10_000)
        >>> bool(monitor.update(generator.normal(size=1000)).alarm.any())
        False
        >>> bool(monitor.update(generator.normal(1.5, 1, 30)).alarm.any())
        True
    """

    def __init__(
        self, calibration: Floats, false_alarm_every: int = 100_000, seed: int = 0
    ) -> None:
        if len(calibration) == 0:
            raise ApproxMassError(
                "there are no calibration scores: fit the detector first", code="not-fitted"
            )
        if false_alarm_every < 1:
            raise ApproxMassError(
                f"a false alarm every {false_alarm_every} images cannot be: give 1 or more",
                code="bad-option",
            )
        self.false_alarm_every = false_alarm_every
        self._tied, self._near = tied(_checked(calibration))
        self._calibration = np.sort(self._met_again(calibration))
        self._draws = np.random.default_rng(seed)
        self._bag: Floats
        self._evidence: Evidence
        self._start()

    @property
    def since_alarm(self) -> int:
        """How many scores there were since the last alarm, or the start."""
        return self._evidence.since

    def _met_again(self, scores: Floats) -> Floats:
        """Scores `(m,)`, those of calibration images that come again as they were."""
        if not len(self._tied):
            return scores
        middles = self._tied[:-1] / 2 + self._tied[1:] / 2
        nearest = np.searchsorted(middles, scores)
        met: Bools = np.abs(scores - self._tied[nearest]) <= self._near[nearest]
        return np.where(met, self._tied[nearest], scores)

    def update(self, scores: Floats) -> DriftSteps:
        """Take in the next scores `(m,)`; in how many portions they come makes no difference.

        Raises:
            ApproxMassError: NaN among the scores; none of them has then been taken in.

        Example:
            >>> scores = np.array([50.0, 200.0, 200.0, 200.0])
            >>> DriftMonitor(np.arange(99.0), 100).update(scores).alarm
            array([False, False, False,  True])
        """
        scores = self._met_again(_checked(scores))
        theta = 1 - self._draws.random(len(scores))  # in (0, 1], as p-values are
        p, shares = np.empty(len(scores)), np.empty((len(scores), 2))
        i = 0
        while i < len(scores):
            piece = scores[i : i + min(_PIECE, _FIRST + self.since_alarm)]
            p_value = online_p_values(self._bag, piece, theta[i : i + len(piece)])
            share = self._evidence.take(p_value)
            alarm = np.add.reduce(share, axis=1) >= 1
            raised = alarm.any()
            taken = int(alarm.argmax()) + 1 if raised else len(piece)
            p[i : i + taken], shares[i : i + taken] = p_value[:taken], share[:taken]
            i += taken
            if raised:
                self._start()  # another bag, with which the rest of the piece is compared again
            else:
                piece = np.sort(piece)
                self._bag = np.insert(self._bag, np.searchsorted(self._bag, piece), piece)
        drift = np.add.reduce(shares, axis=1)
        return DriftSteps(p, drift, drift >= 1, shares[:, 0] >= shares[:, 1])

    def _start(self) -> None:
        self._bag = self._calibration
        self._evidence = Evidence(len(self._calibration), self.false_alarm_every)


def _checked(scores: Floats) -> Floats:
    values: Floats = np.asarray(scores, np.float64)
    if np.isnan(values).any():
        raise ApproxMassError("a score is NaN: check the pixels of the images", code="bad-scores")
    return values
