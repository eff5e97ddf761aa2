"""Where a lane begins: what it makes of a broker that denies its group's offset."""

import pytest
from aiokafka.errors import GroupCoordinatorNotAvailableError

from workers.failures import may_pass
from workers.resume import Denials


def test_an_offset_that_is_denied_against_the_books_is_asked_for_again() -> None:
    """A broker that loads its groups denies them; one that has forgotten a group goes on doing so, and is believed."""
    denials = Denials()
    for _ in range(8):
        with pytest.raises(GroupCoordinatorNotAvailableError) as refused:
            denials.judge(None, stored=7)
        assert may_pass(refused.value)
    denials.judge(None, stored=7)


def test_an_answer_in_between_is_the_end_of_a_row() -> None:
    """Only what is said again and again is believed."""
    denials = Denials()
    for _ in range(20):
        with pytest.raises(GroupCoordinatorNotAvailableError):
            denials.judge(None, stored=0)
        denials.judge(5, stored=7)


def test_a_group_that_never_began_is_told_so_at_once() -> None:
    """Nothing is known of it that could speak against."""
    Denials().judge(None, stored=None)
