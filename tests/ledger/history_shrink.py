"""Makes a failing history short: whatever can be left out without the books agreeing is left out."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.ledger.histories import Entry, History
from tests.ledger.history_events import lane_of
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_events import TICK

__all__ = ["replayed", "shortest"]

Fails = Callable[[History], Awaitable[bool]]


def replayed(history: History, entries: list[Entry], books: OracleBooks) -> History:
    """Return some entries of a history as a history of their own, decided anew by an empty oracle."""
    again = History(books, history.names)
    for entry in entries:
        copy = replace(entry, joins=entry.joins and _can_join(again.entries, entry))
        if copy.catalogue:
            books.set_document(copy.catalogue)
        elif copy.input and copy.input.type == TICK:
            copy.rows = books.tick_one(copy.input, copy.read_to)
        elif copy.input:
            copy.rows = books.decide_one(copy.input)
        again.entries.append(copy)
    return again


def _can_join(before: list[Entry], entry: Entry) -> bool:
    """Whether an entry still has a batch to join, when some were left out."""
    last = before[-1].input if before else None
    return bool(last and entry.input and last.type != TICK and lane_of(last.type) == lane_of(entry.input.type))


async def shortest(history: History, empty: Callable[[], OracleBooks], fails: Fails) -> History:
    """Return a failing history from which nothing can be left out; halves are tried first, then smaller parts."""
    size = len(history.entries) // 2
    while size:
        start = 1  # the first entry is the catalogue
        while start < len(history.entries):
            rest = history.entries[:start] + history.entries[start + size :]
            shorter = replayed(history, rest, empty())
            if await fails(shorter):
                history = shorter
            else:
                start += size
        size //= 2
    apart = replayed(history, [replace(entry, joins=False) for entry in history.entries], empty())
    return apart if await fails(apart) else history
