"""The forms in which an event may come: in each it is the same event, or refused in words that name the form."""

import json
from base64 import b64encode
from pathlib import Path
from typing import Any
from unicodedata import normalize
from uuid import UUID, uuid5

import pytest

import schemas
from infra.kafka.clients import partition_of
from schemas.catalogue import CATALOGUE, SEND_REQUESTS, EventType, Undecodable, decode, fingerprint
from schemas.content_modes import read_attributes, read_request_id
from schemas.envelope import Event
from schemas.ids import REQUESTS, DerivedId

EXAMPLES = Path(schemas.__file__).parent / "examples"
INCOMING = [row for row in CATALOGUE if row.direction == "in"]
SEND = "inmail.send.requested.v1"
KEY = b"acct-42"
ULID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
STRUCTURED = ("content-type", b"application/cloudevents+json; charset=utf-8")

Header = tuple[str, bytes | None]


def example(name: str, **changes: object) -> dict[str, Any]:
    """Return an example with attributes set; None leaves one out."""
    document = json.loads((EXAMPLES / f"{name}.json").read_bytes()) | changes
    return {name: value for name, value in document.items() if value is not None}


def binary(document: dict[str, Any], content_type: str | None = "application/json") -> tuple[bytes, list[Header]]:
    """Return an event as a record in binary mode: its value and its headers."""
    attributes = {name: value for name, value in document.items() if name not in {"data", "datacontenttype"}}
    headers: list[Header] = [(f"ce_{name}", value.encode()) for name, value in attributes.items()]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return json.dumps(document["data"]).encode(), headers


def refusal(value: bytes | None, headers: list[Header], key: bytes = KEY) -> tuple[str, str]:
    """Return why a send request is refused: reason and error."""
    with pytest.raises(Undecodable) as caught:
        decode(SEND_REQUESTS, key, value, headers)
    return str(caught.value.reason), caught.value.error


def facts(event: Event) -> tuple[object, ...]:
    """Return what decides about an event."""
    return type(event), event.id, event.source, event.subject, event.data, fingerprint(event)


@pytest.mark.parametrize("row", INCOMING, ids=lambda row: row.name)
def test_an_event_in_binary_mode_is_the_event_in_structured_mode(row: EventType) -> None:
    """On every input topic an event has one fingerprint in both modes: sent again in the other, it is a repeat."""
    document = example(row.name)
    key = document["subject"].encode() if "subject" in document else None
    value, headers = binary(document)

    assert facts(decode(row.topic, key, json.dumps(document).encode(), [STRUCTURED])) == facts(
        decode(row.topic, key, value, headers)
    )


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/vnd.acme+json; v=1",
        "Application/JSON",
    ],
)
def test_data_of_any_json_media_type_is_taken_in_both_modes(content_type: str | None) -> None:
    """Parameters and suffixes say nothing about what is asked for."""
    document = example(SEND, datacontenttype=content_type)
    value, headers = binary(document, content_type)

    assert fingerprint(decode(SEND_REQUESTS, KEY, value, headers)) == fingerprint(
        decode(SEND_REQUESTS, KEY, json.dumps(document).encode())
    )


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [STRUCTURED],
        [("content-type", b"application/cloudevents+json")],
        [("content-type", b"Application/CloudEvents+JSON ; charset=UTF-8")],
        [("content-type", b"application/cloudevents")],
        [("content-type", b"application/json")],
        [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        [("ce_id", b"another"), ("ce_type", b"other"), STRUCTURED],
        [("ce_traceparent", b"00"), ("ce_specversion", None)],
        [("ce_type", b"inmail.send.requested.v1"), ("ce_id", b"another")],
        [("ce_time", b"\xff"), ("content-type", b"application/json"), ("content-type", b"text/plain")],
        [("content-type", b"text/plain"), STRUCTURED],
    ],
)
def test_a_value_that_is_the_whole_event_is_read_whatever_headers_are_beside_it(headers: list[Header]) -> None:
    """The content type decides; without one, only `ce_specversion` among the headers says binary mode."""
    document = example(SEND)

    assert UUID(document["id"]) == decode(SEND_REQUESTS, KEY, json.dumps(document).encode(), headers).id


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_an_event_needs_no_time_and_extensions_are_ignored(mode: str) -> None:
    """Both are the specification's: `time` is optional, and nothing is decided by an attribute that is not known."""
    document = example(SEND, time=None, partitionkey="acct-42", traceparent="00-ab", ünknown="x")
    value, headers = (json.dumps(document).encode(), []) if mode == "structured" else binary(document)
    event = decode(SEND_REQUESTS, KEY, value, headers)

    assert event.time is None
    assert fingerprint(event) == fingerprint(decode(SEND_REQUESTS, KEY, json.dumps(example(SEND)).encode()))


