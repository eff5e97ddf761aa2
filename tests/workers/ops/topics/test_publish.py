"""Reading a file to publish: what each line becomes, and what is said of one that cannot be published."""

import io
import json
import os
import re
import threading
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from typer.testing import CliRunner

from infra.clock import to_milliseconds
from infra.kafka.sender import Outgoing
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from schemas.envelope import EVENT_HEADERS, encode
from tests.ledger.book import at
from tests.workers.command import run
from tests.workers.wire import ends, promotion, records_to_end, send
from workers.cli import app
from workers.commands import publish as command
from workers.commands.running import Exit
from workers.ops.topics.publish import PublishReport
from workers.ops.topics.record_lines import PublishTime, UnpublishableError, check_record, parse_line, read_lines

EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "type": "inmail.send.requested.v1",
    "subject": "alice",
    "time": "2026-01-31T09:30:00.250Z",
}


def _line(**changes: object) -> bytes:
    return json.dumps({**EVENT, **changes}).encode()


def _record(**fields: object) -> bytes:
    return json.dumps({"record": {"topic": SEND_REQUESTS, **fields}}).encode()


# -- events -------------------------------------------------------------------------------------------------------


def test_an_event_goes_to_its_types_topic_under_its_subject_as_it_is() -> None:
    """White space, order and unknown members included: a producer's mistake must arrive as it was made."""
    line = b'{ "subject":"alice", "type" : "inmail.send.requested.v1", "surprise": 1.0 }'

    assert Outgoing(SEND_REQUESTS, b"alice", line, headers=EVENT_HEADERS) == parse_line(line)


@pytest.mark.parametrize("subject", ["Zoë", "a b", "a" * 129, "a\x00"])
def test_an_account_id_that_no_worker_takes_is_refused_before_it_is_sent(subject: str) -> None:
    """Every such record would be a dead letter; who wants one writes a raw record."""
    with pytest.raises(UnpublishableError, match="subject: expected an account id of 1 to 128 visible ASCII"):
        parse_line(_line(subject=subject))

    assert parse_line(_record(key=subject)).key == subject.encode()


def test_an_event_that_no_worker_will_accept_is_published_all_the_same() -> None:
    """The worker is the judge; publishing only finds the topic and the key."""
    assert parse_line(_line(type="inmail.promotion.granted.v1", data="nonsense")).topic == BILLING_EVENTS


def test_a_tick_goes_to_every_partition_without_a_key() -> None:
    """Each partition's lane books its own accounts."""
    outgoing = parse_line(_line(type="inmail.expiry.tick.v1", subject=None))

    assert (EXPIRY_TICKS, None, True) == (outgoing.topic, outgoing.key, outgoing.to_every_partition)


