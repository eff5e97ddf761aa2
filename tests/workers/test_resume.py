"""Where a lane begins: what it makes of a broker that tells less of its group's offset than the lane knows."""

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError

from workers.failures import may_pass
from workers.resume import Doubts


@pytest.mark.parametrize("committed", [None, 6])
def test_an_offset_before_what_is_published_is_asked_for_again(committed: int | None) -> None:
    """A broker that loads its groups tells it; one that keeps to it has forgotten, or was told: it is believed."""
    doubts = Doubts()
    for _ in range(8):
        with pytest.raises(GroupCoordinatorNotAvailableError, match=rf"told to be {committed}, .* 7 are") as refused:
            doubts.judge(committed, noted=7)
        assert may_pass(refused.value)
    doubts.judge(committed, noted=7)


def test_an_answer_in_between_is_the_end_of_a_row() -> None:
    """Only what is said again and again is believed."""
    doubts = Doubts()
    for _ in range(20):
        with pytest.raises(GroupCoordinatorNotAvailableError):
            doubts.judge(6, noted=7)
        doubts.judge(7, noted=7)


@pytest.mark.parametrize("committed", [None, 0, 9])
def test_a_lane_that_knows_nothing_takes_any_answer(committed: int | None) -> None:
    """Nothing speaks against it: a lane's first start, or books that were made anew."""
    Doubts().judge(committed, noted=None)
