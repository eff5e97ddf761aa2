"""The few styles and words that all answers share."""

from typing import Final

__all__ = ["BAD", "DIM", "GOOD", "NEWS", "WARN", "TextPart", "count_of"]

TextPart = str | tuple[str, str]  # text, or text and its style

GOOD: Final = "green"
BAD: Final = "bold red"
WARN: Final = "yellow"
DIM: Final = "dim"
NEWS: Final = "cyan"


def count_of(number: int, what: str) -> str:
    """Return a number of things in words: 1 lot, 2,000 lots."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
