"""A number moves to another server as it is: every row, and never to two holders."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from asyncpg.transaction import Transaction

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from infra.shards import NumberState
from tests.conftest import Connect
from tests.ledger.book import NEW_YEAR
from tests.workers.ops.shards.servers import WHO, Servers, content_of, copy_database, move, shards_of, with_shards
from tests.workers.two_servers import PlacedBook, account_of
from workers.error_table import explain
from workers.ops.books.audit import audit
from workers.ops.books.balance import read_balance
from workers.ops.books.statement import read_statement
from workers.ops.operations import RefusedError
from workers.ops.shards import move as moves
from workers.ops.shards import purge, steps
from workers.ops.shards import servers as sessions
from workers.ops.shards.add import add_server, plan_add
from workers.ops.shards.move import MoveReport, MoveStep, move_numbers
from workers.ops.shards.move_plan import MoveKind, plan_moves
from workers.ops.shards.published import UnpublishedError
from workers.ops.shards.purge import purge_rows
from workers.ops.shards.servers import ShardSession, read_server
from workers.ops.shards.tables import DROPPED, MOVED, STAYING

AS_OF = datetime(2030, 3, 1, tzinfo=UTC)


async def _sound(settings: Settings) -> bool:
    found = await audit(settings)
    return found.totals.balanced and not list(found.failures())


async def test_every_table_is_in_a_list(database: Connection) -> None:
    """A new table has to say whether its rows move; one that is in two lists would be copied and stay."""
    found = await database.fetch(
        "select relname from pg_class where relkind in ('r', 'p') and relnamespace = 'public'::regnamespace"
    )

    assert sorted([*MOVED, *DROPPED, *STAYING]) == sorted(row["relname"] for row in found)


async def test_a_number_arrives_as_it_was(servers: Servers) -> None:
    """Row by row in every table; nothing of it is left behind; other numbers stay; the audit passes on both sides."""
    before = {number: await content_of(servers.first, number) for number in range(4)}

    done = await move(servers, [1, 3], servers.second_url)

    assert all(all(rows for rows in content.values()) for content in before.values())
    assert done.result["moved"] == [1, 3]
    again = {"journal": [], "original_ids": []}  # what can change is copied once more when the lanes have stopped
    copied = [len(rows) for n in (1, 3) for rows in [*before[n].values(), *(before[n] | again).values()]]
    assert done.result["rows"] == sum(copied)
    assert [*done.result["pauses"]] == ["1", "3"]
    for number in (1, 3):
        after = await content_of(servers.second, number)
        assert {**before[number], "lanes": []} == {**after, "lanes": []}  # another test looks at lanes
        assert len(after["lanes"]) == 3
        assert not any((await content_of(servers.first, number)).values())
    for number in (0, 2):
        assert before[number] == await content_of(servers.first, number)
    first, second = await shards_of(servers)
    assert [first.holds(number) for number in range(4)] == [True, False, True, False]
    assert [second.holds(number) for number in range(4)] == [False, True, False, True]
    assert await _sound(servers.first)
    assert await _sound(servers.second)


@pytest.mark.whole
async def test_an_account_has_the_balance_and_the_statement_that_it_had(servers: Servers, connect: Connect) -> None:
    """What the first server said of each account, the second says."""
    first = await connect(servers.first)
    accounts = [row["account_id"] for row in await first.fetch("select account_id from accounts where partition = 2")]
    before = [
        (await read_balance(servers.first, each, AS_OF), await read_statement(servers.first, each, AS_OF))
        for each in accounts
    ]

    await move(servers, [2], "1")

    assert len(accounts) > 1
    assert before == [
        (await read_balance(servers.second, each, AS_OF), await read_statement(servers.second, each, AS_OF))
        for each in accounts
    ]


async def test_an_old_request_gets_its_first_answer_from_the_server_its_number_moved_to(
    servers: Servers, connect: Connect
) -> None:
    """The outcome moved with the account's journal: nothing is charged again."""
    account = account_of(1, "old")
    book, moved = PlacedBook(await connect(servers.first)), PlacedBook(await connect(servers.second))
    request = book.send(account)
    await book.one(book.promotion(2, account))
    first = await book.one(request)

    await move(servers, [1], "1")

    assert ("charged", False) == (first["code"], first["repeat"])
    assert first | {"repeat": True} == await moved.one(request)
    assert 1 == (await read_balance(servers.second, account, NEW_YEAR)).balance


