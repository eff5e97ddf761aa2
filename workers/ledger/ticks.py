"""The expiry lane's movement: a tick, booked in bounded steps."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from infra.postgres import Connection
from schemas.ticks import ExpiryTick
from workers.ledger.model import Entry, Request, Tick, WorkerName
from workers.ledger.plans import Catalogue

__all__ = ["TickTerms", "booked_ticks", "expire_step", "first_unbooked", "tick_movements", "tick_terms"]


class TickTerms(NamedTuple):
    """How much one tick does, and what it tells."""

    step_lots: int  # of each kind, in one transaction
    steps: int  # at most
    soon: timedelta  # lots that end within this are announced
    low: int


def tick_terms(catalogue: Catalogue, step_lots: int, steps: int) -> TickTerms:
    """Return how ticks are booked by a catalogue."""
    return TickTerms(step_lots, steps, timedelta(days=catalogue.notices.expiring_days), catalogue.notices.low_balance)


async def expire_step(
    connection: Connection, request: Request[ExpiryTick], horizon: datetime, terms: TickTerms
) -> Tick:
    """Do one step of a tick and return it as it stands: `booking` while a further step is due.

    A tick seen before is not booked again: its stored answer is returned.
    """
    stored = await connection.fetch(
        "select * from ticks where partition = $1 and request_id = $2", request.partition, request.request_id
    )
    for row in stored:
        if row["fingerprint"] == request.fingerprint and row["code"] != "booking":
            return Tick(*row)
    if stored and all(row["fingerprint"] != request.fingerprint for row in stored):
        answer = await connection.fetchrow(
            "insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits,"
            " complete, steps) values ($1, $2, $3, 'key_conflict', $4, $5, $6, 0, 0, true, 0) returning *",
            request.partition,
            request.request_id,
            request.fingerprint,
            request.offset,
            request.as_of,
            horizon,
        )
    else:
        cause = (
            None,
            request.request_id,
            request.fingerprint,
            WorkerName.EXPIRY.value,
            request.as_of,
            request.partition,
            request.offset,
        )
        answer = await connection.fetchrow("select * from expire_step($1, $2, $3, $4, $5, $6)", cause, horizon, *terms)
    assert answer is not None  # noqa: S101 - both statements return their row
    return Tick(*answer)


async def booked_ticks(
    connection: Connection, requests: Sequence[Request[ExpiryTick]]
) -> list[tuple[Tick, Request[ExpiryTick]]]:
    """Return the stored answer to each request for a tick, in order, with the request."""
    stored = {_key_of(tick): tick for tick in await _stored_ticks(connection, requests)}
    return [(stored[_key_of(request)], request) for request in requests]


async def first_unbooked(connection: Connection, requests: Sequence[Request[ExpiryTick]]) -> Request[ExpiryTick] | None:
    """Return the first request for a tick that has a step left; None if all are answered."""
    stored = await _stored_ticks(connection, requests)
    done = {_key_of(tick) for tick in stored if tick.code != "booking"}
    return next((request for request in requests if _key_of(request) not in done), None)


async def _stored_ticks(connection: Connection, requests: Sequence[Request[ExpiryTick]]) -> list[Tick]:
    """Return what is stored for the partitions and request ids of requests, whatever body an id came with."""
    rows = await connection.fetch(
        "select stored.* from (select distinct * from unnest($1::integer[], $2::uuid[])) as r (partition, request_id)"
        " cross join lateral"
        " (select t.* from ticks as t where t.partition = r.partition and t.request_id = r.request_id offset 0)"
        " as stored",
        [request.partition for request in requests],
        [request.request_id for request in requests],
    )
    return [Tick(*row) for row in rows]


def _key_of(asked: Tick | Request[ExpiryTick]) -> tuple[int, UUID, int]:
    return asked.partition, asked.request_id, asked.fingerprint


async def tick_movements(connection: Connection, tick: Tick) -> list[tuple[str, Entry]]:
    """Return what a tick booked, with the account ids, in the order of the journal."""
    rows = await connection.fetch(
        "select a.account_id, j.* from journal as j join accounts as a using (account)"
        " where j.worker = 'expiry' and j.source_partition = $1 and j.source_offset = $2 and j.request_id = $3"
        " order by j.account, j.sequence",
        tick.partition,
        tick.source_offset,
        tick.request_id,
    )
    return [(row[0], Entry(*row[1:])) for row in map(tuple, rows)]
