"""Which privileges a user lacks on the table that Postgres has refused."""

import re
from collections.abc import Sequence
from typing import Final

import asyncpg
from pydantic import PostgresDsn

from infra.postgres import connect_database
from infra.settings import Settings

__all__ = ["MissingPrivilegesError", "explain_denial"]

_DENIED: Final = re.compile(r"permission denied for (?:table|view) (\w+)")


class MissingPrivilegesError(Exception):
    """The user lacks privileges on a table. The message names the user, each privilege and the table."""


async def explain_denial(
    error: asyncpg.InsufficientPrivilegeError, settings: Settings, needed: Sequence[str]
) -> MissingPrivilegesError | None:
    """Return which of the needed privileges (`select`, ...) the user lacks on the table that an error names.

    Returns:
        None where the error names no table, or nothing is missing on it.

    Raises:
        OSError, asyncpg.PostgresError: when the database cannot be asked.

    """
    if (found := _DENIED.search(str(error))) is None:
        return None
    table = found.group(1)
    connection = await connect_database(settings)
    try:
        user = await connection.fetchval("select current_user")
        lacking = [
            each
            for each in needed
            if not await connection.fetchval("select has_table_privilege(to_regclass($1), $2)", table, each)
        ]
    finally:
        await connection.close()
    if not lacking:
        return None
    (host, *_) = PostgresDsn(settings.database_url.get_secret_value()).hosts()
    names = ", ".join(each.upper() for each in lacking)
    return MissingPrivilegesError(
        f"Postgres at {host['host'] or 'the local socket'}:{host['port'] or 5432} does not let user {user} do this:"
        f" `grant {names} on {table} to {user}`"
    )