async def test_the_lanes_name_whom_the_next_owner_fences(servers: Servers, connect: Connect) -> None:
    """Their epochs are over, and their last owners are named as before, whichever way each had its lane."""
    first, second = await connect(servers.first), await connect(servers.second)
    query = "select consumer_group, epoch, owner, owner_epoch from lanes where partition = 0 order by 1"
    before = [tuple(row) for row in await first.fetch(query)]

    await move(servers, [0], "1")

    assert before == [
        ("inmail-billing", 1, "inmail-billing.one", 1),  # worked, or its owner was killed
        ("inmail-expiry", 1, None, None),  # a worker of 0.1.0 had it
        ("inmail-send", 1, None, 1),  # given back
    ]
    assert [tuple(row) for row in await second.fetch(query)] == [
        ("inmail-billing", 2, "inmail-billing.one", 2),
        ("inmail-expiry", 2, None, None),
        ("inmail-send", 2, None, 2),
    ]


@pytest.mark.parametrize("before", ["delete from partitioning", "update partitioning set partitions = 3"])
async def test_a_number_brings_the_count_by_which_accounts_are_numbered(
    servers: Servers, connect: Connect, before: str
) -> None:
    """A server that was prepared before the first lane, or before partitions were added, could work no account else."""
    second = await connect(servers.second)
    await second.execute(before)

    await move(servers, [1], "1")

    assert await second.fetchval("select partitions from partitioning") == 4
    assert await second.fetchval("select count(*) from accounts") > 0


async def test_a_number_stays_where_the_other_server_numbers_its_accounts_otherwise(
    servers: Servers, connect: Connect
) -> None:
    """Its own count stands, and nothing has stopped: that of a server without accounts is not taken for another's."""
    first, second = await connect(servers.first), await connect(servers.second)
    await second.execute(
        "insert into accounts (account_id, partition) values ('a', 2); update partitioning set partitions = 3"
    )
    for table in ("lanes", "journal", "lots", "subscriptions", "original_ids", "earlier_rows", "accounts"):
        await first.execute(f"delete from {table}")  # noqa: S608 - our own names

    with pytest.raises(RefusedError, match="`inmail topics apply` with all servers"):
        await move(servers, [1], "1")

    assert await second.fetchval("select partitions from partitioning") == 3
    assert (await shards_of(servers))[0].holds(1)


@pytest.mark.whole
async def test_a_lane_without_a_row_has_one_afterwards(servers: Servers, connect: Connect) -> None:
    """So that no worker of the first server can begin it with the epoch of a lane that never was."""
    first, second = await connect(servers.first), await connect(servers.second)
    await first.execute("delete from lanes where partition = 0")

    await move(servers, [0], "1")

    found = await second.fetch("select epoch, owner, owner_epoch, next_offset from lanes where partition = 0")
    assert [tuple(row) for row in found] == [(1, None, 1, None)] * 3


@pytest.mark.whole
async def test_rows_that_either_server_makes_have_keys_of_their_own(servers: Servers, connect: Connect) -> None:
    """An account that opens on the second server collides with none that comes there later."""
    second = await connect(servers.second)
    made = "insert into accounts (account_id, partition) values ($1, 9) returning account"
    key = await second.fetchval(made, "opened there")

    await move(servers, [0, 1, 2, 3], "1")

    assert key == 2**40
    assert await second.fetchval(made, "opened later") == 2**40 + 1
    assert await second.fetchval("select array_agg(operation) from operations") == [1]  # that a decision names


@pytest.mark.whole
async def test_a_number_without_accounts_moves(servers: Servers, connect: Connect) -> None:
    """Its lanes were opened, and answer ticks."""
    first, second = await connect(servers.first), await connect(servers.second)
    await first.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset, published)"
        " values ('inmail-send', 'inmail.send-requests', 4, 3, 0, 0);"
        "insert into ticks (partition, request_id, fingerprint, code, source_offset, as_of, horizon, lots, credits,"
        " complete, steps) values (4, gen_random_uuid(), 1, 'booked', 0, now(), now(), 0, 0, true, 1)"
    )
    for each in (first, second):
        await each.execute("update partitioning set partitions = 5")

    await move(servers, [4], "1")

    assert [3, 1] == [
        await second.fetchval(f"select count(*) from {table} where partition = 4")  # noqa: S608 - two names
        for table in ("lanes", "ticks")
    ]
    assert not any((await content_of(servers.first, 4)).values())
    assert (await shards_of(servers))[1].holds(4)


