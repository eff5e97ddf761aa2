"""Dead letters: messages that can never succeed, kept with the reason and where they came from."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import structlog
from aiokafka.structs import ConsumerRecord

from infra.clock import EPOCH, from_milliseconds
from schemas.catalogue import DEAD_LETTERS, Undecodable
from schemas.envelope import ID_PATTERN
from schemas.ids import dead_letter_id
from schemas.results import DeadLetterCut, DeadLetterHeader, DeadLetterOrigin, dead_lettered
from workers.jobs.job import Message

__all__ = ["LETTER_HEADER", "dead_letters"]

# A compressed batch of a megabyte can hold a record of a hundred. As base64, what is kept stays below the topic's
# limit for a record.
LETTER_HEADER = "inmail-redrive-letter"  # of a message that was sent back: which letter it was
KEPT_BYTES = 2 * 1024 * 1024  # of key, value and headers together: kept whole up to here
_KEPT_VALUE_BYTES = 1024 * 1024  # of a larger message: so much of its value,
_KEPT_OTHER_BYTES = 64 * 1024  # of its key, and of its headers together

_ACCOUNT_ID = re.compile(ID_PATTERN.encode())


def dead_letters(records: Sequence[ConsumerRecord], refused: Mapping[int, Undecodable]) -> list[Message]:
    """Return the dead letters of those of a batch's records that were refused, by offset, and log each."""
    letters = []
    for record in records:
        if (problem := refused.get(record.offset)) is not None:
            structlog.get_logger("inmail.lane").warning(
                "dead_letter",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=problem.reason,
                error=problem.error,
            )
            letters.append(dead_letter(record, problem))
    return letters


def dead_letter(record: ConsumerRecord, problem: Undecodable) -> Message:
    """Return the dead letter of a record: its bytes and headers as they were, and why it was refused.

    It goes to the partition with the record's own number.
    """
    account_id = record.key.decode() if record.key and _ACCOUNT_ID.fullmatch(record.key) else None
    key, value, headers, cut = _kept(record)
    body = dead_lettered(
        dead_letter_id(record.topic, record.partition, record.offset),
        account_id,
        {
            "reason": problem.reason,
            "error": problem.error,
            "origin": DeadLetterOrigin(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                timestamp=_timestamp(record.timestamp),
            ),
            "key_base64": _base64(key),
            "value_base64": _base64(value),
            "headers": [DeadLetterHeader(key=name, value_base64=_base64(content)) for name, content in headers],
            "cut": cut,
        },
    )
    return Message(DEAD_LETTERS, key if cut is None else None, body, record.partition, record.offset)


Headers = Sequence[tuple[str, bytes | None]]


def _kept(record: ConsumerRecord) -> tuple[bytes | None, bytes | None, Headers, DeadLetterCut | None]:
    """Return key, value and headers as far as they can be kept, and what was cut off."""
    # A letter has the key twice: its own key, and in its body.
    size = 2 * len(record.key or b"") + len(record.value or b"") + _size(record.headers)
    if size <= KEPT_BYTES:
        return record.key, record.value, record.headers, None
    headers: list[tuple[str, bytes | None]] = []
    for header in record.headers:
        if _size([*headers, header]) > _KEPT_OTHER_BYTES:
            break
        headers.append(header)
    cut = DeadLetterCut(
        value_size=len(record.value or b""),
        value_sha256=sha256(record.value or b"").hexdigest(),
        headers=len(record.headers),
    )
    key = None if record.key is None else record.key[:_KEPT_OTHER_BYTES]
    return key, None if record.value is None else record.value[:_KEPT_VALUE_BYTES], headers, cut


def _size(headers: Headers) -> int:
    # JSON writes a control character in six, and adds less than 64 to each header.
    return sum(6 * len(name) + len(content or b"") + 64 for name, content in headers)


def _timestamp(milliseconds: int) -> datetime:
    """Return the record's timestamp, or the epoch where a producer gave one that no calendar has."""
    try:
        return from_milliseconds(milliseconds)
    except OverflowError:
        return EPOCH


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()
