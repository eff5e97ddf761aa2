"""Topics as code: what each should be, what differs, and making it so."""

import asyncio
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    GroupCoordinatorNotAvailableError,
    NotCoordinatorForGroupError,
    for_code,
)

from infra.kafka.clients import MAX_RECORD_BYTES, admin_client, committed_offsets, partitions_of, reader
from infra.kafka.rights import AUTHORIZATION_ERRORS
from infra.kafka.topic_ids import topic_ids
from infra.postgres import connect_database
from infra.settings import RecordTime, Settings
from schemas.catalogue import BALANCES, DEAD_LETTERS, INPUT_TOPICS
from workers.ops.group_offsets import describe_group
from workers.ops.numbers import all_holdings
from workers.ops.topics.ended import UNPUBLISHED_AT_MOST, EndedTopic, end_topic, find_ended, rows_of_lanes, start_lanes
from workers.ops.topics.numbering import number_accounts, plan_numbering
from workers.topology import GROUP_OF, topics_of

__all__ = [
    "DAY_MS",
    "TopicChange",
    "TopicsError",
    "apply_topics",
    "describe_topic",
    "plan_topics",
    "wanted_config",
]

DAY_MS = 24 * 3600 * 1000
_OF_TOPIC = 1  # source of a setting
_WORKING = "Stable"  # a group whose members work
_COORDINATOR_SECONDS = 30.0
_UNPUBLISHED_AT_MOST = UNPUBLISHED_AT_MOST
_UNPUBLISHED_FROM = (
    "select topic, partition, greatest(published, next_offset - $1, 0) as unpublished"
    " from lanes where next_offset is not null"
)


class TopicsError(Exception):
    """The cluster cannot be made as it should be: the order of accounts would be lost, or it refuses a step."""


@dataclass(frozen=True, slots=True)
class TopicChange:
    """One step from how the cluster is to how it should be."""

    kind: str  # "create", "set", "renew", "start" or "number"
    topic: str
    text: str
    config: Mapping[str, str] | None = None
    group: str | None = None
    starts: Mapping[int, int] | None = None  # offset by partition; where that is gone, the oldest


def wanted_config(topic: str, settings: Settings) -> dict[str, str]:
    """Return the settings that the promises rest on; the cluster's defaults hold for the rest."""
    if topic == BALANCES:  # what compaction keeps is kept for good
        config = {"cleanup.policy": "compact"}
    else:
        config = {"cleanup.policy": "delete", "retention.ms": str(settings.topic_retention_days * DAY_MS)}
    if settings.topic_replication > 1:
        config |= {"min.insync.replicas": str(settings.topic_replication - 1)}
    config["unclean.leader.election.enable"] = "false"
    if topic == DEAD_LETTERS:
        config["max.message.bytes"] = str(MAX_RECORD_BYTES)
    if topic in INPUT_TOPICS and settings.topic_record_time is RecordTime.CREATE:
        # The producer's word for the time, however far from the broker's: for stories and backfills. Kept for good,
        # since retention would count from that time.
        config |= {
            "message.timestamp.type": "CreateTime",
            "message.timestamp.after.max.ms": str(2**63 - 1),
            "message.timestamp.before.max.ms": str(2**63 - 1),
            "retention.ms": "-1",
        }
    else:
        config["message.timestamp.type"] = "LogAppendTime"
    return config


