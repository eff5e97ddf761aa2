"""Dead letters as an operator looks at them: those that are asked for, and one in full."""

import base64
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappush, heappushpop
from typing import Any
from uuid import UUID

from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError
from pydantic_core import from_json

from infra.clock import nearest_instant
from infra.kafka.records import all_partitions, read_records
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from schemas.results import DeadLettered, DeadLetterReason

__all__ = [
    "ALL",
    "UNREADABLE",
    "DeadLetter",
    "FoundLetters",
    "LetterFilter",
    "NoSuchDeadLetterError",
    "escape_unprintable",
    "find_dead_letters",
    "list_dead_letters",
    "parse_dead_letter",
    "readable_text",
]

UNREADABLE = "unreadable"  # the reason of a record among the dead letters that is none
_ROW_BYTES = 16


class NoSuchDeadLetterError(Exception):
    """There is no dead letter at that place (any more)."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, with the message as it was read."""

    partition: int
    offset: int
    id: UUID | None  # of its event; None where it is no dead letter of the workers'
    reason: str
    error: str
    account_id: str | None
    event_type: str | None  # where the message tells one
    origin_topic: str
    origin_partition: int
    origin_offset: int
    origin_time: datetime
    set_aside_at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    cut: bool  # whether only the beginning of the message was kept

    @property
    def place(self) -> str:
        """Where it is, as operators write it."""
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters are meant. What is None is not asked for."""

    reason: DeadLetterReason | None = None
    topic: str | None = None
    account: str | None = None
    event_type: str | None = None
    after: datetime | None = None  # set aside then or later
    before: datetime | None = None  # set aside earlier than that
    partition: int | None = None
    offset: int | None = None  # in that partition

    def matches(self, letter: DeadLetter) -> bool:
        """Tell whether a letter is meant."""
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.origin_topic)
            and self.account in (None, letter.account_id)
            and self.event_type in (None, letter.event_type)
            and (self.after is None or letter.set_aside_at >= self.after)
            and (self.before is None or letter.set_aside_at < self.before)
            and self.partition in (None, letter.partition)
            and self.offset in (None, letter.offset)
        )

    def summary(self) -> dict[str, Any]:
        """Return what is asked for, for JSON."""
        asked = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in asked.items()
            if value is not None
        }


ALL = LetterFilter()


MessagePosition = tuple[str, int, int | None]  # topic, partition and offset of a message


@dataclass(slots=True)
class FoundLetters:
    """Dead letters that were found: the newest, newest first, and how many there are of each topic and reason."""

    letters: list[DeadLetter] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    copies: dict[MessagePosition, str] = field(default_factory=dict)  # where the letters of certain messages are


async def find_dead_letters(
    settings: Settings, partition: int | None = None, offset: int = 0
) -> AsyncGenerator[DeadLetter, None]:
    """Yield the dead letters that retention has left, each partition's in order: that in which their lanes read them.

    Ends where the topic ended at the start. Close it with `contextlib.aclosing` when leaving early.

    Args:
        settings: where Kafka is.
        partition: only of this one.
        offset: where to begin.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    places = [place for place in await all_partitions(settings, [DEAD_LETTERS]) if partition in (None, place.partition)]
    if places:
        async with aclosing(read_records(settings, places, start=offset)) as records:
            async for record in records:
                yield parse_dead_letter(record)


async def list_dead_letters(
    settings: Settings,
    selection: LetterFilter = ALL,
    last: int | None = None,
    is_selected: Callable[[DeadLetter], bool] | None = None,
    copies: Collection[MessagePosition] = (),
) -> FoundLetters:
    """Return the newest dead letters of those that are meant, and how many there are in all.

    Args:
        settings: where Kafka is.
        selection: which are meant.
        last: so many at most.
        is_meant: tells it instead of the selection.
        copies: messages whose letters are looked for too, whether they are meant or not.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    found = FoundLetters()
    is_selected = is_selected or selection.matches
    newest: list[tuple[datetime, int, int, DeadLetter]] = []
    async with aclosing(find_dead_letters(settings, selection.partition, selection.offset or 0)) as letters:
        async for letter in letters:
            origin = (letter.origin_topic, letter.origin_partition, letter.origin_offset)
            if origin in copies:
                found.copies[origin] = letter.place
            if is_selected(letter):
                found.counts[letter.origin_topic, letter.reason] += 1
                entry = (letter.set_aside_at, letter.partition, letter.offset, letter)
                heappushpop(newest, entry) if last is not None and len(newest) >= last else heappush(newest, entry)
            if selection.offset is not None and not copies:
                break  # it was there, or this is the next one
    found.letters = [letter for *_, letter in sorted(newest, key=lambda entry: entry[:3], reverse=True)]
    return found


def parse_dead_letter(record: ConsumerRecord) -> DeadLetter:
    """Return a record of the dead letters as what it is: a letter, or one that is unreadable."""
    set_aside_at = nearest_instant(record.timestamp)
    try:
        event = DeadLettered.model_validate_json(record.value or b"")
        data = event.data
        origin = data["origin"]
        value = _bytes(data["value_base64"])
        return DeadLetter(
            record.partition,
            record.offset,
            event.id,
            data["reason"].value,
            data["error"],
            event.subject,
            _event_type(value),
            origin["topic"],
            origin["partition"],
            origin["offset"],
            origin["timestamp"].astimezone(UTC),  # the calendar may end before
            set_aside_at,
            _bytes(data["key_base64"]),
            value,
            tuple((header["key"], _bytes(header["value_base64"])) for header in data["headers"]),
            data["cut"] is not None,
        )
    except (ValueError, OverflowError) as error:  # of the schema, of base64, or of an instant that UTC does not have
        # Not of the workers' making: shown all the same, since it is an operator who looks.
        text = str(error)
        if isinstance(error, ValidationError):
            text = str(error.errors(include_url=False, include_input=False)[0]["msg"])
        here = (record.topic, record.partition, record.offset, set_aside_at)
        told = (None, UNREADABLE, f"not a dead letter: {text}", None, None)
        message = (record.key, record.value, tuple(record.headers), False)
        return DeadLetter(record.partition, record.offset, *told, *here, set_aside_at, *message)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _event_type(value: bytes | None) -> str | None:
    """Return the type that a message says it has, if it is JSON and says one."""
    try:
        document = from_json(value or b"")
    except ValueError:
        return None
    name = document.get("type") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None


def readable_text(data: bytes) -> str:
    """Return bytes as text where a terminal can show them as they are, as a hex dump otherwise."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _hex_dump(data)
    # Anything else may command the terminal.
    return text if all(character.isprintable() or character in "\n\t" for character in text) else _hex_dump(data)


def escape_unprintable(text: str) -> str:
    """Return a text of one line with all that may command the terminal escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _hex_dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), _ROW_BYTES):
        row = data[start : start + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<{_ROW_BYTES * 3 - 1}}  {text}")
    return "\n".join(lines)
