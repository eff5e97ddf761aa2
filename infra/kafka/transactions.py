"""Publishing in Kafka transactions, with what aiokafka leaves to its user.

An owner of lanes publishes through two transactional ids used in turn: right after a commit the broker is still writing
the markers of that transaction, and a next one under the same id would wait 20 ms for them.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, NamedTuple

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError, KafkaTimeoutError

from infra.clock import from_milliseconds
from infra.kafka.clients import create_lane_producer, partition_of
from infra.kafka.permanent_errors import operator_hint
from infra.settings import Settings

__all__ = ["Message", "TransactionPair", "TransactionTimes", "UndeliveredError", "fence_producers"]

_STOP_SECONDS = 2.0
_FENCED_AT_ONCE = 8
_IMPATIENCE = 5  # which part of a transaction's time a partition has that is later than others


class Message(NamedTuple):
    """One record to publish."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None  # None: by key
    origin: tuple[int, int] | None = None  # partition and offset of the input record that it answers, if any
    headers: "list[tuple[str, bytes]] | None" = None


class TransactionTimes(NamedTuple):
    """What a transaction took, in seconds: up to the last delivery, and to commit it. And when it was received."""

    publish: float
    commit: float
    received_at: datetime | None = None  # the earliest that a broker said of its messages; None: none said a time


class UndeliveredError(KafkaError):  # type: ignore[misc] # aiokafka is untyped
    """Some messages were not delivered: `partitions` has those of the input records that they answer, or their own."""

    def __init__(self, text: str, partitions: frozenset[int]) -> None:
        super().__init__(text)
        self.partitions = partitions


class TransactionPair:
    """Two transactional producers, of which each transaction takes the one that rested.

    After any error of `start` or `publish` it is of no more use: `discard` it and make another.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._seconds = settings.transaction_seconds
        self._producers = _create_producers(settings, name)

    async def start(self) -> None:
        """Fence whoever used these ids before: what they left open is aborted, what they committed is complete.

        Raises:
            KafkaError: when the brokers cannot be reached or refuse.

        """
        await _start_all(self._producers, 2 * self._seconds)

    async def publish(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], group: str
    ) -> TransactionTimes:
        """Publish messages and a group's offsets, if any: a read_committed reader sees all or none. Return its times.

        Raises:
            KafkaError, TimeoutError: when it is not certain that it was committed.

        """
        try:
            return await self._publish(messages, offsets, group)
        # An error that went to a delivery has ended the transaction meanwhile: aiokafka says so, or asserts it.
        except (IllegalOperation, AssertionError) as error:
            raise KafkaError(f"the transaction ended before its time: {error}") from error

    async def _publish(
        self, messages: Sequence[Message], offsets: Mapping[TopicPartition, int], group: str
    ) -> TransactionTimes:
        began = monotonic()
        self._producers.reverse()
        producer = self._producers[0]
        deliveries: list[_Delivery] = []
        try:
            async with asyncio.timeout(self._seconds):
                await producer.begin_transaction()
                _end_of(producer).add_done_callback(_look_at)  # nobody waits for it where the commit is not come to
                await _send(producer, messages, deliveries)
                if offsets:
                    await producer.send_offsets_to_transaction(dict(offsets), group)
                received = await self._deliver([each.future for each in deliveries])
        except (KafkaError, TimeoutError) as error:
            raise _blame(error, deliveries) from error
        delivered = monotonic()
        await self._commit(producer)
        return TransactionTimes(delivered - began, monotonic() - delivered, received)

    async def _deliver(self, futures: "list[asyncio.Future[Any]]") -> datetime | None:
        """Wait for deliveries and look at each: a commit does not tell that a record in it failed. Return their time.

        Where some have succeeded, the others are waited for less long from then on: their partitions are the trouble.
        (Not from the beginning: while a broker that was lost counts as in sync, no partition takes anything, and then
        each takes it as its leader is found.)
        """
        if futures:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            done, late = await asyncio.wait(futures, timeout=self._seconds / _IMPATIENCE)
            if late and not any(each.exception() for each in done):
                raise TimeoutError
        times = [each.timestamp for each in await asyncio.gather(*futures)]
        return from_milliseconds(min(times)) if times and min(times) >= 0 else None

    async def _commit(self, producer: AIOKafkaProducer) -> None:
        """Commit; where that is given up, or the caller is cancelled, the producer is of no more use."""
        commit = asyncio.ensure_future(producer.commit_transaction())
        commit.add_done_callback(_look_at)
        try:
            if not (await asyncio.wait([commit], timeout=self._seconds))[0]:
                raise KafkaError(f"no answer to a commit within {self._seconds} s")
            commit.result()
        finally:
            commit.cancel()

    async def discard(self) -> None:
        """Stop both producers. Their errors no longer matter: the next owner of the ids fences them in any case.

        What they have not delivered fails now, and what does not stop is cancelled: aiokafka would go on trying to
        deliver for as long as the brokers are away.
        """
        await _stop_all(self._producers)


_ending: set["asyncio.Task[None]"] = set()  # whoever discards does not wait for long


def _create_producers(settings: Settings, name: str) -> list[AIOKafkaProducer]:
    return [create_lane_producer(settings, f"{name}.{number}") for number in (0, 1)]


async def _start_all(producers: Sequence[AIOKafkaProducer], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            started = await asyncio.gather(*(each.start() for each in producers), return_exceptions=True)
    except TimeoutError:  # aiokafka asks for the coordinator of an id without an end
        raise KafkaTimeoutError(
            f"no transactional producer within {seconds} s: is __transaction_state available?"
        ) from None
    for failure in filter(None, started):
        if isinstance(failure, AssertionError):  # aiokafka's, where a broker that has just been started lists none
            raise KafkaError("the brokers list no broker yet") from failure
        raise failure


async def _stop_all(producers: Sequence[AIOKafkaProducer]) -> None:
    ends = [asyncio.create_task(_end(producer)) for producer in producers]
    for end in ends:
        _ending.add(end)
        end.add_done_callback(_ending.discard)
        end.add_done_callback(_look_at)
    await asyncio.wait(ends, timeout=_STOP_SECONDS)


async def _end(producer: AIOKafkaProducer) -> None:
    undelivered = _fail_undelivered(producer)
    stop = asyncio.ensure_future(producer.stop())
    stop.add_done_callback(_look_at)
    _, late = await asyncio.wait([stop], timeout=_STOP_SECONDS)
    if late:
        stop.cancel()
        await asyncio.wait([stop], timeout=_STOP_SECONDS)
    _look_at_drains(undelivered)  # a batch that was put back meanwhile has another, which failed as the sender ended
    if (end := _end_of(producer)) is not None and end.done():
        _look_at(end)
    await producer.client.close()  # which one that could not end its transaction leaves open


def _end_of(producer: AIOKafkaProducer) -> Any:  # noqa: ANN401 - aiokafka is untyped
    """Return the future of how the producer's last transaction ends; None before the first."""
    return producer._txn_manager.wait_for_transaction_end()  # noqa: SLF001 - there is no other way


