"""Decoding: every record is an event or a reason, and the reason names what is wrong."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import schemas
from schemas import catalogue
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS, Undecodable, decode
from schemas.envelope import MAX_VALUE_BYTES

EXAMPLES = Path(schemas.__file__).parent / "examples"
SEND = "inmail.send.requested.v1"
PERIOD = "inmail.subscription.activated.v1"
GIFT = "inmail.promotion.granted.v1"
TICK = "inmail.expiry.tick.v1"
REPORT = "inmail.send.undeliverable.v1"
CHANGE = "inmail.subscription.plan-changed.v1"
VOID = "inmail.grant.voided.v1"
ADJUSTMENT = "inmail.credits.adjusted.v1"
ERASURE = "inmail.account.erased.v1"
TOPICS = {
    SEND: SEND_REQUESTS,
    REPORT: SEND_REQUESTS,
    PERIOD: BILLING_EVENTS,
    CHANGE: BILLING_EVENTS,
    GIFT: BILLING_EVENTS,
    VOID: BILLING_EVENTS,
    ADJUSTMENT: BILLING_EVENTS,
    ERASURE: BILLING_EVENTS,
    TICK: EXPIRY_TICKS,
}
KEY = b"acct-42"
ABSENT = object()


def changed(name: str, path: str, value: object) -> bytes:
    """Return an example with one member set, or left out."""
    document: Any = json.loads((EXAMPLES / f"{name}.json").read_bytes())
    *parents, last = path.split(".")
    place = document
    for parent in parents:
        place = place[parent]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return json.dumps(document).encode()


def refusal(topic: str, value: bytes | None, key: bytes | None = KEY) -> tuple[str, str]:
    """Return why a record is refused: reason and error."""
    with pytest.raises(Undecodable) as caught:
        decode(topic, key, value)
    return str(caught.value.reason), caught.value.error


A_TIME = "expected a time with a zone from 2000 to 2199, like 2026-01-31T09:30:00Z, got"
VISIBLE = "expected 1 to 128 visible ASCII characters, got"
A_MEDIA_TYPE = "expected a media type of JSON, like application/json, got"
BATCHED = ": batched mode is not read, send each event as a record"
A_REASON = "expected 1 to 200 characters without control characters, got"


@pytest.mark.parametrize(
    ("name", "path", "value", "error"),
    [
        (GIFT, "data.credits", -5, "data.credits: expected an integer of at least 1, got -5"),
        (GIFT, "data.credits", 0, "data.credits: expected an integer of at least 1, got 0"),
        (GIFT, "data.credits", 1_000_001, "data.credits: expected an integer of at most 1000000, got 1000001"),
        (GIFT, "data.credits", "5", 'data.credits: expected an integer, got "5"'),
        (GIFT, "data.credits", 5.0, "data.credits: expected an integer, got 5.0"),
        (GIFT, "data.credits", True, "data.credits: expected an integer, got true"),
        (GIFT, "data.credits", None, "data.credits: expected an integer, got null"),
        (GIFT, "data.credits", 10**30, f"data.credits: expected an integer of at most 1000000, got {10**30}"),
        (GIFT, "data.credits", ABSENT, "data.credits: required, but missing"),
        (GIFT, "data.credit", 5, "data.credit: not a field of this event"),
        (GIFT, "data.a\nb", 5, 'data."a\\nb": not a field of this event'),
        (GIFT, "data.promotion_id", "", f'data.promotion_id: {VISIBLE} ""'),
        (GIFT, "data.promotion_id", "a" * 129, f'data.promotion_id: {VISIBLE} "{"a" * 60}...'),
        (GIFT, "data.promotion_id", "a b", f'data.promotion_id: {VISIBLE} "a b"'),
        (GIFT, "data.promotion_id", "a\x00", f'data.promotion_id: {VISIBLE} "a\\u0000"'),
        (GIFT, "data.promotion_id", "a\n", f'data.promotion_id: {VISIBLE} "a\\n"'),
        (GIFT, "data.promotion_id", "ä", f'data.promotion_id: {VISIBLE} "\\u00e4"'),
        (GIFT, "data.promotion_id", 7, "data.promotion_id: expected a string, got 7"),
        (GIFT, "data", [], "data: expected an object, got []"),
        (GIFT, "data", ABSENT, "data: required, but missing"),
        (SEND, "data.relationship", "friend", None),
        (SEND, "specversion", "0.3", "specversion: expected '1.0', got \"0.3\""),
        (SEND, "id", "", 'id: expected 1 to 256 characters without control characters, got ""'),
        (SEND, "id", "a" * 257, f'id: expected 1 to 256 characters without control characters, got "{"a" * 60}...'),
        (SEND, "id", "a\nb", 'id: expected 1 to 256 characters without control characters, got "a\\nb"'),
        (TICK, "id", "seven", 'id: expected a UUID, got "seven"'),
        (SEND, "id", 7, "id: expected a UUID, got 7"),
        (SEND, "source", "", 'source: expected 1 to 256 characters without control characters, got ""'),
        (SEND, "subject", ABSENT, "subject: required, but missing"),
        (SEND, "subject", None, "subject: expected a string, got null"),
        (SEND, "type", ABSENT, "type: expected a string, got nothing"),
        (SEND, "type", 5, "type: expected a string, got 5"),
        (SEND, "datacontenttype", "text/xml", f'datacontenttype: {A_MEDIA_TYPE} "text/xml"'),
        (SEND, "datacontenttype", "application/json5", f'datacontenttype: {A_MEDIA_TYPE} "application/json5"'),
        (SEND, "datacontenttype", 7, f"datacontenttype: {A_MEDIA_TYPE} 7"),
        (SEND, "time", "2026-03-01T09:30:00", f'time: {A_TIME} "2026-03-01T09:30:00"'),
        (SEND, "time", "2026-06-30T23:59:60Z", f'time: {A_TIME} "2026-06-30T23:59:60Z"'),  # no leap second
        (SEND, "time", "2026-03-01", f'time: {A_TIME} "2026-03-01"'),
        (SEND, "time", "1772357400", f'time: {A_TIME} "1772357400"'),
        (SEND, "time", 1772357400, "time: expected a string, got 1772357400"),
        (SEND, "time", "2026-02-30T00:00:00Z", f'time: {A_TIME} "2026-02-30T00:00:00Z"'),
        (SEND, "time", "1999-12-31T23:59:59Z", f'time: {A_TIME} "1999-12-31T23:59:59Z"'),
        (SEND, "time", "2200-01-01T00:00:00Z", f'time: {A_TIME} "2200-01-01T00:00:00Z"'),
        (TICK, "subject", "acct-42", 'subject: expected nothing, got "acct-42"'),
        (TICK, "data.as_of", "soon", f'data.as_of: {A_TIME} "soon"'),
        (
            PERIOD,
            "data.period_end",
            "2026-03-01T01:00:00+01:00",
            "data: expected period_end to be after period_start",
        ),
        (PERIOD, "data.term", "weekly", "data.term: expected 'monthly' or 'annual', got \"weekly\""),
        (PERIOD, "data.term", None, "data.term: expected 'monthly' or 'annual', got null"),
        (PERIOD, "data.anchor_day", 0, "data.anchor_day: expected an integer of at least 1, got 0"),
        (PERIOD, "data.anchor_day", 32, "data.anchor_day: expected an integer of at most 31, got 32"),
        (PERIOD, "data.anchor_day", "1", 'data.anchor_day: expected an integer, got "1"'),
        (
            PERIOD,
            "data.anchor_day",
            31,
            "data: expected period_start on day 31 of its month in UTC, where anchor_day 31 falls, got day 1",
        ),
        (
            CHANGE,
            "data.period_end",
            "2026-04-30T00:00:00Z",
            "data: expected period_end to be after period_start",
        ),
        (SEND, "data.sender_id", "a b", f'data.sender_id: {VISIBLE} "a b"'),
        (SEND, "data.sender_id", 7, "data.sender_id: expected a string, got 7"),
        (SEND, "data.senderid", "seat-3", "data.senderid: not a field of this event"),
        (REPORT, "data.send_id", "seven", 'data.send_id: expected a UUID, got "seven"'),
        (REPORT, "data.send_id", None, "data.send_id: expected a UUID, got null"),
        (REPORT, "data.send_id", ABSENT, "data.send_id: required, but missing"),
        (VOID, "data.grant_id", "seven", 'data.grant_id: expected a UUID, got "seven"'),
        (VOID, "data.reason", "", f'data.reason: {A_REASON} ""'),
        (VOID, "data.reason", "a" * 201, f'data.reason: {A_REASON} "{"a" * 60}...'),
        (VOID, "data.reason", "a\nb", f'data.reason: {A_REASON} "a\\nb"'),
        (VOID, "data.reason", "a\n", f'data.reason: {A_REASON} "a\\n"'),
        (VOID, "data.reason", "a\x00", f'data.reason: {A_REASON} "a\\u0000"'),
        (VOID, "data.reason", "\x85", f'data.reason: {A_REASON} "\\u0085"'),
        (ADJUSTMENT, "data.reason", "\x7f", f'data.reason: {A_REASON} "\\u007f"'),
        (ADJUSTMENT, "data.reason", ABSENT, "data.reason: required, but missing"),
        (ADJUSTMENT, "data.actor", "", f'data.actor: {VISIBLE} ""'),
        (ADJUSTMENT, "data.credits", 0, "data.credits: expected an integer other than 0, got 0"),
        (
            ADJUSTMENT,
            "data.credits",
            -1_000_001,
            "data.credits: expected an integer of at least -1000000, got -1000001",
        ),
        (ADJUSTMENT, "data.credits", 1_000_001, "data.credits: expected an integer of at most 1000000, got 1000001"),
        (ADJUSTMENT, "data.credits", 0.0, "data.credits: expected an integer, got 0.0"),
        (ADJUSTMENT, "data.credits", "-3", 'data.credits: expected an integer, got "-3"'),
        (ERASURE, "data.reason", "asked for it", "data.reason: not a field of this event"),
        (ERASURE, "data", None, "data: expected an object, got null"),
        (ERASURE, "data", ABSENT, "data: required, but missing"),
    ],
)
def test_an_invalid_event_is_refused_with_the_field_and_what_was_expected(
    name: str, path: str, value: object, error: str | None
) -> None:
    """One wrong member gives one error that a producer's developer can act on."""
    if error is None:
        error = "data.relationship: expected 'none', 'connection' or 'open_profile', got \"friend\""

    assert ("invalid_event", error) == refusal(TOPICS[name], changed(name, path, value))


