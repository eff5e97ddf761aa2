"""Preparing a server, saying what each holds, and plans that are refused."""

import json
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from infra.settings import Settings
from infra.shards import RepeatedServerError, read_shard
from tests.conftest import Connect
from tests.workers.command import run
from tests.workers.history_books import new_database
from tests.workers.ops.shards.servers import WHO, Servers, move, open_servers, with_shards
from workers.ops.operations import RefusedError
from workers.ops.shards import servers as sessions
from workers.ops.shards.add import add_server, plan_add
from workers.ops.shards.move_plan import parse_numbers, plan_moves
from workers.ops.shards.overview import read_overview
from workers.ops.shards.servers import UnreachableServerError

Books = Callable[[], Awaitable[Settings]]
_NOBODY = "postgresql://u:hunter2@localhost:1/d"


def _url(settings: Settings) -> str:
    return settings.database_url.get_secret_value()


async def _pair(settings: Settings, other_books: Books) -> Servers:
    return await open_servers(settings, await other_books())


# -- add --------------------------------------------------------------------------------------------------------------


async def test_a_server_is_prepared(settings: Settings, other_books: Books, connect: Connect) -> None:
    """It has an id and an ordinal of its own, holds nothing, numbers accounts alike, and makes keys of its own."""
    first, other = await connect(settings), await other_books()
    await first.execute("insert into partitioning (partitions) values (4)")

    done = await add_server(settings, await plan_add(settings, _url(other)), WHO)

    second = await connect(other)
    shard = await read_shard(second)
    assert (shard.ordinal, shard.holds_all, shard.numbers) == (1, False, {})
    assert shard.shard_id != (await read_shard(first)).shard_id
    assert done.result == {"shard_id": str(shard.shard_id), "ordinal": 1}
    assert await second.fetchval("select partitions from partitioning") == 4
    identities = (
        "select relname, attname from pg_class join pg_attribute on attrelid = pg_class.oid where attidentity <> ''"
    )
    for table, column in await second.fetch(identities):
        sequence = await second.fetchval("select pg_get_serial_sequence($1, $2)", table, column)
        assert await second.fetchval("select nextval($1::regclass)", sequence) == 2**40


async def test_servers_have_different_ordinals(settings: Settings, other_books: Books) -> None:
    """Also where the one before was not yet added to INMAIL_DATABASE_SHARDS: its keys would be the same."""
    await add_server(settings, await plan_add(settings, _url(await other_books())), WHO)

    plan = await plan_add(settings, _url(await other_books()))

    assert (plan.ordinal, plan.summary()["first_key"]) == (2, 2**41)


async def test_of_two_plans_at_once_the_second_is_refused(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """Both would have the same ordinal, and so the same keys; made anew, the second has the next one."""
    one, two = await other_books(), await other_books()
    plans = [await plan_add(settings, _url(each)) for each in (one, two)]
    await add_server(settings, plans[0], WHO)

    with pytest.raises(RefusedError, match="another server was added meanwhile"):
        await add_server(settings, plans[1], WHO)
    untouched = await read_shard(await connect(two))
    await add_server(settings, await plan_add(settings, _url(two)), WHO)

    assert untouched.is_alone
    assert 1 == (await read_shard(await connect(one))).ordinal < (await read_shard(await connect(two))).ordinal


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("insert into accounts (account_id, partition) values ('a', 1)", "is not empty: `accounts` has rows"),
        (
            "insert into lanes (consumer_group, topic, partition, epoch) values ('g', 't', 0, 1)",
            "is not empty: `lanes` has rows",
        ),
        ("update shard set ordinal = 3, holds_all = false", r"server 3 \(.*\) was prepared before"),
        ("update migrations set sha256 = 'x' where name like '0019%'", "0019_shards.sql was edited"),
        ("delete from migrations where name like '0019%'", "lacks 0019_shards.sql: run `inmail migrate`"),
        ("insert into migrations values ('9999_newer.sql', 'x')", "has migration 9999_newer.sql"),
        ("drop table shard cascade", "does not have this version's tables"),
    ],
)
async def test_another_server_than_an_empty_one_is_refused(
    settings: Settings, other_books: Books, connect: Connect, made: str, said: str
) -> None:
    """Its rows would collide with others, or its tables would not be the same."""
    other = await other_books()
    await (await connect(other)).execute(made)

    with pytest.raises((RefusedError, UnreachableServerError), match=said):
        await plan_add(settings, _url(other))


