"""The slope of a figure over time, and whether it can be told from zero.

The slope is Theil and Sen's: the median of the slopes of all pairs of points, which single outliers do not move. Its
interval is Sen's (1968): as many pairs around the median as Kendall's S may deviate by chance. Minutes are no
independent draws (memory stays where it was), which makes any slope look surer than it is: so the variance of S is
raised by (1 + r) / (1 - r), as Yue and Wang (2004) do, where r is the autocorrelation of the residuals' ranks from one
minute to the next, corrected for what a fitted line takes away from it. Several lives of a process are pooled as
seasons are (Hirsch, 1982): pairs are made inside a life only.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from math import ceil, floor, sqrt
from statistics import NormalDist, fmean, median
from typing import NamedTuple

__all__ = ["Points", "Trend", "fit"]

Points = Sequence[tuple[float, float]]  # of time and figure

_LEAST_POINTS = 4
_MOST_LASTING = 0.98  # an autocorrelation of 1 would leave nothing to tell


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


def fit(lives: Sequence[Points], confidence: float) -> Trend | None:
    """Return the slope of a figure; None when no life has enough points.

    Args:
        lives: the points of each life of a process, in order of time.
        confidence: the probability with which the interval holds the slope.

    """
    used = [life for life in lives if len(life) >= _LEAST_POINTS]
    slopes = sorted(slope for life in used for slope in _slopes(life))
    if not slopes:
        return None
    variance = sum(_variance(life) for life in used) * _inflation(used)
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * sqrt(variance)
    middle = (len(slopes) - 1) / 2
    low, high = max(0, floor(middle - reach / 2)), min(len(slopes) - 1, ceil(middle + reach / 2))
    return Trend(median(slopes), slopes[low], slopes[high], sum(map(len, used)))


def _slopes(points: Points) -> list[float]:
    return [(b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2)]


def _variance(points: Points) -> float:
    """Return the variance of Kendall's S of independent points, with ties."""
    n = len(points)
    ties = Counter(figure for _, figure in points).values()
    return (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18


def _inflation(lives: Sequence[Points]) -> float:
    """Return by how much the variance of S is larger because a point resembles the one before."""
    products = squares = 0.0
    for points in lives:
        slope = median(_slopes(points))
        ranks = _ranks([figure - slope * time for time, figure in points])
        middle = fmean(ranks)
        centred = [(rank - middle) / len(ranks) for rank in ranks]
        products += sum(a * b for a, b in pairwise(centred))
        squares += sum(each * each for each in centred)
    if not squares:
        return 1.0
    # A line fitted to n points lowers the autocorrelation of what remains by about (2 + 4 r) / n.
    n = fmean(map(len, lives))
    lasting = (n * products / squares + 2) / max(1.0, n - 4)
    lasting = min(max(lasting, 0.0), _MOST_LASTING)
    return (1 + lasting) / (1 - lasting)


def _ranks(figures: Sequence[float]) -> list[float]:
    """Return each figure's rank; equal figures share theirs."""
    order = sorted(figures)
    first = {figure: number for number, figure in reversed(list(enumerate(order)))}
    count = Counter(order)
    return [first[figure] + (count[figure] - 1) / 2 for figure in figures]
