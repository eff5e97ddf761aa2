"""Events encoded as producers encode them, without the models: several times as fast.

A test checks that the bytes equal those of `schemas.envelope.encode`.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import NamedTuple

from infra.clock import from_milliseconds
from schemas.catalogue import BILLING_EVENTS, CATALOGUE, EXPIRY_TICKS, SEND_REQUESTS
from schemas.envelope import Event
from schemas.sends import SendRequested

__all__ = [
    "DAY",
    "HOUR",
    "MINUTE",
    "SECOND",
    "Record",
    "alter_record",
    "create_request_id",
    "encode_event",
    "encode_send",
    "format_instant",
    "restamp_record",
]

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_TOPICS = {row.model: row.topic for row in CATALOGUE}
_SOURCES = {SEND_REQUESTS: "/messaging", BILLING_EVENTS: "/billing", EXPIRY_TICKS: "/inmail-ticker"}
_SEND = SendRequested.type_name()
_FREE_TEXT = re.compile(rb'"(?:(?:recipient|subscription|promotion|survey|purchase)_id|reason)":"')


class Record(NamedTuple):
    """A record to publish: topic, key, value, and the event's time in Kafka's milliseconds."""

    topic: str
    key: bytes | None  # None: a tick, published to every partition
    value: bytes
    time: int


@lru_cache(maxsize=4)
def _date(day: int) -> str:
    return f"{from_milliseconds(day * DAY):%Y-%m-%dT}"


def format_instant(milliseconds: int) -> str:
    """Return an instant in the format of events: RFC 3339 in UTC."""
    day, rest = divmod(milliseconds, DAY)
    minute, rest = divmod(rest, MINUTE)
    second, fraction = divmod(rest, SECOND)
    text = f"{_date(day)}{minute // 60:02}:{minute % 60:02}:{second:02}"
    return f"{text}.{fraction:03}000Z" if fraction else f"{text}Z"


def create_request_id(milliseconds: int, dice: Random) -> str:
    """Return a UUIDv7, ordered by time, so that an index of ids grows at its end."""
    chance = dice.getrandbits(74)
    number = milliseconds << 80 | 0x7 << 76 | chance >> 62 << 64 | 0x2 << 62 | chance & (1 << 62) - 1
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def encode_send(  # noqa: PLR0913, PLR0917 - one argument a field
    time: int, id_: str, account: str, recipient: str, relationship: str, seat: str | None
) -> Record:
    """Return the record of a send request. The ids must be ASCII without quotation marks."""
    sender = f',"sender_id":"{seat}"' if seat else ""
    value = (
        f'{{"specversion":"1.0","id":"{id_}","source":"/messaging","type":"{_SEND}","subject":"{account}",'
        f'"time":"{format_instant(time)}","datacontenttype":"application/json",'
        f'"data":{{"recipient_id":"{recipient}","relationship":"{relationship}"{sender}}}}}'
    )
    return Record(SEND_REQUESTS, account.encode(), value.encode(), time)


def encode_event(time: int, id_: str, model: type[Event], account: str | None, data: Mapping[str, object]) -> Record:
    """Return the record of an event; `data` must be in the order of the model's fields."""
    topic = _TOPICS[model]
    subject = f'"subject":"{account}",' if account else ""
    value = (
        f'{{"specversion":"1.0","id":"{id_}","source":"{_SOURCES[topic]}","type":"{model.type_name()}",{subject}'
        f'"time":"{format_instant(time)}","datacontenttype":"application/json",'
        f'"data":{json.dumps(data, separators=(",", ":"))}}}'
    )
    return Record(topic, account.encode() if account else None, value.encode(), time)


def restamp_record(record: Record, time: int) -> Record:
    """Return a record with the same event at another time."""
    old, new = (f'"time":"{format_instant(t)}"'.encode() for t in (record.time, time))
    return record._replace(value=record.value.replace(old, new, 1), time=time)


def alter_record(record: Record) -> Record | None:
    """Return a record with the same event id and another body; None for a type without free text to change."""
    value, count = _FREE_TEXT.subn(lambda found: found.group() + b"another-", record.value, count=1)
    return record._replace(value=value) if count else None
