"""Publishing where a broker is lost: which partitions are the trouble, which are only late, and when to try again."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest

from infra.clock import from_milliseconds
from infra.kafka import transactions
from infra.kafka.clients import create_lane_producer
from infra.kafka.transactions import Message, TransactionPair
from infra.settings import load_settings

_SECONDS = 1.0  # of a transaction; a fifth of it is the patience with a partition that is later than others


async def _deliver(*after: float | None, times: Sequence[int] = ()) -> datetime | None:
    """Wait for deliveries that succeed after so many seconds; None: never. Return when the first was received.

    Args:
        after: how long each takes.
        times: what brokers say of when they received each, in milliseconds; -1: nothing.

    """
    pair = TransactionPair(load_settings(transaction_seconds=_SECONDS), "test")
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [loop.create_future() for _ in after]
    for future, seconds, at in zip(futures, after, times or [-1] * len(after), strict=True):
        if seconds is not None:
            loop.call_later(seconds, future.set_result, SimpleNamespace(timestamp=at))
    try:
        async with asyncio.timeout(_SECONDS):
            return await pair._deliver(futures)
    finally:
        await pair.discard()


async def test_partitions_that_recover_one_soon_after_the_other_are_all_waited_for() -> None:
    """As when a broker is lost: nothing is taken until the cluster notices, and then all of it within a moment."""
    began = asyncio.get_running_loop().time()

    await _deliver(0.19, 0.19, 0.3)

    assert asyncio.get_running_loop().time() - began > 0.29


@pytest.mark.parametrize(
    ("times", "received"), [([], None), ([2000, 1000], 1000), ([2000, -1], None)], ids=["none", "both", "not all"]
)
async def test_a_transaction_was_received_when_its_first_message_was(times: list[int], received: int | None) -> None:
    """Where a topic's times are its producers', or there was no message, nobody knows when."""
    at = await _deliver(*[0.0] * len(times), times=times)

    assert (None if received is None else from_milliseconds(received)) == at


async def test_a_partition_that_takes_nothing_where_others_do_is_given_up_early() -> None:
    """The others are not to wait for the whole time of a transaction."""
    began = asyncio.get_running_loop().time()

    with pytest.raises(TimeoutError):
        await _deliver(0.01, None)

    assert asyncio.get_running_loop().time() - began < _SECONDS / 2


async def test_what_answers_no_record_is_the_trouble_of_its_own_partition() -> None:
    """As what a tick books, balances, and what is published from the books. Nobody's, and all lanes would stand."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    producer = SimpleNamespace(
        partitions_for=AsyncMock(return_value=set(range(4))),
        create_batch=lambda: SimpleNamespace(append=lambda **_: object()),
        send_batch=AsyncMock(return_value=future),
    )
    deliveries: list[transactions._Delivery] = []
    messages = [Message("balances", None, b"{}", 2), Message("results", None, b"{}", 1, origin=(3, 7))]
    await transactions._send(producer, messages, deliveries)  # type: ignore[arg-type]

    assert [{2}, {3}] == [each.origins for each in deliveries]


class _Connection:
    """A connection that stands, or does not."""

    def __init__(self, *, stands: bool) -> None:
        self._stands = stands

    def connected(self) -> bool:
        return self._stands

    def close(self, reason: object = None) -> None:
        """Close nothing."""


@pytest.mark.parametrize(("others", "most"), [((True,), 0.15), ((True, False), 0.15), ((False,), 0.75), ((), 0.75)])
async def test_one_lost_broker_of_several_is_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch, others: tuple[bool, ...], most: float
) -> None:
    """Its partitions get other leaders within seconds. Where no broker answers, attempts are half a second apart."""
    producer = create_lane_producer(load_settings(), "test")
    waits: list[float] = []

    async def refused(*_: object, **__: object) -> None:
        return None

    async def note(seconds: float) -> None:
        waits.append(seconds)

    producer._connect = refused
    producer.client._conns = {number: _Connection(stands=stands) for number, stands in enumerate(others)}
    monkeypatch.setattr(asyncio, "sleep", note)
    for _ in range(20):
        assert await producer.client._get_conn(9) is None
    monkeypatch.undo()
    producer.client._conns.clear()
    await producer.stop()

    assert most / 3 <= min(waits) <= max(waits) <= most


async def test_a_commit_whose_caller_is_cancelled_leaves_no_task_behind() -> None:
    """As when lanes leave that are being opened: the producer is discarded, and nothing would ever wake that task."""
    pair = TransactionPair(load_settings(), "test")
    began, ended = asyncio.Event(), asyncio.Event()

    async def commit() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    producer: Any = SimpleNamespace(commit_transaction=commit)
    committing = asyncio.create_task(pair._commit(producer))
    async with asyncio.timeout(5):
        await began.wait()
        committing.cancel()
        await asyncio.wait([committing])
        await ended.wait()
    await pair.discard()

    assert committing.cancelled()
