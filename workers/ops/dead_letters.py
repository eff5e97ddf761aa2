"""Dead letters as an operator looks at them: the list, and one in full."""

import base64
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from pydantic import ValidationError

from infra.clock import from_milliseconds
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from schemas.results import DeadLettered, DeadLetterReason
from workers.ops.records import all_partitions, partition_counts, read_records

__all__ = ["DeadLetter", "NoSuchDeadLetterError", "list_dead_letters", "readable", "show_dead_letter"]

_ROW_BYTES = 16


class NoSuchDeadLetterError(Exception):
    """There is no dead letter at that place (any more)."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, with the message as it was read."""

    partition: int
    offset: int
    reason: str
    error: str
    account_id: str | None
    origin_topic: str
    origin_partition: int
    origin_offset: int
    origin_time: datetime
    set_aside_at: datetime
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


async def list_dead_letters(
    settings: Settings, reason: DeadLetterReason | None = None, topic: str | None = None
) -> list[DeadLetter]:
    """Return the dead letters that retention has left, newest first.

    Args:
        settings: where Kafka is.
        reason: only those refused for it.
        topic: only those that came from this input topic.

    Raises:
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    letters = []
    async with aclosing(read_records(settings, await all_partitions(settings, [DEAD_LETTERS]))) as records:
        async for record in records:
            letter = _letter(record)
            if reason in (None, letter.reason) and topic in (None, letter.origin_topic):
                letters.append(letter)
    return sorted(letters, key=lambda each: (each.set_aside_at, each.partition, each.offset), reverse=True)


async def show_dead_letter(settings: Settings, partition: int, offset: int) -> DeadLetter:
    """Return the dead letter at a place.

    Raises:
        NoSuchDeadLetterError: when there is none.
        NotSetUpError: when the topic does not exist.
        KafkaError: when the cluster cannot be reached.

    """
    missing = NoSuchDeadLetterError(f"there is no dead letter at {partition}/{offset}: see `inmail dead-letters list`")
    if partition >= (await partition_counts(settings, [DEAD_LETTERS]))[DEAD_LETTERS]:
        raise missing
    place = TopicPartition(DEAD_LETTERS, partition)
    async with aclosing(read_records(settings, [place], start=offset)) as records:
        async for record in records:
            if record.offset == offset:
                return _letter(record)
            break
    raise missing


def _letter(record: ConsumerRecord) -> DeadLetter:
    set_aside_at = from_milliseconds(record.timestamp)
    try:
        event = DeadLettered.model_validate_json(record.value or b"")
    except ValidationError as error:
        # Not of the workers' making: shown all the same, since it is an operator who looks.
        text = str(error.errors(include_url=False, include_input=False)[0]["msg"])
        origin = (record.topic, record.partition, record.offset, set_aside_at)
        place = (record.partition, record.offset, "unreadable", f"not a dead letter: {text}", None)
        return DeadLetter(*place, *origin, set_aside_at, record.key, record.value, tuple(record.headers))
    data = event.data
    origin_ = data["origin"]
    return DeadLetter(
        record.partition,
        record.offset,
        data["reason"].value,
        data["error"],
        event.subject,
        origin_["topic"],
        origin_["partition"],
        origin_["offset"],
        origin_["timestamp"],
        set_aside_at,
        _bytes(data["key_base64"]),
        _bytes(data["value_base64"]),
        tuple((header["key"], _bytes(header["value_base64"])) for header in data["headers"]),
    )


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def readable(data: bytes) -> str:
    """Return bytes as text where a terminal can show them as they are, as a hex dump otherwise."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _hex_dump(data)
    # Anything else may command the terminal.
    return text if all(character.isprintable() or character in "\n\t" for character in text) else _hex_dump(data)


def _hex_dump(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), _ROW_BYTES):
        row = data[start : start + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<{_ROW_BYTES * 3 - 1}}  {text}")
    return "\n".join(lines)
