"""Journal rows as events: what was booked becomes what downstream services read.

An event is made from the row alone, so it is the same bytes whether it is published at once, again after a crash, or
from the books long after the input is gone. Only `repeat` looks at the record being answered.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from infra.postgres import Connection
from schemas.catalogue import CREDIT_EVENTS, EXPIRY_TICKS, SEND_RESULTS, Undecodable
from schemas.ids import answer_id, conflict_id, movement_id, tick_answer_id, tick_conflict_id
from schemas.results import (
    Source,
    billing_decided,
    credits_exhausted,
    credits_expired,
    credits_expiring_soon,
    credits_forfeited,
    credits_granted,
    credits_low,
    credits_reversed,
    credits_voided,
    report_decided,
    send_decided,
    tick_decided,
)
from workers.jobs.job import Decision, Message
from workers.ledger.model import ACCEPTED, Code, Entry, Tick, WorkerName
from workers.ledger.store import Answer, is_of
from workers.telemetry.worker_metrics import REPEAT
from workers.topology import TOPIC_OF

__all__ = ["decision_of", "event_of", "recall_answers", "recall_ticks", "tick_messages"]


def decision_of(answers: Iterable[Answer], partition: int, refused: dict[int, Undecodable] | None = None) -> Decision:
    """Return what came of a batch: what each record is answered and moved beside that, and outcomes by code.

    An answer is a repeat unless it was decided for this very record.
    """
    messages = []
    codes = []
    for request, entries in answers:
        for entry in entries:
            repeat = not is_of(entry, partition, request.offset)
            messages.append(event_of(request.account_id, entry, repeat=repeat, origin=request.offset))
            codes.append(REPEAT if repeat else entry.code)
    return Decision(messages, refused or {}, Counter(codes))


def event_of(account_id: str, entry: Entry, *, repeat: bool = False, origin: int | None = None) -> Message:
    """Return a journal row as the event it is, in answer to the record at an offset, if to one."""
    if entry.recipient_id is not None:
        topic, write, own = SEND_RESULTS, send_decided, _send(entry)
    else:
        topic, write, own = _OTHERS.get(entry.code, _decided)(entry)
    data = {
        "request_id": str(entry.request_id),  # orjson would ask for it by a call
        "sequence": entry.sequence,
        "as_of": entry.as_of,
        "balance_before": entry.balance_before,
        "balance_after": entry.balance_after,
        "source": {
            "topic": TOPIC_OF[entry.worker],
            "partition": entry.source_partition,
            "offset": entry.source_offset,
        },
        "repeat": repeat,
        "code": entry.code,
        **own,
    }
    body = write(_event_id(account_id, entry), account_id, data)  # type: ignore[arg-type] # by kind
    return Message(topic, account_id.encode(), body, None, origin)


def _event_id(account_id: str, entry: Entry) -> str:
    if not entry.is_answer or entry.code == Code.BALANCE_NOT_CURRENT:  # the answer's own id is the final one's
        return movement_id(account_id, entry.sequence)
    if entry.code == Code.KEY_CONFLICT:
        return conflict_id(account_id, entry.request_id, entry.fingerprint)
    return answer_id(account_id, entry.request_id)


def _not_final(entry: Entry) -> dict[str, Any]:
    """Return why an answer is not final and when to ask again; nothing for one that is."""
    if entry.code != Code.BALANCE_NOT_CURRENT:
        return {}
    details = entry.details or {}
    return {name: details[name] for name in ("waited_for", "retry_after_seconds")}


def _outcome(entry: Entry) -> str:
    return "accepted" if entry.code in ACCEPTED else "rejected"


def _instant(text: str | None) -> datetime | None:
    """Return an instant kept in a row's details, where JSON has no type for it."""
    return datetime.fromisoformat(text) if text else None


# -- each kind of row: its topic, its writer, and the members it has beside the common ones ---------------------------

OwnFields = dict[str, Any]
EventParts = tuple[str, Callable[..., bytes], OwnFields]


