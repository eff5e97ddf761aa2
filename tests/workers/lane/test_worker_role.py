"""The workers' role: made and granted by `inmail migrate`, whoever runs it and whatever else runs then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import pytest
from pydantic import SecretStr

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import WORKER_ROLE, Connection, create_pool
from infra.settings import Settings, load_settings
from tests.ledger.book import DAY, Book
from tests.workers.wire import eventually
from workers.ledger.store import FUNCTIONS

_numbers = count(1)


@pytest.fixture
async def admin(stack: LocalStack, template: str) -> AsyncIterator[Connection]:  # noqa: ARG001 - it has the role
    """A superuser on a server whose role of the workers is out of the way, and back afterwards."""
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute(f"alter role {WORKER_ROLE} rename to inmail_worker_of_others")
    yield connection
    for row in await connection.fetch("select datname from pg_database where datname like 'role_%'"):
        await connection.execute(f"drop database {row[0]} with (force)")
    for row in await connection.fetch("select rolname from pg_roles where rolname like 'owner_%'"):
        await connection.execute(f"drop role {row[0]}")
    await connection.execute(f"drop role if exists {WORKER_ROLE}")
    await connection.execute(f"alter role inmail_worker_of_others rename to {WORKER_ROLE}")
    await connection.close()


async def _database(stack: LocalStack, admin: Connection, options: str) -> Settings:
    """Make an owner and an empty database of its own; return the settings to come as that owner."""
    number = next(_numbers)
    await admin.execute(f"create role owner_{number} login {options}")
    await admin.execute(f"create database role_{number} owner owner_{number}")
    url = stack.database_url.replace("//postgres@", f"//owner_{number}@").rpartition("/")[0] + f"/role_{number}"
    return load_settings(database_url=url)


@asynccontextmanager
async def _as_owner(settings: Settings) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    try:
        yield connection
    finally:
        await connection.close()


async def _migrate(settings: Settings) -> None:
    async with _as_owner(settings) as connection:
        await migrate(connection, [FUNCTIONS])


async def _works(settings: Settings) -> bool:
    """Tell whether a worker of that user does its work in the role, and no more than that."""
    async with create_pool(settings) as pool, pool.acquire() as connection:
        assert await connection.fetchval("select current_user") == WORKER_ROLE
        book = Book(connection)
        await book.decide(book.promotion(2))
        sent = await book.decide(book.send(), book.send(), book.send())
        book.now += 100 * DAY
        await book.tick()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("delete from journal")
        return [answer["code"] for answer in sent] == ["charged", "charged", "insufficient_credits"]


@pytest.mark.parametrize("options", ["superuser", "createrole"])
async def test_a_migration_makes_the_role_and_grants_it(stack: LocalStack, admin: Connection, options: str) -> None:
    """By a superuser, or by an owner who may create roles; again and again."""
    settings = await _database(stack, admin, options)
    await _migrate(settings)
    await _migrate(settings)

    assert await _works(settings)


async def test_an_owner_without_rights_is_told_what_an_administrator_has_to_run(
    stack: LocalStack, admin: Connection
) -> None:
    """The very words; and after them it goes on by itself."""
    settings = await _database(stack, admin, "")

    with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
        await _migrate(settings)
    _, _, words = str(refused.value).partition("has to run once on this server: ")
    assert words.startswith(f"create role {WORKER_ROLE} nologin; grant {WORKER_ROLE} to owner_")
    await admin.execute(words)
    await _migrate(settings)

    assert await _works(settings)


async def test_an_owner_to_whom_the_role_was_not_granted_is_told_so(stack: LocalStack, admin: Connection) -> None:
    """Another database of the server made it: that does not make this one's owner a member."""
    settings = await _database(stack, admin, "")
    await admin.execute(f"create role {WORKER_ROLE} nologin")

    with pytest.raises(asyncpg.InsufficientPrivilegeError) as refused:
        await _migrate(settings)
    _, _, words = str(refused.value).partition("has to run once: ")
    await admin.execute(words)
    await _migrate(settings)

    assert await _works(settings)


@pytest.mark.parametrize("options", ["superuser", "createrole"])
async def test_migrations_of_several_databases_may_run_at_once(
    stack: LocalStack, admin: Connection, options: str
) -> None:
    """The role is the server's: whoever comes second waits, and finds it made."""
    one = await _database(stack, admin, options)
    number = next(_numbers)
    owner = await admin.fetchval("select rolname from pg_roles where rolname like 'owner_%'")
    await admin.execute(f"create database role_{number} owner {owner}")
    base, _, _ = one.database_url.get_secret_value().rpartition("/")
    other = one.model_copy(update={"database_url": SecretStr(f"{base}/role_{number}")})
    async with _as_owner(one) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await migrate(connection, [FUNCTIONS])
        waiting = asyncio.create_task(_migrate(other))
        waits = "select exists (select from pg_stat_activity where datname = $1 and wait_event_type = 'Lock')"
        await eventually(lambda: admin.fetchval(waits, f"role_{number}"), "a migration that waits")
        was_done = waiting.done()
        await transaction.commit()
        await waiting

    assert (False, True, True) == (was_done, await _works(one), await _works(other))


async def test_a_worker_on_a_server_without_the_role_is_told_to_migrate(stack: LocalStack, admin: Connection) -> None:
    """Also where the role is there, and not for this user."""
    settings = await _database(stack, admin, "")

    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="does not exist: run `inmail migrate`"):
        await create_pool(settings).__aenter__()
    await admin.execute(f"create role {WORKER_ROLE} nologin")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match=r"permission denied .* `inmail migrate`"):
        await create_pool(settings).__aenter__()


async def test_what_was_granted_and_is_no_longer_in_the_file_goes(database: Connection) -> None:
    """The file is all there is to know."""
    await database.execute(
        f"grant delete, update on journal to {WORKER_ROLE}; grant update (account_id) on accounts to {WORKER_ROLE}"
    )
    await migrate(database, [FUNCTIONS])

    query = "select has_table_privilege($1, 'journal', $2) or has_any_column_privilege($1, 'journal', 'update')"
    assert not await database.fetchval(query, WORKER_ROLE, "delete")
    assert not await database.fetchval(
        "select has_column_privilege($1, 'accounts', 'account_id', 'update')", WORKER_ROLE
    )