async def test_a_number_comes_back(servers: Servers) -> None:
    """The same rows again, and its server is alone as before."""
    before = await content_of(servers.first, 3)
    await move(servers, [3], "1")

    await move(servers, [3], "0")

    after = await content_of(servers.first, 3)
    assert {**before, "lanes": []} == {**after, "lanes": []}
    assert len(after["lanes"]) == 3
    first, second = await shards_of(servers)
    assert first.is_alone
    assert not second.holds(3)
    assert await _sound(servers.first)


@pytest.mark.whole
async def test_kept_rows_are_no_hindrance(servers: Servers) -> None:
    """With --keep they stay; the number comes back all the same, as it is by then; and they can be deleted later."""
    plan = await plan_moves(servers.first, [1], "1")
    await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())
    kept = await content_of(servers.first, 1)
    rest = await plan_moves(servers.first, [1], "1")
    second = await connect_database(servers.second)
    await second.execute("update misplaced_records set records = records + 1")
    await second.close()
    first = await connect_database(servers.first)
    await first.execute("update original_ids set original = 'spoilt'")
    await first.close()
    changed = await content_of(servers.second, 1)

    await move(servers, [1], "0")

    assert all(kept.values())
    assert [MoveKind.DELETE] == [each.kind for each in rest.moves]
    assert kept["misplaced_records"] != changed["misplaced_records"]
    assert {**changed, "lanes": []} == {**await content_of(servers.first, 1), "lanes": []}
    assert await _sound(servers.first)


@pytest.mark.whole
async def test_what_is_left_behind_can_be_deleted_later(servers: Servers) -> None:
    """The same command without --keep, once more, has only that to do; and then nothing."""
    plan = await plan_moves(servers.first, [1], "1")
    await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())

    await move(servers, [1], "1")

    assert not any((await content_of(servers.first, 1)).values())
    assert all((await content_of(servers.second, 1)).values())
    plan = await plan_moves(servers.first, [1], "1")
    assert (plan.moves, plan.there) == ((), (1,))


async def test_an_audit_passes_wherever_a_deletion_was_broken_off(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of its transactions: whatever is left of the number counts nowhere."""
    plan = await plan_moves(servers.first, [1], "1")
    await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())
    first, check, began = await connect(servers.first), purge._check_foreign, 0
    allowed = 0

    async def check_some(connection: Connection, number: int) -> None:
        nonlocal began
        if began == allowed:
            raise InterruptedError
        began += 1
        await check(connection, number)

    monkeypatch.setattr(purge, "_check_foreign", check_some)
    sound = []
    for allowed in range(1, 9):  # noqa: B007 - read within
        began = 0
        try:
            await purge_rows(first, 1)
        except InterruptedError:
            sound.append((await _sound(servers.first), await _sound(servers.second)))
        else:
            break

    assert len(sound) == 2
    assert all(each == (True, True) for each in sound)
    assert not any((await content_of(servers.first, 1)).values())


async def test_the_rows_of_a_number_that_is_held_are_not_deleted(servers: Servers, connect: Connect) -> None:
    """Whatever a plan says that is out of date: the server itself is asked in the same transaction."""
    first = await connect(servers.first)
    before = await content_of(servers.first, 1)

    with pytest.raises(RefusedError, match="number 1 is held here: its rows are not deleted"):
        await purge_rows(first, 1)

    assert before == await content_of(servers.first, 1)


async def test_what_is_left_behind_is_deleted_whatever_its_server_counted_by(
    servers: Servers, connect: Connect
) -> None:
    """Partitions were added where the number is now: what is to be deleted is nobody's, and no accounts are mixed."""
    plan = await plan_moves(servers.first, [1], "1")
    await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())
    second = await connect(servers.second)
    await second.execute("update partitioning set partitions = 8")

    await move(servers, [1], "1")

    assert not any((await content_of(servers.first, 1)).values())
    with pytest.raises(RefusedError, match="they are not of the same books"):
        await plan_moves(servers.first, [2], "1")


