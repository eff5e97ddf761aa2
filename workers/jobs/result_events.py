"""Builds the result event of a journal row.

An event depends on its row alone, so its bytes are the same whether it is published at once, again after a crash, or
from the ledger's database after retention has deleted the input. Only `repeat` depends on the record being answered.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

from schemas.catalogue import CREDIT_EVENTS, EXPIRY_TICKS, SEND_RESULTS, Undecodable
from schemas.decisions import billing_decided, report_decided, send_decided, tick_decided
from schemas.ids import answer_id, conflict_id, movement_id, tick_answer_id, tick_conflict_id
from schemas.movements import credits_expired, credits_forfeited, credits_granted, credits_reversed, credits_voided
from schemas.notices import credits_exhausted, credits_expiring_soon, credits_low
from schemas.outgoing import Source
from workers.jobs.job import Decision, Message
from workers.jobs.messages import event_message
from workers.ledger.model import ACCEPTED, Code, Entry, Place, Tick, WorkerName
from workers.ledger.store import Answer, is_of
from workers.telemetry.worker_metrics import REPEAT
from workers.topology import TOPIC_OF

__all__ = [
    "decision_from",
    "result_event",
    "tick_messages",
]


def decision_from(answers: Iterable[Answer], refused: dict[Place, Undecodable] | None = None) -> Decision:
    """Return the decision of a batch: a message for each answer and movement, and the number of outcomes by code.

    An answer is a repeat unless it was decided for the record itself.

    Args:
        answers: each request with its journal rows.
        refused: the records to dead-letter, by partition and offset.

    """
    messages = []
    codes = []
    for request, entries, original, is_ended in answers:
        for entry in entries:
            repeat = is_ended or not is_of(entry, request)
            message = result_event(request.account_id, entry, repeat=repeat, origin=request.place, original_id=original)
            messages.append(message)
            codes.append(REPEAT if repeat else entry.code)
    return Decision(messages, refused or {}, Counter(codes))


def result_event(
    account_id: str, entry: Entry, *, repeat: bool = False, origin: Place | None = None, original_id: str | None = None
) -> Message:
    """Return the event of a journal row.

    Args:
        account_id: the account of the row.
        entry: the row.
        repeat: whether the row was decided for another record than the one being answered.
        origin: the place of the record being answered; None if the event is published for no record.
        original_id: the id that its producer gave to the row's request, where it is no UUID.

    """
    if entry.recipient_id is not None:
        topic, write, own = SEND_RESULTS, send_decided, _send(entry)
    else:
        topic, write, own = _OTHERS.get(entry.code, _decided)(entry)
    data = {
        "request_id": str(entry.request_id),  # faster than orjson's call of a default function
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
    if original_id is not None:
        data["original_id"] = original_id
    body = write(_event_id(account_id, entry), account_id, data)  # type: ignore[arg-type] # by kind
    return event_message(topic, account_id.encode(), body, None, origin, repeat=repeat)


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


def _lot_ends(told: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Return the ends of lots that a row moved; None where it tells none, as rows of before do."""
    if told is None:
        return None
    return [{"lot": each["lot"], "expires_at": _instant(each["expires_at"])} for each in told]


def _outcome(entry: Entry) -> str:
    return "accepted" if entry.code in ACCEPTED else "rejected"


def _instant(text: str | None) -> datetime | None:
    """Return an instant from a row's details, where it is kept as ISO 8601 text."""
    return datetime.fromisoformat(text) if text else None


# -- for each kind of row: topic, writer, and the members beside the common ones --------------------------------------

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
    """Return the event of an answer that moved no credits: a refused report or a billing event."""
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
        "lot_ends": _lot_ends(details.get("lot_ends")),
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
    """Return the events of the rows that a tick booked, then the tick's answer."""
    messages = [result_event(account_id, entry) for account_id, entry in movements]
    conflict, repeat = tick.code == Code.KEY_CONFLICT, tick.source_offset != offset
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
            "repeat": repeat,
        },
    )
    origin = tick.partition, offset
    return [*messages, event_message(CREDIT_EVENTS, None, body, tick.partition, origin, repeat=repeat)]
