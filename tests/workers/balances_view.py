"""What a reader has of the topic of balances, before and after compaction.

Compaction's own rule is applied to what was published: of each key in a partition the record written last is kept.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiokafka import TopicPartition

from infra.kafka.records import read_records
from infra.kafka.transactions import Message
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BALANCES
from workers.ops.books.current_balance import BalanceQuestion, CurrentBalance, read_current_balances

__all__ = ["Written", "compact", "read_last_balance", "read_log", "sequences", "view", "written"]

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


class Written(NamedTuple):
    """A record of the topic."""

    partition: int
    key: bytes
    value: bytes


def compact(log: Iterable[Written]) -> list[Written]:
    """Return what compaction keeps: of each key in a partition the record written last."""
    kept = {(record.partition, record.key): record for record in log}
    return list(kept.values())


def view(log: Iterable[Written]) -> dict[str, dict[str, Any]]:
    """Return what a reader has who takes of each account the highest sequence."""
    found: dict[str, dict[str, Any]] = {}
    for record in log:
        event = json.loads(record.value)
        if event["data"]["sequence"] > found.get(event["subject"], {"sequence": 0})["sequence"]:
            found[event["subject"]] = event["data"]
    return found


def written(messages: Sequence[Message]) -> list[Written]:
    """Return the balances among the messages of a transaction, as the topic has them then."""
    return [
        Written(message.partition, message.key, message.value)
        for message in messages
        if message.topic == BALANCES and message.key is not None and message.partition is not None
    ]


def sequences(log: Iterable[Written]) -> list[int]:
    """Return the sequences of records, in order."""
    return [json.loads(record.value)["data"]["sequence"] for record in log]


async def read_log(settings: Settings, start: dict[TopicPartition, int], account: str) -> list[Written]:
    """Return an account's records from these offsets on, as a read_committed reader has them."""
    found: list[Written] = []
    for place, offset in start.items():
        async with aclosing(read_records(settings, [place], start=offset)) as records:
            found += [Written(record.partition, record.key, record.value) async for record in records]
    return [record for record in found if json.loads(record.value)["subject"] == account]


async def read_last_balance(database: Connection, account: str) -> CurrentBalance:
    """Return what the read API would answer about an account at the time of its last row."""
    asked = BalanceQuestion(account)
    found = (await read_current_balances(database, [asked], LONG_AGO))[asked]
    assert isinstance(found, CurrentBalance)
    return found
