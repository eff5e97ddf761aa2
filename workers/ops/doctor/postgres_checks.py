"""What is asked of Postgres: version, session, pooler, tables and functions of this version, rights, clock."""

import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import asyncpg

from infra.clock import utc_now
from infra.migrate import MigrationError, missing_migrations
from infra.postgres import WORKER_ROLE
from infra.postgres_locks import read_lock_holders
from infra.postgres_session import NEWEST_POSTGRES, OLDEST_POSTGRES, check_search_path, find_weak_settings
from workers.ledger.store import FUNCTIONS
from workers.ops.doctor.model import CheckResult, ok, warning, wrong

__all__ = [
    "ServerConnection",
    "check_clock",
    "check_locks",
    "check_rights",
    "check_schemas",
    "check_server",
    "check_session",
    "check_tables",
]

if TYPE_CHECKING:
    ServerConnection: TypeAlias = asyncpg.Connection[asyncpg.Record]  # not one of a pool
else:  # only the stubs are generic
    ServerConnection = asyncpg.Connection

_CLOCK_SECONDS: Final = 2.0
_MIGRATE: Final = "`inmail migrate`"
_GRANT: Final = re.compile(r"^grant (.+?) on (.+?)\s+to inmail_worker;", re.MULTILINE | re.DOTALL)
_PRIVILEGE: Final = re.compile(r"(select|insert|update|delete)\s*(?:\(([^)]*)\))?")
_FUNCTION: Final = re.compile(r"create or replace function (\w+)\(.*?\bas \$\$(.*?)\$\$", re.DOTALL)
_KEPT: Final = ("accounts", "lots", "journal", "subscriptions")  # of which no row may be deleted
_MAY_ALL: Final = "select has_table_privilege($1, $2, $3)"
_MAY: Final = {"update": "select has_any_column_privilege($1, $2, $3)"}  # it may be granted by column
_PINNED: Final = (  # whose defaults sessions do not take over
    "select coalesce(r.rolname, 'all roles') as role, coalesce(d.datname, 'all databases') as database, s.setting"
    " from pg_db_role_setting as g left join pg_roles as r on r.oid = g.setrole"
    " left join pg_database as d on d.oid = g.setdatabase cross join unnest(g.setconfig) as s (setting)"
    " where g.setrole in (0, (select oid from pg_roles where rolname = current_user))"
    " and g.setdatabase in (0, (select oid from pg_database where datname = current_database()))"
)


class _Grant(NamedTuple):
    """A right that `worker_role.sql` gives."""

    privilege: str
    table: str
    columns: tuple[str, ...] = ()


async def check_server(connection: ServerConnection) -> list[CheckResult]:
    """Return what is known of the server: its version, whether it writes, and what it keeps over a crash."""
    major = connection.get_server_version().major
    results = [
        ok("Postgres", "version", f"Postgres {major}, on which everything was tested")
        if major == NEWEST_POSTGRES
        else ok("Postgres", "version", f"Postgres {major}, on which the system was run")
        if OLDEST_POSTGRES <= major < NEWEST_POSTGRES
        else warning("Postgres", "version", f"Postgres {major}, on which nothing was tested", f"run {NEWEST_POSTGRES}")
    ]
    if await connection.fetchval("select pg_is_in_recovery()"):
        do = "let INMAIL_DATABASE_URL lead to the primary (several hosts and target_session_attrs=read-write find it)"
        results.append(wrong("Postgres", "writes", "it is a standby, which takes no writes", do))
    elif await connection.fetchval("show default_transaction_read_only") == "on":
        do = "find who set default_transaction_read_only (`\\drds`, postgresql.conf), and reset it"
        results.append(wrong("Postgres", "writes", "default_transaction_read_only is on: workers decide nothing", do))
    else:
        results.append(ok("Postgres", "writes", "it takes writes"))
    weak = await find_weak_settings(connection)
    return results + [warning("Postgres", "durability", each) for each in weak]


async def check_session(connection: ServerConnection) -> list[CheckResult]:
    """Return whether sessions are as the guarantees need them, and what stands between."""
    results = [ok("Postgres", "session", "isolation, synchronous_commit and timeouts are pinned for each session")]
    # One that stands between was refused as the connection was made.
    results.append(ok("Postgres", "pooler", "none stands between"))
    for row in await connection.fetch(_PINNED):
        text = f"{row['setting']} is a default of {row['role']} in {row['database']}"
        results.append(ok("Postgres", "defaults", f"{text}; sessions pin what the guarantees need"))
    return results


async def check_locks(connection: ServerConnection) -> list[CheckResult]:
    """Return who keeps something of the ledger locked, and whether this user would see who it is."""
    holders = await read_lock_holders(connection)
    results = [warning("Postgres", "locks", each.text, each.do) for each in holders]
    if not holders:
        results.append(ok("Postgres", "locks", "nobody keeps something of the ledger locked"))
    if not await connection.fetchval("select pg_has_role(current_user, 'pg_read_all_stats', 'usage')"):
        user = await connection.fetchval("select current_user")
        text = f"{user} sees of other users' locks who has them, but not since when; pg_read_all_stats would show it"
        results.append(ok("rights", "sessions", text))
    return results


async def check_schemas(connection: ServerConnection) -> list[CheckResult]:
    """Return in which schema the tables are looked for.

    Raises:
        SettingsError: when a schema of `search_path` does not exist.

    """
    await check_search_path(connection)
    return [ok("Postgres", "search_path", f"schema {await connection.fetchval('select current_schema()')}")]


