"""Offsets that do not fit what is there: beyond the end, beyond the books, forgotten, or of a topic that is gone.

Of such a partition no count of unread records by its group's offset is true, least of all that there are none.
"""

from typing import Final

from aiokafka import TopicPartition

from workers.ops.lag.model import Classification, Facts, Sample, Status
from workers.topology import TOPIC_OF, books_behind_advice, set_back_advice, skip_command

__all__ = ["LOST_UNDECIDED", "classify_offsets"]

LOST_UNDECIDED: Final = "retention removed records that the books have not read"  # how such a reason begins
_LOST = "records were lost, or the topic was created again"


def classify_offsets(last: Sample, facts: Facts, unread: str) -> Classification | None:
    """Return how a partition stands by its offsets alone, with what to do; None where they fit.

    Args:
        last: the partition as it is now.
        facts: what is known beside it.
        unread: how many records are unread, in words.

    """
    stored, committed = facts.stored, last.committed
    apply = "run `inmail topics apply`"
    if facts.recreated is not None:
        return Classification(Status.RECREATED, f"{facts.recreated}; {unread}: {apply}")
    if stored is not None and stored > last.end:
        words = f"the books have read up to {stored:,}, and the partition ends at {last.end:,}: {_LOST}"
        return Classification(Status.BEYOND_END, f"{words}; {apply}")
    if committed is not None and committed > last.end:
        words = f"its offset is {committed:,}, and the partition ends at {last.end:,}: {_LOST}"
        to_do = f"up to {last.records:,} records are unread"
        if stored is not None:
            to_do = set_back_advice(_place(facts), max(stored, facts.oldest))
        return Classification(Status.BEYOND_END, f"{words}; {to_do}")
    if committed is None and stored:
        words = f"its offset is gone, as of a group that rested for long; the books have read up to {stored:,}"
        return Classification(Status.EXPIRED, f"{words}, and {unread}: {apply}")
    if committed is not None and stored is not None and committed > (stored or facts.oldest):
        words = f"its offset is {committed:,}, and the books have read up to {stored:,}; {unread}"
        advice = books_behind_advice(_place(facts), committed, stored, facts.oldest)
        return Classification(Status.BEYOND_BOOKS, f"{words}: {advice}")
    halted = _halted(committed, facts)
    return None if halted is None else Classification(Status.HALTED, halted)


def _halted(committed: int | None, facts: Facts) -> str | None:
    """Return why a lane cannot go on: where it has not begun yet, the reason that it will give."""
    if committed is not None and facts.stored is not None and max(committed, facts.stored) < facts.oldest:
        words = f"the oldest left is {facts.oldest:,}, and the books have read up to {facts.stored:,}"
        command = skip_command(_place(facts), facts.oldest)
        return f"{LOST_UNDECIDED}: {words}. To go on without those between, run `{command}`"
    return None if facts.halted is None else f"its lane cannot go on: {facts.halted}"


def _place(facts: Facts) -> TopicPartition:
    worker, partition = facts.place
    return TopicPartition(TOPIC_OF[worker], partition)
