"""Reads, filters and formats dead letters."""

import base64
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from infra.clock import nearest_instant
from infra.kafka.records import all_partitions, read_records
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from schemas.content_modes import read_attributes
from schemas.dead_letters import DeadLettered, DeadLetterReason

__all__ = [
    "ALL",
    "UNREADABLE",
    "DeadLetter",
    "FoundLetters",
    "LetterFilter",
    "MessagePosition",
    "NoSuchDeadLetterError",
    "count_matching",
    "escape_unprintable",
    "find_dead_letters",
    "parse_dead_letter",
    "readable_text",
]

UNREADABLE = "unreadable"  # the reason shown for a record in the topic that is not a dead letter
_ROW_BYTES = 16


class NoSuchDeadLetterError(Exception):
    """There is no dead letter at this offset, or retention has deleted it."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter with its message: the record's key, value and headers."""

    partition: int
    offset: int
    id: UUID | None  # of the dead letter's event; None if no worker wrote the record
    reason: str
    error: str
    account_id: str | None
    event_type: str | None  # None if the message names no type
    origin_topic: str
    origin_partition: int
    origin_offset: int
    origin_time: datetime
    set_aside_at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    cut: bool  # whether the message was too large to be kept whole
    subject: str | None = None  # that the message names, whatever its key is

    @property
    def place(self) -> str:
        """The dead letter's partition and offset, as operators write them: 3/17."""
        return f"{self.partition}/{self.offset}"

    @property
    def size(self) -> int:
        """Bytes of the message, without its key and its headers' names."""
        return len(self.value or b"") + sum(len(value or b"") for _, value in self.headers)


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """A filter of dead letters: all conditions that are not None must hold."""

    reason: DeadLetterReason | None = None
    topic: str | None = None
    account: str | None = None  # the key's or the subject's: a wrong key is a reason to be dead-lettered
    event_type: str | None = None
    after: datetime | None = None  # dead-lettered at this time or later
    before: datetime | None = None  # dead-lettered before this time
    partition: int | None = None
    offset: int | None = None  # in that partition
    places: frozenset[tuple[int, int]] | None = None  # chosen one by one: partition and offset

    def matches(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter matches the filter."""
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.origin_topic)
            and self.account in (None, letter.account_id, letter.subject)
            and self.event_type in (None, letter.event_type)
            and (self.after is None or letter.set_aside_at >= self.after)
            and (self.before is None or letter.set_aside_at < self.before)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
            and (self.places is None or (letter.partition, letter.offset) in self.places)
        )

    def summary(self) -> dict[str, Any]:
        """Return the conditions for JSON."""
        asked = {name: getattr(self, name) for name in self.__slots__}
        if self.places is not None:
            asked["places"] = [f"{partition}/{offset}" for partition, offset in sorted(self.places)]
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asked.items()
            if value is not None
        }


ALL = LetterFilter()


MessagePosition = tuple[str, int, int | None]  # topic, partition and offset of a message


@dataclass(slots=True)
class FoundLetters:
    """Dead letters, newest first, and those that redriven messages of theirs became."""

    letters: list[DeadLetter] = field(default_factory=list)
    copies: dict[MessagePosition, str] = field(
        default_factory=dict
    )  # places of dead letters by the position of their message
    unsearched: set[MessagePosition] = field(default_factory=set)  # positions that no search has reached the end for


async def find_dead_letters(
    settings: Settings, partition: int | None = None, *, tells: bool = True
) -> AsyncGenerator[DeadLetter, None]:
    """Yield all dead letters in the topic up to its end at the start, each partition's in order.

    Close the generator with `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        partition: only this partition; None: all.
        tells: whether a command says how far it has read; not where it shows other progress.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    places = [place for place in await all_partitions(settings, [DEAD_LETTERS]) if partition in (None, place.partition)]
    if places:
        async with aclosing(read_records(settings, places, tells=tells)) as records:
            async for record in records:
                yield parse_dead_letter(record)


async def count_matching(
    settings: Settings, is_selected: Callable[[DeadLetter], bool], partition: int | None = None
) -> Counter[tuple[str, str]]:
    """Return the number of the selected dead letters by topic and reason. Reads the whole topic, or partition.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    counts: Counter[tuple[str, str]] = Counter()
    async with aclosing(find_dead_letters(settings, partition)) as letters:
        async for letter in letters:
            if is_selected(letter):
                counts[letter.origin_topic, letter.reason] += 1
    return counts


def parse_dead_letter(record: ConsumerRecord) -> DeadLetter:
    """Return the dead letter in a record; for any other record, one with the reason `unreadable`."""
    set_aside_at = nearest_instant(record.timestamp)
    try:
        event = DeadLettered.model_validate_json(record.value or b"")
        data = event.data
        origin = data["origin"]
        value = _bytes(data["value_base64"])
        headers = tuple((header["key"], _bytes(header["value_base64"])) for header in data["headers"])
        attributes = read_attributes(headers, value)
        return DeadLetter(
            record.partition,
            record.offset,
            event.id,
            data["reason"],
            data["error"],
            event.subject,
            _text(attributes.get("type")),
            origin["topic"],
            origin["partition"],
            origin["offset"],
            origin["timestamp"].astimezone(UTC),  # fails for an instant outside the calendar
            set_aside_at,
            _bytes(data["key_base64"]),
            value,
            headers,
            data["cut"] is not None,
            _text(attributes.get("subject")),
        )
    except (ValueError, OverflowError) as error:  # from the schema, base64, or an instant outside the calendar
        # No worker wrote this record. Operators see it all the same.
        text = str(error)
        if isinstance(error, ValidationError):
            text = str(error.errors(include_url=False, include_input=False)[0]["msg"])
        here = (record.topic, record.partition, record.offset, set_aside_at)
        told = (None, UNREADABLE, f"not a dead letter: {text}", None, None)
        message = (record.key, record.value, tuple(record.headers), False)
        return DeadLetter(record.partition, record.offset, *told, *here, set_aside_at, *message)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _text(attribute: object) -> str | None:
    """Return an attribute of a message that is a string, None if the message is no event or has another there."""
    return attribute if isinstance(attribute, str) else None


def readable_text(data: bytes) -> str:
    """Return bytes as text if they are printable UTF-8, otherwise as a hex dump."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _hex_dump(data)
    # Other characters may control the terminal.
    return text if all(character.isprintable() or character in "\n\t" for character in text) else _hex_dump(data)


def escape_unprintable(text: str) -> str:
    """Return a line of text with the characters escaped that may control the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _hex_dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), _ROW_BYTES):
        row = data[start : start + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<{_ROW_BYTES * 3 - 1}}  {text}")
    return "\n".join(lines)
