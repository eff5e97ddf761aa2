"""Which privileges a user lacks on the table, schema or database that Postgres has refused."""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import asyncpg

from infra.postgres import Connection, database_address, open_database
from infra.settings import Settings

__all__ = ["MissingPrivilegesError", "explain_denial", "require_privileges"]

_DENIED: Final = re.compile(r"permission denied for (table|view|schema|database) (\S+)")
_LACKING: Final = """
select string_agg(upper(p.privilege), ', ' order by p.number)
from unnest($2::text[]) with ordinality as p (privilege, number)
where not has_table_privilege(to_regclass($1), p.privilege)
"""


class _Kind(NamedTuple):
    """A kind of things that privileges are given on."""

    words: str  # before the name, in `grant ... on`
    question: str  # whether the user has a privilege on it; null where there is no such thing
    needed: tuple[str, ...]
    at_once: bool = True  # False: whoever lacks one was not refused for want of a later one


_TABLE: Final = _Kind("", "select has_table_privilege(to_regclass($1), $2)", ("select",))
_KINDS: Final = {
    "table": _TABLE,
    "view": _TABLE,
    "schema": _Kind(
        "schema ", "select has_schema_privilege(to_regnamespace($1), $2)", ("usage", "create"), at_once=False
    ),
    # A database that is not this one belongs to another address, and perhaps to another user.
    "database": _Kind(
        "database ",
        "select has_database_privilege(oid, $2) from pg_database where datname = $1 and datname = current_database()",
        ("create",),
    ),
}


class MissingPrivilegesError(Exception):
    """The user lacks privileges. The message names the user, each privilege and what it is on."""


async def explain_denial(
    error: asyncpg.InsufficientPrivilegeError, settings: Settings, privileges: Mapping[str, Sequence[str]]
) -> MissingPrivilegesError | None:
    """Return which privileges the user lacks on the thing that an error names.

    Args:
        error: the refusal.
        settings: as whom the user comes, and to which database.
        privileges: what is needed on tables beside `select`, by the name of the table.

    Returns:
        None where the error names no such thing, or nothing is missing on it.

    Raises:
        OSError, asyncpg.PostgresError: when the database cannot be asked.

    """
    if (found := _DENIED.search(str(error))) is None:
        return None
    kind, name = _KINDS[found[1]], found[2]
    needed = (*kind.needed, *(privileges.get(name, ()) if kind is _TABLE else ()))
    async with open_database(settings) as connection:
        user = await connection.fetchval("select current_user")
        lacking = [each for each in needed if await connection.fetchval(kind.question, name, each) is False]
    if not lacking:
        return None
    names = ", ".join(each.upper() for each in (lacking if kind.at_once else lacking[:1]))
    return MissingPrivilegesError(
        f"Postgres at {database_address(settings)} does not let user {user} do this:"
        f" `grant {names} on {kind.words}{name} to {user}`"
    )


async def require_privileges(
    connection: Connection, needed: Mapping[str, Sequence[str]], server: str, action: str
) -> None:
    """Check that the user has privileges on tables.

    Args:
        connection: of the user.
        needed: the privileges, by the name of the table.
        server: as the message names it.
        action: what they are needed for, as the message says it.

    Raises:
        MissingPrivilegesError: naming all that the user lacks.

    """
    lacking = {
        table: names
        for table, privileges in needed.items()
        if (names := await connection.fetchval(_LACKING, table, privileges)) is not None
    }
    if lacking:
        user = await connection.fetchval("select current_user")
        grants = "; ".join(f"grant {names} on {table} to {user}" for table, names in lacking.items())
        raise MissingPrivilegesError(f"{server} does not let user {user} {action}: `{grants}`")
