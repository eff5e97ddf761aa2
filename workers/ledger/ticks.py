"""The expiry lane's movement: a tick, booked in bounded steps."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from infra.postgres import Connection
from schemas.ticks import ExpiryTick
from workers.ledger.model import Entry, Place, Request, Tick, WorkerName
from workers.ledger.plans import Catalogue

__all__ = ["TickTerms", "booked_ticks", "expire_step", "tick_movements", "tick_terms"]


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

    A tick seen before is not booked again: its stored answer is returned. Nor is one whose id another body had first:
    `key_conflict`.
    """
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
    assert answer is not None  # noqa: S101 - it returns one row
    return Tick(*answer)


async def booked_ticks(
    connection: Connection, requests: Sequence[Request[ExpiryTick]]
) -> list[tuple[Tick, Request[ExpiryTick]]]:
    """Return the stored answer to each request for a tick, in order, with the request."""
    rows = await connection.fetch(
        "select stored.* from (select distinct * from unnest($1::integer[], $2::uuid[])) as r (partition, request_id)"
        " cross join lateral"
        " (select t.* from ticks as t where t.partition = r.partition and t.request_id = r.request_id offset 0)"
        " as stored",
        [request.partition for request in requests],
        [request.request_id for request in requests],
    )
    stored = {_key_of(tick): tick for tick in (Tick(*row) for row in rows)}
    return [(stored[_key_of(request)], request) for request in requests]


def _key_of(asked: Tick | Request[ExpiryTick]) -> tuple[int, UUID, int]:
    return asked.partition, asked.request_id, asked.fingerprint


async def tick_movements(connection: Connection, ticks: Sequence[Tick]) -> dict[Place, list[tuple[str, Entry]]]:
    """Return what ticks booked, with the account ids, by the place of each tick's record, in the order of the journal.

    A tick that booked nothing is left out.
    """
    rows = await connection.fetch(
        "select a.account_id, j.*"
        " from unnest($1::integer[], $2::bigint[], $3::uuid[]) as t (partition, source_offset, request_id)"
        " cross join lateral (select x.* from journal as x where x.source_partition = t.partition"
        " and x.source_offset = t.source_offset and x.worker = 'expiry' and x.request_id = t.request_id offset 0) as j"
        " join accounts as a using (account) order by j.account, j.sequence",
        [tick.partition for tick in ticks],
        [tick.source_offset for tick in ticks],
        [tick.request_id for tick in ticks],
    )
    movements: dict[Place, list[tuple[str, Entry]]] = {}
    for account_id, *columns in map(tuple, rows):
        entry = Entry(*columns)
        movements.setdefault((entry.source_partition, entry.source_offset), []).append((account_id, entry))
    return movements
