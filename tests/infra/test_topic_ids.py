"""The ids of topics, asked for in a version of the request that aiokafka does not speak."""

from uuid import uuid4

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.kafka.clients import admin_client
from infra.kafka.topic_ids import topic_ids
from infra.settings import Settings
from tests.workers.wire import eventually


async def test_a_topic_that_is_made_anew_has_another_id(settings: Settings) -> None:
    """One that stays keeps its own; one that is not there has none, and is not made by the question."""
    stays, anew, never = (f"ids-{uuid4().hex[:8]}" for _ in range(3))
    topics = [stays, anew, never]
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(stays, 3, 1), NewTopic(anew, 1, 1)])
        await eventually(lambda: _there(admin, topics, 2), "two topics")
        before = await topic_ids(admin, topics)
        await admin.delete_topics([anew])
        await eventually(lambda: _there(admin, topics, 1), "one topic")
        await admin.create_topics([NewTopic(anew, 1, 1)])
        await eventually(lambda: _there(admin, topics, 2), "two topics again")
        after = await topic_ids(admin, topics)
        made = await admin.list_topics()

    assert {stays, anew} == set(before) == set(after)
    assert before[stays] == after[stays]
    assert before[anew] != after[anew]
    assert never not in made


async def _there(admin: AIOKafkaAdminClient, topics: list[str], count: int) -> bool:
    return len(await topic_ids(admin, topics)) == count
