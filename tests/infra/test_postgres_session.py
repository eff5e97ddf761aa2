"""What a database session has, whatever a database or a role has as its defaults: on the real server."""

import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from infra.postgres import Connection, Pool, connect_database, create_pool, create_reader_pool, open_database
from infra.postgres_session import check_search_path, find_weak_settings
from infra.settings import Settings, SettingsError
from tests.conftest import Connect
from tests.pooler import OPENED_WITH, pooler

# Each as an operator may have set it, for reasons of other programs, and as it has to be all the same.
DEFAULTS = {
    "default_transaction_isolation": ("serializable", "read committed"),
    "synchronous_commit": ("off", "on"),
    "standard_conforming_strings": ("off", "on"),
    "transform_null_equals": ("on", "off"),
    "TimeZone": ("America/New_York", "UTC"),
    "DateStyle": ("German", "ISO, MDY"),
    "IntervalStyle": ("iso_8601", "postgres"),
    "statement_timeout": ("250ms", "0"),
    "lock_timeout": ("250ms", "0"),
    "idle_session_timeout": ("1s", "0"),
    "transaction_timeout": ("250ms", "0"),
    "idle_in_transaction_session_timeout": ("0", "10s"),
}


async def _set(settings: Settings, whose: str, name: str, value: str) -> None:
    """Set a default of the test's own database, or of the user in it."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    database = await connection.fetchval("select current_database()")
    of = f"database {database}" if whose == "database" else f"role current_user in database {database}"
    await connection.execute(f"alter {of} set {name} = '{value}'")
    await connection.close()


@pytest.mark.parametrize("whose", ["database", "role"])
async def test_no_default_of_a_database_or_role_reaches_a_session(settings: Settings, whose: str) -> None:
    """Of a worker's pool and of a tool's connection; also inside a transaction."""
    for name, (value, _) in DEFAULTS.items():
        await _set(settings, whose, name, value)

    connection = await connect_database(settings)
    try:
        async with create_pool(settings) as pool:
            found = {name: (await _shown(connection, name), await _shown(pool, name)) for name in DEFAULTS}
            async with pool.acquire() as taken, taken.transaction():
                isolation = await taken.fetchval("show transaction_isolation")
    finally:
        await connection.close()

    # Nobody waits for a lock for long: `turn.py` sets apart the lane that needs it, and a tool tells who holds it.
    expected = {name: (value, value) for name, (_, value) in DEFAULTS.items()} | {"lock_timeout": ("2s", "2s")}
    assert expected == found
    assert "read committed" == isolation


@pytest.mark.parametrize(("seconds", "wait"), [(30, "2s"), (3, "1500ms"), (2, "1s"), (1, "500ms")])
async def test_a_wait_for_a_lock_ends_before_the_wait_for_its_statement(
    settings: Settings, seconds: float, wait: str
) -> None:
    """Else it would be told as a server that does not answer: no lane would be set apart, and no holder named."""
    own = settings.model_copy(update={"database_timeout_seconds": seconds})
    async with open_database(own) as connection, create_pool(own) as pool:
        assert [wait, wait] == [await _shown(each, "lock_timeout") for each in (connection, pool)]


async def _shown(connection: Connection | Pool, name: str) -> str:
    return str(await connection.fetchval("select current_setting($1)", name))


@pytest.mark.parametrize(
    ("name", "value"), [("session_replication_role", "replica"), ("plpgsql.variable_conflict", "use_column")]
)
async def test_what_only_a_superuser_sets_is_refused_by_name(settings: Settings, name: str, value: str) -> None:
    """With what to do: a client could not set it right."""
    await _set(settings, "database", name, value)

    with pytest.raises(SettingsError, match=re.escape(f"{name} = {value}") + ".*alter database ... reset"):
        await connect_database(settings)
    with pytest.raises(SettingsError, match=re.escape(name)):
        async with create_pool(settings):
            pass


async def test_a_session_that_a_pooler_made_another_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dropped what the connection was opened with, and the database's default holds."""
    await _set(settings, "database", "synchronous_commit", "off")
    connect = asyncpg.connect

    async def pooled(*arguments: object, server_settings: dict[str, str], **options: object) -> object:
        kept = {name: value for name, value in server_settings.items() if name != "synchronous_commit"}
        return await connect(*arguments, server_settings=kept, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(asyncpg, "connect", pooled)

    with pytest.raises(SettingsError, match=r"synchronous_commit is 'off' and has to be 'on'.*PgBouncer"):
        await connect_database(settings)


async def test_a_server_that_may_lose_what_it_commits_is_warned_of(database: Connection) -> None:
    """Tests kill servers and no machines, so theirs is one."""
    fsync, pages = await find_weak_settings(database)

    assert fsync.startswith("the database server runs with fsync = off: commits are lost when the machine stops")
    assert pages.startswith("the database server runs with full_page_writes = off: pages may be torn when the machine ")


async def test_a_schema_of_the_search_path_that_does_not_exist_is_refused_by_name(settings: Settings) -> None:
    """Where a worker starts: its tables would be looked for in the next schema, or nowhere."""
    await _set(settings, "database", "search_path", "ledgr, public")

    with pytest.raises(
        SettingsError, match=r"search_path is .*ledgr.*, and database test_\d+ does not have .*ledgr.*:"
    ):
        async with create_pool(settings):
            pass


@pytest.mark.parametrize("path", ['"$user", public', "public", 'pg_catalog, "public"'])
async def test_a_search_path_whose_schemas_exist_is_taken(settings: Settings, path: str) -> None:
    """Also the default one, whose first schema is the user's and seldom exists."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.execute("select set_config('search_path', $1, false)", path)
    try:
        await check_search_path(connection)
    finally:
        await connection.close()


async def test_a_pooler_between_is_named_where_it_refuses(settings: Settings, tmp_path: Path) -> None:
    """PgBouncer as it comes: to a worker and to a tool, and not as a server that may come back."""
    async with pooler(settings, tmp_path) as pooled:
        said = r"a pooler such as PgBouncer stands between \(unsupported startup parameter"
        with pytest.raises(SettingsError, match=said):
            await connect_database(pooled)
        with pytest.raises(SettingsError, match=said):
            async with create_pool(pooled):
                pass


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_that_passes_over_what_it_does_not_know_is_named(
    settings: Settings, tmp_path: Path, mode: str
) -> None:
    """To workers, who would come with the rights of the tables' owner; to a tool; and to the read API."""
    more = f"pool_mode = {mode}\nignore_startup_parameters = {OPENED_WITH},default_transaction_read_only"
    async with pooler(settings, tmp_path, more) as pooled:
        for opening in (create_pool(pooled), _used(create_reader_pool(pooled))):
            with pytest.raises(SettingsError, match=r"stands between\. Sessions need"):
                async with opening:
                    pass
        with pytest.raises(SettingsError, match=r"stands between\. Sessions need"):
            await connect_database(pooled)


async def test_the_read_api_names_a_pooler_that_refuses(settings: Settings, tmp_path: Path) -> None:
    """As it comes; a server that is away would be told otherwise."""
    async with pooler(settings, tmp_path) as pooled:
        with pytest.raises(SettingsError, match="a pooler such as PgBouncer stands between"):
            async with _used(create_reader_pool(pooled)):
                pass


@asynccontextmanager
async def _used(opening: AbstractAsyncContextManager[Pool]) -> AsyncIterator[None]:
    """Open a pool that connects when it is needed, and use it."""
    async with opening as pool, pool.acquire():
        yield


async def test_connections_to_one_server_have_one_class(settings: Settings, connect: Connect) -> None:
    """A class of its own stays in memory after its connection: `inmail metrics` makes one for each scrape."""
    assert type(await connect(settings)) is type(await connect(settings))