def period(**fields: object) -> bytes:
    """Return an activation with fields of its data set."""
    document: Any = json.loads((EXAMPLES / f"{PERIOD}.json").read_bytes())
    document["data"] |= fields
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("anchor_day", "period_start"),
    [
        (31, "2030-01-31T00:00:00Z"),
        (31, "2030-02-28T00:00:00Z"),
        (30, "2030-02-28T23:59:59.999999Z"),
        (29, "2030-02-28T00:00:00Z"),
        (28, "2030-02-28T00:00:00Z"),
        (31, "2032-02-29T00:00:00Z"),
        (31, "2030-04-30T00:00:00Z"),
        (1, "2030-03-01T00:00:00Z"),
        (1, "2030-02-28T23:00:00-01:00"),
        (27, "2030-02-27T00:00:00Z"),
    ],
)
def test_a_period_may_start_on_its_anchor_day_or_the_last_day_of_a_shorter_month(
    anchor_day: int, period_start: str
) -> None:
    """The day is that of UTC, whatever zone the instant is written in."""
    value = period(anchor_day=anchor_day, period_start=period_start, period_end="2034-01-01T00:00:00Z")

    assert anchor_day == decode(BILLING_EVENTS, KEY, value).data.anchor_day


@pytest.mark.parametrize(
    ("anchor_day", "period_start"),
    [
        (1, "2030-03-01T00:30:00+01:00"),
        (31, "2030-01-31T00:00:00+14:00"),
        (31, "2030-01-30T23:00:00Z"),
        (31, "2030-02-27T23:00:00Z"),
        (30, "2030-02-27T15:00:00Z"),
        (31, "2032-02-28T15:00:00Z"),
        (1, "2030-01-31T15:00:00Z"),
        (15, "2030-01-14T23:00:00Z"),
    ],
)
def test_a_period_may_start_on_the_day_that_is_its_anchor_east_of_greenwich(anchor_day: int, period_start: str) -> None:
    """A local midnight is the day before in UTC, at 10:00 at the earliest: the anchor is the day that begins there."""
    value = period(anchor_day=anchor_day, period_start=period_start, period_end="2034-01-01T00:00:00Z")

    assert anchor_day == decode(BILLING_EVENTS, KEY, value).data.anchor_day


