"""Tables of a full year for each anchor day, worked out by counting days and not by any ledger.

A year is described by its anchor day and its number; `python -m tests.ledger.scenario_years` writes the tables.
"""

from calendar import isleap, monthrange
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from tests.ledger.scenario import FOLDER
from tests.ledger.scenario_events import write_instant

__all__ = ["ANCHORS", "YEARS", "year_file", "year_tables"]

ANCHORS = (1, 15, 28, 29, 30, 31)
YEARS = (2030, 2032)  # a common year and a leap year
LIFE = timedelta(days=90)
MOMENT = timedelta(microseconds=1)
CREDITS = 5


def year_file(anchor: int) -> str:
    """Return the name of an anchor's file."""
    return f"year_{anchor:02}.txt"


def year_tables(anchor: int) -> str:
    """Return an anchor's tables: both years, paid monthly and annually, and the dates that refusals name."""
    head = f"# Rule 11, and 4, 5, 8 and 15 on the way: full years on anchor {anchor}. Made by scenario_years.py.\n"
    tables = [
        table
        for year in YEARS
        for table in (
            monthly(anchor, year),
            annual(anchor, year),
            refusals(anchor, year),
            annual_refusals(anchor, year),
        )
    ]
    return "\n".join([head, *("\n".join(table) + "\n" for table in tables)])


def starts(anchor: int, year: int) -> list[datetime]:
    """Return thirteen period starts: the anchor's day of each month, or the month's last."""
    months = [(year, month) for month in range(1, 13)] + [(year + 1, 1)]
    return [datetime(y, m, min(anchor, monthrange(y, m)[1]), tzinfo=UTC) for y, m in months]


def title(anchor: int, year: int, what: str) -> str:
    """Return a table's first line."""
    kind = "leap" if isleap(year) else "common"
    return f"scenario: Rule 11: {year}, a {kind} year, {what} on anchor {anchor}"


def monthly(anchor: int, year: int) -> Iterator[str]:
    """A renewal on each date; every lot lives ninety days, whatever its month is like."""
    dates = starts(anchor, year)
    yield title(anchor, year, "monthly")
    for instant in instants_of(dates[:-1]):
        renewal = []
        if instant in dates:
            month = dates.index(instant)
            verb = "renew" if month else "activate"
            span = f"{write_instant(instant)}..{write_instant(dates[month + 1])}"
            before = balance(instant, dates) - CREDITS
            row = f"granted +{CREDITS} until {write_instant(instant + LIFE)} before {before} after {before + CREDITS}"
            renewal = [f"{verb} s-1 premium_career {span} -> {row}"]
        yield from moment(instant, dates, renewal)


def annual(anchor: int, year: int) -> Iterator[str]:
    """One event opens all twelve lots; nothing has to run on the days."""
    dates = starts(anchor, year)
    yield title(anchor, year, "paid for at once")
    yield f"at {write_instant(dates[0])}"
    rows = [f"granted +{CREDITS} granted_at {write_instant(d)} until {write_instant(d + LIFE)}" for d in dates[:-1]]
    span = f"{write_instant(dates[0])}..{write_instant(dates[-1])}"
    yield f"activate s-1 premium_career {span} annual -> {'; '.join(rows)}"
    for instant in instants_of(dates[:-1]):
        yield from moment(instant, dates, [])


def refusals(anchor: int, year: int) -> Iterator[str]:
    """Who has spent everything is told the next date, derived from the anchor also right after a short month."""
    dates = starts(anchor, year)
    yield title(anchor, year, "monthly, always spent,")
    yield "catalogue plans.premium_career.credits = 1"
    for month, (start, end) in enumerate(pairwise(dates)):
        verb = "renew" if month else "activate"
        yield f"at {write_instant(start)}"
        yield f"{verb} s-1 premium_career {write_instant(start)}..{write_instant(end)} -> granted +1"
        yield from spend(end)


def annual_refusals(anchor: int, year: int) -> Iterator[str]:
    """The same in an annual term, where the dates were settled on its first day."""
    dates = starts(anchor, year)
    yield title(anchor, year, "paid for at once, always spent,")
    yield "catalogue plans.premium_career.credits = 1"
    rows = "; ".join(["granted +1"] * 12)
    yield f"activate s-1 premium_career {write_instant(dates[0])}..{write_instant(dates[-1])} annual -> {rows}"
    for start, end in pairwise(dates):
        yield f"at {write_instant(start)}"
        yield from spend(end)


def spend(following: datetime) -> Iterator[str]:
    """Spend the one credit that is there, and be told when the next one comes."""
    yield "send bob -> charged -1; exhausted"
    yield f"send bob -> insufficient_credits next {write_instant(following)}"


def instants_of(dates: list[datetime]) -> list[datetime]:
    """Return when something starts or ends, in order."""
    return sorted({*dates, *(date + LIFE for date in dates)})


def balance(instant: datetime, dates: list[datetime]) -> int:
    """Return what is alive at an instant: five credits for each of the twelve dates in the ninety days before it."""
    return CREDITS * sum(date <= instant < date + LIFE for date in dates[:-1])


def moment(instant: datetime, dates: list[datetime], events: list[str]) -> Iterator[str]:
    """Look at the last moment before an instant, then let happen what does at it, and look at what is left."""
    yield f"at {write_instant(instant - MOMENT)} | balance {balance(instant - MOMENT, dates)}"
    *lines, last = [f"at {write_instant(instant)}", *events, *expiry(instant, dates)]
    yield from lines
    yield f"{last} | balance {balance(instant, dates)}"


def expiry(instant: datetime, dates: list[datetime]) -> list[str]:
    """Book what ends at an instant, if anything does."""
    left = balance(instant, dates)
    rows = [
        f"expired -{CREDITS} lot {number} before {left} after {left}" + ("; exhausted" if left == 0 else "")
        for number, date in enumerate(dates[:-1], 1)
        if date + LIFE == instant
    ]
    return [f"tick -> {'; '.join(rows)}"] if rows else []


if __name__ == "__main__":
    for day in ANCHORS:
        (FOLDER / year_file(day)).write_text(year_tables(day))
