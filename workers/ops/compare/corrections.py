"""Computes adjustments that correct the live ledger after decisions by a wrong catalogue, for a person to publish.

Decisions are final. But an adjustment upward makes up for a lot that got too few credits or lost them too early, and
for a send that was charged and should have been free; an adjustment downward takes credits that a lot should not have
and still holds. Lots that have ended in both ledgers get none.
An adjustment's id follows from its lot or send: publishing
it twice adjusts once, and adjustments that the live ledger has answered are left out.
"""

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import asyncpg

from infra.postgres import Connection
from infra.settings import Settings
from schemas.billing import CreditsAdjusted
from schemas.ids import NAMESPACE
from workers.ops.compare.merge_join import CommonRange, common_range, joined_lines, open_both
from workers.ops.compare.queries import ENTRIES_READ, RANGE_ARGUMENTS, LineKind

__all__ = ["Corrections", "LotState", "find_corrections", "owed_credits"]

_SOURCE: Final = "/inmail/replay/shadow"
_LOTS: Final = f"""
select
    a.account_id, l.request_id, l.granted_at,
    l.granted, l.remaining, l.open, l.expires_at,
    coalesce(m.lost, 0) as lost, coalesce(m.cut, 0) as cut, v.lot is not null as voided
from (
    select
        j.account, j.lot,
        sum(-j.amount) filter (where j.code in ('expired', 'forfeited')) as lost,
        sum(-j.amount) filter (where j.code = 'cap_forfeited') as cut
    from ({ENTRIES_READ}) as j
    where j.lot is not null
    group by 1, 2
    having bool_or(j.code = 'granted')
) as m
inner join lots as l on m.account = l.account and m.lot = l.lot
inner join accounts as a on l.account = a.account
left join (select distinct j.account, j.lot from journal as j where j.code = 'voided') as v
    on l.account = v.account and l.lot = v.lot
order by 1, 2, 3
"""  # noqa: S608 - a constant
_SENDS: Final = f"""
select
    a.account_id, j.request_id,
    j.code, l.open, l.expires_at, r.reverses is not null as reversed
from ({ENTRIES_READ}) as j
inner join accounts as a on j.account = a.account
left join lots as l on j.account = l.account and j.lot = l.lot
left join journal as r on j.account = r.account and j.sequence = r.reverses and r.code = 'reversed'
where j.is_answer and j.code in ('charged', 'free')
order by 1, 2
"""  # noqa: S608 - a constant
_OF_LOTS: Final = LineKind("lots owed", "lot", 3, ("account_id",), "", False, RANGE_ARGUMENTS, (), _LOTS)
_OF_SENDS: Final = LineKind("sends owed", "send", 2, ("account_id",), "", False, RANGE_ARGUMENTS, (), _SENDS)

OwedCredits = dict[UUID, tuple[str, int]]  # account and credits by the adjustment's id


class LotState(NamedTuple):
    """A lot's state in one of the ledgers."""

    granted: int
    remaining: int
    open: bool
    expires_at: datetime
    lost: int  # by expiry or a plan change
    cut: int  # by a cap
    voided: bool

    def is_live(self, as_of: datetime) -> bool:
        """Return whether the lot has not ended."""
        return self.open and self.expires_at > as_of

    def kept_credits(self, *, whole: bool) -> int:
        """Return the credits granted and not lost, spent credits included."""
        return self.granted - self.lost - (self.cut if whole else 0)