@pytest.mark.parametrize(
    ("anchor_day", "period_start", "day", "got"),
    [
        (31, "2030-02-27T00:00:00Z", 28, 27),
        (28, "2032-02-29T00:00:00Z", 28, 29),
        (31, "2032-02-28T00:00:00Z", 29, 28),
        (31, "2030-04-29T00:00:00Z", 30, 29),
        (28, "2030-02-28T23:00:00-01:00", 28, 1),
        (31, "2030-01-30T09:59:59.999999Z", 31, 30),
        (31, "2030-01-29T23:00:00Z", 31, 29),
        (15, "2030-01-16T23:00:00Z", 15, 16),
        (30, "2030-01-31T23:00:00Z", 30, 31),
    ],
)
def test_a_period_that_starts_beside_its_anchor_day_is_refused(
    anchor_day: int, period_start: str, day: int, got: int
) -> None:
    """One of the two is wrong, and a year of allotments would hang on it."""
    value = period(anchor_day=anchor_day, period_start=period_start, period_end="2034-01-01T00:00:00Z")

    expected = f"data: expected period_start on day {day} of its month in UTC, where anchor_day {anchor_day} falls,"

    assert refusal(BILLING_EVENTS, value) == ("invalid_event", f"{expected} got day {got}")


def test_a_period_is_monthly_and_has_no_anchor_day_unless_it_says_so() -> None:
    """Producers of before go on as they are; an annual term wants nothing else."""
    plain, annual = decode(BILLING_EVENTS, KEY, period()), decode(BILLING_EVENTS, KEY, period(term="annual"))

    assert (plain.data.term, plain.data.anchor_day) == ("monthly", None)
    assert (annual.data.term, annual.data.anchor_day) == ("annual", None)


