"""The evidence of a drift: what is won by betting that p-values are not uniform and independent."""

__all__ = ["EARLY", "Evidence", "log_pays"]

import math

import numpy as np
from scipy import special

from ..arrays import Floats

# The chance of a false alarm that the head starts add; a third each for what starts with 1, 2, 3.
EARLY = 0.02
_THIRD = EARLY / 3
# A test of a fixed level has decided once it is as sure that it will: it is never quite sure.
_SURE = 0.8
# Bets on a shift of all scores, by so many standard deviations if they are normal.
_SHIFTS = np.array([0.25, 0.5, 1.0, 2.0])
# Bets on some scores that are far out: what share of them, and one of how many p-values is small.
_SHARES = np.array([0.02, 0.1, 0.3])
_ONE_OF = np.array([512.0, 128.0, 32.0, 8.0])
# What the bets on a share pay for p up to 1 / 512, up to 1 / 128, ... and above 1 / 8, `(5, 3)`.
_STEPS = np.append(np.cumsum(_ONE_OF[::-1])[::-1] / len(_ONE_OF), 0.0)
_LOG_STEPS = np.log1p(np.outer(_STEPS - 1, _SHARES))
# Nearest to 0 and 1, for normal scores that are not infinite.
_EDGE = 2.0**-53


def log_pays(p: Floats) -> Floats:
    """Logarithms of what a stake of 1 on small p-values pays, for seven bets, `(..., 7)`.

    Four pay `exp(d z - d^2 / 2)`, where z is the normal score of p: best for scores that all grow
    by d. Three pay `1 - e + e f(p)`, with f the mean of `k [p <= 1 / k]` over four k: for a share e
    of scores that are far out. Each has mean 1 for a uniform p: an e-value (Vovk & Wang, 2021).

    Arguments:
        p: p-values `(...)` in [0, 1].

    Example:
        >>> np.exp(log_pays(np.array([0.001, 0.5]))).round(2)
        array([[ 2.1 ,  4.14, 13.33, 65.4 ,  4.38, 17.9 , 51.7 ],
               [ 0.97,  0.88,  0.61,  0.14,  0.98,  0.9 ,  0.7 ]])
    """
    return _log_pays(p, _normal_scores(p))