async def plan_topics(settings: Settings) -> list[TopicChange]:
    """Return what `apply_topics` would do, without doing it.

    Raises:
        TopicsError: when a topic has another number of partitions: accounts would change lanes.

    """
    topics = topics_of(settings)
    async with admin_client(settings) as admin:
        existing = {
            row["topic"]: len(row["partitions"])
            # Asked for all: a broker may create a topic that is asked for by name.
            for row in await admin.describe_topics()
            if row["error_code"] == 0 and row["topic"] in topics
        }
        changes = []
        for topic in topics:
            config = wanted_config(topic, settings)
            if topic not in existing:
                partitions = _count(settings.topic_partitions, "partition")
                text = f"create with {partitions}, {_count(settings.topic_replication, 'replica')}"
                changes.append(TopicChange("create", topic, text, config))
                continue
            if existing[topic] != settings.topic_partitions:
                raise TopicsError(
                    f"{topic} has {existing[topic]} partitions, INMAIL_TOPIC_PARTITIONS is"
                    f" {settings.topic_partitions}: all topics need the same number, and it cannot change while"
                    " accounts are spread by it. Set INMAIL_TOPIC_PARTITIONS to what the topics have"
                )
            actual, own = await describe_topic(admin, topic)
            wrong = {name: value for name, value in config.items() if actual.get(name) != value}
            if wrong:
                text = ", ".join(f"{name}: {actual.get(name)} -> {value}" for name, value in wrong.items())
                # The request replaces all of a topic's own settings: those that nobody asked to change go along.
                changes.append(TopicChange("set", topic, text, own | config))
        ended = await find_ended(settings, admin, existing)
        changes += [
            TopicChange("renew", topic, each.text, group=GROUP_OF[topic], starts=each.starts)
            for topic, each in ended.items()
        ]
        changes += await _plan_groups(settings, admin, existing, ended)
    if (numbering := await plan_numbering(settings)) is not None:
        changes.append(TopicChange("number", "accounts", numbering))
    return changes


