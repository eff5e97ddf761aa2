"""Builds dead letters: records that can never succeed, kept with their bytes, reason and origin."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import structlog
from aiokafka.structs import ConsumerRecord

from infra.clock import EPOCH, from_milliseconds
from schemas.catalogue import DEAD_LETTERS, Undecodable
from schemas.dead_letters import DeadLetterCut, DeadLetterHeader, DeadLetterOrigin, dead_lettered
from schemas.envelope import ID_PATTERN
from schemas.ids import dead_letter_id
from workers.jobs.job import Message
from workers.jobs.messages import event_message
from workers.ledger.model import Place

__all__ = ["LETTER_HEADER", "dead_letters"]

# A compressed batch of 1 MB can hold a record of 100 MB. As base64, the kept bytes stay below the topic's limit for a
# record.
LETTER_HEADER = "inmail-redrive-letter"  # header of a redriven message: the place of its dead letter
KEPT_BYTES = 2 * 1024 * 1024  # of key, value and headers together: up to this size a record is kept whole
_KEPT_VALUE_BYTES = 1024 * 1024  # kept of the value of a larger record,
_KEPT_OTHER_BYTES = 64 * 1024  # of its key, and of all its headers

_ACCOUNT_ID = re.compile(ID_PATTERN.encode())


def dead_letters(
    records: Sequence[ConsumerRecord], refused: Mapping[Place, Undecodable], since: Mapping[int, datetime] = {}
) -> list[Message]:
    """Return a dead letter for each refused record of a batch, and log it.

    Args:
        records: the batch.
        refused: the reason for each refused record, by partition and offset.
        since: the partitions whose topic followed another one of its name, with the watermark then.

    """
    letters: list[Message] = []
    for record in records if refused else ():
        if (problem := refused.get((record.partition, record.offset))) is not None:
            structlog.get_logger("inmail.lane").warning(
                "dead_letter",
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                reason=problem.reason,
                error=problem.error,
            )
            letters.append(dead_letter(record, problem, since.get(record.partition)))
    return letters


def dead_letter(record: ConsumerRecord, problem: Undecodable, since: datetime | None = None) -> Message:
    """Return the dead letter of a record: its bytes, its headers and the reason.

    The dead letter goes to the partition with the same number as the record's. Of a topic that followed another one,
    `since` is the watermark then.
    """
    account_id = record.key.decode() if record.key and _ACCOUNT_ID.fullmatch(record.key) else None
    key, value, headers, cut = _kept(record)
    body = dead_lettered(
        dead_letter_id(record.topic, record.partition, record.offset, since),
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
    place = record.partition, record.offset
    return event_message(DEAD_LETTERS, key if cut is None else None, body, record.partition, place)


Headers = Sequence[tuple[str, bytes | None]]


def _kept(record: ConsumerRecord) -> tuple[bytes | None, bytes | None, Headers, DeadLetterCut | None]:
    """Return the key, value and headers to keep, and a description of any bytes that were cut off."""
    # A dead letter has the key twice: as its own key and in its body.
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
    # JSON writes a control character as six bytes, and adds fewer than 64 bytes to each header.
    return sum(6 * len(name) + len(content or b"") + 64 for name, content in headers)


def _timestamp(milliseconds: int) -> datetime:
    """Return a record's timestamp as an instant, or the epoch if a producer gave a timestamp outside the calendar."""
    try:
        return from_milliseconds(milliseconds)
    except OverflowError:
        return EPOCH


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()
