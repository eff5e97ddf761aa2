"""The ids that producers gave to their requests where these are no UUIDs: kept once, and told with each answer."""

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from infra.postgres import Connection
from schemas.ids import DerivedId
from workers.ledger.model import Request

__all__ = ["keep_original_ids", "read_original_ids"]

# Rows are compared, as in `stored_answers.sql`: the index by account would read all ids of a busy one.
_READ = """
select o.account, o.request_id, o.original
from unnest($1::bigint[], $2::uuid[]) as r (account, request_id)
cross join lateral (
    select x.* from original_ids as x
    where
        (x.request_id, x.account) >= (r.request_id, r.account)
        and (x.request_id, x.account) <= (r.request_id, r.account)
    order by x.request_id, x.account
    limit 1
) as o
"""


async def keep_original_ids(
    connection: Connection, accounts: Mapping[str, int], requests: Iterable[Request[Any]]
) -> None:
    """Write down the ids of requests that are no UUIDs, as their producers gave them."""
    rows = [
        (accounts[request.account_id], request.request_id, request.request_id.original.encode())
        for request in requests
        if isinstance(request.request_id, DerivedId)
    ]
    if rows:
        await connection.execute(
            "insert into original_ids (account, request_id, original)"
            " select * from unnest($1::bigint[], $2::uuid[], $3::bytea[]) on conflict do nothing",
            *map(list, zip(*rows, strict=True)),
        )


async def read_original_ids(
    connection: Connection, accounts: Mapping[str, int], requests: Iterable[Request[Any]]
) -> dict[tuple[int, UUID], str]:
    """Return the ids that producers gave to requests which came by their derived id, by account and request id.

    Whoever reads results knows a request by its derived id, and may send it again by that. Only a UUIDv5 can be one.
    """
    named = [
        (accounts[request.account_id], request.request_id)
        for request in requests
        if request.request_id.int >> 76 & 0xF == 5 and not isinstance(request.request_id, DerivedId)
    ]
    if not named:
        return {}
    rows = await connection.fetch(_READ, *map(list, zip(*named, strict=True)))
    return {(account, request_id): original.decode() for account, request_id, original in rows}
