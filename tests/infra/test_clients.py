"""The admin client, of a cluster that names no broker yet."""

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import NoBrokersAvailable

from infra.kafka import clients as module
from infra.kafka.clients import admin_client
from infra.settings import Settings


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