def test_what_is_given_by_hand_reads_as_it_was_written() -> None:
    """The edges of what is allowed: 200 characters of any script, and a million up or down."""
    for credits_ in (-1_000_000, -1, 1, 1_000_000):
        value = changed(ADJUSTMENT, "data.credits", credits_)
        assert credits_ == decode(BILLING_EVENTS, KEY, value).data.credits
    reason = '\u00e9\u4e2d\U0001f642 "quoted"'.ljust(200, "x")

    assert reason == decode(BILLING_EVENTS, KEY, changed(VOID, "data.reason", reason)).data.reason


def test_an_empty_data_is_an_object_all_the_same() -> None:
    """An erasure says who by its subject, and nothing else."""
    assert decode(BILLING_EVENTS, KEY, changed(ERASURE, "source", "/accounts")).data.model_dump() == {}


@pytest.mark.parametrize(
    ("value", "reason", "error"),
    [
        (None, "no_value", "the record has no value"),
        (b"", "not_json", "not JSON: the value is empty"),
        (b"{} {}", "not_json", "not JSON: something follows its end (line 1, column 4)"),
        (b"nope", "not_json", "not JSON: expected true, false or null (line 1, column 2)"),
        (b"{oops", "not_json", "not JSON: expected the name of a member, in quotation marks (line 1, column 2)"),
        (b'{"a":', "not_json", "not JSON: it ends in the middle (line 1, column 5)"),
        (b'{"a":1,}', "not_json", "not JSON: a comma too many (line 1, column 8)"),
        (b"[1 2]", "not_json", "not JSON: expected `,` or `]` (line 1, column 4)"),
        (b"\xef\xbb\xbf{}", "not_json", "not JSON: it begins with a byte order mark"),
        (b"\xff\xfe{\x00}\x00", "not_json", "not JSON: byte 1 is not UTF-8"),
        (b'{"type": NaN}', "not_json", "not JSON: expected a value (line 1, column 10)"),
        (b"[" * 60_000, "invalid_event", "nested deeper than 201 levels"),
        (b"[]", "invalid_event", f"expected an object, got []{BATCHED}"),
        (b"[" * 201 + b"]" * 201, "invalid_event", f"expected an object, got {'[' * 61}...{BATCHED}"),
        (b"[" * 202 + b"]" * 202, "invalid_event", "nested deeper than 201 levels"),
        (b'["\\ud800", ' + b"[" * 60_000, "invalid_event", "nested deeper than 201 levels"),
        (b'"\\ud800"', "invalid_event", "a string has half of a surrogate pair, which is no character"),
        (b"9" * 900, "invalid_event", f"expected an object, got {'9' * 61}..."),
        (b"9" * 4300, "invalid_event", "expected an object, got Infinity"),
        (b"9" * 5000, "invalid_event", "a number has more than 4,300 digits"),
        (b'{"type": "a.v1"}', "unknown_type", 'type: "a.v1" is not a known event type'),
        (b'{"type": "inmail.send.requested"}', "unknown_type", None),
        (
            b'{"type": "inmail.send.requested.v2"}',
            "unknown_version",
            'type: expected inmail.send.requested.v1, got "inmail.send.requested.v2"',
        ),
        (
            b'{"type": "inmail.expiry.tick.v1"}',
            "wrong_topic",
            "type: inmail.expiry.tick.v1 belongs on inmail.expiry-ticks, not on inmail.send-requests",
        ),
        (
            b'{"type": "inmail.send.decided.v1"}',
            "wrong_topic",
            "type: inmail.send.decided.v1 belongs on inmail.send-results, not on inmail.send-requests",
        ),
    ],
)
def test_what_is_no_event_of_the_topic_is_refused_with_its_reason(
    value: bytes | None, reason: str, error: str | None
) -> None:
    """Reasons tell apart what a producer, an operator or a deployment has to mend."""
    refused = refusal(SEND_REQUESTS, value)

    assert (reason, error or refused[1]) == refused


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (b'"x": NaN', "not_json"),
        (b'"x": -Infinity', "not_json"),
        (b'"x": "\xff"', "not_json"),
        (b'"x": "\\ud800"', "invalid_event"),
        (b'"x": ' + b"[" * 300 + b"]" * 300, "invalid_event"),
    ],
)
def test_a_valid_event_with_something_in_an_extension_that_is_not_read_is_refused(
    extension: bytes, reason: str
) -> None:
    """Extensions are ignored, but the document they stand in has to be JSON, and to be read, all the same."""
    value = changed(SEND, "source", "/messaging")[:-1] + b", " + extension + b"}"

    assert refusal(SEND_REQUESTS, value)[0] == reason


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (b'"credits": 10', b'"credits": 10, "credits": 1', "credits"),
        (b'"credits": 10', b'"credits": 1, "cre\\u0064its": 10', "credits"),
        (b'"subject"', b'"subject": "acct-41", "subject"', "subject"),
        (b'"datacontenttype"', b'"datacontenttype": null, "datacontenttype"', "datacontenttype"),
        (b'"data"', b'"data": {}, "data"', "data"),
        (b'"data"', b'"trace": {"a": 1, "a": 2}, "data"', "a"),
    ],
)
def test_a_repeated_name_is_refused(before: bytes, after: bytes, name: str) -> None:
    """JSON parsers differ in which of two they take; here nobody's credits hang on that."""
    value = changed(GIFT, "source", "/billing").replace(before, after, 1)

    assert ("invalid_event", f"{name}: appears more than once") == refusal(BILLING_EVENTS, value)


