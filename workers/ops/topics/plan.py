"""Topics as code: what each should be, what differs, and making it so."""

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from infra.kafka.clients import MAX_RECORD_BYTES, admin_client
from infra.kafka.rights import AUTHORIZATION_ERRORS
from infra.settings import RecordTime, Settings
from schemas.catalogue import BALANCES, DEAD_LETTERS, INPUT_TOPICS
from workers.ops.topics.change import TopicChange, TopicsError, format_counted
from workers.ops.topics.ended import find_ended
from workers.ops.topics.group_starts import plan_groups, renew_lanes, reset_group, start_group
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
                partitions = format_counted(settings.topic_partitions, "partition")
                text = f"create with {partitions}, {format_counted(settings.topic_replication, 'replica')}"
                changes.append(TopicChange("create", topic, text, config))
                continue
            if existing[topic] != settings.topic_partitions:
                raise TopicsError(
                    f"{topic} has {existing[topic]} partitions, INMAIL_TOPIC_PARTITIONS is"
                    f" {settings.topic_partitions}: set it to what the topics have, all of which need the same number."
                    " docs/operate.md#add-partitions says how to add partitions"
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
        changes += await plan_groups(settings, admin, existing, ended)
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
                await _set(admin, change)
        if renewed := [change for change in changes if change.kind == "renew"]:
            created = {change.topic for change in changes if change.kind == "create"}
            await renew_lanes(settings, admin, renewed, created)
        for change in changes:
            if change.kind == "start":
                await start_group(settings, admin, change)
            elif change.kind == "reset":
                await reset_group(settings, admin, change)
            elif change.kind == "number":
                await number_accounts(settings)


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


async def _set(admin: AIOKafkaAdminClient, change: TopicChange) -> None:
    """Give a topic its settings. The client raises nothing where the broker refuses one: its answer tells."""
    resource = ConfigResource(ConfigResourceType.TOPIC, change.topic, configs=dict(change.config or {}))
    for response in await admin.alter_configs([resource]):
        for code, message in (tuple(row)[:2] for row in response.resources):
            if for_code(code) in AUTHORIZATION_ERRORS:
                raise for_code(code)(f"the settings of topic {change.topic} may not be changed")
            if code:
                raise TopicsError(f"{change.topic} could not be changed: {message or f'error {code}'}")
