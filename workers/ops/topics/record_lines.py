"""Turns lines into the records to publish: one event or raw record on each line, sent unchanged.

A checked line is decoded as a worker would decode it, so that what would be a dead letter is refused with the path of
its fault. Without the check only the topic and the key are looked at: a file can hold a producer's mistakes.
"""

import asyncio
import json
import re
import select
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from enum import StrEnum
from typing import BinaryIO, NamedTuple

from infra.clock import to_milliseconds
from infra.kafka.sender import Outgoing
from schemas.catalogue import CATALOGUE, INPUT_TOPICS, Undecodable, decode
from schemas.envelope import EVENT_HEADERS, ID_PATTERN
from schemas.undecodable import excerpt

__all__ = ["LineOptions", "PublishTime", "UnpublishableError", "check_record", "parse_line", "read_lines"]

_CHUNK_BYTES = 256 * 1024
_ACCOUNT_ID = re.compile(ID_PATTERN)
_ROWS = {row.name: row for row in CATALOGUE}


class PublishTime(StrEnum):
    """The timestamp of published records. A topic with LogAppendTime ignores it."""

    NOW = "now"
    EVENT = "event"


class UnpublishableError(Exception):
    """A line cannot be published; the message says why."""


_ONE_LINE = "an event must be on one line: use `jq -c . FILE | inmail publish -`"


class LineOptions(NamedTuple):
    """How lines become records: the topic of unknown types, the records' time, and whether they are checked."""

    topic: str | None
    record_time: PublishTime
    checked: bool


def check_record(outgoing: Outgoing) -> None:
    """Check that a worker could decode a record.

    Raises:
        UnpublishableError: when it would be a dead letter; the message has the reason and the path of the fault.

    """
    try:
        decode(outgoing.topic, outgoing.key, outgoing.value, outgoing.headers)
    except Undecodable as problem:
        raise UnpublishableError(f"{problem.error} ({problem.reason})") from None


def parse_line(line: bytes, topic: str | None = None, record_time: PublishTime = PublishTime.NOW) -> Outgoing:
    """Return the record to publish for a line.

    Args:
        line: a CloudEvent, or `{"record": {"topic", "key", "timestamp", "value", "headers"}}`.
        topic: the topic of events whose type is not in the catalogue.
        record_time: whether an event's own time becomes the record's timestamp.

    Raises:
        UnpublishableError: when the line is not a valid record, or its topic is unknown.

    """
    try:
        document = json.loads(line)
    except json.JSONDecodeError as error:
        hint = f"; {_ONE_LINE}" if error.pos >= len(error.doc.rstrip()) else ""  # it goes on in the next line
        raise UnpublishableError(f"not JSON: {error}{hint}") from None
    except (ValueError, RecursionError) as error:
        raise UnpublishableError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UnpublishableError("expected an object")
    if set(document) == {"record"}:
        return _parse_raw(document["record"])
    name = document.get("type")
    if not isinstance(name, str):
        raise UnpublishableError("neither an event (it has no type) nor a raw record")
    row = _ROWS.get(name)
    if row is None and topic is None:
        raise UnpublishableError(f"type {json.dumps(name)} is unknown: give its topic with --topic")
    if row is not None and row.direction == "out":
        raise UnpublishableError(f"{name} is published by the workers only")
    timestamp = _milliseconds(document.get("time"), "time") if record_time is PublishTime.EVENT else None
    if row is not None and row.key is None:
        return Outgoing(row.topic, None, line, timestamp, EVENT_HEADERS, to_every_partition=True)
    subject = document.get("subject")
    if not isinstance(subject, str) or not subject:
        raise UnpublishableError("no subject to use as the key: to send an event without a key, write a raw record")
    return Outgoing(row.topic if row else topic or "", _account_key(subject), line, timestamp, EVENT_HEADERS)


def _account_key(subject: str) -> bytes:
    """Return the key of an event's record. No other key gets to a worker's lane as an account."""
    key = _utf8(subject, "subject")
    if not _ACCOUNT_ID.fullmatch(subject):
        raise UnpublishableError(
            f"subject: expected an account id of 1 to 128 visible ASCII characters, got {excerpt(subject)}: to send it"
            " all the same, write a raw record"
        )
    return key


_RAW_FIELDS = {"topic", "key", "timestamp", "value", "headers"}


def _parse_raw(record: object) -> Outgoing:
    if not isinstance(record, dict) or not isinstance(record.get("topic"), str):
        raise UnpublishableError("record: expected an object with a topic")
    if unknown := sorted(set(record) - _RAW_FIELDS):
        raise UnpublishableError(f"record: unknown field {', '.join(map(json.dumps, unknown))}")
    headers = record.get("headers") or {}
    if not isinstance(headers, dict):
        raise UnpublishableError("record.headers: expected an object")
    for name in headers:
        _utf8(name, f"record.headers: {json.dumps(name)}")
    timestamp = record.get("timestamp")
    if record["topic"] not in INPUT_TOPICS:
        raise UnpublishableError(
            f"record.topic: expected one of {', '.join(INPUT_TOPICS)}, got {json.dumps(record['topic'])}"
        )
    return Outgoing(
        record["topic"],
        _text(record.get("key"), "record.key"),
        _text(record.get("value"), "record.value"),
        None if timestamp is None else _milliseconds(timestamp, "record.timestamp"),
        tuple((name, _text(value, f"record.headers.{name}")) for name, value in headers.items()),
    )


def _text(value: object, name: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UnpublishableError(f"{name}: expected a string or null")
    return _utf8(value, name)


def _utf8(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UnpublishableError(f"{name}: not encodable as UTF-8") from None


def _milliseconds(value: object, name: str) -> int:
    try:
        instant = datetime.fromisoformat(value if isinstance(value, str) else "")
        milliseconds = to_milliseconds(instant)
    except (ValueError, TypeError):  # TypeError for an instant without a zone
        raise UnpublishableError(f"{name}: expected a time with a zone, like 2026-01-31T09:30:00Z") from None
    if milliseconds < 0:
        raise UnpublishableError(f"{name}: before 1970: Kafka has no such timestamps")
    return milliseconds


async def read_lines(file: BinaryIO) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a file in lists as they arrive, without blocking the event loop."""
    rest = b""
    while True:
        chunk = await asyncio.to_thread(_read_chunk, file)
        if chunk is None:
            continue
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk:
            break
        yield [line.removesuffix(b"\r") for line in lines]
    if rest:
        yield [rest.removesuffix(b"\r")]


def _read_chunk(file: BinaryIO) -> bytes | None:
    """Return the next chunk of a file, b"" at its end; None if a pipe has no data yet, so that the wait can end."""
    try:
        ready, _, _ = select.select([file], [], [], 0.2)
    except (OSError, ValueError):  # not a file of the operating system
        ready = [file]
    if not ready:
        return None
    read1: Callable[[int], bytes] = getattr(file, "read1", file.read)
    return read1(_CHUNK_BYTES)
