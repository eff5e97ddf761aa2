"""Records of a topic as JSON for the page, with their bytes as text."""

from typing import Any

from aiokafka.structs import ConsumerRecord

from infra.clock import nearest_instant
from schemas.content_modes import read_attributes
from workers.console.dead_letter_json import decode_bytes

__all__ = ["record_json"]


def record_json(record: ConsumerRecord) -> dict[str, Any]:
    """Return a record; bytes that are no text are a hex dump, and long ones are cut."""
    attributes = read_attributes(tuple(record.headers), record.value)
    return {
        "partition": record.partition,
        "offset": record.offset,
        "at": nearest_instant(record.timestamp),
        "key": decode_bytes(record.key),
        "type": _text(attributes.get("type")),
        "subject": _text(attributes.get("subject")),
        "id": _text(attributes.get("id")),
        "value": decode_bytes(record.value),
        "bytes": None if record.value is None else len(record.value),
        "headers": [{"name": name, "value": decode_bytes(value)} for name, value in record.headers],
    }


def _text(attribute: object) -> str | None:
    return attribute if isinstance(attribute, str) else None
