"""The test of a soak's slopes: a leak is found, what only varies or fills once is not."""

from collections.abc import Callable
from random import Random

import pytest

from tests.soak.trend import Points, fit

CONFIDENCE = 0.999  # as of one fit among fifty that are to be right together with 95 %
MINUTES = 40


def _white(dice: Random) -> Callable[[], float]:
    return lambda: dice.gauss(0, 100)


def _lasting(dice: Random) -> Callable[[], float]:
    """Return noise that lasts, as memory does: each minute keeps 0.7 of the one before."""
    state = 0.0

    def following() -> float:
        nonlocal state
        state = 0.7 * state + dice.gauss(0, 70)
        return state

    return following


def _memory(noise: Callable[[], float], leak: float) -> Points:
    return [(minute, 80_000 + leak * minute + noise()) for minute in range(MINUTES)]


@pytest.mark.parametrize(("noise", "leak"), [(_white, 20), (_lasting, 50)])
def test_a_leak_is_found(noise: Callable[[Random], Callable[[], float]], leak: float) -> None:
    """A leak under noise of 100 KB is told from zero, and the interval holds it, in at least 28 of 30 runs."""
    trends = [fit([_memory(noise(Random(seed)), leak)], CONFIDENCE) for seed in range(30)]  # noqa: S311 - a workload

    assert sum(not trend.is_flat and trend.low <= leak <= trend.high for trend in trends if trend) >= 28


@pytest.mark.parametrize("noise", [_white, _lasting])
def test_noise_is_no_leak(noise: Callable[[Random], Callable[[], float]]) -> None:
    """Of 100 runs in which memory only varies, at most one is taken for a leak, whether a deviation lasts or not."""
    trends = [fit([_memory(noise(Random(seed)), leak=0)], CONFIDENCE) for seed in range(100)]  # noqa: S311 - a workload

    assert sum(not trend.is_flat for trend in trends if trend) <= 1


def test_a_leak_in_each_of_many_short_lives_is_found() -> None:
    """Where no life is long enough to tell, all of them together are; that each begins anew hides nothing."""
    dice = Random(1)  # noqa: S311 - a workload
    lives = [[(10 * life + minute, 80_000 + 100 * minute + dice.gauss(0, 100)) for minute in range(9)]
             for life in range(5)]  # fmt: skip

    alone, together = fit(lives[:1], CONFIDENCE), fit(lives, CONFIDENCE)

    assert alone is not None
    assert alone.is_flat
    assert together is not None
    assert not together.is_flat
    assert together.low <= 100 <= together.high


def test_a_figure_that_never_changes_is_flat() -> None:
    """A number of connections that stays has a slope of exactly zero; one minute with more of them is no slope."""
    same = fit([[(minute, 8) for minute in range(MINUTES)]], CONFIDENCE)
    once_more = fit([[(minute, 9 if minute == 30 else 8) for minute in range(MINUTES)]], CONFIDENCE)

    assert same == (0, 0, 0, MINUTES)
    assert once_more is not None
    assert once_more.is_flat


def test_memory_that_a_step_raised_once_is_flat() -> None:
    """A cache that fills in the middle, and then stays as it is, is no leak."""
    dice = Random(1)  # noqa: S311 - a workload
    trend = fit([[(minute, (500 if minute > 15 else 0) + dice.gauss(0, 10)) for minute in range(MINUTES)]], CONFIDENCE)

    assert trend is not None
    assert trend.is_flat


def test_a_file_left_open_every_few_minutes_is_found() -> None:
    """A figure that only steps, and stays the same in most minutes, has a slope all the same."""
    trend = fit([[(minute, 30 + minute // 5) for minute in range(MINUTES)]], CONFIDENCE)

    assert trend is not None
    assert trend.low > 0


def test_too_few_points_are_no_trend() -> None:
    """Of three minutes nothing is said."""
    assert fit([[(0, 1), (1, 2), (2, 3)]], CONFIDENCE) is None
