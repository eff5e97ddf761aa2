"""Locks a batch's accounts, and tells which of them are booked on another Postgres server."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from infra.postgres import Connection
from workers.ledger.model import Request

__all__ = ["Locked", "lock_accounts"]

_ELSEWHERE = """
select u.account_id, u.number
from (
    select
        w.account_id,
        coalesce(w.own, account_number(w.account_id, (select p.partitions from partitioning as p))) as number
    from unnest($1::text[], $2::integer[]) as w (account_id, own)
) as u
where not holds_number(u.number)
"""


class Locked(NamedTuple):
    """The accounts of a batch, each by its id."""

    accounts: dict[str, int]  # their keys; one that is booked elsewhere has none here unless it was booked here before
    numbers: dict[str, int]  # their own partitions
    elsewhere: dict[str, int]  # the own partitions of those that another server books: mostly of none


async def lock_accounts(connection: Connection, requests: Sequence[Request[Any]]) -> Locked:
    """Lock the accounts of a batch, and open those never seen whose number this server holds."""
    first = {request.account_id: request.partition for request in reversed(requests)}
    rows = await connection.fetch(
        "select account_id, account, partition from lock_accounts($1, $2)", list(first), list(first.values())
    )
    accounts = {row[0]: row[1] for row in rows}
    numbers = {row[0]: row[2] for row in rows}
    # A number that a record of the batch came in on is held: its lane is, in this transaction.
    elsewhere = {} if numbers == first else await _find_elsewhere(connection, numbers, first)
    return Locked(accounts, numbers, elsewhere)


async def _find_elsewhere(
    connection: Connection, numbers: Mapping[str, int], first: Mapping[str, int]
) -> dict[str, int]:
    doubtful = sorted(account_id for account_id, number in first.items() if numbers.get(account_id) != number)
    rows = await connection.fetch(_ELSEWHERE, doubtful, [numbers.get(account_id) for account_id in doubtful])
    return {row[0]: row[1] for row in rows}
