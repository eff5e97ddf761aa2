"""Finds topic settings that conflict with the delivery guarantees, with a remedy for each.

`plan_topics` returns the changes that `apply` would make. This module reports conflicts, also those that `apply` cannot
resolve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from infra.kafka.clients import admin_client
from infra.settings import Settings
from schemas.catalogue import BALANCES, INPUT_TOPICS
from workers.ops.topics.plan import DAY_MS, describe_topic, wanted_config
from workers.topology import topics_of

__all__ = ["AWAY_DAYS", "BrokenPromise", "TopicState", "broken_promises", "check_topics"]

AWAY_DAYS: Final = 4  # a long weekend from Friday evening, and a day to repair the worker
_APPLY: Final = "run `inmail topics apply`"


class BrokenPromise(NamedTuple):
    """A topic setting that conflicts with a guarantee."""

    topic: str
    setting: str
    found: str
    promise: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TopicState:
    """The current settings of a topic."""

    partitions: int
    replicas: int
    config: Mapping[str, str]


async def check_topics(settings: Settings) -> list[BrokenPromise]:
    """Return the conflicting settings of existing topics, and of topics still to be created.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    topics = topics_of(settings)
    async with admin_client(settings) as admin:
        states = {}
        # Describes all topics: a broker may create a topic that is described by name.
        for row in await admin.describe_topics():
            if row["error_code"] == 0 and row["topic"] in topics:
                replicas = min(len(partition["replicas"]) for partition in row["partitions"])
                config, _ = await describe_topic(admin, row["topic"])
                states[row["topic"]] = TopicState(len(row["partitions"]), replicas, config)
    return broken_promises(states, settings)


def broken_promises(states: Mapping[str, TopicState], settings: Settings) -> list[BrokenPromise]:
    """Return the conflicting settings of topics; for a missing topic, of the settings it would be created with."""
    found = _check_partition_counts(states, settings)
    for topic in topics_of(settings):
        wanted = wanted_config(topic, settings)
        state = states.get(topic) or TopicState(settings.topic_partitions, settings.topic_replication, wanted)
        found += _check_topic(topic, state, wanted)
        found += _check_replicas(topic, state, wanted)
    return found


def _check_partition_counts(states: Mapping[str, TopicState], settings: Settings) -> list[BrokenPromise]:
    """Return topics whose number of partitions differs from most input topics', or from the configured number."""
    counts = [state.partitions for topic, state in states.items() if topic in INPUT_TOPICS]
    usual = max(counts, key=counts.count, default=settings.topic_partitions)
    promise = (
        "an account has the same partition number in every topic, so the lanes of that number read all its records"
    )
    found = [
        BrokenPromise(
            topic,
            "partitions",
            f"{state.partitions}, the others have {usual}",
            promise,
            "stop the producers, let the workers read all records, stop the workers, create this topic again with"
            " the others' number of partitions; never add partitions to a single topic",
        )
        for topic, state in states.items()
        if state.partitions != usual
    ]
    if states and usual != settings.topic_partitions:
        text = f"{usual}, INMAIL_TOPIC_PARTITIONS is {settings.topic_partitions}"
        remedy = f"set INMAIL_TOPIC_PARTITIONS to {usual}"
        found.append(BrokenPromise("all topics", "partitions", text, promise, remedy))
    return found


def _check_topic(topic: str, state: TopicState, wanted: Mapping[str, str]) -> list[BrokenPromise]:
    config = state.config
    found = []
    policy = config.get("cleanup.policy", "delete")
    if topic == BALANCES and policy != "compact":
        promise = "the newest balance of each account is kept for good, also of those that no event is about for long"
        found.append(BrokenPromise(topic, "cleanup.policy", policy, promise, _APPLY))
    elif topic != BALANCES and "compact" in policy:
        promise = "every record is kept for the retention time; compaction keeps only an account's newest record"
        found.append(BrokenPromise(topic, "cleanup.policy", policy, promise, _APPLY))
    kind = config.get("message.timestamp.type", "CreateTime")
    if kind != wanted["message.timestamp.type"]:
        if wanted["message.timestamp.type"] == "CreateTime":
            promise = "with INMAIL_TOPIC_RECORD_TIME=create a record has the time that its producer gives"
        elif topic in INPUT_TOPICS:
            promise = "a decision uses the broker's time, never a producer's"
        else:
            promise = "a record has the time when the broker received it, by which it is found"
        found.append(BrokenPromise(topic, "message.timestamp.type", kind, promise, _APPLY))
    if topic == BALANCES:  # retention says nothing about a topic that is only compacted
        return found
    promise = f"a worker or reader that is down for {AWAY_DAYS} days loses no record"
    days = int(config.get("retention.ms", "-1")) / DAY_MS
    if 0 <= days < AWAY_DAYS:
        enough = not 0 <= int(wanted["retention.ms"]) < AWAY_DAYS * DAY_MS
        remedy = _APPLY if enough else f"set INMAIL_TOPIC_RETENTION_DAYS to {AWAY_DAYS} or more, and {_APPLY}"
        found.append(BrokenPromise(topic, "retention.ms", f"{days:.3g} days", promise, remedy))
    if (size := config.get("retention.bytes", "-1")) != "-1":
        remedy = "set the topic's retention.bytes to -1, and watch the brokers' disks instead"
        found.append(BrokenPromise(topic, "retention.bytes", size, promise, remedy))
    return found


def _check_replicas(topic: str, state: TopicState, wanted: Mapping[str, str]) -> list[BrokenPromise]:
    config, replicas = state.config, state.replicas
    found = []
    if config.get("unclean.leader.election.enable", "false") == "true":
        promise = "acknowledged records stay; an unclean leader would lose them"
        found.append(BrokenPromise(topic, "unclean.leader.election.enable", "true", promise, _APPLY))
    least = int(config.get("min.insync.replicas", "1"))
    text = f"{least} of {replicas} replicas"
    right = replicas - 1
    remedy = (
        _APPLY
        if wanted.get("min.insync.replicas") == str(right)
        else f"set INMAIL_TOPIC_REPLICATION to {replicas}, and {_APPLY}"
    )
    if replicas >= 3 and least < 2:
        promise = "an acknowledged record survives the loss of a broker: at least two brokers have it"
        found.append(BrokenPromise(topic, "min.insync.replicas", text, promise, remedy))
    elif replicas >= 2 and least >= replicas:
        promise = "the workers continue while one broker is down; with this setting nothing could be written"
        found.append(BrokenPromise(topic, "min.insync.replicas", text, promise, remedy))
    return found
