"""The settings of a database session that the guarantees depend on, whatever defaults a database or a role has.

The client sends the settings that it may set, which override all defaults. Settings that only a superuser may set, and
settings of the whole server, are checked instead: the session is refused, or a warning is given.

Two settings are not sent: `search_path`, by which an operator may keep the tables in another schema, and
`default_transaction_read_only`, by which an operator may stop all writing. Neither fails silently: a worker that lacks
the tables or may not write decides nothing and reports it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from infra.settings import SettingsError

if TYPE_CHECKING:
    import asyncpg

__all__ = [
    "CLIENT_SETTINGS",
    "NEWEST_POSTGRES",
    "NO_POOLER",
    "OLDEST_POSTGRES",
    "check_search_path",
    "check_server_version",
    "find_weak_settings",
    "prepare_session",
]

OLDEST_POSTGRES: Final = 15
NEWEST_POSTGRES: Final = 18  # of those on which `make versions` runs the system

CLIENT_SETTINGS: Final[Mapping[str, str]] = {
    # The functions first lock accounts, then decide by what other transactions have committed by then.
    "default_transaction_isolation": "read committed",
    # An answer is published after its outcome is stored, so a confirmed commit has to survive the server's end.
    "synchronous_commit": "on",
    # The meaning of strings in functions and migrations, and of a comparison with null.
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "timezone": "UTC",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    # The client limits each call. With a limit of the server, a long tick or audit would never finish.
    "statement_timeout": "0",
    "lock_timeout": "0",
}
# Settings that only newer servers know: an older server refuses a connection with them, so they are set afterwards.
_NEWER_SETTINGS: Final[Mapping[str, str]] = {"idle_session_timeout": "0", "transaction_timeout": "0"}
# Settings of superusers, each with its required value and the effect of any other value.
_REQUIRED: Final[Mapping[str, tuple[str, str]]] = {
    "session_replication_role": ("origin", "foreign keys are not checked"),
    "plpgsql.variable_conflict": ("error", "names in functions may mean something else"),
}
_SERVER_DURABILITY: Final[Mapping[str, str]] = {
    "fsync": "commits are lost when the machine stops, and the database may not start again",
    "full_page_writes": "pages may be torn when the machine stops",
}

# Postgres passes over a schema that does not exist: tables would be looked for, and made, in the next one of the path.
_MISSING_SCHEMAS = r"""
select current_database() as database, current_setting('search_path') as path, current_schema() as first,
    array(
        select part
        from regexp_split_to_table(current_setting('search_path'), '\s*,\s*') as part
        where part not in ('', '""', '"$user"') and to_regnamespace(part) is null
    ) as missing
"""
NO_POOLER: Final = (
    "Sessions need settings and a role of their own, which it does not pass on: let INMAIL_DATABASE_URL lead to"
    " Postgres itself. Workers keep a few connections open (INMAIL_DATABASE_CONNECTIONS) and need no pooler"
)
_DEFAULT_PATH = '"$user", public'

_READ = "select s.name, current_setting(s.name, true) as value from unnest($1::text[]) as s (name)"


async def prepare_session(connection: "asyncpg.Connection[Any]") -> None:
    """Apply the settings that newer servers know, and check all settings of a new session.

    Raises:
        SettingsError: when a pooler stands between, or when a setting differs, because a superuser set it. It says what
            to do.

    """
    # A pooler gives its own number as that of the server's process.
    if connection.get_server_pid() != await connection.fetchval("select pg_backend_pid()"):
        raise SettingsError(f"a pooler such as PgBouncer stands between. {NO_POOLER}")
    names = [*CLIENT_SETTINGS, *_NEWER_SETTINGS, *_REQUIRED]
    found = dict(map(tuple, await connection.fetch(_READ, names)))
    for name, value in _NEWER_SETTINGS.items():
        if found[name] not in (None, value):
            await connection.execute("select set_config($1, $2, false)", name, value)
    if wrong := [
        f"{name} is {found[name]!r} and has to be {value!r}"
        for name, value in CLIENT_SETTINGS.items()
        if (found[name] or "").lower() != value.lower()
    ]:
        raise SettingsError(
            f"the database session lacks settings that were sent: {'; '.join(wrong)}. A connection pooler must not drop"
            " startup parameters (PgBouncer: ignore_startup_parameters): connect without it, or set them on the role"
        )
    for name, (value, otherwise) in _REQUIRED.items():
        if found[name] not in (None, "", value):
            raise SettingsError(
                f"the database session has {name} = {found[name]}, so {otherwise}: it has to be {value}. Find it in"
                f" `\\drds` and postgresql.conf, and reset it (`alter role ... reset {name}`, `alter database ... reset"
                f" {name}`)"
            )


def check_server_version(connection: "asyncpg.Connection[Any]") -> None:
    """Look whether the server's version has what migrations and functions use.

    Raises:
        SettingsError: when it is too old.

    """
    if (major := connection.get_server_version().major) < OLDEST_POSTGRES:
        raise SettingsError(
            f"the database server is Postgres {major}, which is too old: let INMAIL_DATABASE_URL lead to one of"
            f" {OLDEST_POSTGRES} to {NEWEST_POSTGRES}"
        )


async def check_search_path(connection: "asyncpg.Connection[Any]") -> None:
    """Look whether the schemas exist in which the session looks for its tables.

    Raises:
        SettingsError: naming those that do not, and what to do.

    """
    row = await connection.fetchrow(_MISSING_SCHEMAS)
    if row is None or (row["path"] == _DEFAULT_PATH and row["first"] is not None):
        return  # that of a server whose `public` was dropped for a schema of the user's name
    if row["missing"] or row["first"] is None:
        names = ", ".join(row["missing"]) or "any schema that this user may use"
        raise SettingsError(
            f"search_path is {row['path']}, and database {row['database']} does not have {names}: mend it where it is"
            " set (in INMAIL_DATABASE_URL, or by `alter role` or `alter database ... set search_path`), or create the"
            " schema and run `inmail migrate`"
        )


async def find_weak_settings(connection: "asyncpg.Connection[Any] | asyncpg.Pool[Any]") -> list[str]:
    """Return a sentence for each setting of the whole server that makes commits less durable."""
    found = dict(map(tuple, await connection.fetch(_READ, list(_SERVER_DURABILITY))))
    return [
        f"the database server runs with {name} = off: {otherwise}. Set it to on (`alter system set {name} = on`)"
        for name, otherwise in _SERVER_DURABILITY.items()
        if found[name] == "off"
    ]