class Evidence:
    """What bets have won, as a share of what raises an alarm, on each of two sides.

    Three things are added up for each side; while nothing changes, p-values are independent and
    uniform, and then, for A' = A / (1 - EARLY):

    1. Shiryaev-Roberts: whoever stakes 1 before every score, and always bets all they have, holds
       `R = (R + 1) pay(p)`, the mean over the bets of both sides: finds a drift that begins at any
       time. It has a head start of `A' EARLY / 3`. R less its stakes is a martingale.
    2. A drift that is there from the start would join the scores it is compared with, and the
       p-values would forget it; all that is known of n calibration scores against a long stream
       is in `S = sum of n / sqrt((n + t)(n + t - 1)) z_t`, z the normal scores of the p-values:
       normal with variance `n t / (n + t)`, which goes to n. The test "S passes c in the end" has
       the level `P(S > c)`; its chance given all so far is a martingale.
    3. The same for outliers: how many scores are beyond all n calibration scores is Polya's urn,
       as `p <= (k + 1) / (n + t)` says that one more is. So the share that is beyond goes to a G
       of the law Beta(1, n), given the k of t so far Beta(1 + k, n + t - k). The test is "G
       exceeds q", of the level `(1 - q)^n`.

    The tests 2 and 3 have two sides each, of level `EARLY / 6 * 0.8`, and their chances are
    divided by 0.8: an alarm does not wait for the last doubt.

    Together, the shares times A', less t, are a martingale that starts at `A' EARLY`; so at an
    alarm, where they are A' or more, `E t >= A' (1 - EARLY) = A` (optional stopping at the lesser
    of alarm and T, and T to infinity), and a false alarm in t images has at most the chance
    `EARLY + t / A` (Doob). Shiryaev-Roberts with e-values: Shin, Ramdas & Rinaldo, E-detectors,
    2023; with a head start: Moustakides, Polunchenko & Tartakovsky, SR-r, 2011; chances as
    martingales: Ville, 1939; the urn: Blackwell & MacQueen, 1973.

    Arguments:
        count: n, the number of calibration scores.
        false_alarm_every: A.

    Example:
        >>> evidence = Evidence(99, 1000)
        >>> bool(evidence.take(np.full(8, 0.01))[-1, 0] > 1)
        True
    """

    def __init__(self, count: int, false_alarm_every: int) -> None:
        self._count = count
        self._log_threshold = math.log(false_alarm_every) - math.log1p(-EARLY)
        bets = 2 * (len(_SHIFTS) + len(_SHARES))
        self._log_held = np.full((2, bets // 2), self._log_threshold + math.log(_THIRD))
        level = _THIRD / 2 * _SURE
        self._limit = -math.sqrt(count) * float(special.ndtri(level))
        self._share = -math.expm1(math.log(level) / count)
        self._since = 0
        self._sum = np.zeros(2)
        self._beyond = (0, 0)

    @property
    def since(self) -> int:
        """How many p-values there were."""
        return self._since

    def take(self, p: Floats) -> Floats:
        """Bet on the next p-values `(m,)`; returns the evidence after each, `(m, 2)`.

        Column 0 is for small p-values, scores that have grown, column 1 for large ones. Their sum
        is the evidence; at 1 or more it raises an alarm.
        """
        sides = np.empty((len(p), 2))
        sides[:, 0], sides[:, 1] = p, 1 - p
        z = _normal_scores(sides)
        among = np.arange(1.0, len(p) + 1)[:, None] + (self._count + self._since)
        chances = self._shift(z, among)
        chances += self._far_out(sides * among, among)
        self._since += len(p)
        return self._bets(_log_pays(sides, z)) + chances / _SURE

    def _bets(self, pays: Floats) -> Floats:
        """What all bets hold, of which each starts with an equal part of a stake."""
        held = self._log_held
        for i in range(len(pays)):
            held = np.logaddexp(held, 0.0) + pays[i]
            pays[i] = held  # from here on what is held
        self._log_held = held
        pays -= self._log_threshold + math.log(held.size)
        sides: Floats = np.add.reduce(np.exp(np.minimum(pays, 700)), axis=2)
        return sides

    def _shift(self, z: Floats, among: Floats) -> Floats:
        """The chance that S passes the limit, upwards and downwards."""
        sums = z * (self._count / np.sqrt(among * (among - 1)))
        sums[:1] += self._sum
        np.add.accumulate(sums, out=sums)
        if len(z):
            self._sum = sums[-1]
        # What is still to come has the variance n - n t / (n + t) = n^2 / (n + t).
        chance: Floats = special.ndtr((sums - self._limit) * (np.sqrt(among) / self._count))
        return chance

    def _far_out(self, ranks: Floats, among: Floats) -> Floats:
        """The chance that the share beyond all calibration scores exceeds q, on either side."""
        beyond = np.empty_like(ranks)
        up, down = self._beyond
        for i, (rank_up, rank_down) in enumerate(ranks.tolist()):
            up += rank_up <= up + 1
            down += rank_down <= down + 1
            beyond[i] = up, down
        self._beyond = up, down
        chance: Floats = special.betaincc(1 + beyond, among - beyond, self._share)
        return chance


def _log_pays(p: Floats, z: Floats) -> Floats:
    pays = np.empty((*p.shape, len(_SHIFTS) + len(_SHARES)))
    pays[..., : len(_SHIFTS)] = z[..., None] * _SHIFTS - _SHIFTS**2 / 2
    pays[..., len(_SHIFTS) :] = _LOG_STEPS[np.searchsorted(1 / _ONE_OF, p)]
    return pays


def _normal_scores(p: Floats) -> Floats:
    scores: Floats = -special.ndtri(np.minimum(np.maximum(p, _EDGE), 1 - _EDGE))
    return scores