def test_a_null_content_type_does_not_hide_a_repeated_number() -> None:
    """Together they bring as many quotation marks as a content type does that is no null."""
    value = changed(GIFT, "datacontenttype", None).replace(b'"credits": 10', b'"credits": 1, "credits": 10')

    assert refusal(BILLING_EVENTS, value) == ("invalid_event", "credits: appears more than once")


@pytest.mark.parametrize(
    ("name", "before", "after", "twice"),
    [
        (SEND, b'"relationship"', b'"sender_id": "a", "sender_id": "b", "relationship"', "sender_id"),
        (SEND, b'"relationship"', b'"sender_id": null, "sender_id": "b", "relationship"', "sender_id"),
        (SEND, b'"relationship"', b'"sender_id": "a", "sender_id": null, "relationship"', "sender_id"),
        (SEND, b'"relationship"', b'"sender_id": null, "sender_id": null, "relationship"', "sender_id"),
        (SEND, b'"recipient_id"', b'"sender_id": "a", "recipient_id": "b", "recipient_id"', "recipient_id"),
        (SEND, b'"type"', b'"type": "inmail.send.undeliverable.v1", "type"', "type"),
        (PERIOD, b'"plan"', b'"anchor_day": 31, "anchor_day": 1, "plan"', "anchor_day"),
        (PERIOD, b'"plan"', b'"anchor_day": null, "anchor_day": 1, "plan"', "anchor_day"),
        (PERIOD, b'"plan"', b'"term": "annual", "term": "monthly", "plan"', "term"),
        (PERIOD, b'"plan"', b'"anchor_day": 1, "term": "annual", "plan": "basic", "plan"', "plan"),
        (ADJUSTMENT, b'"credits"', b'"credits": 3, "credits"', "credits"),
        (ERASURE, b'"data"', b'"data": {}, "data"', "data"),
        (REPORT, b'"send_id"', b'"send_id": 7, "send_id"', "send_id"),
    ],
)
def test_an_optional_field_does_not_hide_a_repeated_name(name: str, before: bytes, after: bytes, twice: str) -> None:
    """Whatever is given or left out, integers and nulls included, the count of quotation marks finds it."""
    value = changed(name, "source", "/elsewhere").replace(before, after, 1)

    assert refusal(TOPICS[name], value) == ("invalid_event", f"{twice}: appears more than once")


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        (SEND, "source", "/messaging"),
        (SEND, "datacontenttype", ABSENT),
        (SEND, "data.sender_id", "seat-3"),
        (SEND, "data.sender_id", None),
        (PERIOD, "data.term", "annual"),
        (PERIOD, "data.anchor_day", 1),
        (PERIOD, "data.anchor_day", None),
        (CHANGE, "source", "/billing"),
        (ADJUSTMENT, "data.credits", 7),
        (ERASURE, "source", "/accounts"),
    ],
)
def test_an_event_in_plain_words_is_read_only_once(
    monkeypatch: pytest.MonkeyPatch, name: str, path: str, value: object
) -> None:
    """Looking for repeated names takes twice as long as decoding; counting spares it."""
    monkeypatch.setattr(catalogue, "refuse_repeated_names", pytest.fail)

    assert decode(TOPICS[name], KEY, changed(name, path, value)).type == name


