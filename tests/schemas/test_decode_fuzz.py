"""Whatever the bytes are, decoding returns an event or raises Undecodable, and nothing else."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from schemas.catalogue import CATALOGUE, INPUT_TOPICS, Undecodable, decode, fingerprint
from schemas.content_modes import Headers, read_request_id
from schemas.envelope import Event, encode
from tests.whole import ALL

EXAMPLES = [
    (Path(schemas.__file__).parent / "examples" / f"{row.name}.json").read_bytes()
    for row in CATALOGUE
    if row.direction == "in"
]
DOCUMENTS = [json.loads(example) for example in EXAMPLES]
TOPIC_OF = {row.name: row.topic for row in CATALOGUE}
CASES = 600 if ALL else 200
FUZZ = settings(max_examples=CASES, deadline=None, database=None)

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()  # NaN and infinities too, which json.dumps writes as they are not allowed
    | st.text(st.characters())  # control characters and lone surrogates too
    | st.sampled_from(["2026-01-01T00:00:00Z", "0", "", "acct-42", "inmail.send.requested.v1", 10**20, -(10**20)])
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
splices = st.sampled_from(
    [
        b"NaN",
        b"-Infinity",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\x00",
        b'"data":{},',
        b'"credits":1,',
        b'"type":"inmail.send.requested.v1",',
        b"[" * 199,
        b"[" * 2000,
        b'{"a":' * 2000,
        b"9" * 4300,
        b"9" * 4301,
        b"-" + b"9" * 9000,
        b"1e999999",
        b",",
        b"\\",
        b'"',
        b"}",
        b"]]]",
    ]
)


def attempt(topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> str:
    """Decode, check what came of it, and say what did."""
    try:
        event = decode(topic, key, value, headers)
    except Undecodable as refused:
        problem = refused
    else:
        return check_event(topic, key, event)
    assert 0 < len(problem.error) <= 1000
    assert problem.error.isprintable()
    problem.error.encode()  # no lone surrogates: it goes on a wire
    return str(problem.reason)


def check_event(topic: str, key: bytes | None, event: Event) -> str:
    """See that writing an event and reading it again changes nothing."""
    again = decode(topic, key, encode(event))
    assert event == again
    assert fingerprint(event) == fingerprint(again)
    return "event"


def places(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every member of every object as its holder and name."""
    for name, value in document.items():
        yield document, name
        if isinstance(value, dict):
            yield from places(value)


def test_any_bytes_are_refused_with_a_reason() -> None:
    """Random bytes hardly ever make an event; they must never make another exception."""
    seen: Counter[str] = Counter()

    @FUZZ
    @given(st.sampled_from(INPUT_TOPICS), st.binary(max_size=8) | st.none(), st.binary(max_size=200))
    def run(topic: str, key: bytes | None, value: bytes) -> None:
        seen[attempt(topic, key, value)] += 1

    run()

    assert seen.total() >= CASES
    assert seen["not_json"] > CASES / 2


def test_an_example_with_bytes_spliced_in_is_an_event_or_refused() -> None:
    """The awkward corners of JSON, put anywhere: after a quote, inside a number, between members."""
    seen: Counter[str] = Counter()

    @FUZZ
    @given(st.sampled_from(EXAMPLES), splices | st.binary(max_size=4), st.integers(0, 10**6), st.integers(0, 3))
    def run(example: bytes, splice: bytes, place: int, cut: int) -> None:
        compact = json.dumps(json.loads(example), separators=(",", ":")).encode()
        at = place % len(compact)
        topic = TOPIC_OF[json.loads(example)["type"]]
        seen[attempt(topic, b"acct-42", compact[:at] + splice + compact[at + cut :])] += 1

    run()

    assert seen.total() >= CASES
    assert {"event", "not_json", "invalid_event"} <= seen.keys()


