"""Results as they are written: valid, complete, and the same bytes each time."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_type_hints
from uuid import UUID

import jsonschema  # type: ignore[import-untyped]
import psutil
import pytest
from asyncpg.pgproto import pgproto
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from schemas import balances, dead_letters, decisions, movements, notices, outgoing
from schemas.catalogue import CATALOGUE
from schemas.envelope import CONTENT_TYPE, encode
from schemas.outgoing import RESULT_SOURCE, write_result
from schemas.render import json_schema

EVENT_ID = "00000000-0000-4000-8000-0000000000aa"
REQUEST_ID = pgproto.UUID("00000000-0000-4000-8000-000000000001")  # as request ids come back from Postgres
AT = datetime(2026, 3, 1, 9, 30, 0, 250_000, tzinfo=UTC)
SOURCE: outgoing.Source = {"topic": "inmail.send-requests", "partition": 3, "offset": 1041}
COMMON: outgoing.AccountResultData = {
    "request_id": REQUEST_ID,
    "sequence": 2,
    "as_of": AT,
    "balance_before": 15,
    "balance_after": 14,
    "source": SOURCE,
    "repeat": False,
}

SEND: decisions.SendDecidedData = {
    **COMMON,
    "code": "charged",
    "outcome": "accepted",
    "recipient_id": "member-7",
    "relationship": "none",
    "credits_charged": 1,
    "lot": 1,
    "lot_expires_at": AT,
    "next_allotment_at": None,
    "sender_id": None,
    "limit": None,
    "retry_at": None,
}
REPORT: decisions.ReportDecidedData = {
    **COMMON,
    "code": "no_credit_back",
    "outcome": "rejected",
    "send_id": REQUEST_ID,
    "cause": "responded",
}
GRANTED: movements.CreditsGrantedData = {
    **COMMON,
    "code": "granted",
    "credits": 15,
    "lot": 1,
    "granted_at": AT,
    "expires_at": AT,
    "origin": "promotion",
    "subscription_id": None,
    "plan": None,
    "period_start": None,
    "tops_up": None,
    "source_id": "spring-2026",
    "actor": None,
    "reason": None,
}
REVERSED: movements.CreditsReversedData = {
    **COMMON,
    "code": "reversed",
    "credits": 1,
    "lot": 1,
    "expires_at": AT,
    "send_id": REQUEST_ID,
    "cause": "undeliverable",
}
VOIDED: movements.CreditsVoidedData = {
    **COMMON,
    "code": "voided",
    "credits": 0,
    "lot": 1,
    "expires_at": AT,
    "grant_id": REQUEST_ID,
    "actor": None,
    "reason": "given twice",
}
FORFEITED: movements.CreditsForfeitedData = {
    **COMMON,
    "code": "forfeited",
    "credits": 1,
    "lot": 1,
    "expires_at": AT,
    "subscription_id": "sub-9",
    "plan": "premium_business",
    "cap": None,
}
LOW: notices.CreditsLowData = {**COMMON, "code": "low", "threshold": 2}
EXHAUSTED: notices.CreditsExhaustedData = {**COMMON, "code": "exhausted"}
EXPIRING_SOON: notices.CreditsExpiringSoonData = {
    **COMMON,
    "code": "expiring_soon",
    "credits": 1,
    "lot": 1,
    "expires_at": AT,
}
EXPIRED: movements.CreditsExpiredData = {
    **COMMON,
    "code": "expired",
    "credits": 1,
    "lot": 1,
    "expires_at": AT,
}
BILLING: decisions.BillingDecidedData = {
    **COMMON,
    "code": "cancelled",
    "outcome": "accepted",
    "subscription_id": "sub-9",
    "effective_at": AT,
    "plan": None,
    "period_start": None,
    "grant_id": None,
    "kept_lot": None,
}
TICK: decisions.TickDecidedData = {
    "request_id": REQUEST_ID,
    "code": "booked",
    "as_of": AT,
    "horizon": AT,
    "lots": 0,
    "credits": 0,
    "complete": True,
    "source": SOURCE,
    "repeat": True,
}
BALANCE: balances.AccountBalanceData = {
    "sequence": 3,
    "as_of": AT,
    "spendable": 14,
    "changes_at": AT,
    "erased_at": None,
    "lot_count": 1,
    "lots": [{"lot": 1, "remaining": 14, "granted_at": AT, "expires_at": AT}],
}
DEAD: dead_letters.DeadLetteredData = {
    "reason": dead_letters.DeadLetterReason.NOT_JSON,
    "error": "EOF while parsing a value at line 1 column 0",
    "origin": {"topic": "inmail.send-requests", "partition": 3, "offset": 7, "timestamp": AT},
    "key_base64": None,
    "value_base64": "",
    "headers": [{"key": "empty", "value_base64": None}],
    "cut": None,
}

Write = Callable[[], bytes]
WRITERS: dict[str, Write] = {
    "inmail.send.decided.v1": lambda: decisions.send_decided(EVENT_ID, "acct-42", SEND),
    "inmail.report.decided.v1": lambda: decisions.report_decided(EVENT_ID, "acct-42", REPORT),
    "inmail.credits.granted.v1": lambda: movements.credits_granted(EVENT_ID, "acct-42", GRANTED),
    "inmail.credits.reversed.v1": lambda: movements.credits_reversed(EVENT_ID, "acct-42", REVERSED),
    "inmail.credits.voided.v1": lambda: movements.credits_voided(EVENT_ID, "acct-42", VOIDED),
    "inmail.credits.forfeited.v1": lambda: movements.credits_forfeited(EVENT_ID, "acct-42", FORFEITED),
    "inmail.credits.expired.v1": lambda: movements.credits_expired(EVENT_ID, "acct-42", EXPIRED),
    "inmail.credits.low.v1": lambda: notices.credits_low(EVENT_ID, "acct-42", LOW),
    "inmail.credits.exhausted.v1": lambda: notices.credits_exhausted(EVENT_ID, "acct-42", EXHAUSTED),
    "inmail.credits.expiring-soon.v1": lambda: notices.credits_expiring_soon(EVENT_ID, "acct-42", EXPIRING_SOON),
    "inmail.billing.decided.v1": lambda: decisions.billing_decided(EVENT_ID, "acct-42", BILLING),
    "inmail.tick.decided.v1": lambda: decisions.tick_decided(EVENT_ID, TICK),
    "inmail.message.dead-lettered.v1": lambda: dead_letters.dead_lettered(EVENT_ID, "acct-42", DEAD),
    "inmail.balance.v1": lambda: balances.account_balance(EVENT_ID, "acct-42", AT, BALANCE),
}
MODELS = {row.name: row.model for row in CATALOGUE}


def test_every_result_of_the_catalogue_has_a_writer() -> None:
    """A result that nothing writes, or that is written and not listed, fails here."""
    assert {row.name for row in CATALOGUE if row.direction == "out"} == WRITERS.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_fits_its_model_and_its_schema(name: str) -> None:
    """Writing skips the models for speed; this is what keeps them true."""
    value = WRITERS[name]()
    event = MODELS[name].model_validate_json(value)
    jsonschema.Draft202012Validator(json_schema(MODELS[name])).validate(json.loads(value))

    assert event.type == name
    assert event.id == UUID(EVENT_ID)
    fields = get_type_hints(MODELS[name])["data"]
    assert fields.__required_keys__ <= json.loads(value)["data"].keys() <= fields.__annotations__.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_the_same_bytes_by_either_way(name: str) -> None:
    """The quick way and the model's own way agree to the byte, so each can check the other."""
    value = WRITERS[name]()

    assert encode(MODELS[name].model_validate_json(value)) == value
    assert WRITERS[name]() == value