@pytest.mark.parametrize("options", [[], ["--summary"]])
def test_a_file_without_a_line_is_said_to_have_none(
    options: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Silence would look like success to whoever piped in the output of a command that had failed."""
    monkeypatch.setattr(command, "run_command", lambda _: PublishReport())

    (tmp_path / "none").touch()

    done = CliRunner().invoke(app, ["publish", str(tmp_path / "none"), *options])

    assert (0, "Nothing was published.\n") == (done.exit_code, done.stdout)


def test_an_unknown_type_needs_a_topic() -> None:
    """There is no telling where it belongs; a known type is not led astray by it."""
    with pytest.raises(UnpublishableError, match="--topic"):
        parse_line(_line(type="inmail.send.requested.v9"))

    assert parse_line(_line(type="inmail.send.requested.v9"), BILLING_EVENTS).topic == BILLING_EVENTS
    assert parse_line(_line(), BILLING_EVENTS).topic == SEND_REQUESTS


def test_nobody_publishes_what_the_workers_answer() -> None:
    """A forged answer would be believed downstream."""
    with pytest.raises(UnpublishableError, match="published by the workers"):
        parse_line(_line(type="inmail.send.decided.v1"))
    with pytest.raises(UnpublishableError, match=r"record\.topic"):
        parse_line(_record(topic="inmail.send-results"))


def test_a_record_can_have_its_events_time() -> None:
    """For stories and backfills, on topics that let a producer say the time."""
    outgoing = parse_line(_line(), record_time=PublishTime.EVENT)

    assert to_milliseconds(at("2026-01-31T09:30:00.250")) == outgoing.timestamp
    assert parse_line(_line()).timestamp is None


# -- raw records --------------------------------------------------------------------------------------------------


def test_a_raw_record_is_sent_as_told() -> None:
    """Key, value, time and headers, each of which may be missing."""
    line = _record(key="k", value="{not json", timestamp="2026-01-31T10:30:00+01:00", headers={"a": "b", "n": None})

    milliseconds = to_milliseconds(at("2026-01-31T09:30:00"))
    assert Outgoing(SEND_REQUESTS, b"k", b"{not json", milliseconds, (("a", b"b"), ("n", None))) == parse_line(line)
    assert Outgoing(SEND_REQUESTS, None, None) == parse_line(_record())


# -- what cannot be published -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "must be on one line"),
        (b'{"specversion": "1.0",', "must be on one line"),
        (b'{"id"', "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "expected an object"),
        (b"{}", "has no type"),
        (_line(type=5), "has no type"),
        (_line(subject=None), "no subject"),
        (_line(subject=5), "no subject"),
        (_line(subject=""), "no subject"),
        (_line(subject="\ud800"), "subject: not encodable"),
        (b'{"record": 5}', "expected an object with a topic"),
        (_record(topic=5), "expected an object with a topic"),
        (_record(topic="inmail.sendrequests"), "expected one of inmail.send-requests"),
        (_record(val="x"), 'unknown field "val"'),
        (_record(value={"a": 1}), "record.value: expected a string or null"),
        (_record(key=1), "record.key: expected a string or null"),
        (_record(headers=["a"]), "record.headers: expected an object"),
        (_record(headers={"a": 1}), "record.headers.a: expected a string or null"),
        (_record(timestamp="yesterday"), "record.timestamp: expected a time with a zone"),
        (_record(timestamp="2026-01-31T09:30:00"), "record.timestamp: expected a time with a zone"),
        (_record(timestamp=17), "record.timestamp: expected a time with a zone"),
        (_record(timestamp="1969-12-31T23:59:59Z"), "before 1970"),
    ],
)
def test_a_line_that_cannot_be_published_is_told_why(line: bytes, reason: str) -> None:
    """In words that name the field."""
    with pytest.raises(UnpublishableError) as told:
        parse_line(line)

    assert reason in str(told.value)


@pytest.mark.parametrize("time", [None, "soon", "2026-01-31T09:30:00", 17])
def test_an_event_without_a_usable_time_cannot_lend_it(time: object) -> None:
    """Only asked for where the record is to carry it."""
    with pytest.raises(UnpublishableError, match="time: expected a time with a zone"):
        parse_line(_line(time=time), record_time=PublishTime.EVENT)


# -- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"", []),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\r\nb", [b"a", b"b"]),
        (b"a\n\nb\n", [b"a", b"", b"b"]),
        (b"x" * 1_000_000 + b"\ny", [b"x" * 1_000_000, b"y"]),
    ],
)
async def test_a_file_is_taken_apart_at_its_line_ends(text: bytes, lines: list[bytes]) -> None:
    """Whatever the size of the pieces it is read in; with Windows' line ends, and without the last one."""
    assert lines == [line async for piece in read_lines(io.BytesIO(text)) for line in piece]


async def test_a_pipes_lines_are_published_as_they_come() -> None:
    """A writer that waits for its answer must not wait for the pipe's end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        pieces = read_lines(file)
        os.write(writing, b"first\nsec")
        assert [b"first"] == await anext(pieces)
        late = threading.Timer(0.3, lambda: (os.write(writing, b"ond\n"), os.close(writing)))
        late.start()

        assert [b"second"] == await anext(pieces)
        assert [] == [line async for piece in pieces for line in piece]
        late.join()


def test_a_header_whose_name_is_no_text_is_refused_in_words_that_can_be_printed() -> None:
    """The producer would end over it in the middle of the file."""
    with pytest.raises(UnpublishableError) as refused:
        parse_line(_record(headers={"\ud800": None}))

    assert 'record.headers: "\\ud800": not encodable as UTF-8' == str(refused.value)


# -- the check ----------------------------------------------------------------------------------------------------


def _sendable(**changes: object) -> Outgoing:
    data = {"recipient_id": "bob", "relationship": "none"}
    return parse_line(_line(id=str(UUID(int=1)), source="/web", **({"data": data} | changes)))


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"data": {"recipient_id": "bob"}}, "data.relationship: required"),
        ({"data": {"recipient_id": "bob", "relationship": "none", "cost": 1}}, "data.cost: not a field"),
        (
            {"type": "inmail.promotion.granted.v1", "data": {"credits": 0, "promotion_id": "p"}},
            "data.credits: expected",
        ),
        ({"time": "yesterday"}, "time: expected a time with a zone"),
        ({"specversion": "0.3"}, "specversion: expected"),
    ],
)
def test_what_the_schemas_refuse_is_refused_with_the_path_of_its_fault(changes: dict[str, Any], path: str) -> None:
    """In the words that its dead letter would have."""
    check_record(_sendable())
    with pytest.raises(UnpublishableError, match=f"^{path}"):
        check_record(_sendable(**changes))


def test_a_raw_record_is_checked_too() -> None:
    """Its key has to be its event's subject."""
    with pytest.raises(UnpublishableError, match=r"^subject: .*key_is_not_subject"):
        check_record(_sendable()._replace(key=b"bob"))
    with pytest.raises(UnpublishableError, match="not JSON"):
        check_record(parse_line(_record(key="alice", value="{")))


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_each_line_is_told_where_its_record_went(
    cluster: Settings, account: str, tmp_path: Path, options: list[str]
) -> None:
    """A reader finds it there."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(encode(send(account)) + b"\n" + encode(promotion(account, 3)) + b"\n")
    start = await ends(cluster, SEND_REQUESTS) | await ends(cluster, BILLING_EVENTS)

    said = await run(cluster, "publish", str(file), *options)

    assert said.code == Exit.DONE, said
    found = {(each.topic, each.partition, each.offset): each for each in await records_to_end(cluster, start)}
    for number, (line, topic) in enumerate(zip(said.out.splitlines(), (SEND_REQUESTS, BILLING_EVENTS), strict=True), 1):
        if options:
            told = json.loads(line)
            place = told["topic"], told["partition"], told["offset"]
            assert (number, account) == (told["line"], told["key"])
        else:
            told = re.fullmatch(rf"line {number}: (\S+) (\d+)/(\d+)  {account}", line)
            place = told[1], int(told[2]), int(told[3])
        assert (topic, account.encode()) == (place[0], found[place].key)