def test_an_example_with_members_changed_is_an_event_or_refused() -> None:
    """Structure-aware: members set to anything, dropped, renamed or moved to another topic."""
    seen: Counter[str] = Counter()

    @FUZZ
    @given(st.data())
    def run(data: st.DataObject) -> None:
        document = json.loads(json.dumps(data.draw(st.sampled_from(DOCUMENTS))))
        topic = TOPIC_OF[document["type"]]
        for _ in range(data.draw(st.integers(1, 3))):
            holder, name = data.draw(st.sampled_from(list(places(document))))
            match data.draw(st.sampled_from(["set", "drop", "rename", "add", "topic"])):
                case "set":
                    holder[name] = data.draw(values)
                case "drop":
                    del holder[name]
                case "rename":
                    holder[data.draw(st.text())] = holder.pop(name)
                case "add":
                    holder[data.draw(st.text())] = data.draw(values)
                case _:
                    topic = data.draw(st.sampled_from(INPUT_TOPICS))
            if not document:
                break
        seen[attempt(topic, b"acct-42", json.dumps(document).encode())] += 1

    run()

    assert seen.total() >= CASES
    assert {"event", "invalid_event", "wrong_topic"} <= seen.keys()


NAMES = ["ce_id", "ce_type", "ce_source", "ce_subject", "ce_time", "ce_specversion", "ce_data", "ce_data_base64"]
names = st.sampled_from([*NAMES, "content-type", "ce_datacontenttype"]) | st.text(max_size=8)
contents = (
    st.none()
    | st.binary(max_size=40)
    | st.sampled_from(
        [b"1.0", b"acct-42", b"application/json; charset=utf-8", b"application/cloudevents+json", b'","data":{}']
    )
)


def in_binary_mode(document: dict[str, Any]) -> tuple[bytes, dict[str, bytes | None]]:
    """Return an event's data and its headers."""
    headers: dict[str, bytes | None] = {
        f"ce_{name}": value.encode() for name, value in document.items() if name not in {"data", "datacontenttype"}
    }
    return json.dumps(document["data"], separators=(",", ":")).encode(), headers


def test_a_record_of_binary_mode_with_any_headers_and_bytes_is_an_event_or_refused() -> None:
    """And whatever its value is, it sets no attribute: those are the headers' alone."""
    seen: Counter[str] = Counter()

    @FUZZ
    @given(st.data())
    def run(data: st.DataObject) -> None:
        document = data.draw(st.sampled_from(DOCUMENTS))
        topic = TOPIC_OF[document["type"]]
        value, attributes = in_binary_mode(document)
        changed = dict(attributes)
        for name in data.draw(st.lists(names, max_size=2)):
            changed[name] = data.draw(contents)
        headers = [*changed.items(), *data.draw(st.lists(st.tuples(names, contents), max_size=1))]
        at = data.draw(st.integers(0, len(value)))
        spliced = value[:at] + data.draw(st.just(b"") | splices | st.binary(max_size=4)) + value[at:]
        seen[attempt(topic, b"acct-42", spliced, headers)] += 1
        read_request_id(headers, spliced)
        try:
            event = decode(topic, b"acct-42", spliced, list(attributes.items()))
        except Undecodable:
            return
        assert (document["id"], document["source"], document["type"]) == (str(event.id), event.source, event.type)
        assert document.get("subject") == event.subject

    run()

    assert seen.total() >= CASES
    assert {"event", "not_json", "invalid_event"} <= seen.keys()


def test_an_example_with_any_id_is_an_event_under_one_request_id_or_refused() -> None:
    """However the id is written in JSON; a text that is refused has a control character, is empty or too long."""
    seen: Counter[str] = Counter()

    @FUZZ
    @given(
        st.sampled_from([each for each in DOCUMENTS if "subject" in each]),
        st.text(st.characters(), max_size=12) | st.sampled_from(["acct-42", "1.0", "data", "id", "\\", '"']),
        st.booleans(),
    )
    def run(document: dict[str, Any], id_: str, is_ascii: bool) -> None:  # noqa: FBT001 - a strategy's
        value = json.dumps(document | {"id": id_}, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
        topic = TOPIC_OF[document["type"]]
        seen[attempt(topic, b"acct-42", value)] += 1
        try:
            event = decode(topic, b"acct-42", value)
        except Undecodable:
            odd = [each for each in id_ if each < " " or "\x7f" <= each <= "\x9f" or "\ud800" <= each <= "\udfff"]
            assert odd or not id_
        else:
            assert event.id == read_request_id((), value)

    run()

    assert seen["event"] > CASES / 4
