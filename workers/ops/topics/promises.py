"""What topics promise, and settings of theirs that break it: each with what to do.

`plan_topics` tells what `apply` would do. This tells what is at stake, also where nothing can be applied.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from infra.kafka.clients import admin_client
from infra.settings import Settings
from schemas.catalogue import INPUT_TOPICS, TOPICS
from workers.ops.topics.plan import DAY_MS, describe_topic, wanted_config

__all__ = ["AWAY_DAYS", "BrokenPromise", "TopicState", "broken_promises", "check_topics"]

AWAY_DAYS: Final = 4  # from Friday evening over a long weekend, and a day to mend what stopped the worker
_APPLY: Final = "run `inmail topics apply`"


class BrokenPromise(NamedTuple):
    """A setting that breaks a promise, or would when the day comes."""

    topic: str
    setting: str
    found: str
    promise: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is."""

    partitions: int
    replicas: int
    config: Mapping[str, str]


async def check_topics(settings: Settings) -> list[BrokenPromise]:
    """Return what breaks a promise in the topics that exist, and in the settings of those to be made.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    async with admin_client(settings) as admin:
        states = {}
        # Asked for all: a broker may create a topic that is asked for by name.
        for row in await admin.describe_topics():
            if row["error_code"] == 0 and row["topic"] in TOPICS:
                replicas = min(len(partition["replicas"]) for partition in row["partitions"])
                config, _ = await describe_topic(admin, row["topic"])
                states[row["topic"]] = TopicState(len(row["partitions"]), replicas, config)
    return broken_promises(states, settings)


def broken_promises(states: Mapping[str, TopicState], settings: Settings) -> list[BrokenPromise]:
    """Return what breaks a promise in topics as they are; of one that is not there, in what it would be made with."""
    found = _check_partition_counts(states, settings)
    for topic in TOPICS:
        wanted = wanted_config(topic, settings)
        state = states.get(topic) or TopicState(settings.topic_partitions, settings.topic_replication, wanted)
        found += _check_topic(topic, state, wanted)
        found += _check_replicas(topic, state, wanted)
    return found


def _check_partition_counts(states: Mapping[str, TopicState], settings: Settings) -> list[BrokenPromise]:
    """Find topics with another number of partitions than most of the inputs, or all of them with a wrong setting."""
    counts = [state.partitions for topic, state in states.items() if topic in INPUT_TOPICS]
    usual = max(counts, key=counts.count, default=settings.topic_partitions)
    promise = "an account is in the partition of one number everywhere, and the lanes of that number read all of it"
    found = [
        BrokenPromise(
            topic,
            "partitions",
            f"{state.partitions}, the others have {usual}",
            promise,
            "stop producers and workers, let the workers read all there is, make this topic anew with as many"
            " partitions as the others have; never add partitions to one of them",
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
    if "compact" in (policy := config.get("cleanup.policy", "delete")):
        promise = "every record is kept until its time is over; compaction keeps an account's newest one only"
        found.append(BrokenPromise(topic, "cleanup.policy", policy, promise, _APPLY))
    kind = config.get("message.timestamp.type", "CreateTime")
    if kind != wanted["message.timestamp.type"]:
        if wanted["message.timestamp.type"] == "CreateTime":
            promise = "with INMAIL_TOPIC_RECORD_TIME=create a record has the time that its producer gives"
        elif topic in INPUT_TOPICS:
            promise = "a decision is as of the broker's time, never a producer's"
        else:
            promise = "a record tells when the broker had it, by which it is found"
        found.append(BrokenPromise(topic, "message.timestamp.type", kind, promise, _APPLY))
    promise = f"a worker, a reader or an operator may be away for {AWAY_DAYS} days and finds all that came meanwhile"
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
        promise = "what the broker acknowledged stays; a leader that lacks records would take them back"
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
        promise = "an acknowledged record outlives the loss of a broker: it is on two at least"
        found.append(BrokenPromise(topic, "min.insync.replicas", text, promise, remedy))
    elif replicas >= 2 and least >= replicas:
        promise = "one broker may be away and the workers go on: here nothing can be written then"
        found.append(BrokenPromise(topic, "min.insync.replicas", text, promise, remedy))
    return found
