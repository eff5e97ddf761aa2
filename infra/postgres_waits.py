"""A connection to Postgres that marks each of its statements as a wait for the server."""

from functools import lru_cache
from typing import Any

import asyncpg

from infra.waiting import waiting_for

__all__ = ["marked_connection"]


@lru_cache(maxsize=16)
def marked_connection(server: str) -> type["asyncpg.Connection[asyncpg.Record]"]:
    """Return a class of connections that marks each statement as a wait for the server.

    One a server: a class is a cycle in memory, and `inmail metrics` connects for each scrape.
    """

    class MarkedConnection(asyncpg.Connection):
        async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109
            with waiting_for(server, "executing a statement"):
                return await super().execute(query, *args, timeout=timeout)

        async def _execute(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - asyncpg's
            with waiting_for(server, "executing a statement"):
                return await super()._execute(*args, **options)  # type: ignore[misc] # the stubs leave it out

    return MarkedConnection
