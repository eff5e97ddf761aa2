"""Topics as code: what each should be, what differs, and making it so."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.kafka import MAX_RECORD_BYTES, admin_client, reader
from infra.settings import RecordTime, Settings
from schemas.catalogue import CATALOGUE, DEAD_LETTERS, INPUT_TOPICS, TOPICS

__all__ = ["Change", "TopicsError", "apply_topics", "plan_topics"]

_DAY_MS = 24 * 3600 * 1000


class TopicsError(Exception):
    """A topic differs in a way that cannot be changed without losing the order of accounts."""


@dataclass(frozen=True, slots=True)
class Change:
    """One step from how the cluster is to how it should be."""

    kind: str  # "create", "set" or "start"
    topic: str
    text: str
    config: Mapping[str, str] | None = None
    group: str | None = None
    partitions: tuple[int, ...] = ()


def wanted_config(topic: str, settings: Settings) -> dict[str, str]:
    """Return the settings that the promises rest on; the cluster's defaults hold for the rest."""
    config = {"cleanup.policy": "delete", "retention.ms": str(settings.topic_retention_days * _DAY_MS)}
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


async def plan_topics(settings: Settings) -> list[Change]:
    """Return what `apply_topics` would do, without doing it.

    Raises:
        TopicsError: when a topic has another number of partitions: accounts would change lanes.

    """
    async with admin_client(settings) as admin:
        existing = {
            row["topic"]: len(row["partitions"])
            for row in await admin.describe_topics(list(TOPICS))
            if row["error_code"] == 0
        }
        changes = []
        for topic in TOPICS:
            config = wanted_config(topic, settings)
            if topic not in existing:
                text = f"create with {settings.topic_partitions} partitions, {settings.topic_replication} replicas"
                changes.append(Change("create", topic, text, config))
                continue
            if existing[topic] != settings.topic_partitions:
                raise TopicsError(
                    f"{topic} has {existing[topic]} partitions, INMAIL_TOPIC_PARTITIONS is"
                    f" {settings.topic_partitions}: all topics need the same number, and it cannot change while"
                    " accounts are spread by it. Set INMAIL_TOPIC_PARTITIONS to what the topics have"
                )
            actual = await _describe(admin, topic)
            wrong = {name: value for name, value in config.items() if actual.get(name) != value}
            if wrong:
                text = ", ".join(f"{name}: {actual.get(name)} -> {value}" for name, value in wrong.items())
                changes.append(Change("set", topic, text, wrong))
        changes += await _plan_groups(settings, set(existing))
    return changes


async def _describe(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {entry[0]: entry[1] for response in responses for resource in response.resources for entry in resource[4]}


async def _plan_groups(settings: Settings, existing: set[str]) -> list[Change]:
    """A group without an offset is started at the oldest record: a worker never picks one by itself."""
    changes = []
    for topic in INPUT_TOPICS:
        group = next(row.group for row in CATALOGUE if row.topic == topic)
        missing: tuple[int, ...] = tuple(range(settings.topic_partitions))
        if topic in existing:
            async with reader(settings, group) as consumer:
                missing = tuple([n for n in missing if await consumer.committed(TopicPartition(topic, n)) is None])
        if missing:
            text = f"start group {group} at the oldest record of {len(missing)} partitions"
            changes.append(Change("start", topic, text, group=group, partitions=missing))
    return changes


async def apply_topics(settings: Settings, changes: list[Change]) -> None:
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
    for change in changes:
        if change.kind == "start":
            await _start_group(settings, change)


async def _create(admin: AIOKafkaAdminClient, change: Change, settings: Settings) -> None:
    topic = NewTopic(
        name=change.topic,
        num_partitions=settings.topic_partitions,
        replication_factor=settings.topic_replication,
        topic_configs=dict(change.config or {}),
    )
    response = await admin.create_topics([topic])
    for _, code, message in (tuple(row)[:3] for row in response.topic_errors):
        if code:
            raise TopicsError(f"{change.topic} could not be created: {message or f'error {code}'}")


async def _start_group(settings: Settings, change: Change) -> None:
    """Commit the oldest offset for partitions where the group has none. Refused by the broker while members live."""
    places = [TopicPartition(change.topic, number) for number in change.partitions]
    async with reader(settings, change.group) as consumer:
        oldest = await consumer.beginning_offsets(places)
        consumer.assign(places)
        await consumer.commit(oldest)
