"""One call for each movement of credits: requests turned into the arrays that its SQL function takes.

Each expects an opened batch (`store.open_batch`): accounts locked, answered requests set aside.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from infra.postgres import Connection
from schemas.billing import (
    CreditsGift,
    PromotionGranted,
    SubscriptionCancelled,
    SubscriptionPeriod,
    SurveyGranted,
)
from schemas.sends import SendRequested
from schemas.ticks import ExpiryTick
from workers.ledger.model import Code, Entry, Origin, Request, Tick
from workers.ledger.plans import Catalogue
from workers.ledger.store import Opened, call

__all__ = ["bill", "debit", "expire", "tick_movements"]


async def debit(
    connection: Connection, opened: Opened, partition: int, free_relationships: frozenset[str]
) -> list[Entry]:
    """Decide the fresh sends of a batch, in input order within each account."""
    accounts = opened.accounts
    fresh: list[tuple[Request[SendRequested], bool]] = sorted(
        opened.fresh, key=lambda item: accounts[item[0].account_id]
    )
    if not fresh:
        return []
    requests = [request for request, _ in fresh]
    data = [request.event.data for request in requests]
    return await call(
        connection,
        "debit",
        [accounts[request.account_id] for request in requests],
        [request.request_id for request in requests],
        [request.fingerprint for request in requests],
        [conflict for _, conflict in fresh],
        [body.relationship in free_relationships for body in data],
        [body.recipient_id for body in data],
        [body.relationship for body in data],
        [request.as_of for request in requests],
        [request.offset for request in requests],
        partition,
    )


async def bill(connection: Connection, opened: Opened, partition: int, catalogue: Catalogue) -> list[Entry]:
    """Decide the fresh billing events of a batch: grants, gifts and cancels, in input order within each account."""
    entries = []
    for turn in _rounds(opened.fresh):
        conflicts = [request for request, conflict in turn if conflict]
        fresh = [request for request, conflict in turn if not conflict]
        grants = [r for r in fresh if isinstance(r.event, SubscriptionPeriod | CreditsGift)]
        cancels = [r for r in fresh if isinstance(r.event, SubscriptionCancelled)]
        entries += await _refuse(connection, opened, partition, conflicts, Code.KEY_CONFLICT)
        entries += await _grant(connection, opened, partition, grants, catalogue)
        entries += await _cancel(connection, opened, partition, cancels)
    return entries


def _rounds(fresh: Sequence[tuple[Request[Any], bool]]) -> list[list[tuple[Request[Any], bool]]]:
    """Split a batch so that no round names an account twice and each account's order is kept."""
    rounds: list[list[tuple[Request[Any], bool]]] = []
    turns: dict[str, int] = {}
    for item in fresh:
        turn = turns.get(item[0].account_id, 0)
        turns[item[0].account_id] = turn + 1
        if turn == len(rounds):
            rounds.append([])
        rounds[turn].append(item)
    return rounds


def _keys(opened: Opened, requests: Sequence[Request[Any]]) -> list[list[Any]]:
    """Return the columns that every movement starts with."""
    return [
        [opened.accounts[request.account_id] for request in requests],
        [request.request_id for request in requests],
        [request.fingerprint for request in requests],
    ]


def _places(requests: Sequence[Request[Any]], partition: int) -> list[Any]:
    """Return the columns that every movement ends with."""
    return [[request.as_of for request in requests], [request.offset for request in requests], partition]


async def _refuse(
    connection: Connection, opened: Opened, partition: int, requests: Sequence[Request[Any]], code: Code
) -> list[Entry]:
    if not requests:
        return []
    codes = [code.value] * len(requests)
    return await call(connection, "refuse", *_keys(opened, requests), codes, *_places(requests, partition))


async def _grant(
    connection: Connection,
    opened: Opened,
    partition: int,
    requests: Sequence[Request[SubscriptionPeriod | CreditsGift]],
    catalogue: Catalogue,
) -> list[Entry]:
    if not requests:
        return []
    rows = [_grant_columns(request, catalogue) for request in requests]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return await call(connection, "grant_credits", *_keys(opened, requests), *columns, *_places(requests, partition))


def _grant_columns(request: Request[SubscriptionPeriod | CreditsGift], catalogue: Catalogue) -> tuple[Any, ...]:
    """Return origin, source id, subscription id, plan, period start, credits, priority, start and end of a grant."""
    event = request.event
    if isinstance(event, SubscriptionPeriod):
        period = event.data
        grant = catalogue.allotment(period.plan, period.period_start, period.period_end)
        origin, source_id = Origin.SUBSCRIPTION, None
        subscription: tuple[Any, ...] = (period.subscription_id, period.plan, period.period_start)
    else:
        origin, source_id = _gift_origin(event)
        grant = catalogue.gift(origin, event.data.credits, request.as_of)
        subscription = (None, None, None)
    terms = (grant.credits, grant.priority, grant.granted_at, grant.expires_at)
    return (origin.value, source_id, *subscription, *terms)


def _gift_origin(event: CreditsGift) -> tuple[Origin, str]:
    match event:
        case PromotionGranted():
            return Origin.PROMOTION, event.data.promotion_id
        case SurveyGranted():
            return Origin.SURVEY, event.data.survey_id
        case _:
            raise TypeError(f"a gift of no known origin: {type(event).__name__}")


async def _cancel(
    connection: Connection, opened: Opened, partition: int, requests: Sequence[Request[SubscriptionCancelled]]
) -> list[Entry]:
    if not requests:
        return []
    return await call(
        connection,
        "cancel",
        *_keys(opened, requests),
        [request.event.data.subscription_id for request in requests],
        [request.event.data.effective_at for request in requests],
        *_places(requests, partition),
    )


async def expire(
    connection: Connection, partition: int, request: Request[ExpiryTick], horizon: datetime, lots_max: int
) -> Tick:
    """Book the lots that ended up to `horizon`, at most `lots_max`, and store the tick's answer.

    A tick seen before is not booked again: its stored answer is returned.
    """
    stored = await connection.fetch(
        "select * from ticks where partition = $1 and request_id = $2", partition, request.request_id
    )
    for row in stored:
        if row["fingerprint"] == request.fingerprint:
            return Tick(*row)
    if stored:
        answer = await connection.fetchrow(
            "insert into ticks values ($1, $2, $3, 'key_conflict', $4, $5, $6, 0, 0, true) returning *",
            partition,
            request.request_id,
            request.fingerprint,
            request.offset,
            request.as_of,
            horizon,
        )
    else:
        answer = await connection.fetchrow(
            "select * from expire($1, $2, $3, $4, $5, $6, $7)",
            request.request_id,
            request.fingerprint,
            request.as_of,
            horizon,
            lots_max,
            request.offset,
            partition,
        )
    assert answer is not None  # noqa: S101 - both statements return their row
    return Tick(*answer)


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
