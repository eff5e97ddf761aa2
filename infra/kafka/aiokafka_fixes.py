"""aiokafka's clients with fixes: how they fetch and join groups, and how they end when no broker answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.conn import CloseReason
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    NoError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest
from aiokafka.protocol.offset import OffsetRequest

from infra.kafka.connecting import protect_bootstrap
from infra.kafka.fetch_pace import FetchWait
from infra.kafka.shard_assignor import ShardAssignor

__all__ = [
    "Consumer",
    "ConsumerLostError",
    "LaneProducer",
    "Producer",
]

_SILENT_SECONDS = 10.0  # of a broker, after which its partitions may have another leader
_RECONNECT_SECONDS = 0.5  # between two attempts of a lane's producer to reach a broker
_ASSIGNORS = 2  # of a consumer that has one of its own: the own one, and aiokafka's
_ONE_AWAY_SECONDS = 0.1  # the same where another broker answers: who leads the partitions now is known soon


async def _start(client: Any, start: Callable[[], Awaitable[None]]) -> None:  # noqa: ANN401 - aiokafka's
    """Connect a client; stop it when that fails or is cancelled, because aiokafka logs unclosed clients."""
    try:
        await start()
    except (KafkaError, asyncio.CancelledError):
        await client.stop()
        raise


def _join_once(client: Any, offered: Callable[[], Collection[str]]) -> None:  # noqa: ANN401 - aiokafka's
    """Have a consumer join its group with all protocols at once, of those that it offers at that moment.

    aiokafka joins once for each assignor, with the protocols up to it, and goes on with the last answer. So each member
    joins with the first alone, to which a group may have no answer before its members have joined again, or refuses it.
    """
    send = client.send

    async def send_once(node: Any, request: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's
        if isinstance(request, JoinGroupRequest):
            protocols = request._group_protocols  # noqa: SLF001 - there is no other way
            if len(protocols) < _ASSIGNORS:
                return SimpleNamespace(error_code=NoError.errno)
            names = offered()
            request._group_protocols = [each for each in protocols if each[0] in names]  # noqa: SLF001
        return await send(node, request, **options)

    client.send = send_once


def _give_up_silent_brokers(client: Any) -> None:  # noqa: ANN401 - aiokafka's
    """Have a consumer wait less long where a broker is silent: others may lead its partitions by then.

    aiokafka waits 40 s for a connection, and for an answer: so do all who ask for offsets of some partition of its.
    """
    connect, send = client._get_conn, client.send  # noqa: SLF001 - there is no other way

    async def connect_in_time(node: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's
        try:
            async with asyncio.timeout(_SILENT_SECONDS if len(client.cluster.brokers()) > 1 else None):
                return await connect(node, **options)
        except TimeoutError:
            client.force_metadata_update()
            return None

    async def send_in_time(node: Any, request: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's
        if not isinstance(request, OffsetRequest):
            return await send(node, request, **options)
        try:
            async with asyncio.timeout(_SILENT_SECONDS):
                return await send(node, request, **options)
        except TimeoutError as error:
            if (connection := client._conns.get((node, ConnectionGroup.DEFAULT))) is not None:  # noqa: SLF001
                connection.close(CloseReason.CONNECTION_TIMEOUT)  # which has the client ask who leads what
            raise RequestTimedOutError from error

    client._get_conn, client.send = connect_in_time, send_in_time  # noqa: SLF001


class ConsumerLostError(KafkaError):  # type: ignore[misc] # aiokafka is untyped
    """A task of aiokafka's consumer has ended by an unexpected error and will not start again."""


