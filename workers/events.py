"""Journal rows as events: what was booked becomes what downstream services read.

An event is made from the row alone, so it is the same bytes whether it is published at once, again after a crash, or
from the books long after the input is gone. Only `repeat` looks at the record being answered.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from infra.postgres import Connection
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, SEND_RESULTS
from schemas.ids import answer_id, conflict_id, movement_id, tick_answer_id, tick_conflict_id
from schemas.results import (
    Source,
    billing_decided,
    credits_expired,
    credits_granted,
    send_decided,
    tick_decided,
)
from workers.job import Batch, Message
from workers.ledger.model import ACCEPTED, Code, Entry, Tick, Worker

__all__ = ["answer", "recall_answers", "recall_ticks", "tick_messages"]

_INPUT = {Worker.SEND: SEND_REQUESTS, Worker.BILLING: BILLING_EVENTS, Worker.EXPIRY: EXPIRY_TICKS}


def answer(account_id: str, entry: Entry, batch: Batch, offset: int) -> Message:
    """Return the event that answers the record at `offset`: a repeat, unless it is the one that was decided."""
    repeat = entry.source_offset != offset or entry.source_partition != batch.partition
    return event_of(account_id, entry, repeat=repeat)


def event_of(account_id: str, entry: Entry, *, repeat: bool = False) -> Message:
    """Return a journal row as the event it is."""
    common = {
        "request_id": entry.request_id,
        "sequence": entry.sequence,
        "as_of": entry.as_of,
        "balance_before": entry.balance_before,
        "balance_after": entry.balance_after,
        "source": Source(
            topic=_INPUT[entry.worker],  # type: ignore[index] # a worker's name, as the journal checks
            partition=entry.source_partition,
            offset=entry.source_offset,
        ),
        "repeat": repeat,
        "code": entry.code,
    }
    key = account_id.encode()
    if entry.worker == Worker.SEND:
        return Message(SEND_RESULTS, key, _send(account_id, entry, common))
    if entry.code == Code.GRANTED:
        return Message(CREDIT_EVENTS, key, _granted(account_id, entry, common))
    if entry.code == Code.EXPIRED:
        return Message(CREDIT_EVENTS, key, _expired(account_id, entry, common))
    return Message(CREDIT_EVENTS, key, _billing(account_id, entry, common))


def _outcome(entry: Entry) -> str:
    return "accepted" if entry.code in ACCEPTED else "rejected"


def _answer_id(account_id: str, entry: Entry) -> UUID:
    if entry.code == Code.KEY_CONFLICT:
        return conflict_id(account_id, entry.request_id, entry.fingerprint)
    return answer_id(account_id, entry.request_id)


def _send(account_id: str, entry: Entry, common: dict[str, Any]) -> bytes:
    common |= {
        "outcome": _outcome(entry),
        "recipient_id": entry.recipient_id,
        "relationship": entry.relationship,
        "credits_charged": -entry.amount,
        "lot": entry.lot,
        "lot_expires_at": entry.lot_expires_at,
        "next_allotment_at": entry.next_allotment_at,
    }
    return send_decided(_answer_id(account_id, entry), account_id, common)  # type: ignore[arg-type]


def _granted(account_id: str, entry: Entry, common: dict[str, Any]) -> bytes:
    details = entry.details or {}
    common |= {
        "credits": entry.amount,
        "lot": entry.lot,
        "granted_at": _instant(details["granted_at"]),
        "expires_at": entry.lot_expires_at,
        "origin": details["origin"],
        "subscription_id": details.get("subscription_id"),
        "plan": details.get("plan"),
        "period_start": _instant(details.get("period_start")),
    }
    return credits_granted(_answer_id(account_id, entry), account_id, common)  # type: ignore[arg-type]


def _billing(account_id: str, entry: Entry, common: dict[str, Any]) -> bytes:
    details = entry.details or {}
    common |= {
        "outcome": _outcome(entry),
        "subscription_id": details.get("subscription_id"),
        "effective_at": _instant(details.get("effective_at")),
    }
    return billing_decided(_answer_id(account_id, entry), account_id, common)  # type: ignore[arg-type]


def _expired(account_id: str, entry: Entry, common: dict[str, Any]) -> bytes:
    assert entry.lot is not None  # noqa: S101 - a movement names its lot, as the journal checks
    common |= {"credits": -entry.amount, "lot": entry.lot, "expires_at": entry.lot_expires_at}
    event_id = movement_id(account_id, entry.request_id, entry.code, entry.lot)
    return credits_expired(event_id, account_id, common)  # type: ignore[arg-type]


def _instant(text: str | None) -> datetime | None:
    """Return an instant kept in a row's details, where JSON has no type for it."""
    return datetime.fromisoformat(text) if text else None


def tick_messages(tick: Tick, movements: list[tuple[str, Entry]], offset: int) -> list[Message]:
    """Return the lines that a tick booked, and its answer."""
    messages = [event_of(account_id, entry) for account_id, entry in movements]
    conflict = tick.code == Code.KEY_CONFLICT
    body = tick_decided(
        tick_conflict_id(tick.partition, tick.request_id, tick.fingerprint)
        if conflict
        else tick_answer_id(tick.partition, tick.request_id),
        {
            "request_id": tick.request_id,
            "code": "key_conflict" if conflict else "booked",
            "as_of": tick.as_of,
            "horizon": tick.horizon,
            "lots": tick.lots,
            "credits": tick.credits,
            "complete": tick.complete,
            "source": Source(topic=EXPIRY_TICKS, partition=tick.partition, offset=tick.source_offset),
            "repeat": tick.source_offset != offset,
        },
    )
    return [*messages, Message(CREDIT_EVENTS, None, body, tick.partition)]


async def recall_answers(connection: Connection, worker: Worker, partition: int, start: int, end: int) -> list[Message]:
    """Return from the books what a worker booked for the input offsets [start, end) of a partition."""
    rows = await connection.fetch(
        "select a.account_id, j.* from journal as j join accounts as a using (account)"
        " where j.worker = $1 and j.source_partition = $2 and j.source_offset >= $3 and j.source_offset < $4"
        " order by j.source_offset, j.account, j.sequence",
        worker.value,
        partition,
        start,
        end,
    )
    return [event_of(row[0], Entry(*row[1:])) for row in map(tuple, rows)]


async def recall_ticks(connection: Connection, partition: int, start: int, end: int) -> list[Tick]:
    """Return the stored answers to the ticks at the offsets [start, end) of a partition."""
    rows = await connection.fetch(
        "select * from ticks where partition = $1 and source_offset >= $2 and source_offset < $3"
        " order by source_offset",
        partition,
        start,
        end,
    )
    return [Tick(*row) for row in rows]
