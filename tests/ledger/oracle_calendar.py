"""The oracle's calendar: the dates that an anchor day gives, the periods of an event, and when two periods are one."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, time, timedelta

__all__ = ["Period", "anchor_of", "anchored", "months_of_term", "shift_of"]

MONTHS = 12
DAY = timedelta(days=1)
EARLIEST_MIDNIGHT = time(10)  # UTC, of a day that begins in UTC+14


@dataclass(frozen=True)
class Period:
    """One month, or whatever billing calls a period, of a subscription: [start, end)."""

    start: datetime
    end: datetime
    begins_change: bool = False  # the first period of a plan change, which cuts short what began before it

    def tells_of(self, other: "Period") -> bool:
        """Rule 11: whether two events that name these periods tell of one.

        A plan change is no twin of what began before it.
        """
        if self.start == other.start:
            return True
        later = max(self, other, key=lambda period: period.start)
        shared = min(self.end, other.end) - later.start
        shorter = min(self.end - self.start, other.end - other.start)
        return 2 * shared > shorter and not later.begins_change


def anchored(start: datetime, anchor_day: int, months: int) -> datetime:
    """Rule 11: the date `months` after `start`, derived from the anchor day and never from the date before it.

    East of Greenwich, where the anchor is the day that begins at `start`, it is the day that begins at the date.
    """
    if months == 0:
        return start
    shift = DAY * (shift_of(start, anchor_day) or 0)
    there = start + shift
    year, month = divmod(there.year * 12 + there.month - 1 + months, 12)
    return there.replace(year=year, month=month + 1, day=day_in(year, month + 1, anchor_day)) - shift


def day_in(year: int, month: int, anchor_day: int) -> int:
    """Return the anchor's day in a month: the month's last, where the month is shorter."""
    return min(anchor_day, monthrange(year, month)[1])


def shift_of(start: datetime, anchor_day: int) -> int | None:
    """Return by how many days the anchor's calendar is ahead of UTC, or None if `start` is not on the anchor."""
    if start.day == day_in(start.year, start.month, anchor_day):
        return 0
    there = start + DAY
    if start.time() >= EARLIEST_MIDNIGHT and there.day == day_in(there.year, there.month, anchor_day):
        return 1
    return None


def anchor_of(start: datetime, told: int | None, known: tuple[datetime, int] | None) -> int:
    """Rule 11: the anchor that an event tells, or else the known one that its start is on, or else the start's day.

    `known` is a period start and its anchor day, and counts in the same calendar only.
    """
    if told:
        return told
    if known and shift_of(start, known[1]) == shift_of(*known):
        return known[1]
    return start.day


def months_of_term(start: datetime, end: datetime, anchor_day: int) -> list[Period]:
    """Rule 11: the up to twelve months of an annual term, dated by the anchor day; the last ends with the term.

    A rest of less than a day is no month: a term that ends in winter time is an hour longer than its months in UTC.
    """
    dates = [anchored(start, anchor_day, month) for month in range(MONTHS + 1)]
    starts = [start, *(date for date in dates[1:MONTHS] if date + DAY <= end)]
    after = dates[len(starts)]
    return [Period(*pair) for pair in zip(starts, [*starts[1:], after if after + DAY <= end else end], strict=True)]