def test_the_value_limit_is_exact() -> None:
    """65,536 bytes are read, one more is not."""
    value = changed(SEND, "source", "/messaging")
    largest = value + b" " * (MAX_VALUE_BYTES - len(value))
    decode(SEND_REQUESTS, KEY, largest)

    assert refusal(SEND_REQUESTS, largest + b" ") == ("too_large", "the value has 65537 bytes, more than 65536")


@pytest.mark.parametrize("key", [None, b""])
def test_a_record_without_a_key_is_refused(key: bytes | None) -> None:
    """Without a key the record lies in any partition, out of its account's order."""
    value = changed(SEND, "source", "/messaging")

    assert refusal(SEND_REQUESTS, value, key)[0] == "missing_key"


@pytest.mark.parametrize("key", [b"acct-43", b"acct-42\x00", b"\xff", b"ACCT-42"])
def test_a_key_that_is_not_the_subject_is_refused(key: bytes) -> None:
    """One of the two names the wrong account, and nobody can say which."""
    value = changed(SEND, "source", "/messaging")
    reason, error = refusal(SEND_REQUESTS, value, key)

    assert reason == "key_is_not_subject"
    assert error.startswith("subject: expected the record's key ")
    assert error.isprintable()


def test_a_backslash_in_a_key_is_not_taken_for_an_escape() -> None:
    """A byte that is not ASCII never equals the subject that spells it out."""
    value = changed(SEND, "subject", "\\xff")
    decode(SEND_REQUESTS, b"\\xff", value)

    assert refusal(SEND_REQUESTS, value, b"\xff")[0] == "key_is_not_subject"