@dataclass(slots=True)
class Corrections:
    """The adjustments, and the numbers of those left out."""

    events: list[CreditsAdjusted] = field(default_factory=list)
    made_before: int = 0  # adjustments that the live ledger has carried out
    refused_before: int = 0  # adjustments that it refused: more than the balance, or an erased account
    in_one_only: int = 0  # lots left out because the rebuilt ledger lacks the beginning
    begin_later: int = 0  # lots that differ and have not started: an adjustment would come too early

    def add(self, other: "Corrections") -> None:
        """Add the corrections of another server, whose accounts are others."""
        self.events += other.events
        self.made_before += other.made_before
        self.refused_before += other.refused_before
        self.in_one_only += other.in_one_only
        self.begin_later += other.begin_later

    def summary(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        credits_ = [event.data.credits for event in self.events]
        return {
            "adjustments": len(self.events),
            "accounts": len({event.subject for event in self.events}),
            "credits_to_give": sum(each for each in credits_ if each > 0),
            "credits_to_take": -sum(each for each in credits_ if each < 0),
            "made_before": self.made_before,
            "refused_before": self.refused_before,
            "in_one_only": self.in_one_only,
            "begin_later": self.begin_later,
        }


async def find_corrections(  # noqa: PLR0913 - both ledgers, by whom, and of what
    before: Settings, after: Settings, actor: str, reason: str, *, whole: bool, numbers: Sequence[int] = ()
) -> Corrections:
    """Return the adjustments that correct the live ledger, as of its latest watermark.

    Args:
        before: where the live ledger is.
        after: where the ledger rebuilt with the right catalogue is.
        actor: the actor of the adjustments.
        reason: their reason.
        whole: whether the rebuilt ledger has all records from the beginning. Otherwise only lots in both ledgers are
            corrected, and credits cut by a cap, which depend on earlier lots, are not. So it is where the ledgers
            themselves say that records are lacking.
        numbers: the partition numbers that were rebuilt of one of several servers; none for all.

    Raises:
        RefusedError: when the live ledger has other numbers now.
        NotSetUpError: when one of the databases was never migrated.
        OSError, asyncpg.PostgresError: when one of the databases cannot be reached or refuses.

    """
    found = Corrections()
    async with open_both(before, after, numbers) as (live, other):
        as_of = await live.fetchval("select max(as_of) from lanes")
        limits = await common_range(live, other)
        owed = await _owed_for_lots(live, other, limits, found, as_of, whole=whole and limits.complete)
        owed |= await _owed_for_sends(live, other, limits, as_of)
        answered = await _answered(live, owed)
    found.made_before = sum(answered.values())
    found.refused_before = len(answered) - found.made_before
    found.events = [
        CreditsAdjusted.create(
            id=id_,
            source=_SOURCE,
            subject=account,
            time=as_of,
            data={"credits": credits_, "actor": actor, "reason": reason},
        )
        for id_, (account, credits_) in owed.items()
        if id_ not in answered
    ]
    return found


async def _owed_for_lots(  # noqa: PLR0913 - both ledgers, and their common range
    live: Connection, other: Connection, limits: CommonRange, found: Corrections, as_of: datetime, *, whole: bool
) -> OwedCredits:
    owed: OwedCredits = {}
    async with aclosing(joined_lines(_OF_LOTS, live, other, limits)) as pairs:
        async for mine, theirs in pairs:
            if not (credits_ := owed_credits(_state_of(mine), _state_of(theirs), as_of, whole=whole)):
                continue
            line = mine if mine is not None else theirs
            assert line is not None  # noqa: S101 - at least one line exists
            if not whole and (mine is None or theirs is None):
                found.in_one_only += 1
            elif line["granted_at"] > as_of:
                found.begin_later += 1
            else:
                name = f"{line['account_id']}/{line['request_id']}/{line['granted_at'].isoformat()}"
                owed[uuid5(NAMESPACE, f"correction {name}")] = (line["account_id"], credits_)
    return owed


async def _owed_for_sends(live: Connection, other: Connection, limits: CommonRange, as_of: datetime) -> OwedCredits:
    owed: OwedCredits = {}
    async with aclosing(joined_lines(_OF_SENDS, live, other, limits)) as pairs:
        async for mine, theirs in pairs:
            if mine is None or theirs is None or (mine["code"], theirs["code"]) != ("charged", "free"):
                continue
            if mine["open"] and mine["expires_at"] > as_of and not mine["reversed"]:
                name = f"{mine['account_id']}/{mine['request_id']}"
                owed[uuid5(NAMESPACE, f"correction {name}")] = (mine["account_id"], 1)
    return owed


def owed_credits(mine: LotState | None, theirs: LotState | None, as_of: datetime, *, whole: bool) -> int:
    """Return the credits that the live ledger owes for a lot; negative: credits that the lot should not hold."""
    if mine is not None and mine.voided:
        return 0  # withdrawn by billing: nothing is owed
    if theirs is None or not theirs.is_live(as_of):
        return -mine.remaining if mine is not None and mine.is_live(as_of) else 0
    if mine is None:
        return theirs.kept_credits(whole=whole)
    return max(theirs.kept_credits(whole=whole) - mine.kept_credits(whole=whole), -mine.remaining)


def _state_of(line: asyncpg.Record | None) -> LotState | None:
    return None if line is None else LotState(*tuple(line)[_OF_LOTS.keys :])


async def _answered(live: Connection, ids: Iterable[UUID]) -> dict[UUID, bool]:
    """Return the ids of adjustments that the live ledger has answered, each with whether credits moved."""
    rows = await live.fetch(
        "select request_id, amount <> 0 from journal"
        " where request_id = any($1::uuid[]) and is_answer"
        " and code <> 'key_conflict' and code <> 'balance_not_current'",
        list(ids),
    )
    return {row[0]: row[1] for row in rows}
