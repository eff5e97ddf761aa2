"""Where a lane begins: what it makes of a broker that tells less of its group's offset than the lane knows."""

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError

from infra.retry import is_retriable
from workers.lane.recovery import CommittedOffsetCheck, StartPoint


@pytest.mark.parametrize("committed", [None, 6])
def test_an_offset_before_what_is_published_is_asked_for_again(committed: int | None) -> None:
    """A broker that loads its groups tells it. Of one that keeps to it, the result topics are asked."""
    doubts = CommittedOffsetCheck()
    for _ in range(8):
        with pytest.raises(GroupCoordinatorNotAvailableError, match=rf"told to be {committed}, .* 7 are") as refused:
            doubts.resolve(committed, noted=7, maybe=None, stored=8, end=9)
        assert is_retriable(refused.value)
    found = doubts.resolve(committed, noted=7, maybe=None, stored=8, end=9)
    assert StartPoint(committed or 0, 8, is_news=True) == found


def test_who_has_asked_often_enough_does_not_begin_anew_while_nothing_changes() -> None:
    """The opening that it was for may have failed, or the lane been elsewhere: another 15 s would be of no use."""
    doubts = CommittedOffsetCheck()
    for _ in range(8):
        with pytest.raises(GroupCoordinatorNotAvailableError):
            doubts.resolve(6, noted=7, maybe=None, stored=8, end=9)
    found = [doubts.resolve(6, noted=7, maybe=None, stored=8, end=9) for _ in range(3)]
    assert [StartPoint(6, 8, is_news=True), StartPoint(6, 8), StartPoint(6, 8)] == found  # it is logged once
    with pytest.raises(GroupCoordinatorNotAvailableError):
        doubts.resolve(6, noted=8, maybe=None, stored=8, end=9)


def test_who_published_in_doubt_is_told_less_than_it_noted_and_goes_on() -> None:
    """The group's offset stays before those answers until the doubt is over: asking again cost each owner 15 s."""
    assert StartPoint(6, 9) == CommittedOffsetCheck().resolve(6, noted=7, maybe=9, stored=9, end=9, doubted=6)
    for other in (5, None):  # a broker that loads its groups does not know them yet
        with pytest.raises(GroupCoordinatorNotAvailableError):
            CommittedOffsetCheck().resolve(other, noted=7, maybe=9, stored=9, end=9, doubted=6)


def test_an_answer_in_between_is_the_end_of_a_row() -> None:
    """A broker that comes to know better is gone by."""
    doubts = CommittedOffsetCheck()
    for _ in range(20):
        with pytest.raises(GroupCoordinatorNotAvailableError):
            doubts.resolve(6, noted=7, maybe=None, stored=8, end=9)
        assert StartPoint(8) == doubts.resolve(8, noted=7, maybe=None, stored=8, end=9)


def test_what_a_rewind_has_not_come_to_yet_is_not_looked_for() -> None:
    """It can be read, from before the rewind: the lane would leave out all that is still to be published again."""
    doubts = CommittedOffsetCheck()
    for _ in range(8):
        with pytest.raises(GroupCoordinatorNotAvailableError):
            doubts.resolve(1, noted=2, maybe=3, stored=8, end=9)
    assert StartPoint(1, 3, is_news=True) == doubts.resolve(1, noted=2, maybe=3, stored=8, end=9)


@pytest.mark.parametrize("committed", [None, 0, 9])
@pytest.mark.parametrize("noted", [None, 10])
def test_any_answer_is_taken_where_nothing_speaks_against_it(committed: int | None, noted: int | None) -> None:
    """A lane's first start, or books that were made anew; and a topic that was, of which an operator has to be told."""
    assert StartPoint(committed) == CommittedOffsetCheck().resolve(committed, noted=noted, maybe=None, stored=8, end=9)


@pytest.mark.parametrize(
    ("committed", "maybe", "check_up_to"), [(7, 8, 8), (8, 8, None), (9, 8, None), (7, None, None), (7, 10, None)]
)
def test_what_the_last_owner_may_have_published_without_noting_it_is_looked_for(
    committed: int, maybe: int | None, check_up_to: int | None
) -> None:
    """Unless the brokers tell of it. Beyond the partition's end there is nothing that it could have answered."""
    found = CommittedOffsetCheck().resolve(committed, noted=7, maybe=maybe, stored=8, end=9)

    assert StartPoint(committed, check_up_to) == found
