"""Dead letters: messages that can never succeed, kept whole, with the reason and where they came from."""

import re
from base64 import b64encode
from datetime import datetime

from aiokafka.structs import ConsumerRecord

from infra.clock import EPOCH, from_milliseconds
from schemas.catalogue import DEAD_LETTERS, Undecodable
from schemas.envelope import ID_PATTERN
from schemas.ids import dead_letter_id
from schemas.results import DeadLetterHeader, DeadLetterOrigin, dead_lettered
from workers.job import Message

__all__ = ["dead_letter"]

_ACCOUNT_ID = re.compile(ID_PATTERN.encode())


def dead_letter(record: ConsumerRecord, problem: Undecodable) -> Message:
    """Return the dead letter of a record: its bytes and headers as they were, and why it was refused."""
    account_id = record.key.decode() if record.key and _ACCOUNT_ID.fullmatch(record.key) else None
    value = dead_lettered(
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
            "key_base64": _base64(record.key),
            "value_base64": _base64(record.value),
            "headers": [DeadLetterHeader(key=key, value_base64=_base64(body)) for key, body in record.headers],
        },
    )
    return Message(DEAD_LETTERS, record.key, value, None if record.key else record.partition)


def _timestamp(milliseconds: int) -> datetime:
    """Return the record's timestamp, or the epoch where a producer gave one that no calendar has."""
    try:
        return from_milliseconds(milliseconds)
    except OverflowError:
        return EPOCH


def _base64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()
