"""A soak's count of answers: whatever is lost, doubled or out of sequence is found, and nothing is kept of the rest."""

from typing import Any

import pytest

from tests.soak.answers import Answers


def _answer(id_: str, sequence: int, **data: Any) -> dict[str, Any]:
    return {"id": id_, "subject": "alice", "type": "t", "data": {"sequence": sequence, "request_id": id_, **data}}


def test_each_answer_once_leaves_nothing() -> None:
    """Answers that come as they are expected, before or after, and repeats of them for what was sent twice, are all."""
    answers = Answers()
    answers.time("a", 1.0)
    answers.expect("a")
    answers.expect("a", repeat=True)

    answers.receive(_answer("a", 1), now=1.5)
    answers.receive(_answer("a", 1, repeat=True), now=2.0)
    answers.receive(_answer("b", 2), now=2.0)
    answers.expect("b")

    assert (answers.lost, answers.unasked, answers.gaps, answers.outstanding) == ([], [], [], 0)
    assert answers.received == 3


@pytest.mark.parametrize(
    ("received", "lost", "unasked", "gaps"),
    [
        ([], ["a", "b"], [], []),
        ([("a", 1)], ["b"], [], []),
        ([("a", 1), ("b", 2), ("b", 2)], [], ["b"], ["alice"]),
        ([("a", 1), ("b", 2), ("c", 3)], [], ["c"], []),
        ([("a", 1), ("b", 3)], [], [], ["alice"]),
    ],
    ids=["nothing comes", "one is lost", "one comes twice", "one that nobody asked for", "a number is left out"],
)
def test_what_is_wrong_is_found(
    received: list[tuple[str, int]], lost: list[str], unasked: list[str], gaps: list[str]
) -> None:
    """Two answers are expected of one account; each kind of fault is told by its own name."""
    answers = Answers()
    answers.expect("a")
    answers.expect("b")

    for id_, sequence in received:
        answers.receive(_answer(id_, sequence), now=1.0)

    assert (answers.lost, answers.unasked, answers.gaps) == (lost, unasked, gaps)


def test_a_first_answer_given_twice_is_no_repeat() -> None:
    """A record that was sent twice gets one first answer and one that says it repeats it, not two first ones."""
    answers = Answers()
    answers.expect("a")
    answers.expect("a", repeat=True)

    answers.receive(_answer("a", 1), now=1.0)
    answers.receive(_answer("a", 1), now=1.0)

    assert (answers.lost, answers.unasked) == (["a"], ["a"])


def test_latency_is_from_the_moment_a_send_was_due() -> None:
    """The shares of a minute are of its own answers, in milliseconds."""
    answers = Answers()
    for number in range(100):
        answers.time(str(number), 10.0)
        answers.receive(_answer(str(number), number + 1), now=10.0 + number / 1000)

    answered, p50, p99 = answers.take_minute()

    assert (answered, p50, p99) == (100, pytest.approx(49.5, abs=1), pytest.approx(98, abs=2))
    assert answers.take_minute().answered == 0
