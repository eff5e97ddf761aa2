"""Transactions that end before their commit."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaError

from infra.kafka import transactions
from infra.kafka.transactions import Message, TransactionPair
from infra.settings import Settings
from schemas.catalogue import SEND_RESULTS


@contextmanager
def _errors_seen() -> Iterator[list[dict[str, Any]]]:
    """Collect what the event loop reports. All tests share the loop, so its handler is set back."""
    loop, seen = asyncio.get_running_loop(), list[dict[str, Any]]()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: seen.append(context))
    try:
        yield seen
    finally:
        loop.set_exception_handler(handler)


async def test_an_owner_that_was_fenced_in_a_transaction_leaves_no_error_unseen(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python would log `exception was never retrieved` beside the error that was raised."""
    name = f"test.{uuid4().hex}"
    old, new = TransactionPair(cluster, name), TransactionPair(cluster, name)

    send = transactions._send

    async def fenced_before_it_sends(*arguments: Any) -> None:
        await new.start()
        await send(*arguments)

    with _errors_seen() as seen:
        await old.start()
        monkeypatch.setattr(transactions, "_send", fenced_before_it_sends)
        with pytest.raises(KafkaError):
            await old.publish([Message(SEND_RESULTS, b"a", b"{}")], {}, "inmail-send")
        await old.discard()
        await new.discard()
        del old
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()

    assert [] == seen


async def _discard_while_a_batch_is_put_back() -> None:
    loop = asyncio.get_running_loop()
    batch = SimpleNamespace(future=loop.create_future(), _drain_waiter=loop.create_future())

    async def stop() -> None:
        batch._drain_waiter = loop.create_future()
        batch._drain_waiter.set_exception(KeyError("put back"))

    producer = SimpleNamespace(
        _message_accumulator=SimpleNamespace(_batches={}, _pending_batches=[batch], fail_all=Mock()),
        _txn_manager=SimpleNamespace(wait_for_transaction_end=lambda: None),
        client=SimpleNamespace(close=AsyncMock()),
        stop=stop,
    )
    await transactions._end(producer)  # type: ignore[arg-type]


async def test_a_batch_that_is_put_back_as_its_producer_is_discarded_leaves_no_error_unseen() -> None:
    """Aiokafka gives it another future then, and fails that one too as its sender ends."""
    with _errors_seen() as seen:
        await _discard_while_a_batch_is_put_back()
        gc.collect()
        await asyncio.sleep(0)

    assert [] == seen
