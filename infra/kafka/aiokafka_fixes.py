"""aiokafka's clients, but for how they connect and how they end when no broker is there."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    IllegalGenerationError,
    KafkaError,
    NoError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest

__all__ = ["Consumer", "ConsumerLostError", "LaneProducer", "Producer", "bootstrap_whole"]

_AWAY_SECONDS = 0.5  # between two attempts of a lane's producer to reach a broker


def bootstrap_whole(client: AIOKafkaClient) -> None:
    """Let a client's first question end when whoever waits for it is cancelled, and close the client then.

    Cancelled in the middle of it, aiokafka would leave a connection open for good.
    """
    bootstrap = client.bootstrap

    async def shielded() -> None:
        asking = asyncio.ensure_future(bootstrap())
        try:
            await asyncio.shield(asking)
        except asyncio.CancelledError:
            closing = asyncio.ensure_future(_close_after(asking, client))
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)
            raise

    client.bootstrap = shielded


_closing: set["asyncio.Task[None]"] = set()  # nobody waits for them


async def _close_after(asking: "asyncio.Future[None]", client: AIOKafkaClient) -> None:
    await asyncio.wait([asking])
    if not asking.cancelled():
        asking.exception()  # seen: nobody needs the answer any more
    await client.close()


async def _start(client: Any, start: Callable[[], Awaitable[None]]) -> None:  # noqa: ANN401 - aiokafka's
    """Connect a client. One that could not, or was told to give up, is stopped: aiokafka complains of what is left."""
    try:
        await start()
    except (KafkaError, asyncio.CancelledError):
        await client.stop()
        raise


class ConsumerLostError(KafkaError):  # type: ignore[misc] # aiokafka is untyped
    """A task of aiokafka's consumer has ended of an error that it did not expect, and begins no more."""


class Consumer(AIOKafkaConsumer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's consumer, but for how it ends when the brokers are gone, and when it fetches no more."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__init__(**arguments)
        bootstrap_whole(self._client)

    async def start(self) -> None:
        """Connect."""
        await _start(self, super().start)

    async def getmany(self, *partitions: TopicPartition, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return what was fetched.

        Raises:
            KafkaError: what the brokers answered, or `ConsumerLostError`.

        """
        self._see_tasks()
        with self._lost_when_cancelled():
            try:
                return await super().getmany(*partitions, **options)
            except KafkaError:  # which aiokafka derives from the next
                raise
            except RuntimeError as error:  # uvloop's, of a write to a connection that has just been lost
                raise ConsumerLostError(repr(error)) from error

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return where partitions end; raises as `getmany` does. Who only asks this, polls nothing that would tell."""
        self._see_tasks()
        return await super().end_offsets(partitions)

    async def position(self, partition: TopicPartition) -> Any:  # noqa: ANN401 - aiokafka's own
        """Return the offset that is fetched next.

        Raises:
            KafkaError: what the group's coordinator answered, or `ConsumerLostError` of a task that was cancelled.

        """
        with self._lost_when_cancelled():
            return await super().position(partition)

    def refresh_topics(self) -> None:
        """Ask for the topics now: one that was away for a moment would be missed for minutes."""
        self._client.force_metadata_update()

    def check(self) -> None:
        """Raise what `getmany` would, and count as it does: a member that polls nothing for a day leaves its group.

        Raises:
            KafkaError: what the group's coordinator answered, or `ConsumerLostError`.

        """
        self._see_tasks()
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
        """Tell of a task that aiokafka has cancelled: it lets that through as if the caller were."""
        try:
            yield
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if self._closed or task is None or task.cancelling():
                raise
            raise ConsumerLostError("a task of the consumer was cancelled, and nobody had stopped it") from error

    def _see_tasks(self) -> None:
        """Raise ConsumerLostError where a task has ended: aiokafka would return nothing for ever, and say nothing."""
        endless = (self._fetcher._fetch_task, self._client._sync_task,  # noqa: SLF001 - there is no other way
                   getattr(self._coordinator, "_coordination_task", None))  # fmt: skip
        of_group = (getattr(self._coordinator, name, None) for name in ("_heartbeat_task", "_commit_refresh_task"))
        failed = (task for task in of_group if task and task.done() and not task.cancelled() and task.exception())
        for task in (*endless, *failed):
            if task is not None and task.done() and not self._closed:
                why = "" if task.cancelled() else f" of {task.exception()!r}"
                raise ConsumerLostError(f"{task.get_coro().__qualname__} has ended{why}")

    async def stop(self) -> None:
        """Stop. aiokafka cancels its fetches that wait for a broker, and lets that through as if it were cancelled."""
        try:
            await super().stop()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await self._client.close()


class Producer(AIOKafkaProducer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's producer, but for how it ends when no broker is there."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__init__(**arguments)
        bootstrap_whole(self.client)

    async def start(self) -> None:
        """Connect."""
        await _start(self, super().start)


class LaneProducer(AIOKafkaProducer):  # type: ignore[misc] # aiokafka is untyped
    """aiokafka's producer, but for its haste: the short back-off of a transaction is not for a broker that is away.

    With one for both, the producers of twelve lanes try to connect 1,200 times a second, and log each.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - aiokafka's own
        super().__init__(**arguments)
        bootstrap_whole(self.client)
        self.client._retry_backoff = _AWAY_SECONDS  # noqa: SLF001 - of its questions for topics
        self._connect, self.client._get_conn = self.client._get_conn, self._connect_patiently  # noqa: SLF001

    async def _connect_patiently(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - aiokafka's own
        connection = await self._connect(*arguments, **options)
        if connection is None:
            await asyncio.sleep(_AWAY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        return connection
