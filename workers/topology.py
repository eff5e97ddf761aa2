"""The table of workers, input topics and consumer groups, and the order in which records are decided.

The lanes of one partition number hold the same accounts, whatever their topic. Their records are decided by broker
time, which never runs back inside a topic. At one instant billing comes first, then sends, then ticks: a grant at T can
be spent at T, and a lot that a cancel ends at T cannot.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from aiokafka import TopicPartition

from infra.settings import Settings
from schemas.catalogue import BALANCES, BILLING_EVENTS, CATALOGUE, EXPIRY_TICKS, SEND_REQUESTS, TOPICS
from workers.ledger.model import WorkerName

__all__ = [
    "GROUP_OF",
    "TOPIC_OF",
    "TOPIC_OF_GROUP",
    "TOPIC_RANK",
    "WORKER_OF",
    "books_behind_advice",
    "last_owner",
    "set_back_advice",
    "skip_command",
    "sort_key",
    "topics_of",
]

# In the order in which records with the same broker time are decided.
WORKER_OF: Final = {
    BILLING_EVENTS: WorkerName.BILLING,
    SEND_REQUESTS: WorkerName.SEND,
    EXPIRY_TICKS: WorkerName.EXPIRY,
}
TOPIC_OF: Final[Mapping[str, str]] = {worker: topic for topic, worker in WORKER_OF.items()}
TOPIC_RANK: Final = {topic: rank for rank, topic in enumerate(WORKER_OF)}
GROUP_OF: Final = {row.topic: row.group for row in CATALOGUE if row.group is not None}
TOPIC_OF_GROUP: Final = {group: topic for topic, group in GROUP_OF.items()}


def topics_of(settings: Settings) -> tuple[str, ...]:
    """Return the topics of an installation: those of each one, and that of balances where it is switched on."""
    return (*TOPICS, BALANCES) if settings.balances_topic else TOPICS


def last_owner(group: str, place: TopicPartition, epoch: int, owner: str | None, owner_epoch: int | None) -> str | None:
    """Return the stem of the transactional ids under which a lane's last owner may publish still.

    Args:
        group: the lane's group.
        place: its partition.
        epoch: of its row.
        owner: of its row.
        owner_epoch: of its row: the epoch at which the owner was written, or gave the lane back.

    Returns:
        None where the owner has given the lane back. A worker of 0.1.0 named its producers after the lane, and knew of
        no owners: it raised the epoch and left `owner_epoch` behind.

    """
    return owner if owner_epoch == epoch else f"{group}.{place.topic}.{place.partition}"


def skip_command(place: TopicPartition, offset: int) -> str:
    """Return the command by which an operator lets a lane go on from an offset, without the records before it."""
    return f"inmail replay skip {WORKER_OF[place.topic]} --to-offset {offset} --partition {place.partition}"


def set_back_advice(place: TopicPartition, offset: int) -> str:
    """Return what sets a group's offset back, so that its lane reads on from there."""
    command = f"inmail replay rewind {WORKER_OF[place.topic]} --to-offset {offset} --partition {place.partition}"
    return f"stop the group's workers and run `{command}`"


def books_behind_advice(place: TopicPartition, offset: int, stored: int, oldest: int) -> str:
    """Return what to ask and to do where a group's offset is beyond what the books have read.

    Args:
        place: the partition.
        offset: the group's.
        stored: up to where the books have read.
        oldest: offset of the oldest record that is left. What lies between `stored` and it can be decided by nobody.

    """
    doubt = "is INMAIL_DATABASE_URL the right database, was it restored from a backup, or the group moved ahead?"
    rewind = set_back_advice(place, max(stored, oldest))
    if stored >= oldest:
        others = f"to go on without them, run `{skip_command(place, offset)}`"
        return f"{doubt} To decide the records between, {rewind}; {others}"
    gone = f"{doubt} Up to {oldest - stored:,} records from offset {stored} on are not in Kafka any more either"
    steps = [f"run `{skip_command(place, oldest)}`"] * bool(stored) + [rewind] * (offset > oldest)
    return f"{gone}: restore a newer backup, or, to go on without them, {', then '.join(steps)}"


def sort_key(topic: str, as_of: datetime) -> tuple[datetime, int]:
    """Return a key that sorts records of several topics into the order in which they are decided.

    Inside a topic the offset decides. `as_of` is the latest broker time of the record's partition up to the record, as
    `workers.jobs.decoding.decision_time` computes it.
    """
    return as_of, TOPIC_RANK[topic]
