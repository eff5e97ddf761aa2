"""An account's balance over time: each instant at which it changed or will change, and what changed it.

It goes by the lots' ends and starts too, not by rows alone: a lot that ends takes its credits out of the balance at
that instant, though its row is booked by a later tick. At each instant it is what `balance_of` returns for it.
"""

import asyncio
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from asyncpg import Record

from infra.postgres import Connection
from workers.ledger.model import ACCEPTED, Code
from workers.ops.books.balance import CLOSED_EARLY, choose_instant, lot_end, read_account
from workers.ops.books.shards import by_account

__all__ = ["BalanceHistory", "BalancePoint", "ChangeKind", "balance_history_of", "read_balance_history", "thin"]

_MAX_ROWS: Final = 100_000  # of an account: a page's memory and time


class ChangeKind(StrEnum):
    """What a row did to an account, in a word for a chart."""

    GRANTED = "granted"
    SENT = "sent"
    RETURNED = "returned"
    TAKEN = "taken"  # by billing, an operator or a cap
    EXPIRED = "expired"
    REFUSED = "refused"


class BalancePoint(NamedTuple):
    """The balance from an instant on."""

    at: datetime
    balance: int


class BalanceChange(NamedTuple):
    """One row, at the time of its effect: an expiry's is its lot's end."""

    at: datetime
    kind: ChangeKind
    credits: int


@dataclass(frozen=True, slots=True)
class BalanceHistory:
    """The balance over time. Points after `as_of` tell what happens if nothing is sent or granted.

    Of more rows than are read the earliest are told: then it ends before `cut_at`, which is its `as_of` too.
    """

    account_id: str
    as_of: datetime
    points: tuple[BalancePoint, ...]
    changes: tuple[BalanceChange, ...]
    cut_at: datetime | None = None


_KINDS: Final[Mapping[str, ChangeKind]] = {
    Code.GRANTED: ChangeKind.GRANTED,
    Code.CHARGED: ChangeKind.SENT,
    Code.FREE: ChangeKind.SENT,
    Code.REVERSED: ChangeKind.RETURNED,
    Code.EXPIRED: ChangeKind.EXPIRED,
    **dict.fromkeys((Code.VOIDED, Code.FORFEITED, Code.CAP_FORFEITED, Code.ADJUSTED), ChangeKind.TAKEN),
}

_LOTS: Final = """
select l.lot, l.subscription_id, l.granted, l.granted_at, l.full_expires_at, j.*
from lots as l
join (
    select r.lot,
        min(r.lot_expires_at) filter (where r.code = 'granted') as first_until,
        min(r.sequence) filter (where r.code = 'granted') as opened_by,
        min(r.sequence) filter (where r.code in ('voided', 'forfeited', 'expired')) as closed_by
    from journal as r
    where r.account = $1 and r.lot is not null
    group by r.lot
    having min(r.as_of) <= $2
) as j using (lot)
where l.account = $1
"""

_ROWS: Final = """
select sequence, as_of, code, is_answer, amount, lot, lot_expires_at,
    case when code in ('cancelled', 'cancellation_taken_back') then details end as details
from journal
where account = $1 and as_of <= $2
order by as_of, sequence
limit $3
"""


