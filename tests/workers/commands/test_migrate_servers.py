"""`inmail migrate` where several servers hold the books."""

import asyncio

import click.testing
from typer.testing import CliRunner

from infra.settings import Settings
from tests.workers.two_servers import TwoServers
from workers.cli import app
from workers.ops.books.shards import server_name

NAME = "0019_shards.sql"


async def migrate(settings: Settings) -> click.testing.Result:
    """Run the command on these servers."""
    env = {
        "INMAIL_DATABASE_URL": settings.database_url.get_secret_value(),
        "INMAIL_DATABASE_SHARDS": settings.database_shards.get_secret_value(),
    }
    return await asyncio.to_thread(CliRunner().invoke, app, ["migrate"], env=env)


async def test_every_server_is_migrated_and_named(servers: TwoServers) -> None:
    """What one lacks is applied to that one."""
    await servers.second.execute(
        "drop trigger lane_of_other_server on lanes; drop function refuse_lane_of_other_server, holds_number;"
        " drop table shard, shard_numbers; alter table lanes drop column maybe_published"
    )
    await servers.second.execute("delete from migrations where name = $1", NAME)

    done = await migrate(servers.both)

    first, none, second, applied, one = [line for line in done.stdout.splitlines() if not line.startswith("warning")]
    assert done.exit_code == 0
    assert [f"{server_name(each)}:" for each in servers.alone] == [first, second]
    assert none.startswith("0 migrations applied, ")
    assert (applied, one[:22]) == (f"applied {NAME}", "1 migrations applied, ")
    assert await servers.second.fetchval("select count(*) from shard") == 1


async def test_a_server_that_is_away_is_named_and_the_others_are_migrated(servers: TwoServers) -> None:
    """The exit code tells that the same command has to be run again."""
    away = servers.without_second()
    reachable = servers.alone[0].database_url.get_secret_value()
    away = away.model_copy(
        update={"database_shards": type(away.database_shards)(f"postgresql://localhost:1/inmail {reachable}")}
    )

    done = await migrate(away)

    assert done.exit_code == 3
    assert "Postgres cannot be reached at localhost:1 (" in done.stderr
    assert f"{server_name(servers.alone[0])}:" in done.stdout
    assert "0 migrations applied, " in done.stdout
