"""What is asked of Kafka: versions, rights, topics, limits of the brokers, and the brokers' clock."""

from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAuthorizationFailedError

from infra.clock import utc_now
from infra.kafka.broker_versions import BrokerVersion, fetch_versions, version_concern
from infra.kafka.clients import admin_client
from infra.kafka.cluster_queries import LATEST, ClusterQueries
from infra.kafka.peek import peek
from infra.kafka.rights import find_missing_rights, user_of
from infra.kafka.topic_ids import DescribedTopic, describe_topics
from infra.settings import RecordTime, Settings
from schemas.catalogue import INPUT_TOPICS
from workers.ops.doctor.model import CheckResult, Grade, ok, warning, wrong
from workers.ops.topics.hanging import describe_hanging, find_hanging
from workers.ops.topics.plan import plan_topics
from workers.ops.topics.promises import check_topics
from workers.rights import rights_of
from workers.topology import topics_of

__all__ = [
    "check_broker_limits",
    "check_brokers",
    "check_clock",
    "check_hanging",
    "check_plan",
    "check_replicas",
    "check_rights",
    "check_settings",
    "check_version",
]

_FAULTS_TESTED: Final = {"4.0", "4.2"}
_LOSES: Final = {"partitions", "cleanup.policy", "message.timestamp.type", "unclean.leader.election.enable"}
_CLOCK_SECONDS: Final = 2.0


async def check_brokers(lookup: ClusterQueries) -> list[CheckResult]:
    """Return what is known of each broker's version."""
    return [check_version(each) for each in await fetch_versions(lookup)]


def check_version(version: BrokerVersion) -> CheckResult:
    """Return what is known of a broker's version."""
    subject = f"version of {version.address}"
    if (concern := version_concern(version)) is not None:
        return warning("Kafka", subject, *concern)
    faults = "every fault was tested" if version.release in _FAULTS_TESTED else "the system was run"
    return ok("Kafka", subject, f"{version.text}, on which {faults}")


async def check_rights(lookup: ClusterQueries, settings: Settings) -> list[CheckResult]:
    """Return which rights the user has of those that the workers and the ticker need, one thing after the other."""
    needed = rights_of("doctor", settings)
    missing = set(await find_missing_rights(lookup, needed))
    results = []
    for place in dict.fromkeys(right.place for right in needed):
        rights = [right for right in needed if right.place == place]
        names = " and ".join(right.operation.name for right in sorted(rights))
        if lacking := [right.operation.name for right in sorted(rights) if right in missing]:
            text, do = (
                f"{user_of(settings)} lacks {' and '.join(lacking)}",
                f"grant {names} on {place} to the workers' user",
            )
            results.append(wrong("rights", place, text, do))
        else:
            results.append(ok("rights", place, names))
    return results


async def check_replicas(lookup: ClusterQueries, settings: Settings) -> list[CheckResult]:
    """Return which topics are missing, or how the replicas of all are."""
    topics = topics_of(settings)
    described = await describe_topics(lookup.client, topics)
    if missing := [topic for topic in topics if topic not in described]:
        return [wrong("topics", "existence", f"there is no {', '.join(missing)}", "`inmail topics apply`")]
    results = [each for topic in described for each in _replicas(topic, described[topic], len(lookup.brokers()))]
    return results or [
        ok("topics", "replicas", "all topics are there, each partition with a leader and all its replicas in sync")
    ]


def _replicas(topic: str, found: DescribedTopic, brokers: int) -> list[CheckResult]:
    results = []
    if found.leaderless:
        numbers = ", ".join(map(str, found.leaderless))
        results.append(wrong("topics", topic, f"nobody leads partitions {numbers}", "bring their brokers back"))
    elif found.lagging:
        numbers = ", ".join(map(str, found.lagging))
        brokers_behind = f"broker{'s' if len(found.behind) > 1 else ''} {', '.join(map(str, found.behind))}"
        text = f"the replicas of partitions {numbers} on {brokers_behind} are not in sync"
        do = f"look at {brokers_behind}: whether it runs, and whether it catches up"
        results.append(warning("topics", topic, text, do))
    if found.replicas == 1 and brokers > 1:
        do = "give it more replicas (kafka-reassign-partitions.sh), and set INMAIL_TOPIC_REPLICATION"
        results.append(warning("topics", topic, "it has one replica: the loss of a broker loses records", do))
    return results


async def check_hanging(lookup: ClusterQueries, settings: Settings) -> list[CheckResult]:
    """Return the transactions that hang in our topics."""
    hanging = await find_hanging(lookup, settings)
    do = "`inmail transactions end`, or their owner if the topic is an input; see docs/kafka-versions.md"
    found = [wrong("topics", each.place.topic, f"hangs: {describe_hanging(each)}", do) for each in hanging]
    return found or [ok("topics", "transactions", "none is open that no coordinator will end")]