@pytest.mark.parametrize("key", [None, b"", b"acct-42", b"\xff"])
def test_the_key_of_a_tick_is_not_looked_at(key: bytes | None) -> None:
    """A tick is for its partition, however it got there."""
    assert decode(EXPIRY_TICKS, key, changed(TICK, "source", "/ticker")).type == TICK


def test_extensions_and_a_missing_content_type_are_accepted() -> None:
    """CloudEvents lets producers add attributes, such as a trace's."""
    decode(SEND_REQUESTS, KEY, changed(SEND, "traceparent", "00-0af7-b7ad-01"))
    decode(SEND_REQUESTS, KEY, changed(SEND, "datacontenttype", ABSENT))
    decode(SEND_REQUESTS, KEY, changed(SEND, "datacontenttype", None))


@pytest.mark.parametrize(
    ("written", "microsecond"),
    [
        ("2026-03-01T09:30:00Z", 0),
        ("2026-03-01T10:30:00+01:00", 0),
        ("2026-03-01T04:00:00.000000-05:30", 0),
        ("2026-03-01T09:30:00.1Z", 100_000),
        ("2026-03-01T09:30:00.123456789+00:00", 123_456),
    ],
)
def test_instants_are_read_from_any_zone_into_utc(written: str, microsecond: int) -> None:
    """Digits after microseconds are cut off, as some producers write nanoseconds."""
    event = decode(EXPIRY_TICKS, None, changed(TICK, "data.as_of", written))

    assert datetime(2026, 3, 1, 9, 30, 0, microsecond, tzinfo=UTC) == event.data.as_of
    assert UTC is event.data.as_of.tzinfo


def test_many_errors_are_told_in_a_bounded_text() -> None:
    """A dead letter's reason stays readable, whatever the input holds."""
    value = changed(GIFT, "data", {f"{n}" + "\x1b" * 70: n for n in range(100)})
    reason, error = refusal(BILLING_EVENTS, value)

    assert reason == "invalid_event"
    assert error.endswith("; and 97 more")
    assert error.count("; ") == 5
    assert error.count("...") == 3
    assert len(Undecodable(reason, "x" * 5000).error) == 1000  # type: ignore[arg-type]


def test_events_are_frozen() -> None:
    """What was decoded is a fact; nobody edits it on its way to the ledger."""
    event = decode(SEND_REQUESTS, KEY, changed(SEND, "source", "/messaging"))
    with pytest.raises(ValueError, match="frozen"):
        event.data.recipient_id = "somebody else"