async def check_tables(connection: ServerConnection) -> list[CheckResult]:
    """Return whether tables and functions are those of this version."""
    try:
        missing = await missing_migrations(connection)
    except MigrationError as error:
        return [wrong("Postgres", "migrations", str(error))]
    if missing:
        return [wrong("Postgres", "migrations", f"{', '.join(missing)} missing", _MIGRATE)]
    results = [ok("Postgres", "migrations", "all of this version are applied")]
    texts = [path.read_text() for path in FUNCTIONS.glob("*.sql")]
    own = [found for text in texts for found in _FUNCTION.findall(text)]
    names = {name for name, _ in own}
    rows = await connection.fetch(
        "select proname, prosrc from pg_proc where pronamespace = current_schema()::regnamespace and proname = any($1)",
        list(names),
    )
    there = {(row["proname"], row["prosrc"]) for row in rows}  # with forms that a version before has left
    other = sorted({name for name, body in own if (name, body) not in there})
    if absent := sorted(names - {row["proname"] for row in rows}):
        results.append(wrong("Postgres", "functions", f"{', '.join(absent)} missing", _MIGRATE))
    elif other:
        text = f"{', '.join(other)} are of another version"
        results.append(wrong("Postgres", "functions", text, f"{_MIGRATE}, of the version that the workers run"))
    else:
        results.append(ok("Postgres", "functions", f"all {len(names)} are those of this version"))
    return results


async def check_rights(connection: ServerConnection) -> list[CheckResult]:
    """Return which rights the workers' role has of those that it needs, one by one, and which it must not have."""
    if not await connection.fetchval("select exists (select from pg_roles where rolname = $1)", WORKER_ROLE):
        return [wrong("rights", WORKER_ROLE, "there is no such role", _MIGRATE)]
    results = [await _membership(connection)]
    usage = await connection.fetchval("select has_schema_privilege($1, current_schema(), 'usage')", WORKER_ROLE)
    results.append(_right("schema", "USAGE", held=usage))
    by_table: dict[str, list[_Grant]] = {}
    for grant in _grants((FUNCTIONS / "worker_role.sql").read_text()):
        by_table.setdefault(grant.table, []).append(grant)
    for table, grants in by_table.items():
        if await connection.fetchval("select to_regclass($1)", table) is None:
            return results  # `check_tables` has said so
        lacking = [each.privilege for each in grants if not await _holds(connection, each)]
        names = ", ".join(sorted({each.privilege.upper() for each in grants}))
        missing = ", ".join(sorted({each.upper() for each in lacking}))
        results.append(_right(f"table {table}", names, held=not lacking, missing=missing))
    results += [each async for each in _excess(connection)]
    return results


async def _membership(connection: ServerConnection) -> CheckResult:
    kind = "set" if connection.get_server_version().major >= 16 else "member"
    user = await connection.fetchval("select current_user")
    if await connection.fetchval("select pg_has_role(current_user, $1, $2)", WORKER_ROLE, kind):
        return ok("rights", WORKER_ROLE, f"{user} may take it on")
    return wrong(
        "rights", WORKER_ROLE, f"{user} may not take it on", f"as a superuser: `grant {WORKER_ROLE} to {user}`"
    )


async def _holds(connection: ServerConnection, grant: _Grant) -> bool:
    if not grant.columns:
        return bool(
            await connection.fetchval(
                "select has_table_privilege($1, $2, $3)", WORKER_ROLE, grant.table, grant.privilege
            )
        )
    return bool(
        await connection.fetchval(
            "select bool_and(has_column_privilege($1, $2, c, $3)) from unnest($4::text[]) as c",
            *(WORKER_ROLE, grant.table, grant.privilege, list(grant.columns)),
        )
    )


async def _excess(connection: ServerConnection) -> AsyncIterator[CheckResult]:
    """Yield what the workers' role could take back or delete, though nothing of the journal may be."""
    for table in _KEPT:
        if await connection.fetchval("select to_regclass($1)", table) is None:
            continue
        rights = ("delete", "truncate", "update") if table == "journal" else ("delete", "truncate")
        held = [
            each.upper()
            for each in rights
            if await connection.fetchval(_MAY.get(each, _MAY_ALL), WORKER_ROLE, table, each)
        ]
        if held:
            text = f"{WORKER_ROLE} has {', '.join(held)}: a worker could change what is written for good"
            yield wrong("rights", f"table {table}", text, f"{_MIGRATE}, which takes it back; find who granted it")


def _right(subject: str, names: str, *, held: bool, missing: str = "") -> CheckResult:
    if held:
        return ok("rights", subject, f"{WORKER_ROLE} has {names}")
    return wrong("rights", subject, f"{WORKER_ROLE} lacks {missing or names}", f"{_MIGRATE} as the tables' owner")


def _grants(text: str) -> Iterator[_Grant]:
    """Yield the rights that the file with the workers' role gives: the file is the one list of them."""
    for privileges, tables in _GRANT.findall(text):
        for table in (each.strip() for each in tables.split(",")):
            for privilege, columns in _PRIVILEGE.findall(privileges):
                yield _Grant(privilege, table, tuple(each.strip() for each in columns.split(",") if each.strip()))


async def check_clock(connection: ServerConnection) -> list[CheckResult]:
    """Return how far the server's clock is from this host's."""
    began, before = monotonic(), utc_now()
    time: datetime = await connection.fetchval("select clock_timestamp()")
    seconds = monotonic() - began
    off = (time - before).total_seconds() - seconds / 2
    if abs(off) > _CLOCK_SECONDS + seconds:
        text = f"the server's clock is {abs(off):,.1f} s {'ahead of' if off > 0 else 'behind'} this host's"
        return [warning("clocks", "Postgres", text, "keep both on NTP: ages in reports are wrong by as much")]
    return [ok("clocks", "Postgres", f"within {_CLOCK_SECONDS:.0f} s of this host's")]
