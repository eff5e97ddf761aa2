"""An account's balance over time as JSON for a chart: bounded, however long the account's history is."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from workers.ops.books.balance_history import BalanceHistory, BalancePoint, thin

__all__ = ["balance_history_json"]

_MAX_POINTS: Final = 900
_SLOTS: Final = 240  # of the range: changes of one kind in a slot are one mark
_LEAST: Final = timedelta(hours=1)


def balance_history_json(history: BalanceHistory, days: int | None) -> dict[str, Any]:
    """Return the balance from `days` before its time to as long after it, as far as it changes; by default all of it.

    Changes are counted in slots of equal length, each told by the time of its last change.
    """
    times = [*(point.at for point in history.points[:1]), *(change.at for change in history.changes[:1])]
    start = min(times, default=history.as_of)
    if days is not None:
        start = max(start, _shift(history.as_of, -timedelta(days=days)))
    end = max([history.as_of, *(point.at for point in history.points[-1:])])
    end = _shift(end, (end - start) / 50)  # the last step is to be seen
    if days is not None:  # what is to come gets no more room than what was
        end = min(end, _shift(history.as_of, max(history.as_of - start, _LEAST)))
    end = max(end, _shift(start, _LEAST))
    start = min(start, _shift(end, -_LEAST))
    inside = [point for point in history.points if start < point.at <= end]
    before = [point.balance for point in history.points if point.at <= start]
    points = thin([BalancePoint(start, before[-1] if before else 0), *inside], _MAX_POINTS)
    return {
        "account_id": history.account_id,
        "as_of": history.as_of,
        "from": start,
        "to": end,
        "cut_at": history.cut_at,
        "points": [{"at": point.at, "balance": point.balance} for point in points],
        "changes": _changes(history, start, end),
    }


def _shift(instant: datetime, by: timedelta) -> datetime:
    """Return an instant later or earlier, or the first or last of the calendar for one outside of it."""
    try:
        return instant + by
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if by > timedelta() else datetime.min.replace(tzinfo=UTC)


def _changes(history: BalanceHistory, start: datetime, end: datetime) -> list[dict[str, Any]]:
    slots: dict[tuple[str, int], dict[str, Any]] = {}
    for change in history.changes:
        if not start <= change.at <= history.as_of:
            continue
        slot = int((change.at - start) / (end - start) * _SLOTS)
        found = slots.setdefault((change.kind, slot), {"kind": change.kind, "count": 0, "credits": 0})
        found["at"] = change.at
        found["count"] += 1
        found["credits"] += change.credits
    return list(slots.values())
