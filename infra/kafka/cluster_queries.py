"""Queries about all groups and partitions of a cluster at once, with one request a broker.

aiokafka's clients query one group after the other, fetch whole records, and wait for topics that do not exist. Here the
answer leaves out partitions and groups without information, and has all others.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    KafkaError,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v2, ListGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.offset import OffsetRequest

from infra.kafka.connecting import protect_bootstrap
from infra.kafka.raw_requests import RawRequest
from infra.kafka.topic_ids import fetch_topic_ids
from infra.settings import Settings

__all__ = [
    "EARLIEST",
    "LATEST",
    "ClusterQueries",
    "GroupDescription",
    "Member",
    "group_by_topic",
    "open_cluster_queries",
]

LATEST, EARLIEST = -1, -2  # the protocol's timestamps for the end and the beginning of a partition
_AT_ONCE = 64  # requests under way
_TOGETHER = 500  # groups in one request


class Member(NamedTuple):
    """A member of a group: its id, its client and host, and its assigned partitions."""

    id: str
    client: str
    host: str
    places: frozenset[TopicPartition]


class GroupDescription(NamedTuple):
    """A coordinator's description of a group."""

    state: str
    members: tuple[Member, ...] | None  # None: not described, as for a group of Kafka's newer protocol

    @property
    def settled(self) -> bool:
        """Whether the assignment is known: not while the group rebalances."""
        return self.members is not None and self.state in ("Stable", "Empty", "Dead")


