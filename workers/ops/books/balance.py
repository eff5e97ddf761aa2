"""An account's balance at an instant, past or future, lot by lot.

A past balance is computed from the current lots and the broker times of the journal's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from shlex import quote
from typing import Any, Final

from infra.clock import utc_now
from infra.postgres import Connection
from workers.ops.books.shards import by_account

__all__ = [
    "CLOSED_EARLY",
    "Balance",
    "LotBalance",
    "UnknownAccountError",
    "balance_of",
    "choose_instant",
    "lot_end",
    "read_account",
    "read_balance",
    "readable_account_id",
]

CLOSED_EARLY: Final = ("voided", "forfeited")


class UnknownAccountError(Exception):
    """The ledger has no such account. `hint` is the command that lists what could not be decided for it."""

    def __init__(self, account_id: str) -> None:
        # Quoted for a shell, so that the command can be copied whatever the id is.
        self.hint = f"inmail dead-letters list --account {quote(account_id)}"
        super().__init__(
            f"the ledger has no account {account_id}: no event was decided for it."
            f" To see events that could not be decided: {self.hint}"
        )


@dataclass(frozen=True, slots=True)
class LotBalance:
    """One lot at an instant."""

    lot: int
    origin: str
    subscription_id: str | None
    plan: str | None
    granted: int
    remaining: int
    granted_at: datetime
    expires_at: datetime  # of an empty lot in the past: as in its last row, since a close may have booked no row
    state: str  # available, later (not yet started), ended, spent, voided, forfeited
    cap_to_come: int | None  # once the lot starts, a tick will cut the subscription's credits to this number


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's balance at one instant; for a future instant, provided that nothing happens until then."""

    account_id: str
    partition: int
    as_of: datetime
    chosen: str  # the source of as_of: "given", "clock" (of this machine) or "last_entry"
    erased_at: datetime | None
    balance: int
    expiring: tuple[tuple[datetime, int], ...]  # the parts of the balance by expiry, soonest first
    lots: tuple[LotBalance, ...]  # in burn-down order
    overtaken: int  # rows up to as_of booked after a row of a later time: that row's balance lacks them


# Each lot with its journal rows up to the instant and later. A lot exists from the time of its first row of any kind: a
# send may have been paid from a lot whose own event reached the broker after the send.
_LOTS = """
select l.*, j.first_until, j.opened_by, j.last_until, j.closed_by, j.closed_at, j.closed_as,
    l.remaining - j.later as held
from lots as l
join (
    select r.lot,
        min(r.lot_expires_at) filter (where r.code = 'granted') as first_until,
        min(r.sequence) filter (where r.code = 'granted') as opened_by,
        (array_agg(r.lot_expires_at order by r.sequence desc) filter (where r.as_of <= $2))[1] as last_until,
        min(r.sequence) filter (where r.code in ('voided', 'forfeited', 'expired')) as closed_by,
        min(r.as_of) filter (where r.code in ('voided', 'forfeited', 'expired')) as closed_at,
        min(r.code) filter (where r.code in ('voided', 'forfeited', 'expired')) as closed_as,
        coalesce(sum(r.amount) filter (where r.as_of > $2 and r.code <> 'granted'), 0) as later
    from journal as r
    where r.account = $1 and r.lot is not null
    group by r.lot
    having min(r.as_of) <= $2
) as j using (lot)
where l.account = $1
"""

_CANCELS = """
select sequence, code, as_of, details
from journal
where account = $1 and as_of <= $2 and code in ('cancelled', 'cancellation_taken_back')
order by sequence
"""

_ORDER = """
select count(*) filter (where as_of > $2) as later,
    count(*) filter (where as_of <= $2 and overtaken_by > $2) as overtaken
from (
    select as_of, max(as_of) over (order by sequence) as overtaken_by from journal where account = $1
) as j
"""


