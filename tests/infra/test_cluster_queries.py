"""Questions to brokers: what is remembered of a broker that is gone."""

from typing import Any, cast

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import NodeNotReadyError
from aiokafka.protocol.admin import DescribeGroupsResponse_v0
from aiokafka.protocol.coordination import FindCoordinatorResponse_v0
from aiokafka.protocol.metadata import MetadataResponse_v0

from infra.kafka.cluster_queries import ClusterQueries


def _metadata(*nodes: int) -> ClusterMetadata:
    known = ClusterMetadata()
    known.update_metadata(MetadataResponse_v0([(node, "localhost", 9090 + node) for node in nodes], []))
    return known


class _Cluster:
    """A client of a cluster whose group moved to broker 2 as broker 1 went down."""

    def __init__(self) -> None:
        self.cluster = _metadata(1, 2)
        self.coordinator = 1
        self.updates = 0

    def get_random_node(self) -> int:
        return 2

    async def fetch_all_metadata(self) -> ClusterMetadata:
        return _metadata(2)

    async def force_metadata_update(self) -> None:
        self.updates += 1

    async def send(self, node: int, request: Any) -> Any:
        if type(request).__name__.startswith("FindCoordinator"):
            return FindCoordinatorResponse_v0(0, self.coordinator, "localhost", 9092)
        if node == 1:
            raise NodeNotReadyError("gone")
        return DescribeGroupsResponse_v0([])


async def test_a_coordinator_that_does_not_answer_is_looked_for_anew() -> None:
    """One look fails, as it must; the next asks who it is by now."""
    client = _Cluster()
    lookup = ClusterQueries(cast("AIOKafkaClient", client))
    with pytest.raises(NodeNotReadyError):
        await lookup.committed(["readers"])
    client.coordinator = 2
    nodes = [await lookup._coordinator("readers")]
    assert nodes == [2]


async def test_a_broker_that_is_gone_from_the_cluster_is_asked_nothing_more() -> None:
    """Neither as a group's coordinator nor by the client, whose own list of brokers may be minutes old."""
    client = _Cluster()
    lookup = ClusterQueries(cast("AIOKafkaClient", client))
    assert 1 == await lookup._coordinator("readers")
    client.coordinator = 2

    await lookup.refresh()

    assert {} == await lookup.describe(["readers"])
    assert 1 == client.updates