class ClusterQueries:
    """Queries through an open client. Leaders are as of the last `refresh`; a failed coordinator is found again."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._cluster = client.cluster
        self._coordinators: dict[str, int] = {}
        self._request_slots = asyncio.Semaphore(_AT_ONCE)

    async def refresh(self) -> None:
        """Update the topics and leaders.

        Raises:
            KafkaError: when no broker answers.

        """
        self._cluster = await self._client.fetch_all_metadata()
        here = {broker.nodeId for broker in self._cluster.brokers()}
        # A broker that came, or one that is gone, which the client would go on asking: a sample would fail of it.
        if here != {broker.nodeId for broker in self._client.cluster.brokers()}:
            await self._client.force_metadata_update()
        self._coordinators = {group: node for group, node in self._coordinators.items() if node in here}

    @property
    def client(self) -> AIOKafkaClient:
        """The client, for questions that are written elsewhere."""
        return self._client

    def brokers(self) -> dict[int, str]:
        """Return the brokers' addresses, host:port, by number."""
        return {broker.nodeId: f"{broker.host}:{broker.port}" for broker in self._cluster.brokers()}

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return a topic's partitions; an empty list if the topic does not exist."""
        return [TopicPartition(topic, number) for number in sorted(self._cluster.partitions_for_topic(topic) or ())]

    async def topic_ids(self, topics: Collection[str]) -> dict[str, UUID]:
        """Return the ids of topics, without topics that do not exist.

        Raises:
            KafkaError: when no broker answers.

        """
        return await fetch_topic_ids(self._client, sorted(topics))

    async def groups(self) -> list[str]:
        """Return the names of all consumer groups.

        Raises:
            KafkaError: when a broker does not answer.

        """
        answers = await asyncio.gather(
            *(self.send(broker.nodeId, ListGroupsRequest()) for broker in self._cluster.brokers())
        )
        found: set[str] = set()
        for answer in answers:
            _raise_for_code(answer.error_code, "groups cannot be listed")
            found.update(name for name, protocol in answer.groups if protocol in ("consumer", ""))
        return sorted(found)

    async def describe(self, groups: Collection[str]) -> dict[str, GroupDescription]:
        """Return the descriptions of groups, without groups that this user may not describe.

        Raises:
            KafkaError: when a coordinator does not answer. A coordinator that loads or moves may answer later.

        """
        asked: dict[int, list[str]] = defaultdict(list)
        for group, node in zip(groups, await self._coordinators_of(groups), strict=True):
            if node is not None:
                asked[node].append(group)
        parts = [
            (node, names[i : i + _TOGETHER]) for node, names in asked.items() for i in range(0, len(names), _TOGETHER)
        ]
        # aiokafka's own request has version 3 but its answer version 2, which fails for two groups.
        answers = await asyncio.gather(
            *(self.send(node, RawRequest(DescribeGroupsRequest_v2, names)) for node, names in parts)
        )
        found = {}
        for answer in answers:
            for error, group, state, protocol_type, _, members, *_ in answer.groups:
                if for_code(error) is GroupAuthorizationFailedError:
                    continue
                self._check_coordinator(group, error)
                # This request reports a group of the newer protocol as dead, whatever members it has.
                described = None if state == "Dead" or protocol_type not in ("consumer", "") else members
                found[group] = GroupDescription(state, None if described is None else tuple(map(_member, described)))
        return found

    async def committed(self, groups: Collection[str]) -> dict[str, dict[TopicPartition, int]]:
        """Return the committed offsets of groups, without groups that this user may not read.

        Raises:
            KafkaError: when a coordinator does not answer. A coordinator that loads or moves may answer later.

        """
        answers = await asyncio.gather(*map(self._committed, groups))
        return {group: found for group, found in zip(groups, answers, strict=True) if found is not None}

    async def _committed(self, group: str) -> dict[TopicPartition, int] | None:
        async with self._request_slots:
            (node,) = await self._coordinators_of([group])
            if node is None:
                return {}  # a cluster without any commit has no coordinator yet
            answer = await self.send(node, OffsetFetchRequest(group, None))
        if for_code(answer.error_code) is GroupAuthorizationFailedError:
            return None
        self._check_coordinator(group, answer.error_code)
        return {
            TopicPartition(topic, partition): offset
            for topic, partitions in answer.topics
            for partition, offset, _, error in partitions
            if offset >= 0 and not error
        }

    async def offsets(
        self, times: Mapping[TopicPartition, int], *, committed: bool = False
    ) -> dict[TopicPartition, int]:
        """Return the offset of the first record at or after a time in each partition; -1 if there is no such record.

        Args:
            times: in milliseconds, or LATEST or EARLIEST.
            committed: LATEST is the last stable offset, the end for a reader of committed records.

        Raises:
            KafkaError: when a broker does not answer at all.

        """

        async def ask(node: int, asked: Mapping[TopicPartition, int]) -> Any:  # noqa: ANN401 - aiokafka's answer
            topics = group_by_topic((place, (place.partition, times[place])) for place in asked)
            return await self.send(node, OffsetRequest(-1, int(committed), topics))

        return {
            TopicPartition(topic, partition): offset
            for answer in await asyncio.gather(*(ask(*part) for part in self.group_by_leader(times).items()))
            for topic, partitions in answer.topics
            for partition, error, _, offset in partitions
            if not error
        }

    def group_by_leader(self, places: Mapping[TopicPartition, int]) -> dict[int, dict[TopicPartition, int]]:
        """Return the values by the broker that leads their partition, without partitions that have no leader."""
        found: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
        for place, value in places.items():
            node = self._cluster.leader_for_partition(place)
            if node is not None and node >= 0:
                found[node][place] = value
        return found

    async def send(self, node: int, request: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Send a request to a broker and return its answer.

        Raises:
            KafkaError: when the broker does not answer.

        """
        try:
            return await self._client.send(node, request)
        except KafkaError:  # its groups may have moved to another coordinator
            self._coordinators = {group: other for group, other in self._coordinators.items() if other != node}
            raise

    async def _coordinators_of(self, groups: Collection[str]) -> list[int | None]:
        return list(await asyncio.gather(*(self._coordinator(group) for group in groups)))

    async def _coordinator(self, group: str) -> int | None:
        if group not in self._coordinators:
            node = self._client.get_random_node()
            answer = await self.send(node, FindCoordinatorRequest(group, 0))
            if for_code(answer.error_code) in (GroupCoordinatorNotAvailableError, GroupAuthorizationFailedError):
                return None
            _raise_for_code(answer.error_code, f"the coordinator of group {group} is not known")
            self._coordinators[group] = answer.coordinator_id
        return self._coordinators[group]

    def _check_coordinator(self, group: str, code: int) -> None:
        if code:
            self._coordinators.pop(group, None)  # the group may have another coordinator now
            _raise_for_code(code, f"group {group} cannot be queried now")


def group_by_topic(rows: Iterable[tuple[TopicPartition, tuple[int, ...]]]) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Return the rows of partitions grouped by topic, as Kafka's requests have them."""
    topics: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for place, row in rows:
        topics[place.topic].append(row)
    return list(topics.items())


def _raise_for_code(code: int, words: str) -> None:
    if code:
        raise for_code(code)(words)


def _member(row: Any) -> Member:  # noqa: ANN401 - aiokafka's tuple
    id_, client, host, _, assignment = row
    places: frozenset[TopicPartition] = frozenset()
    if assignment:  # empty while the group rebalances
        places = frozenset(ConsumerProtocolMemberAssignment.decode(assignment).partitions())
    return Member(id_, client, host.lstrip("/"), places)


@asynccontextmanager
async def open_cluster_queries(settings: Settings) -> AsyncIterator[ClusterQueries]:
    """Open a client for queries, and close it afterwards.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    client = AIOKafkaClient(**settings.kafka_client(), client_id="inmail-lag")
    protect_bootstrap(client)
    try:
        await client.bootstrap()
        queries = ClusterQueries(client)
        await queries.refresh()
        yield queries
    finally:
        await client.close()
