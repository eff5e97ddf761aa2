"""What a Postgres server says it holds of the partition numbers, and which servers a process is told of."""

from uuid import uuid4

import asyncpg
import pytest

from infra.settings import Settings, SettingsError, load_settings
from infra.shards import (
    NumberState,
    RepeatedServerError,
    Shard,
    check_distinct,
    find_repeated,
    read_shard,
    settings_of_shards,
)

A, B = "postgresql://db-a:5432/inmail", "postgresql://db-b:5432/inmail"


async def test_a_server_alone_holds_every_number(database: "asyncpg.Connection[asyncpg.Record]") -> None:
    """A migrated database needs no map: nothing is said of any number."""
    shard = await read_shard(database)

    assert shard.is_alone
    assert shard.holds(0)
    assert shard.holds(1023)
    assert await database.fetchval("select holds_number(7)")


@pytest.mark.parametrize(
    ("state", "held"),
    [
        (NumberState.HELD, True),
        (NumberState.ARRIVING, False),
        (NumberState.LEAVING, False),
        (NumberState.LEFT, False),
    ],
)
@pytest.mark.parametrize("holds_all", [True, False])
async def test_only_a_number_that_is_held_is_worked(
    database: "asyncpg.Connection[asyncpg.Record]", *, state: NumberState, held: bool, holds_all: bool
) -> None:
    """The database's function and the reader agree, on a first server and on a later one."""
    await database.execute("update shard set holds_all = $1, ordinal = $2", holds_all, int(not holds_all))
    other = None if state is NumberState.HELD else uuid4()
    await database.execute("insert into shard_numbers values (7, $1, $2, $3)", state.value, other, uuid4())

    shard = await read_shard(database)

    assert shard.holds(7) is held
    assert await database.fetchval("select holds_number(7)") is held
    assert shard.holds(8) is holds_all
    assert await database.fetchval("select holds_number(8)") is holds_all
    assert shard.is_alone is (holds_all and held)


def test_one_address_is_one_server() -> None:
    """Without a list of servers a process knows the one that it works with."""
    assert [each.database_url for each in settings_of_shards(Settings())] == [Settings().database_url]


def test_servers_are_listed_in_order() -> None:
    """Each entry is the same settings with another address."""
    found = settings_of_shards(load_settings(database_url=B, database_shards=f"{A} {B}"))

    assert [each.database_url.get_secret_value() for each in found] == [A, B]


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (A, "must name each server once, and INMAIL_DATABASE_URL too"),
        (f"{A} {B} {A}", "must name each server once"),
        (f"{B} mysql://db-c/inmail", "each URL in INMAIL_DATABASE_SHARDS must be a postgresql:// address"),
    ],
)
def test_a_wrong_list_of_servers_is_refused(shards: str, said: str) -> None:
    """A process that works with a server that is not of the books would book a number twice."""
    with pytest.raises(SettingsError, match=said) as error:
        load_settings(database_url=B, database_shards=shards)

    assert "db-" not in str(error.value)


def test_servers_that_are_one_are_named_without_their_passwords() -> None:
    """The first of them stands, each later one is refused; who has said nothing is none of them."""
    one, other = (Shard(uuid4(), ordinal, holds_all=not ordinal) for ordinal in (0, 1))
    said = [("db-a:5432/inmail", one), ("db-b:5432/inmail", None), ("db-c:5432/inmail", other), ("db-d:5432/x", one)]

    assert {
        3: "INMAIL_DATABASE_SHARDS: db-a:5432/inmail and db-d:5432/x lead to one server, or to a server and a copy of"
        " it: name each server that holds the books once"
    } == {place: str(error) for place, error in find_repeated(said).items()}
    check_distinct(said[:3])
    with pytest.raises(RepeatedServerError):
        check_distinct(said)
