"""Books decided again from the topics: the same line for line, and what differs is found, named and grouped."""

import asyncio
import json
import re
import shlex
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.structs import ConsumerRecord
from pydantic import SecretStr

from infra.clock import from_milliseconds
from infra.kafka.clients import admin_client
from infra.kafka.topic_ids import topic_ids
from infra.local.stack import LocalStack
from infra.postgres import Connection, connect_database
from infra.settings import RecordTime, Settings, load_settings
from schemas.billing import PromotionGranted, SubscriptionActivated
from schemas.catalogue import SEND_REQUESTS
from schemas.sends import SendUndeliverable
from schemas.ticks import ExpiryTick
from tests.conftest import HASTY, Connect
from tests.whole import whole
from tests.workers.command import end, run, start
from tests.workers.history_books import (
    TIED,
    Placed,
    decide_one_by_one,
    history,
    migrated,
    new_database,
    publish_records,
    written,
)
from tests.workers.noted_operations import list_operations
from tests.workers.ops.shards.servers import Servers, copy_database, move, open_servers, shards_of, with_shards
from tests.workers.two_servers import SILENT
from tests.workers.wire import eventually, pass_over, working
from workers import topology
from workers.commands.running import Exit
from workers.console.operation_runner import OperationRunner
from workers.console.query_limiter import QueryLimiter
from workers.console.resumption import resume_command
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Decision, Job
from workers.jobs.send import SendJob
from workers.ledger.plans import SHIPPED, Catalogue, CatalogueError, load_catalogue
from workers.local.up import prepare_stack
from workers.ops.books.audit import audit
from workers.ops.books.shards import server_name
from workers.ops.compare.comparison import Comparison, DifferenceGroup, compare
from workers.ops.compare.corrections import find_corrections
from workers.ops.compare.html_report import render_page
from workers.ops.compare.merge_join import common_range, open_both
from workers.ops.operations import OngoingOperation, Operation, OperationStatus, Operator, RefusedError, read_operations
from workers.ops.replay import rebuild_lanes
from workers.ops.replay.parallel_batches import BatchCombiner
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildRequest, plan_rebuild, target_settings
from workers.ops.replay.rebuild_servers import ServerRebuild, plan_each_server
from workers.ops.topics.ended import end_topic
from workers.simulate.records import DAY, encode_event, encode_send, format_instant
from workers.topology import GROUP_OF

ROOT = Path(__file__).parents[4]
WHO = Operator("ops-1", "a trial")
NO_ROLLOVER = ("plans.*.rollover=false",)


