"""The admin client, of a cluster that names no broker yet; how often a reader asks for its topics."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import NoBrokersAvailable

from infra.kafka import clients as module
from infra.kafka.clients import admin_client, partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import TOPICS
from tests.workers.wire import prepare


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of the next answers name no broker, as those of one that has come back and is not yet heard of."""
    left = [0]
    brokers = ClusterMetadata.brokers

    def named(cluster: ClusterMetadata) -> object:
        left[0] -= 1
        return set() if left[0] >= 0 else brokers(cluster)

    monkeypatch.setattr(ClusterMetadata, "brokers", named)
    return left


async def test_nothing_is_asked_before_the_cluster_has_named_a_broker(
    settings: Settings, nameless: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first question would be one to nobody."""
    monkeypatch.setattr(module, "_AGAIN_SECONDS", 0.05)
    nameless[0] = 5
    async with admin_client(settings) as admin:
        assert nameless[0] < 0
        assert (await admin.describe_cluster())["brokers"]


async def test_a_cluster_that_names_no_broker_is_not_waited_for_without_end(
    settings: Settings, nameless: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a connection left open."""
    monkeypatch.setattr(module, "_NAMELESS_SECONDS", 0.3)
    nameless[0] = 1_000
    with pytest.raises(NoBrokersAvailable, match="names no broker"):
        async with admin_client(settings):
            pass


_QUESTIONS: Mapping[str, Callable[[AIOKafkaConsumer, list[TopicPartition]], Awaitable[Any]]] = {
    "the oldest": lambda consumer, places: consumer.beginning_offsets(places),
    "the ends": lambda consumer, places: consumer.end_offsets(places),
    "those of a time": lambda consumer, places: consumer.offsets_for_times(dict.fromkeys(places, 0)),
}


@pytest.mark.parametrize("question", _QUESTIONS)
async def test_a_reader_asks_once_for_the_leaders_of_all_topics(
    settings: Settings, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client alone asks again for each topic, and waits in between: half a second for five topics."""
    await prepare(settings)
    asked: list[frozenset[str]] = []
    update = AIOKafkaClient._metadata_update

    async def noted(client: AIOKafkaClient, metadata: ClusterMetadata, topics: set[str]) -> object:
        if client is consumer._client:  # and not one that is kept for all tests
            asked.append(frozenset(topics))
        return await update(client, metadata, topics)

    places = [place for topic in TOPICS for place in partitions_of(topic, settings.topic_partitions)]
    async with reader(settings) as consumer:
        monkeypatch.setattr(AIOKafkaClient, "_metadata_update", noted)
        found = await _QUESTIONS[question](consumer, places)
    assert set(places) == set(found)
    assert [frozenset(TOPICS)] == asked
