"""Has a stream of scores drifted? A sequential test with a stated rate of false alarms.

Looking again and again at a p-value of the latest images must in the end raise an alarm, even if
nothing changes. This test may be looked at after every image, for ever.
"""

__all__ = ["DriftMonitor", "DriftSteps", "log_pay", "online_p_values"]

import math
from dataclasses import dataclass

import numpy as np

from .arrays import Bools, Floats
from .errors import ApproxMassError

# Bets from bold, for a few images far out, to timid, for many that are a little out.
_EXPONENTS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
# Scores that are compared with each other all at once, in a square of this side.
_PIECE = 512


@dataclass(frozen=True, eq=False)
class DriftSteps:
    """What the monitor found after each of m scores; every array is `(m,)`.

    Attributes:
        p_value: Online p-values in (0, 1]; small = towards out-of-distribution.
        drift: The evidence of a drift, as a share of what raises an alarm; at least 0.
        alarm: Whether this score raised an alarm: `drift >= 1`.
    """

    p_value: Floats
    drift: Floats
    alarm: Bools


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
    before = np.tri(m, k=-1, dtype=bool)
    up_to = np.searchsorted(bag, scores, side="right")
    larger = len(bag) - up_to + ((scores > scores[:, None]) & before).sum(1)
    equal = up_to - np.searchsorted(bag, scores, side="left")
    equal += 1 + ((scores == scores[:, None]) & before).sum(1)
    p: Floats = (larger + theta * equal) / (len(bag) + 1 + np.arange(m))
    return p


def log_pay(p: float) -> Floats:
    """Logarithms of what a stake of 1 on a small p-value pays, for bets of five kinds, `(5,)`.

    A bet with exponent e pays `e * p ** (e - 1)`, which has mean 1 for a uniform p: an e-value
    (Vovk & Wang, 2021). The exponents are 0.1, 0.3, ... 0.9.

    Arguments:
        p: In (0, 1].

    Example:
        >>> np.exp(log_pay(0.04)).round(2)  # the middle one: 0.5 / sqrt(0.04)
        array([1.81, 2.86, 2.5 , 1.84, 1.24])
    """
    pay: Floats = np.log(_EXPONENTS) + (_EXPONENTS - 1) * math.log(p)
    return pay


class DriftMonitor:
    """Watches scores one after the other and raises an alarm when they have grown.

    The evidence is a Shiryaev-Roberts e-detector (Shin, Ramdas & Rinaldo, 2023): whoever stakes 1
    before every score, and each time puts all they have on its online p-value being small, holds
    `R_t = (R_{t-1} + 1) * pay(p_t)`, here the mean over bets of five kinds. While nothing changes,
    `R_t - t` is a fair game. So if the alarm is raised once `R_t` reaches `false_alarm_every`, then
    from the start to a false alarm it takes that many scores or more, on average.

    This rests on independent, uniform p-values. Those from the calibration scores alone are not
    independent: they all share its sampling error, which a test without an end would find sooner or
    later and call a drift. The online ones count the earlier scores of the stream beside the
    calibration scores. The price: a drift so slow that they take it in is not seen.

    After an alarm all starts anew from the calibration scores: the scores that raised it do not
    join them, and a drift that stays is found again, as soon as at first. While nothing changes
    every stretch from one alarm to the next has the same law as the first, and so a mean that is no
    shorter. Like that of the p-values, the promise is an average over calibration sets: one and the
    same set may bring alarms more often, another more seldom.

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
        self._calibration = np.sort(_checked(calibration))
        self._draws = np.random.default_rng(seed)
        self._threshold = math.log(false_alarm_every)
        self._bag: Floats
        self._log_held: Floats
        self._since: int
        self._start()

    @property
    def since_alarm(self) -> int:
        """How many scores there were since the last alarm, or the start."""
        return self._since

    def update(self, scores: Floats) -> DriftSteps:
        """Take in the next scores `(m,)`; in how many portions they come makes no difference.

        Raises:
            ApproxMassError: NaN among the scores; none of them has then been taken in.

        Example:
            >>> scores = np.array([50.0, 200.0, 200.0, 200.0])
            >>> DriftMonitor(np.arange(99.0), 100).update(scores).alarm
            array([False, False, False,  True])
        """
        scores = _checked(scores)
        theta = 1 - self._draws.random(len(scores))  # a p-value of 0 would pay without limit
        p, drift = np.empty(len(scores)), np.empty(len(scores))
        i = 0
        while i < len(scores):
            piece = scores[i : i + _PIECE]
            # After an alarm the bag is another, so the rest of the piece is compared again.
            for p_value in online_p_values(self._bag, piece, theta[i : i + _PIECE]):
                evidence = self._play(p_value)
                p[i], drift[i] = p_value, math.exp(min(evidence - self._threshold, 700))
                i += 1
                if drift[i - 1] >= 1:
                    self._start()
                    break
            else:
                piece = np.sort(piece)
                self._bag = np.insert(self._bag, np.searchsorted(self._bag, piece), piece)
        return DriftSteps(p, drift, drift >= 1)

    def _start(self) -> None:
        self._bag = self._calibration
        self._log_held = np.full(len(_EXPONENTS), -np.inf)
        self._since = 0

    def _play(self, p: float) -> float:
        """Put what is held, and 1 more, on a p-value; returns the log of the mean held then."""
        self._log_held = np.logaddexp(self._log_held, 0.0) + log_pay(p)
        self._since += 1
        return float(np.logaddexp.reduce(self._log_held)) - math.log(len(_EXPONENTS))


def _checked(scores: Floats) -> Floats:
    values: Floats = np.asarray(scores, np.float64)
    if np.isnan(values).any():
        raise ApproxMassError("a score is NaN: check the pixels of the images", code="bad-scores")
    return values
