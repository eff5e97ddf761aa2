"""Where a lane begins: of which topic, how far its answers are published, and what it refuses to guess."""

from typing import NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.errors import GroupCoordinatorNotAvailableError, UnknownTopicOrPartitionError

from workers.errors import LaneError
from workers.topology import books_behind_advice, set_back_advice, skip_command

__all__ = ["CommittedOffsetCheck", "StartPoint", "check_start", "check_topic"]

_LOOK_BACK = 10_000  # records that a broker may forget, where it has forgotten all
_ATTEMPTS = 8  # for one noted offset: mostly 15 s of a lane that begins again; a broker loads its groups sooner


class StartPoint(NamedTuple):
    """From where a lane publishes, and up to where answers may be published all the same; None: that is certain."""

    publish_from: int | None
    check_up_to: int | None = None
    is_news: bool = False  # whether the brokers are not believed from now on


class CommittedOffsetCheck:
    """How often in a row the brokers have told of an offset before the one up to which answers are published.

    A broker of 4.2.1 that has just been started after a crash may say that a group has no offset, or one of minutes ago
    (docs/kafka-versions.md). Mostly it tells the true one a moment later. Where it does not, neither it nor the lane's
    row is believed: the lane begins where it was told to, and looks for each answer up to the row's offset. So it does
    with what an owner that did not give the lane back may have published last: no row notes that.
    """

    def __init__(self) -> None:
        self._noted: int | None = None  # which the brokers told less than
        self._count = 0

    def resolve(  # noqa: PLR0913 - what is known of a lane
        self,
        committed: int | None,
        noted: int | None,
        maybe: int | None,
        stored: int,
        end: int,
        *,
        doubted: int | None = None,
    ) -> StartPoint:
        """Return the offset to go by; or refuse it for now.

        What was asked often enough is not asked that often again while nothing more is published: an opening may fail
        later on, and a lane may go to another worker and come back.

        Args:
            committed: the group's offset, as the brokers tell it now.
            noted: up to where the lane's row knows answers to be published; None: it knows nothing.
            maybe: up to where answers may be published, noted or not; None: the row, of a version before, does not say.
            stored: up to where outcomes are: answers may be published so far, which the row notes with its next batch.
            end: of the partition. What is noted beyond it is of records that are lost, or of another topic.
            doubted: what the brokers told an owner that published without the offset from then on: to be told the same
                again is no news.

        Raises:
            GroupCoordinatorNotAvailableError: asking again may help.

        """
        if noted is None or noted > end or (committed is not None and committed >= noted):
            self._noted = None
            unsure = committed is not None and maybe is not None and committed < maybe <= end
            return StartPoint(committed, maybe if unsure else None)
        if self._noted != noted:
            self._noted, self._count = noted, 0
        is_known = committed is not None and committed == doubted
        if is_known or self._count >= _ATTEMPTS:
            self._count += 1
            # After a rewind far less than what is stored: the rest has to be published again, found or not.
            up_to = maybe if maybe is not None and maybe >= noted else max(noted, stored)
            is_news = self._count == _ATTEMPTS + 1 and not is_known
            return StartPoint(max(committed or 0, noted - _LOOK_BACK), up_to, is_news)
        self._count += 1
        raise GroupCoordinatorNotAvailableError(
            f"the group's offset is told to be {committed}, but answers up to {noted} are published (to go back, use"
            " `inmail replay rewind`)"
        )


def check_topic(tp: TopicPartition, found: UUID | None, known: UUID | None, stored: int | None) -> UUID:
    """Return the id of the topic that a lane is to read; refuse one that is not the one that its row tells of.

    Args:
        tp: the lane's partition.
        found: the id that the topic has now; None: it has none.
        known: the id that the lane's row has; None: none yet.
        stored: up to where the books have read.

    Raises:
        UnknownTopicOrPartitionError: when there is no such topic just now.
        LaneError: when it is another topic.

    """
    if found is None:
        raise UnknownTopicOrPartitionError(f"there is no topic {tp.topic}")
    if known is not None and found != known:
        raise LaneError(
            f"{tp.topic} was deleted and created again: it has the id {found}, and the books have read the topic with"
            f" the id {known}, partition {tp.partition} up to offset {stored or 0}. Run `inmail topics apply`, which"
            " goes on with the new topic from its oldest record"
        )
    return found


def check_start(
    group: str, tp: TopicPartition, published: int | None, stored: int | None, *, kept: tuple[int, int]
) -> int:
    """Return how far a lane's answers are published; refuse to guess where records were lost or an offset never was.

    Args:
        group: whose lane it is.
        tp: its partition.
        published: the group's committed offset.
        stored: up to where the books have read.
        kept: the offsets of the oldest record that retention has left, and of the partition's end.

    Raises:
        LaneError: saying what an operator has to decide.

    """
    oldest, end = kept
    place = f"{tp.topic}/{tp.partition}"
    if published is None:
        raise LaneError(
            f"group {group} has no offset for {place}: run `inmail topics apply`, which starts a group at the"
            " oldest record, or near the end of the books if there are any"
        )
    if (stored or 0) > end:
        raise LaneError(
            f"the books have read {place} up to offset {stored}, but the partition ends at {end}: records were lost, or"
            " the topic created again. Run `inmail topics apply`, which goes on with what is there now"
        )
    # A lane that has stored nothing begins at the oldest record. One that has, and stands before it, has lost records,
    # also where its group was set to the oldest one, or stood there when retention took what was before.
    if published > (stored or oldest):
        raise LaneError(_beyond(group, tp, published, stored or 0, kept))
    if (decided := max(published, stored or 0)) < oldest:
        raise LaneError(
            f"retention removed {place} up to offset {oldest}, and group {group} has decided it up to {decided} only:"
            f" up to {oldest - decided:,} records between are lost to it. To go on without them, run"
            f" `{skip_command(tp, oldest)}`"
        )
    return published


def _beyond(group: str, tp: TopicPartition, published: int, stored: int, kept: tuple[int, int]) -> str:
    """Return what to do about an offset that is beyond what the books have read."""
    oldest, end = kept
    place = f"{tp.topic}/{tp.partition}"
    if published > end:
        return (
            f"the offset of group {group} for {place} is {published}, but the partition ends at {end}, and the books at"
            f" {stored}. To go on behind the books, {set_back_advice(tp, max(stored, oldest))}"
        )
    return (
        f"group {group} has published {place} up to offset {published}, but the books end at {stored}:"
        f" {books_behind_advice(tp, published, stored, oldest)}"
    )
