"""Instants: aware datetimes in UTC, converted from Kafka's milliseconds without rounding."""

from datetime import UTC, datetime, timedelta

__all__ = ["EARLIEST", "EPOCH", "LATEST", "from_milliseconds", "nearest_instant", "to_milliseconds", "utc_now"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)  # events may have no earlier instant
LATEST = datetime.max.replace(tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def from_milliseconds(milliseconds: int) -> datetime:
    """Return the instant of a Kafka timestamp (milliseconds since the epoch)."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def nearest_instant(milliseconds: int) -> datetime:
    """Return the instant of a Kafka timestamp, or the first or last instant of the calendar for one outside of it."""
    try:
        return from_milliseconds(milliseconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if milliseconds > 0 else datetime.min.replace(tzinfo=UTC)


def to_milliseconds(instant: datetime) -> int:
    """Return an instant as a Kafka timestamp, rounded down to the millisecond."""
    return (instant - EPOCH) // _MILLISECOND


def utc_now() -> datetime:
    """Return this machine's time. Decisions never use this time; they use the broker's."""
    return datetime.now(UTC)
