"""The slope of a figure over time, and whether it can be told from zero.

A line is fitted by least squares. Minutes are no independent draws, since memory stays where it was, and so a slope
would look surer than it is: the part that lasts from one minute to the next is estimated from what the line leaves
over, corrected for what any fitted line takes away from it, and taken out before the fit (Prais and Winsten, 1954, for
errors of first order). Several lives of a process have one slope, and each a level of its own.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import asin, cos, pi, sin, sqrt
from statistics import fmean
from typing import NamedTuple

__all__ = ["Points", "Trend", "fit"]

Points = Sequence[tuple[float, float]]  # of time and figure, in order of time

_LEAST_POINTS = 4
_MOST_LASTING = 0.98  # what lasts for good is no noise around a line any more


class Trend(NamedTuple):
    """A slope, and the interval in which it lies."""

    slope: float
    low: float
    high: float
    points: int

    @property
    def is_flat(self) -> bool:
        """Whether the slope cannot be told from zero."""
        return self.low <= 0 <= self.high


class _Fit(NamedTuple):
    slope: float
    error: float
    lasting: float  # the share of what the line leaves over that the next point still has


def fit(lives: Sequence[Points], confidence: float) -> Trend | None:
    """Return the slope of a figure; None when there are too few points.

    Args:
        lives: the points of each life of a process.
        confidence: the probability with which the interval holds the slope.

    """
    used = [life for life in lives if len(life) >= _LEAST_POINTS]
    count = sum(map(len, used))
    freedom = count - len(used) - 2  # a level of each life, a slope, and what lasts
    if not used or freedom < 1:
        return None
    plain = _fit(used, 0.0, freedom)
    # A line fitted to n points takes about (2 + 4 r) / n away from the autocorrelation r of what it leaves over.
    points = count / len(used)
    lasting = min(max((points * plain.lasting + 2) / max(1.0, points - 4), 0.0), _MOST_LASTING)
    # Too little of it would take noise for a leak: so one standard error more.
    found = _fit(used, min(lasting + sqrt((1 - lasting**2) / count), _MOST_LASTING), freedom)
    reach = _student(confidence, freedom) * found.error
    return Trend(found.slope, found.slope - reach, found.slope + reach, count)


def _fit(lives: Sequence[Points], lasting: float, freedom: int) -> _Fit:
    """Fit one slope to all lives, each point less the share of the one before that lasts."""
    first = sqrt(1 - lasting**2)
    squares = products = total = 0.0
    for points in lives:
        level = [first, *(1 - lasting for _ in points[1:])]
        times, figures = (
            _without(level, [first * column[0], *(b - lasting * a for a, b in pairwise(column))])
            for column in zip(*points, strict=True)
        )
        squares += _dot(times, times)
        products += _dot(times, figures)
        total += _dot(figures, figures)
    slope = products / squares
    left = max(0.0, total - slope * products)
    return _Fit(slope, sqrt(left / freedom / squares), _autocorrelation(lives, slope))


def _without(level: Sequence[float], column: Sequence[float]) -> list[float]:
    """Return a column less its part along a life's level."""
    share = _dot(level, column) / _dot(level, level)
    return [each - share * one for each, one in zip(column, level, strict=True)]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _autocorrelation(lives: Sequence[Points], slope: float) -> float:
    """Return how much what a line leaves over resembles itself a point later."""
    products = squares = 0.0
    for points in lives:
        left = [figure - slope * time for time, figure in points]
        middle = fmean(left)
        products += sum((a - middle) * (b - middle) for a, b in pairwise(left))
        squares += sum((each - middle) ** 2 for each in left)
    return products / squares if squares else 0.0


def _student(confidence: float, freedom: int) -> float:
    """Return the t at which Student's distribution holds so much between -t and t, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _held(middle, freedom) < confidence else (low, middle)
    return sqrt(freedom) * high / sqrt(1 - high**2) if high < 1 else float("inf")


def _held(sine: float, freedom: int) -> float:
    """Return what Student's distribution holds between -t and t, where sine = t / sqrt(freedom + t^2).

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = asin(sine)
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    series = term if freedom > 1 else 0.0
    for power in range(3 if odd else 2, freedom - 1, 2):
        term *= cos(angle) ** 2 * (power - 1) / power
        series += term
    return 2 / pi * (angle + sin(angle) * series) if odd else sin(angle) * series