async def check_plan(settings: Settings) -> list[CheckResult]:
    """Return what `inmail topics apply` would change."""
    try:
        changes = await plan_topics(settings)
    except TopicAuthorizationFailedError:
        return [_unread_settings("plan", settings)]
    if not changes:
        return [ok("topics", "plan", "topics and groups are as they should be")]
    return [
        CheckResult(
            "topics",
            each.topic,
            Grade.WARNING if each.kind == "set" else Grade.WRONG,
            each.text if each.text.startswith(each.kind) else f"{each.kind}: {each.text}",
            "`inmail topics apply`",
        )
        for each in changes
    ]


def _unread_settings(subject: str, settings: Settings) -> CheckResult:
    text = f"not known: {user_of(settings)} lacks DESCRIBE_CONFIGS on the topics, which workers do not need"
    return warning("topics", subject, text, "`inmail topics plan` as the user that makes the topics")


async def check_settings(settings: Settings) -> list[CheckResult]:
    """Return which settings of topics break a promise."""
    try:
        broken = await check_topics(settings)
    except TopicAuthorizationFailedError:
        return [_unread_settings("settings", settings)]
    if not broken:
        return [ok("topics", "settings", "partitions, cleanup policy, record time and retention keep the guarantees")]
    return [
        CheckResult(
            "topics",
            each.topic,
            Grade.WRONG if each.setting in _LOSES else Grade.WARNING,
            f"{each.setting} is {each.found}; the guarantee: {each.promise}",
            each.remedy,
        )
        for each in broken
    ]


async def check_broker_limits(settings: Settings, nodes: Sequence[int]) -> list[CheckResult]:
    """Return which limits of the brokers the settings exceed."""
    async with admin_client(settings) as admin:
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, str(nodes[0]))])
    found = {entry[0]: entry[1] for answer in answers for resource in answer.resources for entry in resource[4]}
    if not found:
        text = "this user may not read them (DESCRIBE_CONFIGS on the cluster)"
        return [warning("Kafka", "limits", text, "compare transaction.max.timeout.ms and group.*.session.timeout.ms")]
    return _limits(found, settings) or [ok("Kafka", "limits", "the timeouts of the settings are within the brokers'")]


def _limits(found: Mapping[str, str], settings: Settings) -> list[CheckResult]:
    results = []
    most = int(found.get("transaction.max.timeout.ms", 2**31))
    if settings.transaction_seconds * 1000 > most:
        text = f"INMAIL_TRANSACTION_SECONDS is above the brokers' transaction.max.timeout.ms ({most} ms)"
        results.append(wrong("Kafka", "limits", text, "lower the setting"))
    least, most = (
        int(found.get("group.min.session.timeout.ms", 0)),
        int(found.get("group.max.session.timeout.ms", 2**31)),
    )
    if not least <= settings.session_seconds * 1000 <= most:
        text = f"INMAIL_SESSION_SECONDS is outside of the brokers' group.*.session.timeout.ms ({least} to {most} ms)"
        results.append(wrong("Kafka", "limits", text, "change the setting"))
    if found.get("auto.create.topics.enable") == "true":
        text = "auto.create.topics.enable is true: a producer with a wrong topic's name creates that topic"
        results.append(warning("Kafka", "limits", text, "set it to false"))
    return results


async def check_clock(lookup: ClusterQueries, settings: Settings) -> list[CheckResult]:
    """Return how far the brokers' clock is ahead of this host's, by the newest record of the input topics."""
    if settings.topic_record_time is RecordTime.CREATE:
        return [ok("clocks", "Kafka", "not asked: records have their producers' times")]
    places = [place for topic in INPUT_TOPICS for place in lookup.partitions(topic)]
    ends = await lookup.offsets(dict.fromkeys(places, LATEST), committed=True)
    last = {place: end - 1 for place, end in ends.items() if end > 0}
    times = [each.time for each in (await peek(lookup, last, committed=True)).values() if each.time is not None]
    if not times:
        return [ok("clocks", "Kafka", "not known: there is no record yet")]
    newest = max(times)
    ahead = (newest - utc_now()).total_seconds()
    if ahead > settings.clock_ahead_minutes * 60:
        text = f"the newest record's time is {ahead:,.0f} s ahead of this host's clock: workers here hold such records"
        return [wrong("clocks", "Kafka", text, "keep brokers and hosts on NTP, and see `inmail clock show`")]
    if ahead > _CLOCK_SECONDS:
        text = f"the newest record's time is {ahead:,.1f} s ahead of this host's clock"
        return [warning("clocks", "Kafka", text, "keep brokers and hosts on NTP")]
    return [ok("clocks", "Kafka", f"the newest record is {-ahead:,.1f} s old by this host's clock")]
