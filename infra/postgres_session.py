"""What the promises rest on in a database session, whatever a database or a role has as its defaults.

Settings that a client may give are given by it, and so hold before any default. What only a superuser may set, and what
is set for the whole server, is looked at instead: refused, or warned of.

Not given: `search_path`, by which an operator may keep the tables in a schema of their own; and
`default_transaction_read_only`, by which one may stop all writing. Neither fails in silence: without the tables, and
where it may not write, a worker decides nothing and says so.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from infra.settings import SettingsError

if TYPE_CHECKING:
    import asyncpg

__all__ = ["CLIENT_SETTINGS", "find_weak_settings", "prepare_session"]

CLIENT_SETTINGS: Final[Mapping[str, str]] = {
    # The functions lock accounts first and decide by what they read afterwards, which is what others have committed.
    "default_transaction_isolation": "read committed",
    # An answer is published once its outcome is stored: a commit that comes back has to survive the server's end.
    "synchronous_commit": "on",
    # How texts in functions and migrations are read, and what a comparison with null is.
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    # The client bounds a call itself. Cut short by the server, a long tick or audit would never come to its end.
    "statement_timeout": "0",
    "lock_timeout": "0",
}
# The same of newer servers only: older ones refuse a connection that names them.
_GIVEN_AFTERWARDS: Final[Mapping[str, str]] = {"idle_session_timeout": "0", "transaction_timeout": "0"}
# Only a superuser may set these. Each with what it does otherwise.
_REQUIRED: Final[Mapping[str, tuple[str, str]]] = {
    "session_replication_role": ("origin", "foreign keys are not checked"),
    "plpgsql.variable_conflict": ("error", "names in functions may mean something else"),
}
_OF_SERVER: Final[Mapping[str, str]] = {
    "fsync": "commits are lost when the machine stops, and the database may not start again",
    "full_page_writes": "pages may be torn when the machine stops",
}

_READ = "select s.name, current_setting(s.name, true) as value from unnest($1::text[]) as s (name)"


async def prepare_session(connection: "asyncpg.Connection[Any]") -> None:
    """Give a new session what could not be given with the connection, and look whether it has all of it.

    Raises:
        SettingsError: when it has not: a pooler between has dropped it, or a superuser has set it. It says what to do.

    """
    names = [*CLIENT_SETTINGS, *_GIVEN_AFTERWARDS, *_REQUIRED]
    found = dict(map(tuple, await connection.fetch(_READ, names)))
    for name, value in _GIVEN_AFTERWARDS.items():
        if found[name] not in (None, value):
            await connection.execute("select set_config($1, $2, false)", name, value)
    if wrong := [
        f"{name} is {found[name]!r} and has to be {value!r}"
        for name, value in CLIENT_SETTINGS.items()
        if (found[name] or "").lower() != value.lower()
    ]:
        raise SettingsError(
            f"the database session does not have what it was given: {'; '.join(wrong)}. A pooler between must not drop"
            " startup parameters (PgBouncer: ignore_startup_parameters): connect without it, or set them on the role"
        )
    for name, (value, otherwise) in _REQUIRED.items():
        if found[name] not in (None, "", value):
            raise SettingsError(
                f"the database session has {name} = {found[name]}, so {otherwise}: it has to be {value}. Look for it in"
                f" `\\drds` and postgresql.conf, and reset it (`alter role ... reset {name}`, `alter database ... reset"
                f" {name}`)"
            )


async def find_weak_settings(connection: "asyncpg.Connection[Any] | asyncpg.Pool[Any]") -> list[str]:
    """Return what the server has for all its databases that weakens what it commits; nothing where all is well."""
    found = dict(map(tuple, await connection.fetch(_READ, list(_OF_SERVER))))
    return [
        f"the database server runs with {name} = off: {otherwise}. Set it to on (`alter system set {name} = on`)"
        for name, otherwise in _OF_SERVER.items()
        if found[name] == "off"
    ]
