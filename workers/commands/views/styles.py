"""Styles and text helpers shared by all terminal output."""

from typing import Final

__all__ = ["BAD", "DIM", "GOOD", "INFO", "WARN", "TextPart", "format_count"]

TextPart = str | tuple[str, str]  # text, or text and its style

GOOD: Final = "green"
BAD: Final = "bold red"
WARN: Final = "yellow"
DIM: Final = "dim"
INFO: Final = "cyan"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 lot, 2,000 lots."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