@pytest.mark.parametrize("time", [None, "2026-03-01T09:30:00Z"])
@pytest.mark.parametrize("twice", ['{"source":"/x",', '{"subject":"acct-42",', '{"time":"2026-01-01T00:00:00Z",'])
def test_names_that_repeat_are_refused_with_and_without_a_time(time: str | None, twice: str) -> None:
    """What is left out must not make room for what is given twice."""
    value = (twice + json.dumps(example(SEND, time=time, datacontenttype=None))[1:]).encode()
    if time is None and "time" in twice:
        assert decode(SEND_REQUESTS, KEY, value).time is not None
    else:
        assert refusal(value, [])[1].endswith(": appears more than once")


def test_a_time_that_is_null_is_as_good_as_none() -> None:
    """As CloudEvents' JSON format has it."""
    value = json.dumps(example(SEND) | {"time": None}).encode()

    assert decode(SEND_REQUESTS, KEY, value).time is None


def test_json_in_data_base64_is_the_data() -> None:
    """Some SDKs write what they were given as bytes so, JSON or not."""
    document = example(SEND)
    encoded = b64encode(json.dumps(document["data"]).encode()).decode()
    value = json.dumps(example(SEND, data=None) | {"data_base64": encoded}).encode()

    assert facts(decode(SEND_REQUESTS, KEY, json.dumps(document).encode())) == facts(decode(SEND_REQUESTS, KEY, value))


def base64_event(encoded: object, **members: object) -> bytes:
    """Return a send request with `data_base64`."""
    return json.dumps(example(SEND, data=None) | {"data_base64": encoded} | members).encode()


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (base64_event("!"), "data_base64: expected base64 of JSON"),
        (base64_event(7), "data_base64: expected base64 of JSON"),
        (base64_event(b64encode(b"<a/>").decode()), "data_base64: not JSON: expected a value (line 1, column 1)"),
        (
            base64_event(b64encode(b'{},"subject":"acct-7"').decode()),
            "data_base64: not JSON: something follows its end (line 1, column 3)",
        ),
        (base64_event(b64encode(b"{}").decode()), "data.recipient_id: required, but missing; "),
        (base64_event("e30=", data=example(SEND)["data"]), "data_base64: expected nothing beside data"),
    ],
)
def test_data_base64_that_is_no_json_or_not_alone_is_refused(value: bytes, error: str) -> None:
    """What stands in it is checked like data."""
    reason, found = refusal(value, [])

    assert (reason, found[: len(error)]) == ("invalid_event", error)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"ce_specversion": None}, "header ce_specversion: required in binary mode, but missing"),
        ({"ce_specversion": b"0.3"}, "specversion: expected '1.0', got"),
        ({"ce_type": None}, "type: expected a string, got nothing"),
        ({"ce_source": b""}, 'source: expected 1 to 256 characters without control characters, got ""'),
        ({"ce_subject": b"\xff"}, "header ce_subject: byte 1 is not UTF-8"),
        ({"ce_time": b"soon"}, "time: expected a time with a zone from 2000 to 2199, like 2026-01-31T09:30:00Z"),
        (
            {"content-type": b"application/json; charset=latin1"},
            'content-type: expected charset utf-8, got "latin1"',
        ),
        ({"content-type": b"application/xml"}, "datacontenttype: expected a media type of JSON, like application/json"),
    ],
)
def test_an_invalid_event_in_binary_mode_is_refused_with_the_attribute(
    changes: dict[str, bytes | None], error: str
) -> None:
    """A record that has a `specversion` as a header is taken for binary mode, and held to it."""
    value, headers = binary(example(SEND))
    reason, found = refusal(value, [*((n, v) for n, v in headers if n not in changes), *changes.items()])

    assert ("invalid_event", error) == (reason, found[: len(error)])


def test_a_header_given_twice_with_two_values_is_refused() -> None:
    """Nobody can say which is meant; the same twice is one."""
    value, headers = binary(example(SEND))

    assert decode(SEND_REQUESTS, KEY, value, [*headers, headers[0]])
    assert refusal(value, [*headers, ("ce_id", b"another")]) == (
        "invalid_event",
        "header ce_id: appears more than once",
    )


@pytest.mark.parametrize(
    "value",
    [b'{"recipient_id":"m","relationship":"none"},"subject":"acct-7"', b"{}}", b"", b"no JSON"],
)
def test_data_in_binary_mode_is_one_json_value_and_cannot_reach_the_attributes(value: bytes) -> None:
    """It is put into the event only once it was read by itself."""
    _, headers = binary(example(SEND))

    assert refusal(value, headers)[0] == "not_json"


def test_names_that_repeat_in_data_of_binary_mode_are_refused() -> None:
    """As in structured mode."""
    _, headers = binary(example(SEND))

    assert refusal(b'{"recipient_id":"a","recipient_id":"b","relationship":"none"}', headers) == (
        "invalid_event",
        "recipient_id: appears more than once",
    )


def test_a_record_of_binary_mode_without_a_value_has_no_event() -> None:
    """An event without data is none of ours."""
    assert refusal(None, binary(example(SEND))[1])[0] == "no_value"