async def test_the_marks_of_audits_are_dropped(servers: Servers, connect: Connect) -> None:
    """On both sides the next audit is a whole one: a mark of other accounts than there are would be wrong."""
    first, second = await connect(servers.first), await connect(servers.second)
    await second.execute(
        "insert into audits (kind, taken_at, whole_at, seconds, rows_read, lanes, totals)"
        " values ('whole', now(), now(), 1, 1, '[]', '{}')"
    )
    before = [await each.fetchval("select count(*) from audits") for each in (first, second)]

    await move(servers, [1], "1")

    assert before == [1, 1]
    assert [await each.fetchval("select count(*) from audits") for each in (first, second)] == [0, 0]


async def test_rows_are_deleted_in_steps_and_the_mark_of_an_audit_once(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of millions of deleted rows would be read at each step; and each step is told."""
    monkeypatch.setattr(purge, "_ACCOUNTS", 1)
    plan = await plan_moves(servers.first, [2], "1")
    await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())
    first, told, sent = await connect(servers.first), list[tuple[int, int]](), list[str]()
    first.add_query_logger(lambda record: sent.append(record.query))

    count = await purge.purge_rows(first, 2, lambda done, total: told.append((done, total)))

    assert [(each, count) for each in range(1, count + 1)] == told
    assert count > 1
    assert len(DROPPED) == sum(each.startswith("delete from audit") for each in sent)


def _begin_before_the_stop(monkeypatch: pytest.MonkeyPatch, begun: Transaction, connection: Connection) -> None:
    """Let a transaction write to number 1 after the wait for those before it, and just before its lanes stop."""
    stop_lanes = moves.mark_leaving

    async def begin(*arguments: Any) -> None:
        await begun.start()
        await connection.execute("insert into accounts (account_id, partition) values ('late', 1)")
        await stop_lanes(*arguments)

    monkeypatch.setattr(moves, "mark_leaving", begin)


async def test_a_transaction_that_stays_open_is_named_before_anything_stops(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lanes go on. A transaction of another database on the same server cannot write here: nobody waits for it."""
    monkeypatch.setattr(steps, "_WRITERS_SECONDS", 0.2)
    other = await connect(servers.first)
    pid = await other.fetchval("select pg_backend_pid()")
    seen: list[MoveStep] = []
    report = MoveReport(step=lambda _, step: seen.append(step))
    async with other.transaction():
        await other.execute("insert into accounts (account_id, partition) values ('late', 1)")
        with pytest.raises(RefusedError, match=rf"may be of the number: pid {pid} of user \w+ \(") as error:
            await move(servers, [1], "1", report)
    held = (await shards_of(servers))[0].holds(1)
    elsewhere = await connect(servers.second)

    async with elsewhere.transaction():
        await elsewhere.execute("insert into accounts (account_id, partition) values ('elsewhere', 1)")
        await steps.wait_for_writers(other)

    assert held
    assert MoveStep.STOP not in seen
    assert not hasattr(error.value, "__notes__")


async def test_an_error_after_the_stop_says_that_the_number_stands(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is, and until the number is held again: with both ways on."""
    monkeypatch.setattr(steps, "_WRITERS_SECONDS", 0.2)
    other = await connect(servers.first)
    begun = other.transaction()
    _begin_before_the_stop(monkeypatch, begun, other)
    said = []

    for _ in range(2):  # at the second it stands from the beginning
        with pytest.raises(RefusedError, match="a transaction that has written") as error:
            await move(servers, [1], "1")
        said.append(explain(error.value, lambda: servers.first))
    await begun.rollback()
    await move(servers, [1], "1")

    words = "; number 1 stands: run the same command again, or take it back with `--to 0`, without the other server"
    assert [True, True] == [each is not None and words in each.text for each in said]


async def test_lanes_that_are_being_stopped_wait_for_no_process_that_hangs(servers: Servers, connect: Connect) -> None:
    """The server ends the transaction that keeps them; the session may wait as long as a copy takes."""
    connection, told = await connect(servers.first), list[str]()
    await connection.execute("set idle_in_transaction_session_timeout = 0")
    query = "show idle_in_transaction_session_timeout"

    async def published() -> None:
        told.append(await connection.fetchval(query))

    source, target = [ShardSession(await read_server(each), connection) for each in (servers.first, servers.second)]
    await steps.mark_leaving(source, target, 1, uuid4(), published)

    assert (["10s"], "0") == (told, await connection.fetchval(query))


async def test_what_began_before_the_lanes_stopped_arrives(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lane's transaction that saw the number as held, and is still open, is waited for."""
    other = await connect(servers.first)
    begun = other.transaction()
    _begin_before_the_stop(monkeypatch, begun, other)
    reached = asyncio.Event()

    def note(_: int, step: MoveStep) -> None:
        if step is MoveStep.WAIT:
            reached.set()

    moving = asyncio.ensure_future(move(servers, [1], "1", MoveReport(step=note)))
    await asyncio.wait_for(reached.wait(), 20)
    done, _ = await asyncio.wait([moving], timeout=0.3)
    await begun.commit()
    await moving

    assert not done
    second = await connect(servers.second)
    assert await second.fetchval("select count(*) from accounts where account_id = 'late'") == 1


async def test_what_began_while_the_lanes_were_being_stopped_arrives(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id is above that of the stop, which is the highest that has ended; it saw the number as held."""
    other = await connect(servers.first)
    begun, reached, waited = other.transaction(), asyncio.Event(), asyncio.Event()
    stop_lanes, wait_for_writers = moves.mark_leaving, moves.wait_for_writers

    async def begin_within(source: ShardSession, target: ShardSession, number: int, move: UUID, published: Any) -> None:
        async def begin() -> None:
            await published()
            await begun.start()
            await other.execute("insert into accounts (account_id, partition) values ('late', 1)")

        await stop_lanes(source, target, number, move, begin)
        reached.set()

    async def wait(connection: Connection) -> None:
        await wait_for_writers(connection)
        if reached.is_set():
            waited.set()

    monkeypatch.setattr(moves, "mark_leaving", begin_within)
    monkeypatch.setattr(moves, "wait_for_writers", wait)
    moving = asyncio.ensure_future(move(servers, [1], "1"))
    await asyncio.wait_for(reached.wait(), 20)
    await asyncio.wait([asyncio.ensure_future(waited.wait()), moving], timeout=1, return_when=asyncio.FIRST_COMPLETED)
    too_early = waited.is_set()
    await begun.commit()
    await moving

    assert not too_early
    second = await connect(servers.second)
    assert await second.fetchval("select count(*) from accounts where account_id = 'late'") == 1


async def test_a_second_move_is_refused_while_one_runs(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever begins it, and wherever its operation is noted."""
    monkeypatch.setattr(sessions, "_LOCK_SECONDS", 0.1)
    plan = await plan_moves(servers.first, [1], "1")
    other = await connect(servers.first)
    begun = other.transaction()
    _begin_before_the_stop(monkeypatch, begun, other)
    reached, refused = asyncio.Event(), list[str]()

    def note(_: int, step: MoveStep) -> None:
        if step is MoveStep.WAIT:
            reached.set()

    moving = asyncio.ensure_future(move(servers, [1], "1", MoveReport(step=note)))
    await asyncio.wait_for(reached.wait(), 20)
    for settings in (servers.first, servers.second):  # as two operators with one home each
        with pytest.raises(RefusedError) as error:
            await move_numbers(settings, plan, WHO, keep=False, stop=asyncio.Event())
        refused.append(str(error.value))
    await begun.commit()
    await moving

    assert "another shards move is under way" in refused[0]
    assert "another `inmail shards` command changes server 0" in refused[1]


async def test_an_audit_that_moves_its_mark_and_a_move_wait_for_each_other(
    servers: Servers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of an audit that began before would be of accounts that have gone."""
    monkeypatch.setattr(sessions, "_LOCK_SECONDS", 0.1)
    auditing = await connect(servers.first)
    await auditing.execute("select pg_advisory_lock($1, hashtext(current_schema()))", 0x1E_D6E5)

    with pytest.raises(RefusedError, match="an audit that moves the mark is under way on server 0"):
        await move(servers, [1], "1")

    assert (await shards_of(servers))[0].holds(1)


async def test_rows_that_differ_are_not_handed_over(servers: Servers, connect: Connect) -> None:
    """A server that changes what it is given keeps nothing, and nobody holds the number until it is right."""
    second = await connect(servers.second)
    await second.execute(
        "create function change() returns trigger language plpgsql as"
        " 'begin new.code := case new.code when ''free'' then ''rate_limited'' else new.code end; return new; end';"
        "create trigger change before insert on journal for each row execute function change()"
    )

    with pytest.raises(RefusedError, match="number 1 differs in journal after copying"):
        await move(servers, [1], "1")

    assert not any((await content_of(servers.second, 1)).values())
    await second.execute("drop trigger change on journal")
    await move(servers, [1], "1")
    assert await _sound(servers.second)


async def test_an_account_that_does_not_balance_stays(servers: Servers, connect: Connect) -> None:
    """What is wrong is found out where it became wrong."""
    first = await connect(servers.first)
    await first.execute(
        "update lots set remaining = remaining - 1 where (account, lot) ="
        " (select account, lot from lots where partition = 1 and remaining > 0 limit 1)"
    )

    with pytest.raises(RefusedError, match=r"account \S+ of number 1 does not balance"):
        await move(servers, [1], "1")

    assert not any((await content_of(servers.second, 1)).values())


async def test_a_move_is_given_up_by_moving_to_where_the_number_is(servers: Servers) -> None:
    """Until the number has left: its server holds it again, and the other has nothing of it."""
    before = await content_of(servers.first, 1)

    def break_off(_: int, step: MoveStep) -> None:
        if step is MoveStep.COPY:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await move(servers, [1], "1", MoveReport(step=break_off))
    stopped = [shard.holds(1) for shard in await shards_of(servers)]
    plan = await plan_moves(servers.first, [1], "0")
    await move(servers, [1], "0")

    assert stopped == [False, False]
    assert [MoveKind.TAKE_BACK] == [each.kind for each in plan.moves]
    assert [True, False] == [shard.holds(1) for shard in await shards_of(servers)]
    assert {**before, "lanes": []} == {**await content_of(servers.first, 1), "lanes": []}
    assert not any((await content_of(servers.second, 1)).values())


async def test_a_move_is_given_up_without_the_server_that_it_went_to(servers: Servers) -> None:
    """That one is lost, and off the list. It cannot hold the number; should it come back, what it has is deleted."""
    before, alone = await content_of(servers.first, 1), with_shards(servers.first, servers.first_url)

    def break_off(_: int, step: MoveStep) -> None:
        if step is MoveStep.COPY:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await move(servers, [1], "1", MoveReport(step=break_off))
    plan = await plan_moves(alone, [1], "0")
    await move_numbers(alone, plan, WHO, keep=False, stop=asyncio.Event())
    holds, left = [shard.holds(1) for shard in await shards_of(servers)], await content_of(servers.second, 1)
    await move(servers, [1], "0")

    assert [MoveKind.TAKE_BACK] == [each.kind for each in plan.moves]
    assert [True, False] == holds
    assert left["journal"]
    assert {**before, "lanes": []} == {**await content_of(servers.first, 1), "lanes": []}
    assert not any((await content_of(servers.second, 1)).values())
    await move(servers, [1], "1")
    assert await _sound(servers.second)


async def test_nothing_of_a_third_server_s_move_is_taken(servers: Servers, connect: Connect) -> None:
    """A number that is on its way to a server that is not listed goes nowhere else."""
    first = await connect(servers.first)
    await first.execute(
        "insert into shard_numbers (number, state, other_shard, move) values (1, $1, $2, $3)",
        NumberState.LEAVING.value,
        uuid4(),
        uuid4(),
    )

    with pytest.raises(RefusedError, match="number 1 cannot go there"):
        await plan_moves(servers.first, [1], "1")


async def _third(servers: Servers, template: str) -> tuple[Servers, Servers]:
    """Return a third server beside the two: as the second of the first, and as all of them, the third the second."""
    third = await copy_database(servers.first, template)
    url = third.database_url.get_secret_value()
    await add_server(servers.first, await plan_add(servers.first, url), WHO)
    urls = (servers.first_url, servers.second_url, url)
    return (
        Servers(with_shards(servers.first, *urls), with_shards(servers.second, *urls)),
        Servers(with_shards(servers.first, *urls), with_shards(third, *urls)),
    )


@pytest.mark.whole
async def test_what_two_moves_left_behind_is_deleted_together(servers: Servers, template: str) -> None:
    """The first server names the second, from which the number has gone on to the third."""
    servers, with_third = await _third(servers, template)
    for to in ("1", "2"):
        plan = await plan_moves(servers.first, [1], to)
        await move_numbers(servers.first, plan, WHO, keep=True, stop=asyncio.Event())
    kept = [await content_of(each, 1) for each in (servers.first, servers.second)]

    plan = await plan_moves(servers.first, [1, 2], "2")
    done = await move(servers, [1], "2")

    assert all(all(content.values()) for content in kept)
    assert [MoveKind.DELETE] * 2 == [each.kind for each in plan.moves if each.number == 1]
    assert ([1, 2], [1]) == (plan.numbers, done.result["moved"])
    assert not any((await content_of(servers.first, 1)).values())
    assert not any((await content_of(servers.second, 1)).values())
    assert all((await content_of(with_third.second, 1)).values())
    assert (await plan_moves(servers.first, [1], "2")).there == (1,)


@pytest.mark.whole
async def test_what_a_move_left_that_was_given_up_for_another_is_deleted(servers: Servers, template: str) -> None:
    """The second server waits for a number that has gone to the third; and until it is told so it gets no other."""
    servers, with_third = await _third(servers, template)

    def break_off(_: int, step: MoveStep) -> None:
        if step is MoveStep.STOP:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await move(servers, [1], "1", MoveReport(step=break_off))
    await move(servers, [1], "2")
    waits = await content_of(servers.second, 1)
    with pytest.raises(RefusedError, match="`inmail shards move 1 --to 2` deletes them"):
        await move(servers, [1], "1")

    await move(servers, [1], "2")

    assert all(waits[table] for table in ("accounts", "journal"))
    assert not any((await content_of(servers.second, 1)).values())
    assert all((await content_of(with_third.second, 1)).values())
    await move(servers, [1], "1")
    assert all((await content_of(servers.second, 1)).values())
    assert await _sound(servers.second)


async def test_the_operator_stops_between_two_numbers(servers: Servers) -> None:
    """What is under way comes to its end; the same command goes on with the rest."""
    stop = asyncio.Event()
    plan = await plan_moves(servers.first, [0, 1], "1")

    def stop_at(_: int, step: MoveStep) -> None:
        if step is MoveStep.STOP:
            stop.set()

    done = await move_numbers(servers.first, plan, WHO, keep=False, stop=stop, report=MoveReport(step=stop_at))

    assert done.stopped
    assert done.result["moved"] == [0]
    assert (await plan_moves(servers.first, [0, 1], "1")).there == (0,)


async def test_a_stop_while_the_lanes_go_on_ends_the_copy(servers: Servers) -> None:
    """It may take hours: nothing of it is kept, the lanes have not stopped, and the same command begins it again."""
    stop, whole = asyncio.Event(), await content_of(servers.first, 1)
    plan = await plan_moves(servers.first, [1, 2], "1")

    done = await move_numbers(
        servers.first, plan, WHO, keep=False, stop=stop, report=MoveReport(rows=lambda _, __: stop.set())
    )
    holds = [shard.holds(1) for shard in await shards_of(servers)]
    copied = any((await content_of(servers.second, 1)).values())
    await move(servers, [1], "1")

    assert (done.stopped, done.result["moved"]) == (True, [])
    assert (holds, copied) == ([True, False], False)
    assert {**whole, "lanes": []} == {**await content_of(servers.second, 1), "lanes": []}
    assert await _sound(servers.second)


@pytest.mark.parametrize("last", ["check_members", "mark_leaving"])
async def test_a_stop_after_the_copy_leaves_the_lanes_where_they_are(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """Before they are stopped, and while no moment was found at which they could: what was copied stays."""
    stop, seen = asyncio.Event(), list[MoveStep]()
    plan = await plan_moves(servers.first, [1], "1")
    original = getattr(moves, last)

    async def stop_then(*arguments: Any) -> None:
        stop.set()
        if last == "mark_leaving":
            raise UnpublishedError("answers of its lanes are not published")
        await original(*arguments)

    monkeypatch.setattr(moves, last, stop_then)
    done = await move_numbers(
        servers.first, plan, WHO, keep=False, stop=stop, report=MoveReport(step=lambda _, step: seen.append(step))
    )
    holds = [shard.holds(1) for shard in await shards_of(servers)]
    copied = await content_of(servers.second, 1)
    monkeypatch.setattr(moves, last, original)
    await move(servers, [1], "1")

    assert (True, []) == (done.stopped, done.result["moved"])
    assert (last == "mark_leaving", False) == (MoveStep.STOP in seen, MoveStep.WAIT in seen)
    assert [True, False] == holds
    assert copied["journal"]
    assert [False, True] == [shard.holds(1) for shard in await shards_of(servers)]