async def balance_of(connection: Connection, account_id: str, as_of: datetime | None = None) -> Balance:
    """Return an account's balance.

    `as_of` is by default this machine's time, or the time of the account's last row if that is later: the broker's
    clock may be ahead, and on some topics producers set the times.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    row = await read_account(connection, account_id)
    as_of, chosen = choose_instant(as_of, row["last"])
    order = await connection.fetchrow(_ORDER, row["account"], as_of)
    assert order is not None  # noqa: S101 - an aggregate returns its row
    found = [dict(lot) for lot in await connection.fetch(_LOTS, row["account"], as_of)]
    if order["later"]:
        cancels = [dict(cancel) for cancel in await connection.fetch(_CANCELS, row["account"], as_of)]
        for each in found:
            each["expires_at"] = lot_end(each, cancels) if each["held"] else each["last_until"]
    found.sort(key=lambda each: (each["priority"], each["expires_at"], each["lot"]))
    lots = tuple(_lot_balance(each, as_of) for each in found)
    available = [lot for lot in lots if lot.state == "available"]
    expiring: dict[datetime, int] = {}
    for lot in available:
        expiring[lot.expires_at] = expiring.get(lot.expires_at, 0) + lot.remaining
    erased_at = row["erased_at"]
    return Balance(
        account_id,
        row["partition"],
        as_of,
        chosen,
        erased_at if erased_at is not None and erased_at <= as_of else None,
        sum(lot.remaining for lot in available),
        tuple(sorted(expiring.items())),
        lots,
        order["overtaken"],
    )


read_balance: Final = by_account(balance_of)


def choose_instant(as_of: datetime | None, last: datetime | None) -> tuple[datetime, str]:
    """Return the instant that a balance is of, and where it comes from, given the time of the account's last row."""
    if as_of is not None:
        return as_of, "given"
    now = utc_now()
    return (last, "last_entry") if last is not None and last > now else (now, "clock")


async def read_account(connection: Connection, account_id: str) -> dict[str, Any]:
    """Return an account's row, with the time of the account's last journal row as `last`.

    Raises:
        UnknownAccountError: when the ledger has no such account.

    """
    row = None
    # Postgres takes neither surrogates nor the null character in a text.
    if (readable := readable_account_id(account_id)) == account_id and "\0" not in account_id:
        row = await connection.fetchrow(
            "select a.*, (select max(j.as_of) from journal as j where j.account = a.account) as last"
            " from accounts as a where a.account_id = $1",
            account_id,
        )
    if row is None:
        raise UnknownAccountError(readable)
    return dict(row)


def readable_account_id(account_id: str) -> str:
    """Return an account id with its surrogates escaped: a shell passes bytes that are not UTF-8 as surrogates."""
    return account_id.encode(errors="backslashreplace").decode()


def lot_end(lot: Mapping[str, Any], cancels: Sequence[Mapping[str, Any]]) -> datetime:
    """Return the end of a lot with credits, as of its grant and of the cancels while the lot was open.

    A cancel leaves the end of a lot that had ended by itself.
    """
    until: datetime = lot["first_until"]
    for row in cancels:
        of_this = row["details"]["subscription_id"] == lot["subscription_id"]
        if not of_this or row["sequence"] < lot["opened_by"] or row["sequence"] > (lot["closed_by"] or row["sequence"]):
            continue
        if row["code"] != "cancelled":
            until = lot["full_expires_at"]
        elif row["as_of"] < until:
            until = max(lot["granted_at"], min(until, datetime.fromisoformat(row["details"]["effective_at"])))
    return until


def _lot_balance(row: Mapping[str, Any], as_of: datetime) -> LotBalance:
    if row["closed_as"] in CLOSED_EARLY and row["closed_at"] <= as_of:
        state = row["closed_as"]
    elif as_of >= row["expires_at"]:
        state = "ended"
    elif row["held"] == 0:
        state = "spent"
    else:
        state = "available" if row["granted_at"] <= as_of else "later"
    return LotBalance(
        row["lot"],
        row["origin"],
        row["subscription_id"],
        row["plan"],
        row["granted"],
        row["held"],
        row["granted_at"],
        row["expires_at"],
        state,
        row["balance_cap"] if row["cap_pending"] else None,
    )