@pytest.mark.parametrize(
    ("headers", "value", "reason", "error"),
    [
        (
            [("content-type", b"application/cloudevents-batch+json; charset=utf-8")],
            b"[]",
            "invalid_event",
            'content-type: "application/cloudevents-batch+json" is batched mode, which',
        ),
        (
            [],
            b"[{}]",
            "invalid_event",
            "expected an object, got [{}]: batched mode is not read, send each event as a record",
        ),
        (
            [("content-type", b"application/cloudevents+avro")],
            b"",
            "invalid_event",
            'content-type: "application/cloudevents+avro" is not read: expected application/cloudevents+json',
        ),
        (
            [],
            b'\x00\x00\x00\x01\x02{"specversion":"1.0"}',
            "not_json",
            "not JSON: it begins with the prefix of a schema registry's serializer (a zero byte, schema id 258)",
        ),
        ([], b"\x00", "not_json", "not JSON: expected a value (line 1, column 1)"),
    ],
)
def test_a_form_that_is_not_read_is_refused_by_its_name(
    headers: list[Header], value: bytes, reason: str, error: str
) -> None:
    """The producer's developer learns what to switch off."""
    found, told = refusal(value, headers)

    assert (reason, error) == (found, told[: len(error)])


def test_a_schema_registrys_prefix_before_data_of_binary_mode_is_refused_by_its_name() -> None:
    """The same serializer writes it there."""
    value, headers = binary(example(SEND))

    assert "schema id 7)" in refusal(b"\x00\x00\x00\x00\x07" + value, headers)[1]


def test_an_account_id_is_visible_ascii_since_one_name_may_be_spelt_in_two_ways() -> None:
    """The two look alike, and would be two accounts in two partitions, with a balance each."""
    spellings = [normalize(form, "andré") for form in ("NFC", "NFD")]
    errors = {
        refusal(json.dumps(example(SEND, subject=name)).encode(), [], name.encode())[1].partition(",")[0]
        for name in spellings
    }

    assert {"subject: expected 1 to 128 visible ASCII characters"} == errors
    assert 2 == len({partition_of(name.encode(), 12) for name in spellings})


@pytest.mark.parametrize("id_", [ULID, "1", "a b", "Привет", '"quoted"', "\\", KEY.decode(), "a" * 256])
@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_an_id_that_is_no_uuid_gets_one_from_source_and_id(id_: str, mode: str) -> None:
    """So the ledger has a UUID for every request, anybody can compute it, and the id itself is known."""
    document = example(SEND, id=id_)
    value, headers = (json.dumps(document).encode(), []) if mode == "structured" else binary(document)
    event = decode(SEND_REQUESTS, KEY, value, headers)

    assert isinstance(event.id, DerivedId)
    assert (event.id, event.id.original) == (uuid5(REQUESTS, f"{document['source']}\n{id_}"), id_)
    assert fingerprint(event) == fingerprint(decode(SEND_REQUESTS, KEY, json.dumps(example(SEND)).encode()))


def test_equal_ids_of_two_sources_are_two_requests_and_equal_uuids_are_one() -> None:
    """CloudEvents' rule for strings; a UUID is the same request whoever sends it."""
    ids = {
        id_: {
            decode(SEND_REQUESTS, KEY, json.dumps(example(SEND, id=id_, source=source)).encode()).id
            for source in ("/a", "/b")
        }
        for id_ in (ULID, "1b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a10")
    }

    assert {id_: len(found) for id_, found in ids.items()} == {ULID: 2, "1b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a10": 1}


def test_names_that_repeat_are_refused_beside_an_id_that_is_no_uuid() -> None:
    """Whatever is rewritten on the way, the record is judged as it came."""
    text = json.dumps(example(SEND, id=ULID))

    for twice in ('{"id":"other",', f'{{"id":"{ULID}",', '{"source":"/x",'):
        assert refusal((twice + text[1:]).encode(), [])[1].endswith(": appears more than once")


def test_an_id_that_is_no_uuid_needs_the_rest_of_the_event_like_any_other() -> None:
    """What is wrong is named, and the id is not."""
    assert refusal(json.dumps(example(SEND, id=ULID, source=None)).encode(), []) == (
        "invalid_event",
        "source: required, but missing",
    )


@pytest.mark.parametrize("id_", [ULID, "1b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a10"])
@pytest.mark.parametrize("data", [{"recipient_id": "m"}, {"recipient_id": "m", "relationship": "none"}])
def test_the_request_id_of_a_record_is_found_in_both_modes_also_where_it_is_no_valid_event(
    id_: str, data: dict[str, str]
) -> None:
    """A trace finds a dead letter by the id that its producer knows."""
    document = example(SEND, id=id_, data=data)
    value, headers = binary(document)
    expected = UUID(id_) if "-" in id_ else uuid5(REQUESTS, f"{document['source']}\n{id_}")

    assert read_request_id((), json.dumps(document).encode()) == expected == read_request_id(headers, value)
    assert read_attributes(headers, None)["type"] == SEND
    assert read_request_id((), b"[]") is read_request_id((), None) is read_request_id((), b'{"id":7}') is None