async def balance_history_of(connection: Connection, account_id: str, as_of: datetime | None = None) -> BalanceHistory:
    """Return an account's balance over time. `balance_of` describes the default of `as_of`.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    account = await read_account(connection, account_id)
    as_of, _ = choose_instant(as_of, account["last"])
    rows = await connection.fetch(_ROWS, account["account"], as_of, _MAX_ROWS + 1)
    cut_at: datetime | None = rows[_MAX_ROWS]["as_of"] if len(rows) > _MAX_ROWS else None
    as_of = cut_at or as_of
    lots = await connection.fetch(_LOTS, account["account"], as_of)
    points, changes = await asyncio.to_thread(_pass_through, lots, rows[:_MAX_ROWS], cut_at)
    return BalanceHistory(account_id, as_of, points, changes, cut_at)


read_balance_history: Final = by_account(balance_history_of)


def _pass_through(
    lots: Sequence[Record], records: Sequence[Record], cut_at: datetime | None
) -> tuple[tuple[BalancePoint, ...], tuple[BalanceChange, ...]]:
    """Return what rows tell. It takes seconds for a long history: no event loop should wait for it."""
    rows = [dict(record) for record in records]
    sweep = _Sweep({row["lot"]: _Lot(dict(row), until=row["first_until"] or row["full_expires_at"]) for row in lots})
    for row in rows:
        sweep.advance(row["as_of"])
        sweep.apply(row)
    sweep.advance(cut_at)
    changes = sorted(change for row in rows if (change := _change_of(row)) is not None)
    if cut_at is None:
        return tuple(sweep.points), tuple(changes)
    # At that instant itself some rows are read and others are not.
    return tuple(each for each in sweep.points if each.at < cut_at), tuple(each for each in changes if each.at < cut_at)


def _change_of(row: Mapping[str, Any]) -> BalanceChange | None:
    """Return what a row did; None for a notice, and for an answer that moved nothing."""
    if (kind := _KINDS.get(row["code"])) is not None:
        ended = kind is ChangeKind.EXPIRED and row["lot_expires_at"] is not None
        return BalanceChange(row["lot_expires_at"] if ended else row["as_of"], kind, abs(row["amount"]))
    if row["is_answer"] and Code(row["code"]) not in ACCEPTED:
        return BalanceChange(row["as_of"], ChangeKind.REFUSED, 0)
    return None


@dataclass(slots=True)
class _Lot:
    """A lot while time passes. It exists from its first row on, of whatever kind."""

    facts: Mapping[str, Any]
    until: datetime
    remaining: int = 0
    exists: bool = False
    closed: bool = False  # before its end
    counted: int = 0  # its part of the balance

    def part(self, now: datetime) -> int:
        return self.remaining if not self.closed and self.facts["granted_at"] <= now < self.until else 0


@dataclass(slots=True)
class _Sweep:
    """Passes through rows and through the lots' starts and ends, in the order of time."""

    lots: Mapping[int, _Lot]
    points: list[BalancePoint] = field(default_factory=list)
    _balance: int = 0
    _boundaries: list[tuple[datetime, int]] = field(default_factory=list)
    _cancels: list[Mapping[str, Any]] = field(default_factory=list)

    def advance(self, to: datetime | None) -> None:
        """Pass each lot's start and end up to an instant, included; to the last where it is None."""
        while self._boundaries and (to is None or self._boundaries[0][0] <= to):
            at, lot = heapq.heappop(self._boundaries)
            self._count(self.lots[lot], at)

    def apply(self, row: Mapping[str, Any]) -> None:
        """Apply a row."""
        now = row["as_of"]
        if (lot := self.lots.get(row["lot"])) is not None:
            if not lot.exists:
                lot.exists, lot.remaining = True, lot.facts["granted"]
                self._watch(lot, now)
            if row["code"] != Code.GRANTED:
                lot.remaining += row["amount"]
            lot.closed = lot.closed or row["code"] in CLOSED_EARLY
            self._count(lot, now)
        if row["details"] is not None:
            self._cancels = sorted([*self._cancels, row], key=lambda each: each["sequence"])
            for each in self.lots.values():
                if each.facts["subscription_id"] == row["details"]["subscription_id"]:
                    self._move_end(each, now)

    def _move_end(self, lot: _Lot, now: datetime) -> None:
        if lot.facts["opened_by"] is None:
            return
        lot.until = lot_end(lot.facts, self._cancels)
        if lot.exists:
            self._watch(lot, now)
            self._count(lot, now)

    def _watch(self, lot: _Lot, now: datetime) -> None:
        for at in (lot.facts["granted_at"], lot.until):
            if at > now:
                heapq.heappush(self._boundaries, (at, lot.facts["lot"]))

    def _count(self, lot: _Lot, now: datetime) -> None:
        """Count a lot's part anew, and note the balance where that changes it."""
        part = lot.part(now)
        if part == lot.counted:
            return
        self._balance += part - lot.counted
        lot.counted = part
        if self.points and self.points[-1].at >= now:
            self.points[-1] = BalancePoint(self.points[-1].at, self._balance)
        else:
            self.points.append(BalancePoint(now, self._balance))


def thin(points: Sequence[BalancePoint], most: int) -> list[BalancePoint]:
    """Return at most about `most` points: of each stretch of time its least, its greatest and its last balance."""
    if len(points) <= most:
        return list(points)
    first, span = points[0].at, points[-1].at - points[0].at
    stretches: dict[int, list[BalancePoint]] = {}
    for point in points:
        stretches.setdefault(int((point.at - first) / span * (most // 3)), []).append(point)
    kept: list[BalancePoint] = []
    for found in stretches.values():
        least, greatest = min(found, key=lambda each: each.balance), max(found, key=lambda each: each.balance)
        kept += sorted({least, greatest, found[-1]})
    return kept
