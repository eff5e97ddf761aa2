"""Questions to a cluster about all its groups and partitions at once: a request a broker, however many they are.

aiokafka's own clients ask for one group after the other, fetch what only has to be looked at, and wait for topics that
are gone. Here a partition or a group that nothing can be said of is left out of the answer, and the rest is told.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
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
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.offset import OffsetRequest

from infra.kafka.aiokafka_fixes import protect_bootstrap
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

LATEST, EARLIEST = -1, -2  # Kafka's own words for the end and the beginning, where a time is asked for
_AT_ONCE = 64  # questions under way
_TOGETHER = 500  # groups of one question


class Member(NamedTuple):
    """Who is in a group, from where, and what it was given to read."""

    id: str
    client: str
    host: str
    places: frozenset[TopicPartition]


class GroupDescription(NamedTuple):
    """What a coordinator says of a group."""

    state: str
    members: tuple[Member, ...] | None  # None: it does not tell them, as of a group of Kafka's newer protocol

    @property
    def settled(self) -> bool:
        """Whether it is known who reads what: not while a group shares its partitions out anew."""
        return self.members is not None and self.state in ("Stable", "Empty", "Dead")


class _DescribeGroups(Request[DescribeGroupsRequest_v2]):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's own asks in version 3 and reads the answer as of version 2, which fails from the second group on."""

    API_KEY = DescribeGroupsRequest_v2.API_KEY

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = list(groups)

    def build(self, request_struct_class: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Return the request in the one version there is."""
        return request_struct_class(self._groups)


class ClusterQueries:
    """One client, open. Leaders are those of the last `refresh`; a coordinator is asked for again once it fails."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client
        self._cluster = client.cluster
        self._coordinators: dict[str, int] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)

    async def refresh(self) -> None:
        """Learn what topics and leaders there are now.

        Raises:
            KafkaError: when no broker answers.

        """
        self._cluster = await self._client.fetch_all_metadata()
        known = {broker.nodeId for broker in self._client.cluster.brokers()}
        if any(broker.nodeId not in known for broker in self._cluster.brokers()):
            await self._client.force_metadata_update()

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Return a topic's partitions; none of a topic that is not there."""
        return [TopicPartition(topic, number) for number in sorted(self._cluster.partitions_for_topic(topic) or ())]

    async def topic_ids(self, topics: Collection[str]) -> dict[str, UUID]:
        """Return the ids of topics; without topics that do not exist.

        Raises:
            KafkaError: when no broker tells.

        """
        return await fetch_topic_ids(self._client, sorted(topics))

    async def groups(self) -> list[str]:
        """Return the names of all groups of consumers.

        Raises:
            KafkaError: when a broker does not tell.

        """
        answers = await asyncio.gather(
            *(self.send(broker.nodeId, ListGroupsRequest()) for broker in self._cluster.brokers())
        )
        found: set[str] = set()
        for answer in answers:
            _check(answer.error_code, "groups cannot be listed")
            found.update(name for name, protocol in answer.groups if protocol in ("consumer", ""))
        return sorted(found)

    async def describe(self, groups: Collection[str]) -> dict[str, GroupDescription]:
        """Return who is in some groups.

        Raises:
            KafkaError: when a coordinator does not say. One that loads or moves may say it later.

        """
        asked: dict[int, list[str]] = defaultdict(list)
        for group, node in zip(groups, await self._coordinators_of(groups), strict=True):
            if node is not None:
                asked[node].append(group)
        parts = [
            (node, names[i : i + _TOGETHER]) for node, names in asked.items() for i in range(0, len(names), _TOGETHER)
        ]
        answers = await asyncio.gather(*(self.send(node, _DescribeGroups(names)) for node, names in parts))
        found = {}
        for answer in answers:
            for error, group, state, protocol_type, _, members, *_ in answer.groups:
                if for_code(error) is GroupAuthorizationFailedError:
                    continue
                self._check_coordinator(group, error)
                # A group of the newer protocol is called dead here, whoever is in it.
                told = None if state == "Dead" or protocol_type not in ("consumer", "") else members
                found[group] = GroupDescription(state, None if told is None else tuple(map(_member, told)))
        return found

    async def committed(self, groups: Collection[str]) -> dict[str, dict[TopicPartition, int]]:
        """Return the committed offsets of groups. One that may not be asked for is left out.

        Raises:
            KafkaError: when a coordinator does not say. One that loads or moves may say it later.

        """
        answers = await asyncio.gather(*map(self._committed, groups))
        return {group: found for group, found in zip(groups, answers, strict=True) if found is not None}

    async def _committed(self, group: str) -> dict[TopicPartition, int] | None:
        async with self._few:
            (node,) = await self._coordinators_of([group])
            if node is None:
                return {}  # a cluster in which no group ever committed has no coordinator yet
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
        """Return the offset of the first record at or after a time in each partition; -1 where there is none.

        Args:
            times: in milliseconds, or LATEST or EARLIEST.
            committed: the end is that of what a reader of committed records can read, the last stable offset.

        Raises:
            KafkaError: when a broker does not answer at all.

        """

        async def ask(node: int, asked: Mapping[TopicPartition, int]) -> Any:  # noqa: ANN401 - aiokafka's answer
            topics = group_by_topic((place, (place.partition, times[place])) for place in asked)
            return await self.send(node, OffsetRequest(-1, int(committed), topics))

        return {
            TopicPartition(topic, partition): offset
            for answer in await asyncio.gather(*(ask(*part) for part in self.by_leader(times).items()))
            for topic, partitions in answer.topics
            for partition, error, _, offset in partitions
            if not error
        }

    def by_leader(self, places: Mapping[TopicPartition, int]) -> dict[int, dict[TopicPartition, int]]:
        """Return what is asked of each partition by the broker that leads it; without those that nobody leads."""
        found: dict[int, dict[TopicPartition, int]] = defaultdict(dict)
        for place, value in places.items():
            node = self._cluster.leader_for_partition(place)
            if node is not None and node >= 0:
                found[node][place] = value
        return found

    async def send(self, node: int, request: Any) -> Any:  # noqa: ANN401 - aiokafka's
        """Ask a broker.

        Raises:
            KafkaError: when it does not answer.

        """
        try:
            return await self._client.send(node, request)
        except KafkaError:  # whatever it coordinated may have moved
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
            _check(answer.error_code, f"the coordinator of group {group} is not known")
            self._coordinators[group] = answer.coordinator_id
        return self._coordinators[group]

    def _check_coordinator(self, group: str, code: int) -> None:
        if code:
            self._coordinators.pop(group, None)  # it may have moved
            _check(code, f"group {group} cannot be asked for now")