async def describe_topic(admin: AIOKafkaAdminClient, topic: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the settings that hold for a topic, and those of them that were given to the topic itself.

    Raises:
        TopicAuthorizationFailedError: when the user lacks DESCRIBE_CONFIGS on the topic.

    """
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    if code := next((resource[0] for response in responses for resource in response.resources if resource[0]), 0):
        raise for_code(code)(f"the settings of topic {topic} may not be read")
    entries = [entry for response in responses for resource in response.resources for entry in resource[4]]
    # The fourth field tells the source (1: the topic) or, in the oldest version, whether it is a default.
    own = [entry for entry in entries if (entry[3] == _OF_TOPIC if len(entry) > 5 else not entry[3])]
    return {entry[0]: entry[1] for entry in entries}, {entry[0]: entry[1] for entry in own}


async def _plan_groups(
    settings: Settings, admin: AIOKafkaAdminClient, existing: Container[str], ended: Mapping[str, EndedTopic]
) -> list[TopicChange]:
    """A group without an offset is given one: a worker never picks one by itself.

    It starts at the oldest record, or where the books know that it has been further (Kafka forgets the offsets of a
    group that rested for long) from where its answers may be unpublished: one that comes twice has the same event ids.
    """
    changes = []
    unpublished = await _unpublished_by_books(settings)
    for topic in INPUT_TOPICS:
        group = GROUP_OF[topic]
        places = partitions_of(topic, settings.topic_partitions)
        known = await _committed(admin, group, places) if topic in existing else {}
        renewed = ended[topic].starts if topic in ended else {}
        missing = [place for place in places if known.get(place) is None and place.partition not in renewed]
        resumed = {place: unpublished[place] for place in missing if place in unpublished}
        if missing:
            text = f"start group {group} at the oldest record of {_count(len(missing) - len(resumed), 'partition')}"
            if resumed:
                text += f", near the end of the books of {len(resumed)}"
            starts = {place.partition: resumed.get(place, 0) for place in missing}
            changes.append(TopicChange("start", topic, text, group=group, starts=starts))
    return changes


async def _committed(
    admin: AIOKafkaAdminClient, group: str, places: Sequence[TopicPartition]
) -> Mapping[TopicPartition, int | None]:
    """Return a group's offsets, once its coordinator knows them: a new cluster has none until it is asked."""
    deadline = monotonic() + _COORDINATOR_SECONDS
    while True:
        try:
            return await committed_offsets(admin, group, places)
        except (GroupCoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorForGroupError):
            if monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _unpublished_by_books(settings: Settings) -> dict[TopicPartition, int]:
    """Return from where on each lane's answers may be unpublished, by the books; nothing where there are none yet."""
    rows = await rows_of_lanes(settings, _UNPUBLISHED_FROM, _UNPUBLISHED_AT_MOST)
    return {TopicPartition(row["topic"], row["partition"]): row["unpublished"] for row in rows}


async def apply_topics(settings: Settings, changes: list[TopicChange]) -> None:
    """Carry out a plan.

    Raises:
        TopicsError: when the cluster refuses a step.

    """
    async with admin_client(settings) as admin:
        for change in changes:
            if change.kind == "create":
                await _create(admin, change, settings)
            elif change.kind == "set":
                resource = ConfigResource(ConfigResourceType.TOPIC, change.topic, configs=dict(change.config or {}))
                await admin.alter_configs([resource])
        if renewed := [change for change in changes if change.kind == "renew"]:
            await _renew(settings, admin, renewed)
        for change in changes:
            if change.kind == "start":
                try:
                    await _start_group(settings, admin, change)
                except (
                    TopicsError
                ):  # its workers run: their lanes wait for an offset, and look for it in the books, too
                    if not await start_lanes(settings, change.group or "", change.topic, change.starts or {}):
                        raise
            elif change.kind == "number":
                await number_accounts(settings)


async def _renew(settings: Settings, admin: AIOKafkaAdminClient, changes: Sequence[TopicChange]) -> None:
    """Let lanes go on with the topics that are there now: in the books first, where their owners see it.

    The broker refuses the group's offsets while workers run. Their lanes begin by the books then, once they have asked
    for the offset often enough.
    """
    ids = await topic_ids(admin, [change.topic for change in changes])
    for server, holdings in await all_holdings(settings):
        connection = await connect_database(server)
        try:
            for change in changes:
                starts = {n: offset for n, offset in (change.starts or {}).items() if holdings.has_number(n)}
                await end_topic(connection, change.group or "", change.topic, ids.get(change.topic), starts)
        finally:
            await connection.close()
    for change in changes:
        places = [TopicPartition(change.topic, number) for number in change.starts or {}]
        try:
            await _start_group(settings, admin, change)
        except TopicsError:
            if any(each is not None for each in (await _committed(admin, change.group or "", places)).values()):
                raise


async def _create(admin: AIOKafkaAdminClient, change: TopicChange, settings: Settings) -> None:
    topic = NewTopic(
        name=change.topic,
        num_partitions=settings.topic_partitions,
        replication_factor=settings.topic_replication,
        topic_configs=dict(change.config or {}),
    )
    response = await admin.create_topics([topic])
    for _, code, message in (tuple(row)[:3] for row in response.topic_errors):
        if for_code(code) in AUTHORIZATION_ERRORS:
            raise for_code(code)(f"topic {change.topic} may not be created")
        if code:
            raise TopicsError(f"{change.topic} could not be created: {message or f'error {code}'}")


async def _start_group(settings: Settings, admin: AIOKafkaAdminClient, change: TopicChange) -> None:
    """Commit offsets for partitions where the group has none. Refused by the broker while members live."""
    group = change.group or ""
    starts = {TopicPartition(change.topic, number): offset for number, offset in (change.starts or {}).items()}
    deadline = monotonic() + _COORDINATOR_SECONDS
    async with reader(settings, group) as consumer:
        oldest = await consumer.beginning_offsets(list(starts))
        consumer.assign(list(starts))
        while True:
            try:
                await consumer.commit({place: max(oldest[place], offset) for place, offset in starts.items()})
            except CommitFailedError as error:
                state, members, _ = await describe_group(admin, group)
                if state == _WORKING or monotonic() > deadline:
                    counted = _count(len(members), "member")
                    raise TopicsError(
                        f"group {group} could not be started, it is {state} with {counted}: stop its"
                        f" workers first (one that was killed counts for {settings.session_seconds:.0f} s)"
                    ) from error
                await asyncio.sleep(0.2)  # members that are gone are being counted out
            else:
                return


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