class Consumer(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's consumer, which also stops without brokers and raises an error when it can no longer fetch."""

    def __init__(self, assignor: ShardAssignor | None = None, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        """Take aiokafka's arguments, and whose protocol the consumer offers beside aiokafka's own, if any."""
        if assignor is not None:
            arguments["partition_assignment_strategy"] = (assignor, RoundRobinPartitionAssignor)
        super().__init__(**arguments)
        protect_bootstrap(self._client)
        _give_up_silent_brokers(self._client)
        if assignor is not None:
            _join_once(self._client, lambda: assignor.offered)

    async def start(self) -> None:
        """Connect to the cluster. Raises `KafkaError` when no broker answers."""
        await _start(self, super().start)

    def request_rejoin(self) -> None:
        """Join the group again soon, with what the assignor says then; one that has not joined yet joins with that."""
        if self._coordinator is not None:
            self._coordinator.request_rejoin()

    async def getmany(self, *partitions: TopicPartition, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the fetched records by partition.

        Raises:
            KafkaError: the brokers' error, or `ConsumerLostError`.

        """
        self._check_tasks()
        with self._lost_when_cancelled():
            try:
                return await super().getmany(*partitions, **options)
            except KafkaError:  # a RuntimeError in aiokafka
                raise
            except RuntimeError as error:  # from uvloop, when it writes to a connection that was just lost
                raise ConsumerLostError(repr(error)) from error

    async def beginning_offsets(self, partitions: Collection[TopicPartition]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the offsets of the oldest records of partitions."""
        await self._learn_leaders(partitions)
        return await super().beginning_offsets(partitions)

    async def end_offsets(self, partitions: Collection[TopicPartition]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the end offsets of partitions; raises as `getmany` does, for callers that never poll."""
        self._check_tasks()
        await self._learn_leaders(partitions)
        return await super().end_offsets(partitions)

    async def offsets_for_times(self, timestamps: Mapping[TopicPartition, int]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the offset and time of the first record at or after a time in each partition; None for none."""
        await self._learn_leaders(timestamps)
        return await super().offsets_for_times(timestamps)

    async def _learn_leaders(self, partitions: Iterable[TopicPartition]) -> None:
        """Ask once for all topics that are not known yet: aiokafka asks for one after another, 100 ms apart."""
        unknown = {each.topic for each in partitions if self._client.cluster.leader_for_partition(each) is None}
        if unknown:
            await asyncio.gather(*map(self._client.add_topic, unknown), self._client.force_metadata_update())

    async def position(self, partition: TopicPartition) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the offset of the next record to fetch.

        Raises:
            KafkaError: the group coordinator's error, or `ConsumerLostError` for a cancelled task.

        """
        with self._lost_when_cancelled():
            return await super().position(partition)

    def refresh_topics(self) -> None:
        """Refresh the topics now: otherwise a topic that was absent for a moment is missed for minutes."""
        self._client.force_metadata_update()

    def has_leader(self, place: TopicPartition) -> bool:
        """Return whether a broker leads a partition, as far as is known: a question about one without takes 40 s."""
        return self._client.cluster.leader_for_partition(place) not in {None, -1}

    def change_fetch_wait(self, wait: FetchWait) -> None:
        """Have brokers answer fetches otherwise, from the next one on. The consumer is started."""
        self._fetcher._fetch_min_bytes = wait.bytes  # noqa: SLF001 - there is no other way
        self._fetcher._fetch_max_wait_ms = wait.milliseconds  # noqa: SLF001

    def check(self) -> None:
        """Raise the errors that `getmany` would raise, and count as a poll: a member that never polls leaves its group.

        Raises:
            KafkaError: the group coordinator's error, or `ConsumerLostError`.

        """
        self._check_tasks()
        self._coordinator.check_errors()
        with self._subscription.fetch_context():
            pass

    async def is_member(self) -> bool:
        """Ask the group's coordinator whether this consumer is a member still: one that was frozen may not know yet.

        Raises:
            KafkaError: when the coordinator does not answer.

        """
        coordinator = self._coordinator
        if coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID:
            return False
        request = HeartbeatRequest(coordinator.group_id, coordinator.generation, coordinator.member_id)
        error = for_code((await coordinator._send_req(request)).error_code)  # noqa: SLF001 - there is no other way
        if error in (IllegalGenerationError, UnknownMemberIdError):
            return False
        if error not in (NoError, RebalanceInProgressError):
            raise error
        return True

    @property
    def membership(self) -> tuple[int, str] | None:
        """The coordinator's node and the member's id there, also while it waits to be let in; None before."""
        coordinator = self._coordinator
        member_id = getattr(coordinator, "member_id", JoinGroupRequest.UNKNOWN_MEMBER_ID)
        if member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID or coordinator.coordinator_id is None:
            return None
        return coordinator.coordinator_id, coordinator.member_id

    @contextmanager
    def _lost_when_cancelled(self) -> Iterator[None]:
        """Raise ConsumerLostError for a cancellation by aiokafka, which reaches the caller as if it were cancelled."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed or task is None or task.cancelling():
                raise
            raise ConsumerLostError("a task of the consumer was cancelled, and nobody had stopped it") from error

    def _check_tasks(self) -> None:
        """Raise ConsumerLostError if a task has ended: aiokafka would return nothing for ever, without an error."""
        endless = (self._fetcher._fetch_task, self._client._sync_task,  # noqa: SLF001 - there is no other way
                   getattr(self._coordinator, "_coordination_task", None))  # fmt: skip
        of_group = (getattr(self._coordinator, name, None) for name in ("_heartbeat_task", "_commit_refresh_task"))
        failed = (task for task in of_group if task and task.done() and not task.cancelled() and task.exception())
        for task in (*endless, *failed):
            if task is not None and task.done() and not self._closed:
                why = "" if task.cancelled() else f" of {task.exception()!r}"
                raise ConsumerLostError(f"{task.get_coro().__qualname__} has ended{why}")

    async def stop(self) -> None:
        """Stop the consumer.

        aiokafka raises the cancellation of its own waiting fetches as the caller's: it is ignored. One of the caller's
        that comes meanwhile it swallows: that is raised once the consumer has stopped.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is a coroutine
        cancellations = task.cancelling()
        try:
            await super().stop()
        except asyncio.CancelledError:
            await self._client.close()
        if task.cancelling() > cancellations:
            raise asyncio.CancelledError


class Producer(AIOKafkaProducer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's producer, which also stops when no broker answers."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__init__(**arguments)
        protect_bootstrap(self.client)

    async def start(self) -> None:
        """Connect to the cluster. Raises `KafkaError` when no broker answers."""
        await _start(self, super().start)


class LaneProducer(AIOKafkaProducer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's producer with a longer back-off for unreachable brokers than for transactions.

    With one back-off for both, the producers of twelve lanes try to connect 1,200 times a second, and log each attempt.
    Where one broker of several is lost, the back-off for it is short: an attempt waits for it, and so does a request
    for metadata that happens to try this broker first, and both are in the way of the partitions' new leaders.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__init__(**arguments)
        protect_bootstrap(self.client)
        self.client._retry_backoff = _RECONNECT_SECONDS  # noqa: SLF001 - for metadata requests
        self._connect, self.client._get_conn = self.client._get_conn, self._connect_patiently  # noqa: SLF001

    async def _connect_patiently(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's own
        connection = await self._connect(*arguments, **options)
        if connection is None:
            others = any(each.connected() for each in self.client._conns.values())  # noqa: SLF001 - there is no other way
            seconds = _ONE_AWAY_SECONDS if others else _RECONNECT_SECONDS
            await asyncio.sleep(seconds * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        return connection
