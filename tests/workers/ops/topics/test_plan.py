"""Topics as code, on a broker of their own that makes any topic it is asked for."""

from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.kafka.clients import admin_client, committed_offsets, partitions_of
from infra.local.stack import LocalStack
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BALANCES, CREDIT_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS, TOPICS
from tests.workers.wire import eventually, publish
from workers.jobs.send import SendJob
from workers.ops.group_offsets import set_offsets
from workers.ops.topics import group_starts
from workers.ops.topics.plan import TopicChange, TopicsError, apply_topics, plan_topics
from workers.ops.topics.promises import check_topics


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalStack]:
    """A broker as careless as brokers are by default."""
    with LocalStack(postgres=False, broker_settings={"auto.create.topics.enable": "true"}) as stack:
        yield stack


@pytest.fixture
def cluster(settings: Settings, broker: LocalStack) -> Settings:
    """Settings for that broker, with two partitions."""
    changes = {"kafka_bootstrap_servers": broker.kafka_bootstrap_servers, "topic_partitions": 2}
    return settings.model_copy(update=changes)


@pytest.fixture
async def admin(cluster: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An operator's own client."""
    async with admin_client(cluster) as client:
        yield client


async def _given(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    """Return the settings that a topic was given itself."""
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    ((*_, entries),) = answer.resources
    return {name: value for name, value, _, source, *_ in entries if source == 1}


async def test_a_plan_creates_nothing(cluster: Settings, admin: AIOKafkaAdminClient) -> None:
    """Not even on a broker that makes a topic when a client asks after it."""
    changes = await plan_topics(cluster)
    await admin.describe_topics(["asked-after"])  # and what was asked after before it has come by then, too

    async def made() -> bool:
        return "asked-after" in await admin.list_topics()

    await eventually(made, "a topic that nobody created")
    assert set() == set(await admin.list_topics()) & set(TOPICS)
    assert list(TOPICS) == [change.topic for change in changes if change.kind == "create"]
    assert changes == await plan_topics(cluster)


async def test_applying_a_plan_leaves_every_other_setting_of_a_topic_alone(
    cluster: Settings, admin: AIOKafkaAdminClient
) -> None:
    """What an operator set stays; so does what is wanted and was right already, when only another setting changes."""
    await apply_topics(cluster, await plan_topics(cluster))
    before = {topic: await _given(admin, topic) | {"segment.bytes": "104857600"} for topic in TOPICS}
    for topic, given in before.items():
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=given)])
    week = cluster.model_copy(update={"topic_retention_days": 7})

    changes = await plan_topics(week)
    await apply_topics(week, changes)

    assert [("set", topic) for topic in TOPICS] == [(change.kind, change.topic) for change in changes]
    after = {topic: await _given(admin, topic) for topic in TOPICS}
    assert {topic: given | {"retention.ms": "604800000"} for topic, given in before.items()} == after
    assert "LogAppendTime" == after[SEND_REQUESTS]["message.timestamp.type"]
    assert str(4 * 1024 * 1024) == after[DEAD_LETTERS]["max.message.bytes"]
    assert [] == await plan_topics(week)


async def test_a_setting_that_the_broker_refuses_is_not_told_as_set(cluster: Settings) -> None:
    """Its answer has the error; the client raises none."""
    await apply_topics(cluster, await plan_topics(cluster))
    with pytest.raises(TopicsError, match=f"{SEND_REQUESTS} could not be changed: Invalid value soon"):
        await apply_topics(cluster, [TopicChange("set", SEND_REQUESTS, "", {"retention.ms": "soon"})])
    assert [] == await plan_topics(cluster)


async def test_the_topic_of_balances_is_made_compacted_and_only_where_it_is_on(
    cluster: Settings, admin: AIOKafkaAdminClient
) -> None:
    """Off again, it is left as it is."""
    await apply_topics(cluster, await plan_topics(cluster))
    assert BALANCES not in await admin.list_topics()
    on = cluster.model_copy(update={"balances_topic": True})

    changes = await plan_topics(on)
    await apply_topics(on, changes)

    assert [("create", BALANCES)] == [(change.kind, change.topic) for change in changes]
    given = await _given(admin, BALANCES)
    assert ("compact", "LogAppendTime") == (given["cleanup.policy"], given["message.timestamp.type"])
    assert "retention.ms" not in given
    assert [] == await plan_topics(on) == await plan_topics(cluster) == await check_topics(on)
    await admin.delete_topics([BALANCES])  # other tests have six topics


async def test_a_group_whose_offsets_are_gone_starts_near_the_end_of_the_books(
    cluster: Settings, admin: AIOKafkaAdminClient, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka forgets the offsets of a group that rested. It reads again what it may not have published, not all."""
    monkeypatch.setattr(group_starts, "UNPUBLISHED_AT_MOST", 5)
    group, places = SendJob.group, partitions_of(SEND_REQUESTS, 2)
    await apply_topics(cluster, await plan_topics(cluster))
    await admin.delete_topics([SEND_REQUESTS])  # and with it all offsets in it

    async def gone() -> bool:
        return {None} == set((await committed_offsets(admin, group, places)).values())

    await eventually(gone, "a group without offsets")
    await apply_topics(cluster, [change for change in await plan_topics(cluster) if change.kind == "create"])
    await publish(cluster, SEND_REQUESTS, [(b"%d" % n, b"{}") for n in range(60)])
    await database.execute("insert into lanes values ($1, $2, 0, 7, 12)", group, SEND_REQUESTS)

    changes = await plan_topics(cluster)
    await apply_topics(cluster, changes)

    assert [("start", group, {0: 7, 1: 0})] == [(change.kind, change.group, change.starts) for change in changes]
    assert {places[0]: 7, places[1]: 0} == await committed_offsets(admin, group, places)
    await set_offsets(cluster, group, {places[0]: 9}, [])
    await apply_topics(cluster, changes)  # by somebody who had made the same plan
    assert {places[0]: 9, places[1]: 0} == await committed_offsets(admin, group, places)


async def test_a_plan_warns_of_settings_that_break_a_promise(cluster: Settings, admin: AIOKafkaAdminClient) -> None:
    """Each is told with its topic; what `apply` sets right is right afterwards, and told no more."""
    await apply_topics(cluster, await plan_topics(cluster))
    assert [] == await check_topics(cluster)
    for topic, own in {
        SEND_REQUESTS: {"cleanup.policy": "compact", "retention.ms": "86400000"},
        SEND_RESULTS: {"message.timestamp.type": "CreateTime", "unclean.leader.election.enable": "true"},
        DEAD_LETTERS: {"retention.bytes": "1000000"},
    }.items():
        given = await _given(admin, topic) | own
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=given)])

    before = await check_topics(cluster)
    await apply_topics(cluster, await plan_topics(cluster))
    after = await check_topics(cluster)
    await admin.create_partitions({CREDIT_EVENTS: NewPartitions(total_count=3)})
    grown = await check_topics(cluster)

    assert {
        (SEND_REQUESTS, "cleanup.policy", "compact"),
        (SEND_REQUESTS, "retention.ms", "1 days"),
        (SEND_RESULTS, "message.timestamp.type", "CreateTime"),
        (SEND_RESULTS, "unclean.leader.election.enable", "true"),
        (DEAD_LETTERS, "retention.bytes", "1000000"),
    } == {each[:3] for each in before}
    assert {(DEAD_LETTERS, "retention.bytes", "1000000")} == {each[:3] for each in after}
    assert {(CREDIT_EVENTS, "partitions", "3, the others have 2")} == {each[:3] for each in grown} - {
        each[:3] for each in after
    }
