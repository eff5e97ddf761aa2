"""An account's statement: what it can spend, lot by lot, and every line that led there."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books import open_books

__all__ = ["Line", "Lot", "Statement", "UnknownAccountError", "read_statement", "statement_of"]


class UnknownAccountError(Exception):
    """The books have no such account."""


@dataclass(frozen=True, slots=True)
class Lot:
    """One lot as it was at the statement's instant."""

    lot: int
    origin: str
    subscription_id: str | None
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime
    expires_at: datetime
    state: str  # available, later (its first instant is to come), ended, spent


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the journal."""

    sequence: int
    as_of: datetime
    code: str
    request_id: UUID
    amount: int
    lot: int | None
    balance_before: int
    balance_after: int
    recipient_id: str | None
    relationship: str | None
    next_allotment_at: datetime | None
    details: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Statement:
    """What an account has at one instant and how it came to have it."""

    account_id: str
    partition: int
    as_of: datetime
    chosen: str  # whose instant as_of is: "given", "clock" (this machine's) or "last_entry"
    balance: int
    expiring: tuple[tuple[datetime, int], ...]  # of the balance: how much ends when, soonest first
    lots: tuple[Lot, ...]
    lines: tuple[Line, ...]


# Wound back from what the lots hold now: up to the present that is what the workers decide by.
_LOTS = """
select l.lot, l.origin, l.subscription_id, l.plan, l.granted, l.granted_at, l.expires_at,
    l.remaining - coalesce(sum(j.amount) filter (where j.as_of > $2), 0) as remaining
from lots as l
left join journal as j on j.account = l.account and j.lot = l.lot
where l.account = $1
group by l.account, l.lot
-- In burn-down order; without the lots that were opened later.
having coalesce(min(j.as_of) <= $2, true)
order by l.priority, l.expires_at, l.lot
"""

_LINES = """
select sequence, as_of, code, request_id, amount, lot, balance_before, balance_after, recipient_id, relationship,
    next_allotment_at, details
from journal
where account = $1 and as_of <= $2
order by sequence
"""


async def read_statement(settings: Settings, account_id: str, as_of: datetime | None = None) -> Statement:
    """Return an account's statement from one snapshot of the books.

    Raises:
        UnknownAccountError: when the books have no such account.
        NotSetUpError: when the database was never migrated.
        OSError, asyncpg.PostgresError: when it cannot be reached or refuses.

    """
    async with open_books(settings) as connection:
        return await statement_of(connection, account_id, as_of)


async def statement_of(connection: Connection, account_id: str, as_of: datetime | None = None) -> Statement:
    """Return an account's statement.

    Without an instant it is this machine's time, but never before the account's last entry: the broker's clock may
    be ahead, and a topic may be told its times.

    Raises:
        UnknownAccountError: when the books have no such account.

    """
    row = await connection.fetchrow(
        "select a.account, a.partition, (select max(j.as_of) from journal as j where j.account = a.account) as last"
        " from accounts as a where a.account_id = $1",
        account_id,
    )
    if row is None:
        raise UnknownAccountError(f"the books have no account {account_id}")
    chosen = "given"
    if as_of is None:
        now, last = utc_now(), row["last"]
        as_of, chosen = (last, "last_entry") if last is not None and last > now else (now, "clock")
    lots = tuple(_lot(dict(lot), as_of) for lot in await connection.fetch(_LOTS, row["account"], as_of))
    lines = tuple(Line(**line) for line in await connection.fetch(_LINES, row["account"], as_of))
    available = [lot for lot in lots if lot.state == "available"]
    expiring: dict[datetime, int] = {}
    for lot in available:
        expiring[lot.expires_at] = expiring.get(lot.expires_at, 0) + lot.remaining
    return Statement(
        account_id,
        row["partition"],
        as_of,
        chosen,
        sum(lot.remaining for lot in available),
        tuple(sorted(expiring.items())),
        lots,
        lines,
    )


def _lot(row: Mapping[str, Any], as_of: datetime) -> Lot:
    if as_of >= row["expires_at"]:
        state = "ended"
    elif row["remaining"] == 0:
        state = "spent"
    else:
        state = "available" if row["granted_at"] <= as_of else "later"
    return Lot(**row, state=state)
