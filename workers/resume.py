"""Where a lane begins: how far its answers are published, and what it refuses to guess."""

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from infra.kafka import committed_offsets
from infra.transactions import TransactionPair
from workers.failures import LaneError
from workers.lane_row import LaneRow

__all__ = ["Doubts", "published_to"]

_DOUBTS = 8  # in a row: some 15 s of a lane that begins again, longer than a broker takes to load its groups


class Doubts:
    """How often in a row the brokers have told of an offset before the one up to which answers are published.

    A broker of 4.2.1 that has just been started after a crash may say that a group has no offset, or one of minutes ago,
    since it serves its groups before it has read them (docs/kafka-versions.md). It may go on so until it writes again.
    One that keeps to its word is believed: it has forgotten a group that rested for long, or an operator has set the
    offset back by other means than `inmail replay`.
    """

    def __init__(self) -> None:
        self._count = 0

    async def committed_offset(
        self, admin: AIOKafkaAdminClient, producers: TransactionPair, row: LaneRow, tp: TopicPartition
    ) -> int | None:
        """Return the offset of a lane's group, as the brokers tell it when it can be right.

        Args:
            admin: whom to ask.
            producers: the lane's.
            row: the lane's, which knows up to where its answers are published.
            tp: the lane's partition.

        Raises:
            GroupCoordinatorNotAvailableError: asking again may help.
            KafkaError, TimeoutError: as the brokers say.

        """
        committed = (await committed_offsets(admin, row.group, [tp]))[tp]
        if row.published is not None and _is_before(committed, row.published):
            await producers.touch(tp, row.published, row.group)
            committed = (await committed_offsets(admin, row.group, [tp]))[tp]
        self.judge(committed, row.published)
        return committed

    def judge(self, committed: int | None, noted: int | None) -> None:
        """Take an answer, or refuse it for now.

        Args:
            committed: the group's offset, as the brokers tell it now.
            noted: up to where the lane's row knows answers to be published; None: it knows nothing.

        Raises:
            GroupCoordinatorNotAvailableError: asking again may help.

        """
        if noted is None or not _is_before(committed, noted):
            self._count = 0
            return
        if self._count == _DOUBTS:
            self._count = 0
            structlog.get_logger("inmail.lane").warning("offset_set_back", offset=committed, published=noted)
            return
        self._count += 1
        raise GroupCoordinatorNotAvailableError(
            f"the group's offset is told to be {committed}, but answers up to {noted} are published"
        )


def _is_before(committed: int | None, noted: int) -> bool:
    """Tell whether a group's offset lies before what is known to be published."""
    return committed is None or committed < noted


def published_to(
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
    if published > end:
        raise LaneError(
            f"the offset of group {group} for {place} is {published}, but the partition ends at {end}: was the"
            " topic made anew, or records lost? Set the group's offset to where it should go on"
        )
    if (stored or 0) > end:
        raise LaneError(
            f"the books have read {place} up to offset {stored}, but the partition ends at {end}: was the topic"
            " made anew, or records lost? Set the group's offset and next_offset of the lane's row to where it"
            " should go on"
        )
    if published > max(stored or 0, oldest):
        raise LaneError(
            f"group {group} has published {place} up to offset {published}, but the books end at {stored or 0}: is"
            " INMAIL_DATABASE_URL the right database, was it restored from a backup, or the group moved ahead? To"
            f" decide the records between, set the group's offset to {max(stored or 0, oldest)}; to go on without"
            f" them, set next_offset of the lane's row to {published}"
        )
    if published < oldest and (stored or 0) < oldest:
        raise LaneError(
            f"retention removed {place} up to offset {oldest}, and group {group} has decided it up to"
            f" {stored or 0} only: the records between are lost to it. To go on without them, set both the group's"
            f" offset and next_offset of the lane's row to {oldest}"
        )
    return published