async def test_the_server_itself_is_not_added(
    settings: Settings, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another address it would look like another server, and hold nothing from then on."""
    monkeypatch.setattr(sessions, "_LOCK_SECONDS", 0.1)
    plan = await plan_add(settings, _url(settings) + "?application_name=other")

    with pytest.raises(RefusedError, match="another `inmail shards` command changes server 0"):
        await add_server(settings, plan, WHO)

    assert (await read_shard(await connect(settings))).is_alone


async def test_a_server_that_was_filled_since_the_plan_is_refused(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """The question is asked once more where nothing can come between."""
    other = await other_books()
    plan = await plan_add(settings, _url(other))
    opened = await connect(other)
    await opened.execute("insert into accounts (account_id, partition) values ('a', 1)")

    with pytest.raises(RefusedError, match="is not empty"):
        await add_server(settings, plan, WHO)

    assert (await read_shard(opened)).is_alone


# -- list -------------------------------------------------------------------------------------------------------------


async def test_a_server_alone_holds_everything(settings: Settings) -> None:
    """One server is one line, and nothing is wrong."""
    found = await read_overview(settings)

    assert [each.held for each in found.servers] == [(0, 1, 2, 3)]
    assert found.is_sound
    assert found.is_complete


async def test_numbers_that_nobody_holds_and_that_two_claim_are_named(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """With what each server says of them."""
    servers = await _pair(settings, other_books)
    await move(servers, [0], "1")
    first, second = await connect(servers.first), await connect(servers.second)
    (first_id, second_id) = [(await read_shard(each)).shard_id for each in (first, second)]
    mark = "insert into shard_numbers (number, state, other_shard, move) values ($1, $2, $3, $4)"
    await first.execute(mark, 1, "leaving", second_id, uuid4())
    await second.execute(mark, 1, "arriving", first_id, uuid4())
    await second.execute("insert into shard_numbers (number, state) values (2, 'held')")

    found = await read_overview(servers.first)

    assert (found.unheld, list(found.claimed_twice)) == ((1,), [2])
    assert not found.is_sound
    assert [each.held for each in found.servers] == [(2, 3), (0, 2)]
    assert [[(way.number, way.state) for way in each.under_way] for each in found.servers] == [
        [(1, "leaving")],
        [(1, "arriving")],
    ]
    with pytest.raises(RefusedError, match="both claim number 2"):
        await plan_moves(servers.first, [2], "1")


async def test_a_copy_and_a_server_that_was_not_prepared_are_found(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """A restored copy beside the first server has its id, a new database another: both would hold every number."""
    other = await other_books()
    both = with_shards(settings, _url(settings), _url(other))

    for said in ("lead to one server, or to a server and a copy of it", "has not prepared one of them"):
        with pytest.raises((RepeatedServerError, RefusedError), match=said):
            await read_overview(both)
        with pytest.raises((RepeatedServerError, RefusedError), match=said):
            await plan_moves(both, [1], "1")
        await (await connect(other)).execute("update shard set shard_id = gen_random_uuid()")


# -- move -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [(["6-8"], [6, 7, 8]), (["3"], [3]), (["1,4-5", "0", "4"], [0, 1, 4, 5]), (["7-7"], [7])],
)
def test_numbers_are_told_by_ranges(texts: list[str], numbers: list[int]) -> None:
    """In any order; each once."""
    assert parse_numbers(texts) == numbers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "5-3", "1.5", "12345", "1,,2"])
def test_other_texts_are_refused(text: str) -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match=r"expected partition numbers|the smaller number comes first"):
        parse_numbers([text])


@pytest.mark.whole
async def test_a_server_that_is_not_listed_is_no_target(settings: Settings, other_books: Books) -> None:
    """The tools would not find its accounts."""
    other = await other_books()
    await add_server(settings, await plan_add(settings, _url(other)), WHO)

    for to in (_url(other), "1"):
        with pytest.raises(RefusedError, match="none of the servers in INMAIL_DATABASE_SHARDS"):
            await plan_moves(settings, [1], to)


@pytest.mark.whole
async def test_a_number_beyond_the_partitions_is_refused(settings: Settings, other_books: Books) -> None:
    """It would be a mistake in typing."""
    servers = await _pair(settings, other_books)

    with pytest.raises(RefusedError, match="there is no number 4: the topics have 4 partitions, 0 to 3"):
        await plan_moves(servers.first, [3, 4], "1")


async def test_servers_that_number_accounts_differently_are_refused(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """They are not of the same books. One without accounts was prepared before partitions were added."""
    servers = await _pair(settings, other_books)
    account = "insert into accounts (account_id, partition) values ('a', 0)"
    first = await connect(servers.first)
    await first.execute(account)
    await first.execute("insert into partitioning (partitions) values (4)")
    second = await connect(servers.second)
    await second.execute("insert into partitioning (partitions) values (6)")

    assert [1] == (await plan_moves(servers.first, [1], "1")).numbers
    with pytest.raises(RefusedError, match="there is no number 4: the topics have 4 partitions"):
        await plan_moves(servers.first, [4], "1")
    await second.execute(account)
    with pytest.raises(RefusedError, match=r"numbers accounts by 4 partitions, server 1 .* by 6"):
        await plan_moves(servers.first, [1], "1")


# -- commands ---------------------------------------------------------------------------------------------------------


async def test_the_commands_do_what_they_say(settings: Settings, other_books: Books) -> None:
    """From two databases to two servers, each command as an operator types it."""
    other = _url(await other_books())
    who = ("--because", "a test", "--yes")
    added = await run(settings, "shards", "add", "--to", other, *who)
    both = with_shards(settings, _url(settings), other)
    planned = await run(both, "shards", "move", "2-3", "--to", other, "--dry-run")
    moved = await run(both, "shards", "move", "2-3", "--to", "1", *who)
    listed = await run(both, "shards", "list", "--json")

    assert (added.code, planned.code, moved.code, listed.code) == (0, 0, 0, 0), (added, moved)
    assert "prepared as server 1: operation 1" in added.out
    assert "To server 1 (" in planned.out
    assert "2-3 on server 1" in moved.out
    assert "number 2: copying" in moved.err
    assert [each["held"] for each in json.loads(listed.out)["servers"]] == [[0, 1], [2, 3]]
    assert "inmail:inmail" not in added.out + planned.out + moved.out + listed.out


async def test_a_list_with_something_wrong_says_so_first(
    settings: Settings, other_books: Books, connect: Connect
) -> None:
    """And exits with 1; a server that does not answer is named, the others are shown, and the code is 3."""
    servers = await _pair(settings, other_books)
    await (await connect(servers.first)).execute(
        "insert into shard_numbers (number, state, other_shard, move) values (1, 'left', gen_random_uuid(), null)"
    )

    wrong = await run(servers.first, "shards", "list")
    down = await run(with_shards(settings, _url(settings), _NOBODY), "shards", "list")

    assert wrong.code == 1
    assert wrong.out.splitlines()[0] == "no server holds 1: nobody works it"
    assert down.code == 3
    assert "no server that answers holds 1" in down.out
    assert "Postgres cannot be reached at localhost:1" in down.out
    assert "0, 2-3" in down.out
    assert "hunter2" not in down.out + down.err


async def test_a_database_that_was_never_migrated_is_named(settings: Settings) -> None:
    """With what to run, and for which server."""
    said = await run(settings, "shards", "add", "--to", await new_database(settings), "--dry-run")

    assert said.code == 3
    assert "run `inmail migrate` with its INMAIL_DATABASE_URL" in said.err
