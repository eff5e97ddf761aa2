"""Finds a traced request in the ledger's database: its decision and all rows that it caused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from infra.postgres import Connection
from workers.jobs.job import Message
from workers.jobs.result_events import result_event, tick_messages
from workers.ledger.model import Entry, Tick, WorkerName
from workers.ops.books.balance import read_account
from workers.ops.books.statement_page import ANSWERS_OF_REQUEST
from workers.topology import TOPIC_OF

__all__ = [
    "DecidedRecord",
    "RowEvent",
    "TracedLot",
    "find_by_account",
    "find_by_event",
    "find_by_request",
    "find_by_row",
]

_MAX_ROWS: Final = 100  # of one tick, which may book a hundred thousand


class RowEvent(NamedTuple):
    """The event published for a row."""

    id: UUID
    type: str
    topic: str
    account_id: str | None
    partition: int | None  # None: the partition of the account


class TracedLot(NamedTuple):
    """A lot in its current state."""

    lot: int
    origin: str
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, eq=False)
class DecidedRecord:
    """One decided input record: a request with one body, or a tick in one partition."""

    account_id: str | None  # None for a tick, whose rows are of any account
    request_id: UUID
    fingerprint: int
    topic: str
    partition: int
    offset: int
    as_of: datetime
    rows: tuple[tuple[str, Entry], ...]  # accounts and journal rows, in the order of booking
    more: bool  # whether rows were left out
    tick: Tick | None
    lots: tuple[TracedLot, ...]
    events: tuple[RowEvent, ...]  # of the rows, in their order; last, a tick's answer


class _RequestKey(NamedTuple):
    account: int | None
    account_id: str | None
    worker: str
    partition: int
    offset: int
    request_id: UUID
    fingerprint: int
    as_of: datetime


def _row_event(message: Message) -> RowEvent:
    event = json.loads(message.value)
    return RowEvent(UUID(event["id"]), event["type"], message.topic, event.get("subject"), message.partition)


def _row_events(rows: Sequence[tuple[str, Entry]], tick: Tick | None) -> tuple[RowEvent, ...]:
    events = [_row_event(result_event(account_id, row)) for account_id, row in rows]
    if tick is not None and tick.code != "booking":
        events.append(_row_event(tick_messages(tick, [], tick.source_offset)[-1]))
    return tuple(events)


_OF_REQUEST: Final = f"""
select j.account, a.account_id, j.worker, j.source_partition, j.source_offset, j.request_id, j.fingerprint, j.as_of
from ({ANSWERS_OF_REQUEST}) as j
join accounts as a using (account)
{{}}
order by a.account_id, j.sequence
"""  # noqa: S608 - a constant
_OF_ALL: Final = _OF_REQUEST.format("")
# The account's key goes into the look-up by the request's id, which an id that many accounts use needs. It is looked up
# in the statement itself, as the read API does.
_OF_ONE: Final = _OF_REQUEST.format("where j.account = (select x.account from accounts as x where x.account_id = $2)")

_TICKS: Final = """
select * from ticks
where request_id = $1 and partition = any(array(select generate_series(0, (select max(partition) from ticks))))
order by partition, source_offset
"""

_OF_ACCOUNT: Final = """
select j.account, a.account_id, j.worker, j.source_partition, j.source_offset, j.request_id, j.fingerprint, j.as_of
from journal as j
join accounts as a using (account)
where j.account = $1
order by j.sequence desc
"""

# By the record's place, as in `stored_movements`: `offset 0` keeps the account out of the look-up, as the primary key
# would read a busy account's whole history.
_ROWS: Final = """
select a.account_id, j.*
from (
    select x.* from journal as x
    where
        x.worker = $1 and x.source_partition = $2 and x.source_offset = $3 and x.request_id = $4
        and x.fingerprint = $5
    offset 0
) as j
join accounts as a using (account)
where $6::bigint is null or j.account = $6
order by j.account, j.sequence
limit $7
"""

_LOTS: Final = """
select lot, origin, plan, granted, remaining, granted_at, expires_at from lots
where account = $1 and lot = any($2)
order by lot
"""


async def find_by_request(connection: Connection, request_id: UUID, account_id: str | None) -> list[DecidedRecord]:
    """Return the decided records with a request id, of one account or, for None, of all accounts and ticks.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    if account_id is None:
        rows = await connection.fetch(_OF_ALL, request_id)
    else:
        await read_account(connection, account_id)
        rows = await connection.fetch(_OF_ONE, request_id, account_id)
    cases = [await _read_decided(connection, _RequestKey(*row)) for row in map(tuple, rows)]
    if account_id is None:
        ticks = [Tick(*row) for row in map(tuple, await connection.fetch(_TICKS, request_id))]
        cases += [await _read_decided(connection, _tick_key(tick)) for tick in ticks]
    return cases