@pytest.fixture(scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    """A stack of its own whose topics hold a simulated history, and the books that it makes."""
    plans = tmp_path_factory.mktemp("plans") / "plans.toml"
    plans.write_text(SHIPPED.read_text().replace("apply_balance_caps = false", "apply_balance_caps = true"))
    with LocalStack(postgres_settings=HASTY) as stack:
        settings = load_settings(
            kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
            database_url=stack.database_url,
            topic_partitions=2,
            topic_record_time=RecordTime.CREATE,
            tick_grace_seconds=0,
            batch_records=60,
            plans_file=str(plans),
        )
        await prepare_stack(settings)
        await decide_one_by_one(settings, await publish_records(settings, history()))
        yield settings


async def _asked(live: Settings, verb: str = "replay rebuild", **options: Any) -> RebuildRequest:
    return RebuildRequest(verb, (await migrated(live)).database_url, **options)


async def _rerun(
    live: Settings, asked: RebuildRequest, stop_at: int | None = None
) -> tuple[OngoingOperation, Comparison | None]:
    stop = asyncio.Event()

    def progress(done: int) -> None:
        if stop_at is not None and done >= stop_at:
            stop.set()

    return await rebuild(live, asked, await plan_rebuild(live, asked), who=WHO, stop=stop, progress=progress)


async def _change(settings: Settings, *statements: str) -> None:
    connection = await connect_database(settings)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def _everything(settings: Settings) -> dict[str, Any]:
    connection = await connect_database(settings)
    try:
        return await written(connection)
    finally:
        await connection.close()


def _causes(comparison: Comparison | None) -> dict[str, int]:
    assert comparison is not None
    return comparison.counts()


# -- the same books ---------------------------------------------------------------------------------------------------


async def test_a_rebuild_from_the_topics_has_the_same_books_line_for_line(live: Settings) -> None:
    """Decided in batches and not one by one, and still every row and state is what it was; and nothing is published."""
    asked = RebuildRequest("replay rebuild", SecretStr(await new_database(live)))

    operation, comparison = await _rerun(live, asked)

    other = target_settings(live, asked)
    before, after = await _everything(live), await _everything(other)
    assert comparison is not None
    assert ({}, True) == (comparison.counts(), comparison.whole)
    assert before == after
    assert {name: (len(rows), len(rows)) for name, rows in before.items() if name not in ("lanes", "journal")} == {
        name: count for name, count in comparison.lines.items() if name != "entries"
    }
    assert (len(before["journal"]),) * 2 == comparison.lines["entries"]
    assert min(each[0] for each in comparison.lines.values()) > 10
    assert (OperationStatus.DONE, {}) == ((await list_operations(live, 1))[0].status, operation.result["differences"])
    assert (await audit(other)).passed


async def test_the_history_has_a_bit_of_everything(live: Settings) -> None:
    """Equal books that hold little would prove little."""
    connection = await connect_database(live)
    rows = await connection.fetch("select distinct code from journal")
    await connection.close()

    expected = {"charged", "insufficient_credits", "granted", "reversed", "expired", "voided", "cap_forfeited", "low"}
    assert expected <= {row["code"] for row in rows}


async def test_a_grant_and_a_send_of_one_instant_are_decided_in_the_one_order(
    live: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Billing comes first. With sends first, the rebuild finds no credit for that send, and says so."""
    monkeypatch.setattr(topology, "TOPIC_RANK", {topic: -rank for topic, rank in topology.TOPIC_RANK.items()})
    _, wrong = await _rerun(live, await _asked(live))

    assert wrong is not None
    (group,) = (group for group in wrong.groups if group.cause == "charged -> insufficient_credits")
    assert [(TIED[0], TIED[1])] == [
        (example.place["account_id"], UUID(int=example.place["request_id"].int)) for example in group.examples
    ]


async def test_a_run_that_was_stopped_goes_on_and_gives_the_same(live: Settings) -> None:
    """It stops between two transactions; the lanes of the other books say where to go on."""
    asked = await _asked(live)
    total = (await plan_rebuild(live, asked)).records

    stopped, nothing = await _rerun(live, asked, stop_at=total // 2)
    left = await plan_rebuild(live, asked)
    _, comparison = await _rerun(live, asked)

    assert (True, None, True) == (stopped.stopped, nothing, left.begun)
    assert total // 3 < total - left.records == stopped.result["read"] < total
    assert {} == _causes(comparison)
    assert await _everything(live) == await _everything(target_settings(live, asked))


@pytest.mark.whole
async def test_a_stop_ends_the_comparison_too(live: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may take long; the same command compares again."""
    asked, stop = await _asked(live), asyncio.Event()

    async def compare_for_long(*_: object, **__: object) -> None:
        stop.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr("workers.ops.replay.rebuild.compare", compare_for_long)
        async with asyncio.timeout(60):
            stopped, nothing = await rebuild(live, asked, await plan_rebuild(live, asked), who=WHO, stop=stop)
    done, comparison = await _rerun(live, asked)

    assert (OperationStatus.STOPPED, None) == (stopped.status, nothing)
    assert (OperationStatus.DONE, {}) == (done.status, _causes(comparison))


@pytest.mark.whole
async def test_partitions_go_side_by_side(live: Settings, connect: Connect) -> None:
    """While one cannot go on, the other is read to its end."""
    asked = await _asked(live)
    await _rerun(live, asked, stop_at=1)
    holder = await connect(target_settings(live, asked))
    ends = {tuple(row) for row in await _lanes_of(live) if row[1] == 1}

    async def is_read() -> bool:
        return ends <= {tuple(row) for row in await _lanes_of(target_settings(live, asked))}

    async with holder.transaction():
        await holder.execute("select from lanes where partition = 0 for update")
        running = asyncio.create_task(_rerun(live, asked))
        await eventually(is_read, "partition 1 is read while partition 0 is held")
        held = running.done()
    _, comparison = await running

    assert (False, {}) == (held, _causes(comparison))


async def _lanes_of(settings: Settings) -> list[Any]:
    return (await _everything(settings))["lanes"]


@pytest.mark.whole
async def test_two_partitions_that_lock_each_other_try_again(live: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they may where a producer put an account into both: the transaction that Postgres ended is run again."""
    lots = iter([True])

    async def decide(job: Job, connection: Connection, batch: Batch) -> Decision:
        if next(lots, False):
            raise asyncpg.DeadlockDetectedError
        return await job.decide(connection, batch)

    monkeypatch.setattr(rebuild_lanes, "_decide", decide)
    _, comparison = await _rerun(live, await _asked(live))

    assert {} == _causes(comparison)


@pytest.mark.whole
async def test_rows_of_before_lots_ends_were_told_are_no_difference_and_wrong_ends_are(live: Settings) -> None:
    """The ends that a row lacks are compared as states of the lots; those that both rows tell, row by row."""
    asked = await _asked(live)
    other = target_settings(live, asked)
    await _change(
        live,
        "create table told as select account, sequence, details from journal where details ? 'lot_ends'",
        "update journal set details = details - 'lot_ends'",
    )
    try:
        _, comparison = await _rerun(live, asked)
        before, after = await _everything(live), await _everything(other)
    finally:
        await _change(
            live,
            "update journal as j set details = t.details from told as t"
            " where j.account = t.account and j.sequence = t.sequence",
            "drop table told",
        )

    await _change(
        other,
        "update journal set details = jsonb_set(details, '{lot_ends}', '\"wrong\"')"
        " where ctid = (select max(ctid) from journal where details ? 'lot_ends')",
    )
    ((cause, count),) = _causes(await compare(live, other)).items()

    assert {} == _causes(comparison)
    assert (True, 1) == (cause.endswith("differs in details"), count)
    assert (False, True) == ("lot_ends" in str(before["journal"]), "lot_ends" in str(after["journal"]))


async def test_a_schema_of_the_live_database_will_do(live: Settings) -> None:
    """Beside the live books: the same line for line, whatever the live ones hold stays, and neither sees the other."""
    before = await _everything(live)
    asked = RebuildRequest("replay rebuild", schema="rebuilt")

    stopped, _ = await _rerun(live, asked, stop_at=100)
    left = await plan_rebuild(live, asked)
    _, comparison = await _rerun(live, asked)

    other = target_settings(live, asked)
    assert (True, True) == (stopped.stopped, left.begun)
    assert comparison is not None
    assert ({}, True) == (comparison.counts(), comparison.whole)
    assert before == await _everything(live) == await _everything(other)
    assert (await audit(other)).passed
    assert (await audit(live)).passed
    assert "was not begun by this verb" in await _refusal(live, replace(asked, changes=NO_ROLLOVER))
    assert "is the schema of the live ledger" in await _refusal(live, replace(asked, schema="public"))
    assert "is not a valid schema name" in await _refusal(live, replace(asked, schema='x"; drop schema public'))
    await _change(live, "drop schema rebuilt cascade")
    assert before == await _everything(live)


async def test_each_of_several_servers_is_rebuilt_beside_its_own_books(live: Settings) -> None:
    """Its numbers into a schema of its own database, and one comparison of all: equal, and a change is found in it."""
    servers = await open_servers(await copy_database(live, _name(live)), await migrated(live))
    await move(servers, [1], servers.second_url)
    command = ["replay", "rebuild", "--schema", "rebuilt", "--because", "a trial", "--yes"]
    names = [server_name(servers.first), server_name(servers.second)]
    before = await _everything(live)

    code, text, err = await run(servers.first, *command)
    schema = RebuildRequest("replay rebuild", schema="rebuilt")
    targets = [target_settings(each, schema) for each in (servers.first, servers.second)]
    rebuilt = [await _everything(each) for each in targets]
    held = await shards_of(Servers(targets[0], targets[1]))
    await _change(targets[1], "update lots set warned = true where not warned")
    no, answer, _ = await run(servers.first, *command, "--json")

    assert (Exit.DONE, Exit.NO) == (code, no), err
    assert [2, 2] == [text.count(f"{name}, numbers {number}:\n") for number, name in enumerate(names)]
    assert "The databases agree, line for line." in text
    assert len(before["journal"]) == sum(len(each["journal"]) for each in rebuilt)
    assert [True, True] == [len(each["journal"]) > 10 for each in rebuilt]
    # A record on another number's partition would be a dead letter, as it is to the live lanes.
    assert [[True, False], [False, True]] == [[each.holds(number) for number in (0, 1)] for each in held]
    found = json.loads(answer)
    assert [(name, [number], 0, True) for number, name in enumerate(names)] == [
        (each["server"], each["numbers"], each["plan"]["records"], each["plan"]["goes_on"]) for each in found["servers"]
    ]
    assert (False, True) == (found["comparison"]["same"], found["comparison"]["whole"])
    assert {"lots"} == {group["section"] for group in found["comparison"]["groups"]}
    assert len(before["journal"]) == found["comparison"]["lines"]["entries"]["before"]
    noted = [await _noted_on(settings_) for settings_ in (servers.first, servers.second)]
    assert (4, 0) == tuple(
        sum(each.verb == "replay rebuild" and "numbers" in each.arguments for each in found_) for found_ in noted
    )


async def _noted_on(settings: Settings) -> list[Operation]:
    """Return the operations that one of several servers has."""
    connection = await connect_database(settings)
    try:
        return await read_operations(connection, 9)
    finally:
        await connection.close()


@pytest.mark.whole
@pytest.mark.parametrize("verb", ["replay rebuild", "replay shadow"])
async def test_the_console_continues_a_run_of_several_servers(live: Settings, verb: str) -> None:
    """Whichever server's part was stopped: what is missing of each is decided, and the command line is the same."""
    servers = await open_servers(await copy_database(live, _name(live)), await migrated(live))
    await move(servers, [1], servers.second_url)
    asked = RebuildRequest(verb, schema="rebuilt")
    for each in await plan_each_server(servers.first, asked):
        stop = asyncio.Event()
        request, plan = each.request, each.plan
        await rebuild(
            each.server,
            request,
            plan,
            who=WHO,
            stop=stop,
            progress=lambda _, stop=stop: stop.set(),
            noted_on=servers.first,
        )
    second, first, *_ = await list_operations(servers.first, 9)
    runner = OperationRunner(servers.first)

    can = [runner.can_resume(each) for each in (first, second)]
    commands = [resume_command(servers.first, each) for each in (first, second)]
    await runner.resume(QueryLimiter(servers.first).settings, second, WHO)
    await asyncio.wait_for(asyncio.gather(*(each.task for each in runner._running.values())), 120)
    done = [each.status for each in await list_operations(servers.first, 2)]

    assert ["done", "done"] == done
    assert (["stopped"] * 2, [True, True]) == ([each.status for each in (first, second)], can)
    assert [f"inmail {verb} --schema rebuilt --because 'a trial'"] * 2 == commands
    code, answer, _ = await run(servers.first, *shlex.split(commands[0] or "")[1:], "--yes", "--json")
    found = json.loads(answer)
    assert (Exit.DONE, [0, 0]) == (code, [each["plan"]["records"] for each in found["servers"]])
    assert found["comparison"]["same"]
    assert not OperationRunner(with_shards(servers.first)).can_resume(first)  # a part of all is no run of one server


async def test_several_servers_are_not_rebuilt_where_the_books_would_not_be_compared_whole(live: Settings) -> None:
    """A server that is away, rows that have left but are there, one database for all: refused with what to do."""
    servers = await open_servers(await copy_database(live, _name(live)), await migrated(live))
    await move(servers, [1], servers.second_url)
    away = with_shards(servers.first, servers.first_url, SILENT)
    command = ["replay", "rebuild", "--because", "a trial", "--yes"]

    code, _, err = await run(away, *command, "--schema", "rebuilt")
    one, _, words = await run(servers.first, *command, "--database", await new_database(live))
    await _change(servers.first, "insert into accounts (account_id, partition) values ('left', 1)")
    no, _, left = await run(servers.first, *command, "--schema", "rebuilt")

    assert (Exit.UNREACHABLE, Exit.NO, Exit.NO) == (code, one, no)
    assert "localhost:1" in err
    assert "give --schema alone" in words
    assert f"{server_name(servers.first)}: it has rows of numbers that another server holds" in left
    assert not await _has_schema(servers.first, "rebuilt")


async def test_a_number_that_moves_meanwhile_is_refused_where_the_books_are_compared(live: Settings) -> None:
    """Between the plan and the comparison, and between it and the corrections; a copy that arrives counts too."""
    servers = await open_servers(await copy_database(live, _name(live)), await migrated(live))
    first, second = servers.first, servers.second
    (early,) = await plan_each_server(first, RebuildRequest("replay shadow", schema="early"))
    done, *_ = await _rebuild_each(servers, RebuildRequest("replay shadow", schema="late"))
    await move(servers, [1], servers.second_url)
    told = rf"{server_name(first)}: partition numbers 1 moved from or to this server meanwhile: .* another --schema"

    with pytest.raises(RefusedError, match=told):
        await rebuild(first, early.request, early.plan, who=WHO, stop=asyncio.Event())
    with pytest.raises(RefusedError, match=told):
        await find_corrections(first, done.target, *WHO, whole=True, numbers=done.request.numbers)
    with pytest.raises(
        RefusedError, match=r"was begun for the partition numbers .* held then \(0-1; now 0\).*--schema"
    ):
        await plan_each_server(first, RebuildRequest("replay shadow", schema="late"))
    rebuilt = await _rebuild_each(servers, RebuildRequest("replay shadow", schema="after"))
    await _change(second, "insert into accounts (account_id, partition) values ('arriving', 0)")
    with pytest.raises(RefusedError, match=f"{server_name(second)}: partition numbers 0 moved"):
        await compare(second, rebuilt[1].target, numbers=rebuilt[1].request.numbers)

    assert OperationStatus.FAILED == (await list_operations(first, 3))[2].status
    assert [(0, 1), (0,), (1,)] == [each.request.numbers for each in (early, *rebuilt)]


async def _rebuild_each(servers: Servers, asked: RebuildRequest) -> list[ServerRebuild]:
    """Rebuild each server, which finds no difference."""
    found = await plan_each_server(servers.first, asked)
    for each in found:
        done = await rebuild(
            each.server, each.request, each.plan, who=WHO, stop=asyncio.Event(), noted_on=servers.first
        )
        assert {} == _causes(done[1])
    return found


async def _has_schema(settings: Settings, name: str) -> bool:
    connection = await connect_database(settings)
    found = await connection.fetchval("select exists (select from pg_namespace where nspname = $1)", name)
    await connection.close()
    return bool(found)


def _name(settings: Settings) -> str:
    return settings.database_url.get_secret_value().rpartition("/")[2]


# -- what differs -----------------------------------------------------------------------------------------------------


async def test_a_change_of_the_other_books_is_found_named_and_grouped(live: Settings) -> None:
    """Another column, a line that is missing, one that is extra, and one that only stands elsewhere."""
    asked = await _asked(live)
    await _rerun(live, asked)
    await _change(
        target_settings(live, asked),
        "update lots set warned = not warned"
        " where (account, lot) in (select account, lot from lots order by 1, 2 limit 3)",
        "update journal set recipient_id = 'else' where ctid = (select max(ctid) from journal where code = 'charged')",
        "delete from journal where code = 'low' and ctid = (select min(ctid) from journal where code = 'low')",
        "insert into journal select account, sequence + 1000, gen_random_uuid(), fingerprint, is_answer, worker, code,"
        " amount, null, null, balance_before, balance_after, as_of, source_partition, source_offset, recipient_id,"
        " relationship, null, null, null, null from journal where code = 'free' limit 1",
        "update journal set sequence = sequence + 500"
        " where ctid = (select max(ctid) from journal where code = 'granted')",
    )

    _, comparison = await _rerun(live, asked)

    found = _causes(comparison)
    lots = {cause: count for cause, count in found.items() if cause.startswith("lots: ")}
    assert 3 == sum(lots.values())
    assert all(cause.endswith("differs in warned") for cause in lots)
    assert {
        "entries: charged: differs in recipient_id": 1,
        "entries: low: missing": 1,
        "entries: free: extra": 1,
        "entries: only the order differs": 1,
    } == {cause: count for cause, count in found.items() if cause not in lots}
    assert comparison is not None
    (group,) = (group for group in comparison.groups if group.cause == "charged: differs in recipient_id")
    assert {"recipient_id": "else"} == group.examples[0].after


async def test_another_catalogue_shows_what_it_would_change(live: Settings) -> None:
    """Without rollover lots end sooner, and sends that were charged find no credit. The live books stay as they are."""
    before = await _everything(live)

    _, comparison = await _rerun(live, await _asked(live, "replay shadow", changes=NO_ROLLOVER))

    found = _causes(comparison)
    assert found["entries: charged -> insufficient_credits"] > 5
    assert any("full_expires_at" in cause for cause in found if cause.startswith("lots: subscription"))
    assert before == await _everything(live)


@pytest.mark.whole
async def test_another_catalogue_may_hold_from_a_date_on(live: Settings) -> None:
    """What was decided before that is the same, and what came after is not."""
    times = [record.time for record in history()]
    since = from_milliseconds(times[len(times) // 2])
    asked = await _asked(live, "replay shadow", changes=NO_ROLLOVER, since=since)

    _, comparison = await _rerun(live, asked)
    earlier = await compare(live, target_settings(live, asked), until=since)

    assert _causes(comparison)
    assert {} == _causes(earlier)
    assert earlier.lines["entries"][0] > 100


@pytest.mark.whole
async def test_only_a_range_may_be_read(live: Settings, connect: Connect) -> None:
    """Up to a time: the same so far, without states that came later. From a time: what came before is lacking."""
    times = [record.time for record in history()]
    middle = from_milliseconds(times[len(times) // 2])
    early = await _asked(live, "replay shadow", until=middle)
    late = await _asked(live, "replay shadow", start=middle)

    _, first = await _rerun(live, early)
    _, second = await _rerun(live, late)

    entries = (await _everything(target_settings(live, early)))["journal"]
    assert first is not None
    assert ({}, False) == (first.counts(), first.whole)
    assert (len(entries), len(entries)) == first.lines["entries"]
    assert _causes(second)["entries: charged -> insufficient_credits"] > 5
    connection = await connect(target_settings(live, late))
    assert middle <= await connection.fetchval("select min(as_of) from journal")


@pytest.mark.whole
async def test_ticks_that_were_pruned_since_are_no_difference(live: Settings) -> None:
    """Of a target that is kept; a tick that booked something is compared wherever it stands."""
    asked = await _asked(live)
    await _rerun(live, asked)
    barren = (
        "not exists (select from journal as j where j.worker = 'expiry' and j.source_partition = t.partition"
        " and j.source_offset = t.source_offset)"
    )
    connection = await connect_database(live)
    await connection.execute("create temp table kept_ticks as select * from ticks")
    try:
        await connection.execute(
            f"delete from ticks as t where {barren} and t.source_offset <"  # noqa: S608 - constants
            " (select max(x.source_offset) from ticks as x where x.partition = t.partition)"
        )
        _, pruned = await _rerun(live, asked)
        await _change(
            target_settings(live, asked),
            "delete from ticks where (partition, source_offset) in (select t.partition, t.source_offset from ticks as t"  # noqa: S608
            f" where not {barren} order by 1, 2 limit 1)",
        )
        _, lacking = await _rerun(live, asked)
    finally:
        await connection.execute(
            "insert into ticks select * from kept_ticks on conflict do nothing; drop table kept_ticks"
        )
        await connection.close()

    assert pruned is not None
    assert ({}, True) == (pruned.counts(), pruned.same)
    assert {"ticks: booked: missing": 1} == _causes(lacking)


@pytest.mark.whole
async def test_what_only_one_of_them_has_read_is_left_out(live: Settings) -> None:
    """The live books go on while others are made: a rebuild that is behind them is not wrong."""
    asked = await _asked(live)
    await _rerun(live, asked, stop_at=300)

    comparison = await compare(live, target_settings(live, asked))

    assert ({}, False) == (comparison.counts(), comparison.whole)
    assert 0 < comparison.lines["entries"][0] < len((await _everything(live))["journal"])


@pytest.mark.whole
async def test_what_the_database_refuses_stands_in_nobodys_way(live: Settings) -> None:
    """It is decided apart, as a lane would, and shows as a line that is missing."""
    other = await migrated(live)
    await _change(other, "alter table journal add constraint no_zoe check (recipient_id is distinct from 'zoe')")

    operation, comparison = await _rerun(live, RebuildRequest("replay rebuild", other.database_url))

    assert {"refused_by_database": 1} == operation.result["dead_letters"]
    assert 1 == _causes(comparison)["entries: charged: missing"]
    assert {"entries", "lots", "accounts"} == {cause.partition(":")[0] for cause in _causes(comparison)}


@pytest.mark.whole
async def test_a_page_tells_it_and_reads_nothing_into_what_it_shows(live: Settings) -> None:
    """Each cause with its examples; ids are text, whatever is in them."""
    _, comparison = await _rerun(live, await _asked(live, "replay shadow", changes=NO_ROLLOVER))
    assert comparison is not None
    group = comparison.groups[0]
    before = {"paid_from": datetime.min}  # noqa: DTZ901 - as the driver has -infinity
    odd = replace(group.examples[0], place={"account_id": "<script>alert(1)</script>"}, before=before)
    comparison.groups.append(DifferenceGroup("entries", "odd & ends", 1, [odd]))

    page = render_page(comparison, "a trial", {"by": "ops-1"})

    assert "charged -&gt; insufficient_credits" in page
    assert "odd &amp; ends" in page
    assert "paid_from <code>before all</code>" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


# -- refusals ---------------------------------------------------------------------------------------------------------


async def _refusal(live: Settings, asked: RebuildRequest) -> str:
    with pytest.raises(RefusedError) as refused:
        await plan_rebuild(live, asked)
    return str(refused.value)


async def test_the_live_database_is_refused_by_whatever_name(live: Settings) -> None:
    """It is known by a lock, not by its address."""
    address = live.database_url.get_secret_value()

    other_name = address.replace("127.0.0.1", "localhost")

    assert "is the live database" in await _refusal(live, RebuildRequest("replay rebuild", SecretStr(address)))
    assert "is the live database" in await _refusal(live, RebuildRequest("replay rebuild", SecretStr(other_name)))


async def test_a_database_that_holds_anything_else_is_refused(live: Settings) -> None:
    """Foreign tables, foreign books, and an earlier run that was asked for otherwise; one that is not there too."""
    tables = RebuildRequest("replay rebuild", SecretStr(await new_database(live)))
    books = RebuildRequest("replay rebuild", (await migrated(live)).database_url)
    begun = await _asked(live, "replay shadow", changes=NO_ROLLOVER)
    await _change(target_settings(live, tables), "create table theirs (id integer)")
    await _change(target_settings(live, books), "insert into accounts (account_id, partition) values ('alice', 0)")
    await _rerun(live, begun, stop_at=1)

    assert "tables of another application" in await _refusal(live, tables)
    assert "is not empty" in await _refusal(live, books)
    assert "was not begun by this verb with these options" in await _refusal(live, replace(begun, changes=()))
    nowhere = SecretStr(begun.url.get_secret_value() + "_not")
    assert "create the database first" in await _refusal(live, replace(begun, url=nowhere))


@pytest.mark.whole
async def test_a_plan_that_another_run_has_overtaken_is_refused(live: Settings) -> None:
    """Nothing is decided twice, nor left out."""
    asked = await _asked(live)
    plan = await plan_rebuild(live, asked)
    await _rerun(live, asked, stop_at=1)

    with pytest.raises(RefusedError, match="another rebuild has moved inmail"):
        await rebuild(live, asked, plan, who=WHO, stop=asyncio.Event())

    assert OperationStatus.FAILED == (await list_operations(live, 1))[0].status
    assert {} == _causes((await _rerun(live, asked))[1])


async def test_an_empty_database_that_is_migrated_will_do(live: Settings) -> None:
    """As `inmail migrate` leaves it."""
    plan = await plan_rebuild(live, RebuildRequest("replay rebuild", (await migrated(live)).database_url))

    assert (False, 0) == (plan.begun, plan.lost)
    assert plan.records == sum(span.end for span in plan.spans) > 400


async def test_books_that_have_read_nothing_are_not_said_to_match_their_topics(live: Settings) -> None:
    """As where the live database was lost and made anew: nothing would be read, and all of it would be the same."""
    lost = live.model_copy(update={"database_url": (await migrated(live)).database_url})

    assert "has read nothing of its topics" in await _refusal(lost, await _asked(live))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("plans.platinum.credits=7", "expected a name of the catalogue"),
        ("rollover", "expected a name of the catalogue"),
        ("plans.basic.credits=many", "plans.basic.credits=many"),
        ("plans.basic.colour=1", "colour"),
        ("limits.paid_sends_per_day=-1", "limits.paid_sends_per_day"),
    ],
)
def test_a_change_that_the_catalogue_cannot_take_is_refused(change: str, told: str) -> None:
    """By its name; a misspelt change that is passed over would be one that does not hold."""
    with pytest.raises(CatalogueError, match=told):
        load_catalogue(changes=[change])


def test_changes_hold_for_what_they_name() -> None:
    """One plan, all plans, or a value outside of them."""
    changed = load_catalogue(changes=["plans.*.rollover=false", "plans.basic.credits=2", "apply_balance_caps=true"])

    assert Counter({False: len(changed.plans)}) == Counter(plan.rollover for plan in changed.plans.values())
    assert (2, 5) == (changed.plans["basic"].credits, changed.plans["premium_career"].credits)
    assert (True, False) == (changed.apply_balance_caps, load_catalogue().apply_balance_caps)


def test_what_is_decided_together_keeps_each_accounts_order_and_passes_no_tick() -> None:
    """Runs are long where accounts differ, and each account, each topic and each tick stands in them as it came."""
    settings, catalogue, dice = load_settings(), load_catalogue(), Random(7)  # noqa: S311 - an order
    jobs = [SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, settings)]
    batches = BatchCombiner()
    came = []
    for offset in range(600):
        job = dice.choices(jobs, [20, 10, 1])[0]
        key = None if job.step is not None else b"a%d" % dice.randrange(50)
        record = ConsumerRecord(job.topic, 0, offset, 0, 0, key, b"", None, 0, 0, ())
        came.append(record)
        batches.add(job, record)

    decided = [record for run in batches.batches for record in run.records]

    def lines(records: list[ConsumerRecord]) -> dict[Any, list[int]]:
        found: dict[Any, list[int]] = defaultdict(list)
        for record in records:
            found[record.key].append(record.offset)
            found[record.topic].append(record.offset)
        return found

    assert lines(came) == lines(decided)
    ticks = [number for number, record in enumerate(came) if record.key is None]
    assert all({r.offset for r in decided[:number]} == set(range(number)) for number in ticks)
    assert all({run.job.topic} == {record.topic for record in run.records} for run in batches.batches)
    assert (len(came), True) == (
        batches.count,
        len(batches.batches) < sum(a.topic != b.topic for a, b in pairwise(came)) / 2,
    )


def test_turns_are_by_time_then_billing_sends_ticks() -> None:
    """Rule 16."""
    early, late = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
    topics: Iterable[str] = ("inmail.expiry-ticks", "inmail.send-requests", "inmail.billing-events")

    turns = sorted(
        ((topic, time) for time in (late, early) for topic in topics), key=lambda each: topology.sort_key(*each)
    )

    assert [(topic, time) for time in (early, late) for topic in topology.WORKER_OF] == turns
    assert ("inmail.billing-events", "inmail.send-requests", "inmail.expiry-ticks") == tuple(topology.WORKER_OF)


async def _sends_id(settings: Settings) -> UUID:
    """Return Kafka's id of the sends' topic."""
    async with admin_client(settings) as admin:
        return (await topic_ids(admin, [SEND_REQUESTS]))[SEND_REQUESTS]


@pytest.mark.whole
async def test_a_topic_that_was_created_again_counts_as_one_whose_beginning_is_gone(live: Settings) -> None:
    """Refused, or decided in part: not whole, and no credit is taken that a send of the topic before would have spent.

    Without these sends the rebuilt books cut more to a cap than the live ones did.
    """
    copy = await copy_database(live, _name(live))
    asked = await _asked(copy, "replay shadow")
    untouched = await _asked(copy, "replay shadow")
    await _rerun(copy, untouched)
    read = (await plan_rebuild(copy, asked)).spans
    connection = await connect_database(copy)
    await end_topic(connection, GROUP_OF[SEND_REQUESTS], SEND_REQUESTS, await _sends_id(copy), {0: 0, 1: 0})
    last = await connection.fetchval("select max(as_of) from ended_topics")
    await connection.close()
    partly = replace(asked, partial=True)

    refusal = await _refusal(copy, asked)
    later = await plan_rebuild(copy, replace(asked, start=last + timedelta(seconds=1)))
    plan = await plan_rebuild(copy, partly)
    _, comparison = await _rerun(copy, partly)
    corrections = await find_corrections(copy, target_settings(copy, asked), *WHO, whole=True)

    lost = sum(span.end for span in read if span.topic == SEND_REQUESTS)
    assert f"{lost} records that the live ledger has decided are gone with topics that were created again" in refusal
    assert "give --partial" in refusal
    assert (lost, 0) == (plan.lost, later.lost)
    assert comparison is not None
    assert not comparison.whole
    assert 0 == corrections.summary()["credits_to_take"]
    assert "and the live ledger up to 0 only: if the topic was created again" in await _refusal(copy, untouched)


@pytest.mark.whole
async def test_a_target_that_was_begun_before_a_topic_was_created_again_is_refused(live: Settings) -> None:
    """Though the new topic has the offset at which the target stands: another record is there."""
    copy = await copy_database(live, _name(live))
    asked = await _asked(copy, "replay shadow", partial=True)
    await _rerun(copy, asked)
    connection = await connect_database(copy)
    ends = [
        (span.partition, span.end) for span in (await plan_rebuild(copy, asked)).spans if span.topic == SEND_REQUESTS
    ]
    await end_topic(connection, GROUP_OF[SEND_REQUESTS], SEND_REQUESTS, await _sends_id(copy), dict(ends))
    await connection.close()

    assert "was created again since the target was begun" in await _refusal(copy, asked)


# -- by command -------------------------------------------------------------------------------------------------------


def _command(address: str, *options: str, verb: str = "rebuild") -> list[str]:
    return ["replay", verb, "--database", address, "--by", "ops-1", "--because", "a trial", *options]


@pytest.mark.parametrize(
    ("verb", "number"),
    [whole("rebuild", signal.SIGINT), ("rebuild", signal.SIGKILL), whole("shadow", signal.SIGKILL)],
)
async def test_a_rerun_that_was_interrupted_or_killed_goes_on(
    live: Settings, verb: str, number: signal.Signals
) -> None:
    """Half-way, in the middle of whatever it was doing; then the same command again gives the same books."""
    address = await new_database(live)
    other = live.model_copy(update={"database_url": SecretStr(address)})
    process = await start(live, *_command(address, "--yes", "--rate", "60", verb=verb))

    async def has_read_some() -> bool:
        connection = await connect_database(other)
        try:
            return bool(await connection.fetchval("select sum(next_offset) > 100 from lanes"))
        except asyncpg.UndefinedTableError:
            return False
        finally:
            await connection.close()

    await eventually(has_read_some, "some records were decided again")
    process.send_signal(number)
    ended, *_ = await end(process)
    status = (await list_operations(live, 1))[0].status
    comparison = await compare(live, other)
    _, again = await _rerun(live, RebuildRequest(f"replay {verb}", SecretStr(address)))

    stopped = number is signal.SIGINT
    assert (Exit.INTERRUPTED if stopped else -signal.SIGKILL) == ended
    assert (OperationStatus.STOPPED if stopped else OperationStatus.BROKEN_OFF) == status
    assert ({}, False) == (comparison.counts(), comparison.whole)
    assert {} == _causes(again)
    assert await _everything(live) == await _everything(other)


async def test_a_plan_comes_first_and_a_dry_run_changes_nothing(live: Settings) -> None:
    """Counts and a time; the other database is left as empty as it was, and no operation is on record."""
    address = await new_database(live)
    before = await list_operations(live, 1)

    code, out, err = await run(live, "replay", "rebuild", "--database", address, "--dry-run")

    assert (Exit.DONE, "") == (code, err)
    assert re.search(r"inmail\.send-requests +\d{3}\n", out)
    assert re.search(r"[\d,]+ records into .*/other_\w+, about 0:00:0\d; nothing is published", out)
    assert address.rpartition("/")[0].partition("@")[0] not in out
    connection = await asyncpg.connect(address)
    assert 0 == await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'")
    await connection.close()
    assert before == await list_operations(live, 1)


@pytest.mark.whole
async def test_a_difference_is_told_and_ends_with_a_no(live: Settings) -> None:
    """For a person and for a program."""
    asked = await _asked(live)
    await _rerun(live, asked)
    await _change(target_settings(live, asked), "update lots set warned = true where not warned")
    assert asked.url is not None
    command = _command(asked.url.get_secret_value(), "--yes")

    code, text, _ = await run(live, *command)
    code_too, json_text, _ = await run(live, *command, "--json")

    found = json.loads(json_text)["comparison"]
    assert (Exit.NO, Exit.NO) == (code, code_too)
    assert re.search(r"\d+ lots: \w+: differs in warned\n  account_id .+: warned false -> warned true", text)
    assert (False, True) == (found["same"], found["whole"])
    assert {"lots"} == {group["section"] for group in found["groups"]}


@pytest.mark.whole
@pytest.mark.parametrize("guide", ["replay-rebuild.md", "replay-shadow.md"])
async def test_what_the_guide_tells_can_be_done(live: Settings, guide: str, tmp_path: Path) -> None:
    """Every command of it, in order."""
    told = re.findall(r"^\$ inmail (.+)$", (ROOT / "docs" / guide).read_text(), re.MULTILINE)
    address = await new_database(live)
    here = {"2026-01-01": "2030-02-01", "2026-02-01": "2030-03-01"}
    done = []
    for command in told:
        words = [here.get(word, word) for word in shlex.split(command)]
        words = [address if word.startswith("postgresql://") else word for word in words]
        done.append((command, (await run(live, *words, folder=tmp_path)).code))

    assert len(told) >= 2
    assert [(command, Exit.DONE) for command in told] == done
    assert ["</html>"] == [page.read_text().split()[-1][-7:] for page in _pages(tmp_path)]


def _pages(folder: Path) -> list[Path]:
    return list(folder.glob("*.html"))


# -- with workers: these go on with the live books, so they come last -------------------------------------------------


@pytest.mark.whole
async def test_what_the_workers_decided_is_what_a_rebuild_decides(live: Settings) -> None:
    """Real lanes, that wait for each other by the test's own turns: grants, sends, a dead letter, a report, a tick."""
    asked = await _asked(live)
    await _rerun(live, asked)
    catalogue = load_catalogue(live.plans_file)
    start = history()[-1].time + DAY
    ids = [str(uuid4()) for _ in range(3)]
    stored = [(GROUP_OF[topic], partition, offset) for topic, partition, offset, _ in await _lanes_of(live)]
    gift = {"credits": 2, "promotion_id": "welcome"}
    turns = [
        [encode_event(start, str(uuid4()), PromotionGranted, f"w-{n}", gift) for n in range(6)],
        [encode_send(start, str(uuid4()), f"w-{n % 6}", "zoe", "none", None) for n in range(18)],
        [encode_send(start + 5, each, "w-0", "zoe", "connection", None) for each in ids],
        [encode_event(start + 8, str(uuid4()), SendUndeliverable, "w-0", {"send_id": ids[0], "colour": "red"})],
        [encode_event(start + 9, str(uuid4()), SendUndeliverable, "w-0", {"send_id": ids[0]})],
        [encode_event(start + 95 * DAY, str(uuid4()), ExpiryTick, None, {"as_of": format_instant(start + 95 * DAY)})],
    ]

    async with _workers(live, catalogue):
        for records in turns:
            await _read_by_all(live, await publish_records(live, records))
    operation, comparison = await _rerun(live, asked)

    assert {"invalid_event": 1} == operation.result["dead_letters"]
    assert comparison is not None
    assert ({}, True) == (comparison.counts(), comparison.whole)
    assert await _everything(live) == await _everything(target_settings(live, asked))
    connection = await connect_database(live)
    codes = {row["code"] for row in await connection.fetch(_OF_WORKERS)}
    noted_again = await connection.fetchval(
        "select count(*) from decided_ahead as d join unnest($1::text[], $2::integer[], $3::bigint[]) as u (g, p, o)"
        " on d.consumer_group = u.g and d.partition = u.p and d.first_offset < u.o",
        *zip(*stored, strict=True),
    )
    await connection.close()
    assert {"granted", "charged", "insufficient_credits", "free", "exhausted", "not_charged"} <= codes
    assert 0 == noted_again  # they read all of it once more, and what is stored is not decided now


@asynccontextmanager
async def _workers(live: Settings, catalogue: Catalogue) -> AsyncIterator[None]:
    async with (
        working(live, SendJob(catalogue), BillingJob(catalogue), ExpiryJob(catalogue, live)),
    ):
        yield


_OF_WORKERS = "select distinct code from journal join accounts using (account) where account_id like 'w-%'"


async def _read_by_all(live: Settings, placed: Iterable[Placed]) -> None:
    connection = await connect_database(live)

    async def are_read() -> bool:
        rows = await connection.fetch("select topic, partition, next_offset from lanes")
        read = {(row["topic"], row["partition"]): row["next_offset"] for row in rows}
        return all(read[each.record.topic, each.partition] > each.offset for each in placed)

    try:
        await eventually(are_read, "the lanes have read what was published")
    finally:
        await connection.close()


async def test_a_wrong_catalogue_is_found_and_made_good_as_the_page_tells(live: Settings, tmp_path: Path) -> None:
    """5 credits and not 50, and charges for what is free: in the end alice and bob have what they should."""
    wrong = tmp_path / "wrong.toml"
    right = _read(Path(live.plans_file or SHIPPED))
    text = right.replace("[plans.sales_navigator_core]\ncredits = 50", "[plans.sales_navigator_core]\ncredits = 5")
    wrong.write_text(text.replace('"connection", "open_profile"', '"connection"'))
    start = history()[-1].time + 200 * DAY
    period = {"subscription_id": "s-1", "plan": "sales_navigator_core", "period_start": format_instant(start)}
    period["period_end"] = format_instant(start + 30 * DAY)
    gift = {"credits": 3, "promotion_id": "welcome"}
    turns = [
        [encode_event(start, str(uuid4()), SubscriptionActivated, "alice", period)],
        [encode_event(start, str(uuid4()), PromotionGranted, name, gift) for name in ("bob", "carol")],
        [encode_send(start + 1, str(uuid4()), "alice", f"r-{n}", "none", None) for n in range(7)],
        [encode_send(start + 1, str(uuid4()), name, "zoe", "open_profile", None) for name in ("bob",) * 2],
        [encode_send(start + 1, str(uuid4()), "carol", "zoe", "none", None)],
    ]
    await pass_over(live)  # as workers leave the groups that have decided all there is
    async with _workers(live, load_catalogue(str(wrong))):
        for records in turns:
            await _read_by_all(live, await publish_records(live, records))
    assert {"alice": 0, "bob": 1, "carol": 2} == await _balances(live)

    async with _workers(live, load_catalogue(live.plans_file)):
        done = []
        for command in re.findall(r"^\$ inmail (.+)$", (ROOT / "docs/replay-catalogue.md").read_text(), re.MULTILINE):
            done.append((command, *await run(live, *shlex.split(command), folder=tmp_path)))
            if command.startswith("publish"):
                await eventually(partial(_are_set_right, live), "the adjustments are decided")

    assert (6, []) == (len(done), [each[:3] for each in done if each[1] != Exit.DONE])
    found, checked = done[1][2], done[3][2]
    for told in (
        "lots: subscription: differs in granted",
        "entries: insufficient_credits -> charged",
        "entries: charged",
    ):
        assert re.search(f"^[12] {told}", found, re.MULTILINE)
    assert "3 adjustments for 2 accounts, 47 credits to give, 0 to take: owed.ndjson\n" in found
    assert "0 adjustments for 0 accounts, 0 credits to give, 0 to take: still-owed.ndjson\n  3 made before\n" in checked
    owed = [json.loads(line) for line in (tmp_path / "owed.ndjson").read_text().splitlines()]
    assert [("alice", 45), ("bob", 1), ("bob", 1)] == sorted(
        (each["subject"], each["data"]["credits"]) for each in owed
    )
    assert {"alice": 45, "bob": 3, "carol": 2} == await _balances(live)


def _read(file: Path) -> str:
    return file.read_text()


async def _balances(live: Settings) -> dict[str, int]:
    connection = await connect_database(live)
    rows = await connection.fetch(
        "select account_id, sum(remaining)::integer from lots join accounts using (account)"
        " where account_id = any($1) group by 1",
        ["alice", "bob", "carol"],
    )
    await connection.close()
    return {row[0]: row[1] for row in rows}


async def _are_set_right(live: Settings) -> bool:
    return (await _balances(live))["alice"] > 0 and (await _balances(live))["bob"] > 2


@pytest.mark.whole
async def test_records_around_a_clock_that_was_set_back_are_refused(live: Settings, connect: Connect) -> None:
    """Those after it would be decided as of the times before it; of a topic that has ended its offset says nothing."""
    database = await connect(live)
    await database.execute(
        "insert into clock_set_backs (consumer_group, topic, partition, next_offset, as_of, set_back_to)"
        " values ('inmail-send', 'inmail.send-requests', 1, 3, now() + interval '1 year', now())"
    )
    asked = await _asked(live)
    refusal = await _refusal(live, asked)
    await database.execute("update clock_set_backs set next_offset = 0")
    plan = await plan_rebuild(live, asked)
    await database.execute("delete from clock_set_backs")

    assert "the clock of inmail.send-requests/1 was set back at offset 3 (`inmail clock set-back`)" in refusal
    assert plan.records


async def test_a_topic_whose_beginning_is_gone_is_refused(live: Settings) -> None:
    """Unless what is left will do: then only that is decided, and compared."""
    asked = await _asked(live)
    gone = TopicPartition("inmail.send-requests", 1)
    async with admin_client(live) as admin:
        await admin.delete_records({gone: RecordsToDelete(before_offset=40)})

    refusal = await _refusal(live, asked)
    plan = await plan_rebuild(live, replace(asked, partial=True))
    operation, comparison = await _rerun(live, replace(asked, partial=True))

    assert "retention has deleted 40 records, inmail.send-requests/1 up to offset 40" in refusal
    assert "--partial" in refusal
    assert (40, plan.records) == (plan.lost, operation.result["read"])
    assert comparison is not None
    assert not comparison.whole
    assert 30 < len((await _everything(live))["journal"]) - comparison.lines["entries"][0] < 100  # some were repeats
    async with open_both(live, target_settings(live, asked)) as books:  # gone on with by a command without --partial
        assert not (await common_range(*books)).complete


@pytest.mark.whole
async def test_a_target_where_retention_has_passed_is_refused_by_its_cause(live: Settings) -> None:
    """It can never go on, with or without --partial, and no other rebuild has moved it."""
    asked = await _asked(live, partial=True)
    await _rerun(live, asked, stop_at=1)
    spans = (await plan_rebuild(live, asked)).spans
    (stands,) = (span for span in spans if (span.topic, span.partition) == (SEND_REQUESTS, 1))
    async with admin_client(live) as admin:
        gone = RecordsToDelete(before_offset=stands.start + 3)
        await admin.delete_records({TopicPartition(SEND_REQUESTS, 1): gone})

    told = f"inmail.send-requests/1 up to offset {stands.start}, and the records before {stands.start + 3} are deleted"
    for partial_ in (True, False):
        refusal = await _refusal(live, replace(asked, partial=partial_))
        assert told in refusal
        assert "retention has passed where the target stands: use another database or schema" in refusal
    assert stands.start + 3 < stands.end
