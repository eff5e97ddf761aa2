"""What workers publish of a row, to the byte: readers compare and hash results, and old ones are written again."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from aiokafka.structs import ConsumerRecord

from schemas.balances import account_balance
from schemas.catalogue import CATALOGUE, SEND_REQUESTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from schemas.ids import balance_id
from workers.jobs.dead_letters import dead_letter
from workers.jobs.result_events import result_event, tick_messages
from workers.ledger.model import Entry, Tick

PINNED = Path(__file__).with_name("results.ndjson")
REQUEST, GRANT, SEND = (UUID(f"00000000-0000-4000-8000-00000000000{number}") for number in (1, 2, 3))
AT, END = datetime(2026, 3, 1, 9, 30, 0, 250_000, tzinfo=UTC), datetime(2026, 5, 30, 9, 30, tzinfo=UTC)
START = "2026-03-01T09:30:00+00:00"  # as details keep it
PERIOD = {"subscription_id": "sub-9", "plan": "premium_business", "period_start": START}
_PLACE = (AT, 0, 0)


def _row(code: str, worker: str = "billing", amount: int = 0, details: Any = None, **columns: Any) -> bytes:
    """Return the event of a row of an account's journal."""
    lot = {"lot": 1, "lot_expires_at": END} if amount or columns.pop("of_lot", False) else {}
    row = {
        "account": 1,
        "sequence": 7,
        "request_id": REQUEST,
        "fingerprint": -7,
        "is_answer": True,
        "worker": worker,
        "code": code,
        "amount": amount,
        "balance_before": 15,
        "balance_after": 15 + amount,
        "as_of": AT,
        "source_partition": 3,
        "source_offset": 1041,
        "details": details,
    }
    empty = dict.fromkeys(("lot", "lot_expires_at", "recipient_id", "relationship", "next_allotment_at", "sender_id"))
    return bytes(result_event("acct-42", Entry(**{**empty, "reverses": None, **row, **lot, **columns})).value)


def _results() -> list[bytes]:
    """Return a result of each type, and of each code that fills other members of its type."""
    to = {"recipient_id": "member-7", "relationship": "none"}
    reported = {"send_id": str(SEND), "cause": "undeliverable"}
    given = {"origin": "promotion", "source_id": "spring-2026", "granted_at": START}
    allotted = {"origin": "subscription", **PERIOD, "granted_at": START, "tops_up": 1}
    asked = {"waited_for": "inmail-billing", "retry_after_seconds": 60}
    by_hand = {"actor": "support-12", "reason": "given twice"}
    unasked = {"is_answer": False}
    tick = Tick(3, REQUEST, -7, "booked", 1041, AT, AT, 2, 4, True, 1, _PLACE, _PLACE, _PLACE)
    lot = {"lot": 1, "remaining": 14, "granted_at": AT, "expires_at": END}
    balance = {"sequence": 7, "as_of": AT, "spendable": 14, "changes_at": END, "erased_at": None, "lot_count": 1}
    letter = ConsumerRecord(SEND_REQUESTS, 3, 7, 1_772_357_400_250, 1, b"acct-42", b"{", None, 0, 0, (("trace", b"1"),))
    return [
        _row("charged", "send", -1, sender_id="seat-3", **to),
        _row("insufficient_credits", "send", next_allotment_at=END, **to),
        _row("rate_limited", "send", details={"limit": "seat", "retry_at": START}, **to),
        _row("balance_not_current", "send", details=asked, **to),
        _row("unknown_send", "send", details=reported),
        _row("granted", amount=15, details=given),
        _row("granted", amount=15, details=allotted),
        _row("granted", amount=15, details={"origin": "adjustment", "granted_at": START, **by_hand}),
        _row("reversed", "send", 1, reported),
        _row("voided", amount=-3, details={"grant_id": str(GRANT), "reason": "refunded"}),
        _row("adjusted", amount=-3, details={"credits": 3, **by_hand}),
        _row("forfeited", amount=-3, details={**PERIOD, "reason": "plan_changed"}, **unasked),
        _row("cap_forfeited", amount=-3, details={"subscription_id": "sub-9", "cap": 60}, **unasked),
        _row("expired", "expiry", -3, **unasked),
        _row("low", "send", details={"threshold": 2}, **unasked),
        _row("exhausted", "send", **unasked),
        _row("expiring_soon", "expiry", details={"credits": 2}, of_lot=True, **unasked),
        _row(
            "cancelled",
            details={"subscription_id": "sub-9", "effective_at": START, "lot_ends": [{"lot": 1, "expires_at": START}]},
        ),
        _row("period_already_granted", details={**PERIOD, "grant_id": str(GRANT)}),
        _row("plan_changed", details={**PERIOD, "kept_lot": 1}),
        _row("balance_not_current", details={**asked, **by_hand}),
        _row("key_conflict"),
        tick_messages(tick, [], 1041)[-1].value,
        dead_letter(letter, Undecodable(DeadLetterReason.NOT_JSON, "not JSON: it ends in the middle")).value,
        account_balance(balance_id("acct-42", 7), "acct-42", AT, {**balance, "lots": [lot]}),
    ]


def test_what_is_published_of_a_row_is_these_bytes() -> None:
    """For ever: a row of today is published again in years. A new member adds to its lines, what is there stays."""
    found = _results()

    assert {row.name for row in CATALOGUE if row.direction == "out"} == {json.loads(each)["type"] for each in found}
    assert found == PINNED.read_bytes().splitlines()