def _send(entry: Entry) -> OwnFields:
    details = entry.details or {}
    return {
        "outcome": _outcome(entry),
        "recipient_id": entry.recipient_id,
        "relationship": entry.relationship,
        "credits_charged": -entry.amount,
        "lot": entry.lot,
        "lot_expires_at": entry.lot_expires_at,
        "next_allotment_at": entry.next_allotment_at,
        "sender_id": entry.sender_id,
        "limit": details.get("limit"),
        "retry_at": _instant(details.get("retry_at")),
        **_not_final(entry),
    }


def _granted(entry: Entry) -> EventParts:
    details = entry.details or {}
    own = {
        "credits": entry.amount,
        "lot": entry.lot,
        "granted_at": _instant(details["granted_at"]),
        "expires_at": entry.lot_expires_at,
        "origin": details["origin"],
        "subscription_id": details.get("subscription_id"),
        "plan": details.get("plan"),
        "period_start": _instant(details.get("period_start")),
        "tops_up": details.get("tops_up"),
        "source_id": details.get("source_id"),
        "actor": details.get("actor"),
        "reason": details.get("reason"),
    }
    return CREDIT_EVENTS, credits_granted, own


def _reversed(entry: Entry) -> EventParts:
    details = entry.details or {}
    own = {"send_id": details["send_id"], "cause": details["cause"]}
    return CREDIT_EVENTS, credits_reversed, _of_lot(entry, entry.amount) | own


def _voided(entry: Entry) -> EventParts:
    details = entry.details or {}
    own = {"grant_id": details.get("grant_id"), "actor": details.get("actor"), "reason": details["reason"]}
    return CREDIT_EVENTS, credits_voided, _of_lot(entry, -entry.amount) | own


def _forfeited(entry: Entry) -> EventParts:
    details = entry.details or {}
    own = {name: details.get(name) for name in ("subscription_id", "plan", "cap")}
    return CREDIT_EVENTS, credits_forfeited, _of_lot(entry, -entry.amount) | own


def _expired(entry: Entry) -> EventParts:
    return CREDIT_EVENTS, credits_expired, _of_lot(entry, -entry.amount)


def _low(entry: Entry) -> EventParts:
    return CREDIT_EVENTS, credits_low, {"threshold": (entry.details or {})["threshold"]}


def _exhausted(_: Entry) -> EventParts:
    return CREDIT_EVENTS, credits_exhausted, {}


def _expiring_soon(entry: Entry) -> EventParts:
    return CREDIT_EVENTS, credits_expiring_soon, _of_lot(entry, (entry.details or {})["credits"])


def _of_lot(entry: Entry, credits_: int) -> OwnFields:
    return {"credits": credits_, "lot": entry.lot, "expires_at": entry.lot_expires_at}


def _decided(entry: Entry) -> EventParts:
    """Return an answer that moved nothing: a report refused, or any other billing event."""
    details = entry.details or {}
    own: OwnFields = {"outcome": _outcome(entry)}
    if entry.worker == WorkerName.SEND:
        return SEND_RESULTS, report_decided, own | {"send_id": details["send_id"], "cause": details["cause"]}
    own |= {
        "subscription_id": details.get("subscription_id"),
        "effective_at": _instant(details.get("effective_at")),
        "plan": details.get("plan"),
        "period_start": _instant(details.get("period_start")),
        "grant_id": details.get("grant_id"),
        "kept_lot": details.get("kept_lot"),
        **_not_final(entry),
    }
    return CREDIT_EVENTS, billing_decided, own


_OTHERS: Final[dict[str, Callable[[Entry], EventParts]]] = {
    Code.GRANTED: _granted,
    Code.REVERSED: _reversed,
    Code.LOT_ENDED: _reversed,
    Code.VOIDED: _voided,
    Code.ADJUSTED: _voided,
    Code.FORFEITED: _forfeited,
    Code.CAP_FORFEITED: _forfeited,
    Code.EXPIRED: _expired,
    Code.LOW: _low,
    Code.EXHAUSTED: _exhausted,
    Code.EXPIRING_SOON: _expiring_soon,
}


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
    return [*messages, Message(CREDIT_EVENTS, None, body, tick.partition, offset)]


async def recall_answers(
    connection: Connection, worker: WorkerName, partition: int, start: int, end: int
) -> list[Message]:
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