async def find_by_account(connection: Connection, account_id: str, last: int) -> list[DecidedRecord]:
    """Return the last decided records with a row of an account, the newest first.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    account = (await read_account(connection, account_id))["account"]
    keys: dict[tuple[Any, ...], _RequestKey] = {}
    async for row in connection.cursor(_OF_ACCOUNT, account):
        key = _RequestKey(*tuple(row))
        keys.setdefault(key[:-1], key)
        if len(keys) > last:
            break
    return [await _read_decided(connection, key) for key in list(keys.values())[:last]]


async def find_by_event(connection: Connection, event_id: UUID, account_id: str) -> list[DecidedRecord]:
    """Return the decided record of an account's event, found by comparing the event id of each of the account's rows.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    account = (await read_account(connection, account_id))["account"]
    rows = connection.cursor("select * from journal where account = $1 order by sequence desc", account, prefetch=1000)
    async for row in rows:
        entry = Entry(*tuple(row))
        if _row_event(result_event(account_id, entry)).id == event_id:
            return [await _read_decided(connection, _row_key(account_id, entry))]
    return []


async def find_by_row(connection: Connection, account_id: str, sequence: int) -> list[DecidedRecord]:
    """Return the decided record that a journal row belongs to, an empty list for an unknown row."""
    row = await connection.fetchrow(
        "select j.* from journal as j join accounts as a using (account) where a.account_id = $1 and j.sequence = $2",
        account_id,
        sequence,
    )
    return [] if row is None else [await _read_decided(connection, _row_key(account_id, Entry(*tuple(row))))]


def _tick_key(tick: Tick) -> _RequestKey:
    told = (tick.partition, tick.source_offset, tick.request_id, tick.fingerprint, tick.as_of)
    return _RequestKey(None, None, WorkerName.EXPIRY.value, *told)


def _row_key(account_id: str, row: Entry) -> _RequestKey:
    source = (row.worker, row.source_partition, row.source_offset)
    return _RequestKey(row.account, account_id, *source, row.request_id, row.fingerprint, row.as_of)


async def _read_decided(connection: Connection, key: _RequestKey) -> DecidedRecord:
    source = (key.worker, key.partition, key.offset, key.request_id, key.fingerprint)
    found = await connection.fetch(_ROWS, *source, key.account, _MAX_ROWS + 1)
    rows = tuple((row[0], Entry(*row[1:])) for row in map(tuple, found))
    lots: Sequence[Any] = ()
    if key.account is not None:
        touched = sorted({row.lot for _, row in rows if row.lot is not None})
        lots = await connection.fetch(_LOTS, key.account, touched)
    tick = None
    if key.worker == WorkerName.EXPIRY:
        row = await connection.fetchrow(
            "select * from ticks where partition = $1 and request_id = $2 and fingerprint = $3",
            *(key.partition, key.request_id, key.fingerprint),
        )
        tick = None if row is None else Tick(*tuple(row))
    return DecidedRecord(
        key.account_id,
        key.request_id,
        key.fingerprint,
        TOPIC_OF[key.worker],
        key.partition,
        key.offset,
        key.as_of,
        rows[:_MAX_ROWS],
        len(rows) > _MAX_ROWS,
        tick,
        tuple(TracedLot(*row) for row in map(tuple, lots)),
        _row_events(rows[:_MAX_ROWS], tick),
    )
