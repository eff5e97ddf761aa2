"""What the Python programs of `examples/` do where Kafka is slow or moves their partitions, seen with doubles."""

import asyncio
import importlib.util
import json
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Self
from uuid import UUID

import pytest
from aiokafka.errors import CommitFailedError

FOLDER = Path(__file__).parents[2] / "examples" / "python"
SECONDS = 10  # a bound: each test ends at once


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _EnoughError(Exception):
    """Ends the reader."""


class _MovedConsumer:
    """A consumer of answers that come twice, since the group moves the partitions before their commit."""

    asked: list[int | None]
    commits: int

    def __init__(self, *_: object, **__: object) -> None:
        type(self).asked, type(self).commits = [], 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def getmany(self, *, timeout_ms: int, max_records: int | None = None) -> dict[str, list[Any]]:
        """Give the same two answers until they are committed."""
        assert timeout_ms > 0
        type(self).asked.append(max_records)
        if self.commits == 2:
            raise _EnoughError
        events = [{"type": "inmail.send.decided.v1", "id": f"event-{number}"} for number in range(2)]
        return {"partition": [SimpleNamespace(value=json.dumps(event)) for event in events]}

    async def commit(self) -> None:
        """Fail at first."""
        type(self).commits += 1
        if self.commits == 1:
            raise CommitFailedError("the group has rebalanced")


async def test_the_reader_goes_on_and_acts_once_where_the_group_moves_its_partitions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ended by the failed commit, it would act on the same answers after each start. Heartbeats go on while it acts."""
    reader, acted, beat = _load("read_results"), [], threading.Event()
    monkeypatch.setattr(reader, "AIOKafkaConsumer", _MovedConsumer)

    def act(event: dict[str, Any]) -> None:
        acted.append((event["id"], beat.wait(SECONDS)))

    monkeypatch.setattr(reader, "act", act)
    asyncio.get_running_loop().call_later(0.05, beat.set)  # as a heartbeat would be sent
    with pytest.raises(_EnoughError):
        await asyncio.wait_for(reader.read_results("a-group"), 3 * SECONDS)

    assert [("event-0", True), ("event-1", True)] == acted
    assert [100, 100, 100] == _MovedConsumer.asked


class _StuckProducer:
    """A producer whose broker is away: it neither delivers nor stops."""

    async def start(self) -> None:
        """Start."""

    async def send_and_wait(self, *_: object, **__: object) -> None:
        """Wait for ever."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Wait for what was not delivered."""
        await asyncio.Event().wait()


async def test_the_sender_ends_where_kafka_does_not_confirm_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that the request may be there, and how to send it again."""
    sender, id_ = _load("send_inmail"), UUID(int=7)
    monkeypatch.setattr(sender, "SEND_SECONDS", 0.01)
    monkeypatch.setattr(sender, "STOP_SECONDS", 0.01)
    producer = _StuckProducer()
    with pytest.raises(TimeoutError, match=f"may have it: send {id_} again"):
        async with asyncio.timeout(SECONDS), sender.started(producer):
            await sender.send(producer, "alice", id_, b"{}")