def _fail_undelivered(producer: AIOKafkaProducer) -> list[Any]:
    accumulator = producer._message_accumulator  # noqa: SLF001 - there is no other way
    batches = [batch for of_one in accumulator._batches.values() for batch in of_one]  # noqa: SLF001
    batches += accumulator._pending_batches  # noqa: SLF001
    accumulator.fail_all(KafkaError("discarded"))
    _look_at_drains(batches)
    return batches


def _look_at_drains(batches: Sequence[Any]) -> None:
    for batch in batches:
        for future in (batch.future, batch._drain_waiter):  # noqa: SLF001
            if future.done():
                _look_at(future)


def _look_at(finished: "asyncio.Future[Any]") -> None:
    """Note how a call ended that nobody waits for any more."""
    if not finished.cancelled() and (error := finished.exception()) is not None:
        structlog.get_logger("inmail.kafka").debug("late_error", error=repr(error))


class _Delivery(NamedTuple):
    """A batch of messages handed over for one partition, and what becomes of it."""

    future: "asyncio.Future[Any]"
    place: TopicPartition
    origins: frozenset[int]  # partitions of the input records that they answer, or their own


def _blame(error: Exception, deliveries: "Sequence[_Delivery]") -> Exception:
    """Return the error of a transaction; one that says which partitions took nothing where others did."""
    failed = [
        each for each in deliveries if not each.future.done() or each.future.cancelled() or each.future.exception()
    ]
    is_permanent = isinstance(error, KafkaError) and operator_hint(error) is not None
    if not failed or len(failed) == len(deliveries) or is_permanent:
        return error
    places = ", ".join(sorted(f"{each.place.topic}/{each.place.partition}" for each in failed))
    return UndeliveredError(f"{places} took nothing: {error!r}", frozenset().union(*(each.origins for each in failed)))


async def _send(producer: AIOKafkaProducer, messages: Sequence[Message], deliveries: "list[_Delivery]") -> None:
    """Hand messages over in as few record batches as their partitions allow; add the deliveries to wait for."""
    by_partition: dict[tuple[str, int], list[Message]] = {}
    counts: dict[str, int] = {}
    for message in messages:
        if message.topic not in counts:
            counts[message.topic] = len(await producer.partitions_for(message.topic))
        partition = message.partition
        if partition is None:
            partition = partition_of(message.key or b"", counts[message.topic])
        by_partition.setdefault((message.topic, partition), []).append(message)
    for (topic, partition), group in by_partition.items():
        # What answers no record is of an account, whose number is its lane's where topics have as many partitions and
        # producers partition as they ought to. Elsewhere the lane that is blamed may be another one, or none.
        origins = frozenset(partition if message.origin is None else message.origin[0] for message in group)
        batch = producer.create_batch()
        for message in group:
            if not _append(batch, message):
                deliveries.append(await _hand_over(producer, batch, TopicPartition(topic, partition), origins))
                batch = producer.create_batch()
                _append(batch, message)
        deliveries.append(await _hand_over(producer, batch, TopicPartition(topic, partition), origins))


async def _hand_over(
    producer: AIOKafkaProducer,
    batch: Any,  # noqa: ANN401 - aiokafka is untyped
    place: TopicPartition,
    origins: frozenset[int],
) -> _Delivery:
    future = await producer.send_batch(batch, place.topic, partition=place.partition)
    future.add_done_callback(_look_at)  # whoever waits for it may be told of another error first
    return _Delivery(future, place, origins)


def _append(batch: Any, message: Message) -> bool:  # noqa: ANN401 - aiokafka is untyped
    """Append a message; return whether there was room for it."""
    done = batch.append(timestamp=None, key=message.key, value=message.value, headers=message.headers)
    return done is not None


async def fence_producers(settings: Settings, names: Iterable[str]) -> None:
    """End what other owners left under their names: open transactions are aborted, committed ones complete.

    Afterwards a producer that still runs under one of the names publishes nothing any more.

    Raises:
        KafkaError: when the brokers cannot be reached or refuse.

    """
    rest = sorted(names)
    while rest:
        together, rest = rest[:_FENCED_AT_ONCE], rest[_FENCED_AT_ONCE:]
        await asyncio.gather(*(_fence(settings, name) for name in together))


async def _fence(settings: Settings, name: str) -> None:
    producers = _create_producers(settings, name)
    try:
        await _start_all(producers, 2 * settings.transaction_seconds)
    finally:
        await _stop_all(producers)
