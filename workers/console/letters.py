"""Dead letters for the page. Their bytes become text here; that text is never markup is the page's part."""

from dataclasses import fields
from typing import Any, Final

from workers.ops.dead_letters.history import LetterHistory
from workers.ops.dead_letters.letters import DeadLetter, readable_text

__all__ = ["letter_json", "row_json"]

_SHOWN_BYTES: Final = 64 * 1024  # of a message in the page; `inmail dead-letters show` shows all
_BYTES: Final = frozenset({"key", "value", "headers"})


def row_json(letter: DeadLetter, fate: LetterHistory | None) -> dict[str, Any]:
    """Return a letter without its message; what became of it is null where the books could not be asked."""
    row = {each.name: getattr(letter, each.name) for each in fields(letter) if each.name not in _BYTES}
    return row | {"place": letter.place, "became": None if fate is None else fate.summary()}


def letter_json(letter: DeadLetter, fate: LetterHistory | None) -> dict[str, Any]:
    """Return a letter with its message as text, or as a hex dump where it is none."""
    headers = [{"name": name, "value": _text(value)} for name, value in letter.headers]
    whole = {"key": _text(letter.key), "value": _text(letter.value), "headers": headers}
    return row_json(letter, fate) | whole | {"bytes": None if letter.value is None else len(letter.value)}


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    if len(data) <= _SHOWN_BYTES:
        return readable_text(data)
    try:
        head = data.decode()[:_SHOWN_BYTES].encode()  # not in the middle of a character, or it would be no text
    except UnicodeDecodeError:
        head = data[:_SHOWN_BYTES]
    return f"{readable_text(head)}\n… (cut here)"
