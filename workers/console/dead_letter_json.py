"""Dead letters as JSON for the page, with their bytes as text. The page makes sure that text never becomes markup."""

from dataclasses import fields
from typing import Any, Final

from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, readable_text

__all__ = ["decode_bytes", "letter_json", "letter_row_json"]

_MAX_TEXT_BYTES: Final = 64 * 1024  # of a key, value or header; `inmail dead-letters show` shows all
_BYTES_FIELDS: Final = frozenset({"key", "value", "headers"})


def letter_row_json(letter: DeadLetter, history: LetterHistory | None) -> dict[str, Any]:
    """Return a dead letter without its message; `became` is null where the database did not answer."""
    row = {field.name: getattr(letter, field.name) for field in fields(letter) if field.name not in _BYTES_FIELDS}
    return row | {"place": letter.place, "became": None if history is None else history.summary()}


def letter_json(letter: DeadLetter, history: LetterHistory | None) -> dict[str, Any]:
    """Return a dead letter with its message as text, or as a hex dump where the bytes are not text."""
    headers = [{"name": name, "value": decode_bytes(value)} for name, value in letter.headers]
    whole = {"key": decode_bytes(letter.key), "value": decode_bytes(letter.value), "headers": headers}
    return letter_row_json(letter, history) | whole | {"bytes": None if letter.value is None else len(letter.value)}


def decode_bytes(data: bytes | None) -> str | None:
    """Return bytes as text, or as a hex dump where they are none; long ones are cut."""
    if data is None:
        return None
    if len(data) <= _MAX_TEXT_BYTES:
        return readable_text(data)
    try:
        head = data.decode()[:_MAX_TEXT_BYTES].encode()  # cuts between characters: half a character would not be text
    except UnicodeDecodeError:
        head = data[:_MAX_TEXT_BYTES]
    return f"{readable_text(head)}\n… (cut here)"
