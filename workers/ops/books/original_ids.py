"""Request ids of requests whose producers gave them an id that is no UUID."""

from typing import Final
from uuid import UUID

from infra.postgres import Connection

__all__ = ["find_request_ids"]

_BY_ACCOUNT: Final = """
select request_id from original_ids
where account = (select account from accounts where account_id = $2) and original = $1
order by request_id
"""
_OF_ALL: Final = "select distinct request_id from original_ids where original = $1 order by request_id"


async def find_request_ids(connection: Connection, original: str, account_id: str | None) -> list[UUID]:
    """Return the request ids of decided requests that a producer gave this id; of one account, or of all.

    There are several where several sources use the same id.
    """
    given = (original.encode(),) if account_id is None else (original.encode(), account_id)
    return [row[0] for row in await connection.fetch(_OF_ALL if account_id is None else _BY_ACCOUNT, *given)]