def test_a_send_decision_is_these_bytes() -> None:
    """Pinned to the byte: readers compare and hash results, and old ones are written again from the books."""
    expected = (
        b'{"specversion":"1.0","id":"00000000-0000-4000-8000-0000000000aa","source":"/inmail-ledger",'
        b'"type":"inmail.send.decided.v1","subject":"acct-42","time":"2026-03-01T09:30:00.250000Z",'
        b'"datacontenttype":"application/json","data":{"request_id":"00000000-0000-4000-8000-000000000001",'
        b'"sequence":2,"as_of":"2026-03-01T09:30:00.250000Z","balance_before":15,"balance_after":14,'
        b'"source":{"topic":"inmail.send-requests","partition":3,"offset":1041},"repeat":false,"code":"charged",'
        b'"outcome":"accepted","recipient_id":"member-7","relationship":"none","credits_charged":1,"lot":1,'
        b'"lot_expires_at":"2026-03-01T09:30:00.250000Z","next_allotment_at":null,"sender_id":null,"limit":null,'
        b'"retry_at":null}}'
    )

    assert WRITERS["inmail.send.decided.v1"]() == expected


OTHERS: dict[str, Write] = {
    "a send over its seat's limit": lambda: decisions.send_decided(
        EVENT_ID,
        "acct-42",
        {
            **SEND,
            "code": "rate_limited",
            "outcome": "rejected",
            "credits_charged": 0,
            "lot": None,
            "lot_expires_at": None,
            "sender_id": "seat-3",
            "limit": "seat",
            "retry_at": AT,
        },
    ),
    "an adjustment up": lambda: movements.credits_granted(
        EVENT_ID,
        "acct-42",
        {**GRANTED, "origin": "adjustment", "source_id": None, "actor": "support-12", "reason": "given twice"},
    ),
    "an adjustment down": lambda: movements.credits_voided(
        EVENT_ID, "acct-42", {**VOIDED, "code": "adjusted", "credits": 3, "grant_id": None, "actor": "support-12"}
    ),
    "a reversal onto a lot that has ended": lambda: movements.credits_reversed(
        EVENT_ID, "acct-42", {**REVERSED, "code": "lot_ended", "credits": 0}
    ),
    "a cap": lambda: movements.credits_forfeited(
        EVENT_ID, "acct-42", {**FORFEITED, "code": "cap_forfeited", "plan": None, "cap": 60}
    ),
    "a void of what is unknown": lambda: decisions.billing_decided(
        EVENT_ID,
        "acct-42",
        {
            **BILLING,
            "code": "unknown_grant",
            "outcome": "rejected",
            "subscription_id": None,
            "effective_at": None,
            "grant_id": REQUEST_ID,
        },
    ),
    "a plan change that was read late": lambda: movements.credits_granted(
        EVENT_ID,
        "acct-42",
        {
            **GRANTED,
            "origin": "subscription",
            "subscription_id": "sub-9",
            "plan": "premium_business",
            "period_start": AT,
            "source_id": None,
            "tops_up": 1,
        },
    ),
    "a plan change that lacks nothing": lambda: decisions.billing_decided(
        EVENT_ID,
        "acct-42",
        {**BILLING, "code": "plan_changed", "effective_at": None, "plan": "basic", "period_start": AT, "kept_lot": 1},
    ),
    "an end that is in the past": lambda: decisions.billing_decided(
        EVENT_ID,
        "acct-42",
        {**BILLING, "code": "subscription_ended", "outcome": "rejected", "plan": "basic", "period_start": AT},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_an_event_says_in_its_other_cases_fits_too(case: str) -> None:
    """One event type answers several things; each fills other members, and none is left out."""
    value = OTHERS[case]()
    model = MODELS[json.loads(value)["type"]]
    jsonschema.Draft202012Validator(json_schema(model)).validate(json.loads(value))

    assert encode(model.model_validate_json(value)) == value


def test_a_result_without_an_account_has_no_subject() -> None:
    """CloudEvents leaves out what is not there, instead of writing null."""
    assert "subject" not in json.loads(decisions.tick_decided(EVENT_ID, TICK))
    assert "subject" not in json.loads(dead_letters.dead_lettered(EVENT_ID, None, DEAD))
    assert "subject" not in json.loads(
        encode(dead_letters.DeadLettered.model_validate_json(dead_letters.dead_lettered(EVENT_ID, None, DEAD)))
    )


@pytest.mark.parametrize("instant", [datetime(1999, 12, 31, tzinfo=UTC), datetime(2201, 3, 15, tzinfo=UTC)])
def test_what_follows_from_an_input_may_lie_outside_the_years_of_inputs(instant: datetime) -> None:
    """A lot outlives the period that gave it, and a tick's grace reaches back before it; readers take both."""
    granted = movements.credits_granted(EVENT_ID, "acct-42", {**GRANTED, "granted_at": instant, "expires_at": instant})
    ticked = decisions.tick_decided(EVENT_ID, {**TICK, "horizon": instant})

    assert encode(movements.CreditsGranted.model_validate_json(granted)) == granted
    assert encode(decisions.TickDecided.model_validate_json(ticked)) == ticked


def test_readers_ignore_fields_that_they_do_not_know_yet() -> None:
    """A new field in a result is compatible; what comes in is held to the letter instead."""
    document = json.loads(decisions.send_decided(EVENT_ID, "acct-42", SEND))
    document["data"]["mood"] = "cheerful"

    assert "mood" not in decisions.SendDecided.model_validate(document, strict=False).data


def test_a_reason_is_written_as_its_word() -> None:
    """The enum is for programs; the wire has the word."""
    written = json.loads(dead_letters.dead_lettered(EVENT_ID, None, DEAD))["data"]["reason"]

    assert written == "not_json"


# All that a result may hold. What no UTF-8 has, neither a record nor Postgres can bring.
INSTANTS = st.datetimes(timezones=st.just(UTC))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(
    TEXTS,
    INSTANTS,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.uuids(),
    st.uuids().map(lambda made: pgproto.UUID(made.bytes)),
)


@given(
    st.one_of(st.none(), TEXTS),
    INSTANTS,
    st.dictionaries(TEXTS, st.one_of(VALUES, st.lists(VALUES), st.dictionaries(TEXTS, VALUES))),
)
def test_a_result_is_the_bytes_that_pydantic_writes(
    subject: str | None, time: datetime, data: dict[str, object]
) -> None:
    """Answers published by earlier versions were written by it, and the same answer is the same bytes for ever."""
    envelope = {"specversion": "1.0", "id": EVENT_ID, "source": RESULT_SOURCE, "type": "a.b.v1"}
    envelope |= {} if subject is None else {"subject": subject}
    envelope |= {"time": time, "datacontenttype": CONTENT_TYPE, "data": data}  # type: ignore[dict-item]

    assert to_json(envelope) == write_result("a.b.v1", EVENT_ID, subject, time, data)


def test_a_result_with_a_value_that_no_result_has_is_not_written() -> None:
    """It would be known by whoever reads it, if at all."""
    with pytest.raises(TypeError, match="not JSON serializable: complex"):
        write_result("a.b.v1", EVENT_ID, None, AT, {"balance": 1j})


def test_results_take_no_more_memory_than_they_are_long() -> None:
    """A worker holds as many as its batches have."""
    before = psutil.Process().memory_info().rss
    results = [write_result("inmail.send.decided.v1", EVENT_ID, "alice", AT, SEND) for _ in range(20_000)]
    grown = psutil.Process().memory_info().rss - before

    assert grown < 2 * sum(map(len, results))
