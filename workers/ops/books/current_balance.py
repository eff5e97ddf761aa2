"""Accounts' balances now, by one statement whose work does not grow with the accounts' history.

`balance.py` computes the balance at any instant and reads all rows of the account for it. This module reads an
account, its last row and its lots; of several accounts at once, since a busy reader has several asked for together.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from infra.postgres import Connection

__all__ = [
    "LOTS_AT_MOST",
    "BalanceQuestion",
    "BalanceVersion",
    "CurrentBalance",
    "SpendableLot",
    "read_current_balances",
    "read_sequence",
]

LOTS_AT_MOST: Final = 200  # in an answer; the sum counts all of them


class BalanceVersion(NamedTuple):
    """Which state of an account's balance an answer has: that of a sequence, until time alone changes it."""

    sequence: int
    until: int  # microseconds since 1970; 0: for good


class BalanceQuestion(NamedTuple):
    """Whose balance is asked for, and which version the asker has."""

    account_id: str
    known: BalanceVersion | None = None


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

    @property
    def version(self) -> BalanceVersion:
        """The version of this answer: one that an asker has as well holds the same, but for `as_of`."""
        return BalanceVersion(self.sequence, 0 if self.changes_at is None else microseconds(self.changes_at))


def microseconds(instant: datetime) -> int:
    """Return an instant as microseconds since 1970."""
    return round(instant.timestamp() * 1_000_000)


# A lot's end is a predicate: that a tick has booked it is not needed. An account's last row may be later than `now`,
# since the brokers' clock gives rows their time. Of an account whose balance the asker has, no more is read.
_CURRENT: Final = f"""
with asked as materialized (
    select q.question, a.account_id, a.account, a.sequence, a.erased_at,
        coalesce(a.sequence = q.sequence and (q.until = 0 or $5 < q.until), false) as unchanged
    from unnest($1::text[], $3::bigint[], $4::bigint[]) with ordinality as q (account_id, sequence, until, question)
    inner join accounts as a on q.account_id = a.account_id and a.sequence > 0
),
timed as materialized (
    select asked.*, case when not asked.unchanged then greatest(
        $2, (select j.as_of from journal as j where j.account = asked.account and j.sequence = asked.sequence)
    ) end as as_of
    from asked
),
coming as materialized (
    select timed.*, case
        when not timed.unchanged and timed.erased_at is null then next_allotment(timed.account, timed.as_of)
    end as next_allotment_at
    from timed
)
select c.question, c.unchanged, c.account_id, c.sequence, c.as_of, c.erased_at, coalesce(s.spendable, 0) as spendable,
    least(s.changes_at, c.next_allotment_at) as changes_at, c.next_allotment_at, coalesce(s.lot_count, 0) as lot_count,
    s.lot, s.origin, s.subscription_id, s.plan, s.granted, s.remaining, s.granted_at, s.expires_at
from coming as c
left join lateral (
    select l.lot, l.origin, l.subscription_id, l.plan, l.granted, l.remaining, l.granted_at, l.expires_at, l.priority,
        count(*) over () as lot_count,
        coalesce(sum(l.remaining) filter (where l.granted_at <= c.as_of) over (), 0) as spendable,
        least(
            min(l.expires_at) filter (where l.granted_at <= c.as_of) over (),
            min(l.granted_at) filter (where l.granted_at > c.as_of) over ()
        ) as changes_at
    from lots as l
    where not c.unchanged and l.account = c.account and l.open and l.remaining > 0
        and l.granted_at < l.expires_at and c.as_of < l.expires_at
    order by l.priority, l.expires_at, l.lot
    limit {LOTS_AT_MOST}
) as s on true
order by c.question, s.priority, s.expires_at, s.lot
"""  # noqa: S608 - a constant
# An account has a row before its first decided event: of an event that was set aside as its plan is unknown.
_SEQUENCE: Final = "select sequence from accounts where account_id = $1 and sequence > 0"
_FACTS: Final = tuple(field.name for field in fields(CurrentBalance) if field.name != "lots")
_FIRST_FACT: Final = 2  # column of a row
_FIRST_OF_LOT: Final = _FIRST_FACT + len(_FACTS)


async def read_current_balances(
    connection: Connection, questions: Collection[BalanceQuestion], now: datetime
) -> dict[BalanceQuestion, CurrentBalance | BalanceVersion]:
    """Return the balances that are asked for, by question; the known version where it still holds.

    Unknown accounts are left out. Answers are of one snapshot of the database, and not older than the call.
    """
    asked = list(questions)
    rows = await connection.fetch(
        _CURRENT,
        [each.account_id for each in asked],
        now,
        [each.known and each.known.sequence for each in asked],
        [each.known and each.known.until for each in asked],
        microseconds(now),
    )
    found: dict[BalanceQuestion, CurrentBalance | BalanceVersion] = {}
    for number, its in groupby(map(tuple, rows), itemgetter(0)):
        question, lots = asked[number - 1], list(its)
        _, unchanged, *facts = lots[0][:_FIRST_OF_LOT]
        if unchanged and question.known is not None:
            found[question] = question.known
            continue
        # Without lots there is one row, without a lot.
        of_lots = tuple(SpendableLot(*row[_FIRST_OF_LOT:]) for row in lots if row[_FIRST_OF_LOT] is not None)
        named: dict[str, Any] = dict(zip(_FACTS, facts, strict=True))
        found[question] = CurrentBalance(**named, lots=of_lots)
    return found


async def read_sequence(connection: Connection, account_id: str) -> int | None:
    """Return the number of an account's newest journal row; None if the account is unknown."""
    sequence: int | None = await connection.fetchval(_SEQUENCE, account_id)
    return sequence
