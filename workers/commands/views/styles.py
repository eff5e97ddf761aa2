"""Styles and text helpers shared by all terminal output."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

__all__ = ["BAD", "DIM", "GOOD", "INFO", "WARN", "TextPart", "format_count", "how_to_continue"]

TextPart = str | tuple[str, str]  # text, or text and its style

GOOD: Final = "green"
BAD: Final = "bold red"
WARN: Final = "yellow"
DIM: Final = "dim"
INFO: Final = "cyan"


def format_count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 lot, 2,000 lots."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def how_to_continue(times: Mapping[str, datetime | None]) -> str:
    """Return what continues a command that was stopped; by its options of times: -2h would be another time then."""
    given = " ".join(f"{option} {time.isoformat()}" for option, time in times.items() if time is not None)
    return f"run the same command to continue{given and f', with {given}'}"
