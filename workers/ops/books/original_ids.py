"""Request ids of requests whose producers gave them an id that is no UUID."""

import json
from collections.abc import Iterable
from typing import Final
from uuid import UUID

from infra.postgres import Connection
from infra.settings import Settings
from schemas.content_modes import parse_uuid
from workers.ops.books.shards import ServerError, ask_each_server

__all__ = ["UnknownRequestError", "find_request_id", "find_request_ids", "only_request_id"]

_NAMED: Final = 5  # request ids in a message

_BY_ACCOUNT: Final = """
select request_id from original_ids
where account = (select account from accounts where account_id = $2) and original = $1
order by request_id
"""
_OF_ALL: Final = "select distinct request_id from original_ids where original = $1 order by request_id"


class UnknownRequestError(Exception):
    """The request was found neither in the ledger's database nor in the searched part of the topics."""


async def find_request_id(settings: Settings, text: str) -> UUID:
    """Return the request id that somebody names: a UUID, or what a producer gave a decided request instead.

    Raises:
        UnknownRequestError: when no request or several have the producer's id.
        ServerError: when none of several servers that answer knows it.
        NotSetUpError, OSError, asyncpg.PostgresError: of the only server.

    """
    if (request_id := parse_uuid(text)) is not None:
        return request_id
    told = await ask_each_server(settings, lambda connection, _: find_request_ids(connection, text, None))
    return only_request_id(text, (id_ for each in told.answers for id_ in each), told.silent)


def only_request_id(original: str, found: Iterable[UUID], silent: Iterable[ServerError]) -> UUID:
    """Return the request id that a producer's id stands for.

    Raises:
        UnknownRequestError: when it stands for none or for several.
        ServerError: the same, and a server that does not answer may know it.

    """
    ids = sorted(set(found))
    if len(ids) == 1:
        return ids[0]
    for error in silent:
        raise error
    named = json.dumps(original)
    if ids:
        raise UnknownRequestError(
            f"{len(ids)} requests, of several sources, have the id {named}: name one by its request id:"
            f" {', '.join(map(str, ids[:_NAMED]))}"
        )
    raise UnknownRequestError(
        f"{named} is no UUID and no id of a decided request: name one that is not decided by its request id"
        " (docs/producers.md)"
    )


async def find_request_ids(connection: Connection, original: str, account_id: str | None) -> list[UUID]:
    """Return the request ids of decided requests that a producer gave this id; of one account, or of all.

    There are several where several sources use the same id.
    """
    given = (original.encode(),) if account_id is None else (original.encode(), account_id)
    return [row[0] for row in await connection.fetch(_OF_ALL if account_id is None else _BY_ACCOUNT, *given)]
