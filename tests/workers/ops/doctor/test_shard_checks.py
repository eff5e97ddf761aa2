"""`inmail doctor` where several Postgres servers hold the books."""

from pydantic import SecretStr

from infra.settings import Settings
from tests.workers.two_servers import SILENT, TwoServers, set_state
from tests.workers.wire import prepare
from workers.ops.doctor import CheckResult, Grade, run_checkup
from workers.ops.doctor.questions import Questions
from workers.ops.doctor.shard_checks import check_shards
from workers.ops.topics.numbering import plan_numbering


async def _told(settings: Settings) -> dict[str, CheckResult]:
    return {each.subject: each for each in await check_shards(settings)}


async def test_servers_that_are_one_set_of_books_have_nothing_to_find(servers: TwoServers) -> None:
    """Distinct, numbered alike, and each number with one of them."""
    told = await _told(servers.both)

    assert {Grade.OK} == {each.grade for each in told.values()}
    assert ["distinct", "partitions", "numbers"] == list(told)
    assert "each of 4 has one server" == told["numbers"].text


async def test_what_is_wrong_between_servers_is_named(servers: TwoServers) -> None:
    """Counts of partitions that differ, and numbers without a server or with two."""
    await servers.second.execute("update partitioning set partitions = 6")
    await set_state(servers.first, 2, "left", servers.second)
    nobody = await _told(servers.both)
    await set_state(servers.second, 2, "held")
    await set_state(servers.first, 2, "held")
    for connection in (servers.first, servers.second):
        await connection.execute("insert into accounts (account_id, partition) values ('a', 0)")
    two = await _told(servers.both)

    assert [Grade.WRONG] * 2 == [nobody[name].grade for name in ("partitions", "numbers")]
    assert nobody["partitions"].do.startswith("`inmail topics apply`")  # none has accounts yet
    assert two["partitions"].do.startswith("`inmail shards list`")
    assert "no server holds 2: nobody works them" == nobody["numbers"].text
    assert (Grade.WRONG, True) == (two["numbers"].grade, two["numbers"].text.endswith("both claim 2: nobody works it"))


async def test_a_move_under_way_is_a_warning_and_one_server_named_twice_is_wrong(servers: TwoServers) -> None:
    """A number on its way has no holder for a moment; a server that was not prepared is no second one."""
    await set_state(servers.first, 3, "arriving", servers.second)
    ahead = await _told(servers.both)
    await servers.move_back()
    moving = await _told(servers.both)
    await servers.second.execute("update shard set ordinal = 0, holds_all = true")
    copied = await check_shards(servers.both)
    twice = await check_shards(servers.repeated())

    assert (Grade.WARNING, False) == (moving["moves"].grade, "numbers" in moving)
    assert "a move of 3 is under way, or was broken off" == ahead["moves"].text  # its lanes go on while it is copied
    assert f"{ahead['moves'].text}: nobody works 3 meanwhile" == moving["moves"].text
    assert [("distinct", Grade.WRONG)] * 2 == [(each.subject, each.grade) for each in (*copied, *twice)]
    assert [False, True] == ["lead to one server" in each.text for each in (*copied, *twice)]


async def test_a_checkup_names_the_server_of_each_finding_and_goes_on_without_one(servers: TwoServers) -> None:
    """One server away: the other is looked at as a whole, and the exit code can tell that something was not."""
    report = await run_checkup(
        servers.without_second().model_copy(update={"kafka_bootstrap_servers": "localhost:1"}), before_start=True
    )

    first = servers.alone[0].database_url.get_secret_value().rpartition("@")[2]
    of_first = [each for each in report.results if each.subject.endswith(f" of {first}")]
    away = [each for each in report.results if each.subject.endswith(" of localhost:1/inmail")]
    assert report.unreachable
    assert {"Postgres", "clocks", "rights", "lanes"} <= {each.area for each in of_first}
    assert [("Postgres", True)] == [(each.area, each.unreachable) for each in away]
    shards = [each for each in report.results if each.area == "servers"]
    assert [True, False] == [shards[0].unreachable, shards[-1].unreachable]


async def test_a_checkup_goes_on_where_no_server_answers(settings: Settings) -> None:
    """Each is named as away, and what they hold together is one more thing that was not looked at."""
    urls = f"{SILENT} {SILENT.replace('localhost', '127.0.0.1')}"
    silent = settings.model_copy(update={"database_shards": SecretStr(urls)})

    report = await run_checkup(silent, before_start=True)

    (together,) = [each for each in report.results if each.area == "servers"]
    assert ("all", Grade.WRONG, True, "start it") == (
        together.subject, together.grade, together.unreachable, together.do,
    )  # fmt: skip
    assert 2 == together.text.count("Postgres cannot be reached at ")
    assert 2 == len([each for each in report.results if each.area == "Postgres" and each.unreachable])
    assert {"Kafka", "topics"} <= {each.area for each in report.results}


async def test_servers_that_were_not_migrated_are_there_and_told_so(servers: TwoServers) -> None:
    """By each question that needs their tables, and as nothing that has to be started."""
    await prepare(servers.alone[0])
    await servers.second.execute("drop table shard cascade")
    (one,) = [each for each in await check_shards(servers.both) if each.grade is Grade.WRONG]
    await servers.first.execute("drop table shard cascade")
    report = await run_checkup(servers.both, before_start=True)

    results = {(each.area, each.subject): each for each in report.results}
    together, plan = results["servers", "all"], results["topics", "plan"]
    assert [(Grade.WRONG, False, "`inmail migrate`")] * 2 == [
        (each.grade, each.unreachable, each.do) for each in (one, together)
    ]
    assert 2 == together.text.count("does not have this version's tables")
    assert (Grade.WRONG, False) == (plan.grade, plan.unreachable)
    assert plan.text.startswith("Postgres at ")
    assert "run `inmail migrate`" in plan.text
    assert not report.unreachable


async def test_a_plan_that_is_refused_is_a_finding(servers: TwoServers) -> None:
    """The report goes on: accounts are not numbered anew while several servers hold them."""
    await servers.first.execute("insert into accounts (account_id, partition) values ('a', 0)")
    more = servers.both.model_copy(update={"topic_partitions": 6})
    told: list[CheckResult] = []

    async def plan() -> list[CheckResult]:
        await plan_numbering(more)
        return []

    assert not await Questions(told.append, print).ask("topics", "plan", plan)
    assert [("plan", Grade.WRONG)] == [(each.subject, each.grade) for each in told]
    assert "accounts are not numbered anew while several servers hold them" in told[0].text
