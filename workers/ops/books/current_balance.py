"""An account's balance now, by one statement whose work does not grow with the account's history.

`balance.py` computes the balance at any instant and reads all rows of the account for it. This module reads the
account, its last row and its lots.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from infra.postgres import Connection

__all__ = ["LOTS_AT_MOST", "CurrentBalance", "SpendableLot", "read_current_balance", "read_sequence"]

LOTS_AT_MOST: Final = 200  # in an answer; the sum counts all of them


@dataclass(frozen=True, slots=True)
class SpendableLot:
    """A lot with credits that can be spent now or later."""

    lot: int
    origin: str
    subscription_id: str | None
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CurrentBalance:
    """What an account can spend at `as_of`, after the journal row with number `sequence`."""

    account_id: str
    sequence: int
    as_of: datetime
    erased_at: datetime | None
    spendable: int
    changes_at: datetime | None  # the first instant after as_of at which the answer changes without a new row
    next_allotment_at: datetime | None
    lot_count: int  # of all lots with credits, of which `lots` has the first
    lots: tuple[SpendableLot, ...]  # in burn-down order


# A lot's end is a predicate: that a tick has booked it is not needed. The account's last row may be later than `now`,
# since the brokers' clock gives rows their time.
_CURRENT: Final = """
with asked as materialized (
    select a.account, a.sequence, a.erased_at, greatest($2, j.as_of) as as_of
    from accounts as a
    left join journal as j on j.account = a.account and j.sequence = a.sequence
    where a.account_id = $1
),
coming as materialized (
    select asked.*, next_allotment(asked.account, asked.as_of) as next_allotment_at
    from asked
)
select c.sequence, c.as_of, c.erased_at, c.next_allotment_at,
    l.lot, l.origin, l.subscription_id, l.plan, l.granted, l.remaining, l.granted_at, l.expires_at,
    count(l.lot) over () as lot_count,
    coalesce(sum(l.remaining) filter (where l.granted_at <= c.as_of) over (), 0) as spendable,
    least(
        min(l.expires_at) filter (where l.granted_at <= c.as_of) over (),
        min(l.granted_at) filter (where l.granted_at > c.as_of) over (),
        c.next_allotment_at
    ) as changes_at
from coming as c
left join lots as l
    on l.account = c.account and l.open and l.remaining > 0 and l.granted_at < l.expires_at and c.as_of < l.expires_at
order by l.priority, l.expires_at, l.lot
limit $3
"""


async def read_current_balance(connection: Connection, account_id: str, now: datetime) -> CurrentBalance | None:
    """Return an account's balance at `now`, or at the time of its last row if that is later; None if it is unknown."""
    rows = await connection.fetch(_CURRENT, account_id, now, LOTS_AT_MOST)
    if not rows:
        return None
    first = rows[0]
    return CurrentBalance(
        account_id,
        first["sequence"],
        first["as_of"],
        first["erased_at"],
        first["spendable"],
        first["changes_at"],
        first["next_allotment_at"],
        first["lot_count"],
        tuple(SpendableLot(*tuple(row)[4:12]) for row in rows if row["lot"] is not None),
    )


async def read_sequence(connection: Connection, account_id: str) -> int | None:
    """Return the number of an account's newest journal row; None if the account is unknown."""
    sequence: int | None = await connection.fetchval("select sequence from accounts where account_id = $1", account_id)
    return sequence