def group_by_topic(rows: Iterable[tuple[TopicPartition, tuple[int, ...]]]) -> list[tuple[str, list[tuple[int, ...]]]]:
    """Return what is asked of partitions the way Kafka's requests have it: topic by topic."""
    topics: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for place, row in rows:
        topics[place.topic].append(row)
    return list(topics.items())


def _check(code: int, words: str) -> None:
    if code:
        raise for_code(code)(words)


def _member(row: Any) -> Member:  # noqa: ANN401 - aiokafka's tuple
    id_, client, host, _, assignment = row
    places: frozenset[TopicPartition] = frozenset()
    if assignment:  # none while the group shares its partitions out
        places = frozenset(ConsumerProtocolMemberAssignment.decode(assignment).partitions())
    return Member(id_, client, host.lstrip("/"), places)


@asynccontextmanager
async def open_cluster_queries(settings: Settings) -> AsyncIterator[ClusterQueries]:
    """Open a client for questions, and close it afterwards.

    Raises:
        KafkaError: when the cluster cannot be reached.

    """
    client = AIOKafkaClient(**settings.kafka_client(), client_id="inmail-lag")
    protect_bootstrap(client)
    try:
        await client.bootstrap()
        asked = ClusterQueries(client)
        await asked.refresh()
        yield asked
    finally:
        await client.close()
