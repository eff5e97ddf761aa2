"""The console's sampling: what foreign records do to it, and what its own end does to the console."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import asyncpg
import orjson
import pytest
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord

from infra import postgres_locks
from infra.kafka.rights import MissingRightsError, Operation, Resource, Right
from infra.postgres import Connection, database_address
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS, SEND_RESULTS
from tests.workers.wire import eventually
from workers.console import lag_source, system_monitor
from workers.console.headline import headline
from workers.console.lag_source import LagSource
from workers.console.ledger_sample import LedgerSample
from workers.console.problems import is_silence
from workers.console.published_marks import PublishedMarks
from workers.console.query_limiter import QueryLimiter
from workers.console.result_tail import Results, ResultTail, _count
from workers.console.server import serve_console
from workers.console.system_monitor import SystemMonitor
from workers.ops.books.shards import ServerError
from workers.ops.operations import Intent, recorded_operation
from workers.ops.topics.plan import apply_topics, plan_topics


@pytest.mark.parametrize("word", [[], {}, ["charged"], 7, None, "unheard of"])
def test_a_foreign_word_in_a_result_counts_as_another(word: object) -> None:
    """Whoever may write to a topic may put any JSON where a code or a reason is expected."""
    results = Results()
    for topic, name in ((SEND_RESULTS, "code"), (DEAD_LETTERS, "reason")):
        value = orjson.dumps({"data": {name: word}})
        record = ConsumerRecord(topic, 0, 0, 0, 0, None, value, None, 0, len(value), ())
        _count(results, PublishedMarks(), topic, [record], 1.0)

    assert {"other": 1} == results.outcomes
    assert {"other": 1} == results.dead_letters


async def _serve(settings: Settings, listener: socket.socket, served_on: list[str]) -> None:
    async with serve_console(settings, listener) as address:
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.Event().wait()
        served_on.append(address)


async def test_a_console_ends_with_the_error_that_ended_its_sampling(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is served on would show the last sample for ever."""

    async def fail(_: SystemMonitor) -> None:
        raise ZeroDivisionError("sampling")

    monkeypatch.setattr(SystemMonitor, "run", fail)
    served_on: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(ZeroDivisionError, match="sampling"):
        await _serve(settings, listener, served_on)
    assert [] == served_on
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_an_operation_that_runs_is_counted_however_many_began_after_it(
    settings: Settings, database: Connection
) -> None:
    """A long replay stays in the navigation's count while others begin and end; one that was broken off does not."""
    insert = (
        "insert into operations (verb, actor, reason, arguments, plan, started_at, noted_at, ended_at, status, result)"
        " select $1, 'a', 'b', '{}', '{}', now(), now(), case when $2 = 'done' then now() end,"
        " $2, '{}' from generate_series(1, $3)"
    )
    monitor = SystemMonitor(QueryLimiter(settings), {})
    async with recorded_operation(settings, Intent("rebuild", "a", "b", {}, {})):
        await database.execute(insert, "redrive", "running", 1)
        await database.execute(insert, "redrive", "done", 6)
        await monitor.take_sample()
        counted = monitor.overview_json()["counts"]["operations"]
    await monitor.close()

    assert 1 == counted


async def test_a_group_that_the_console_may_not_see_hides_no_other(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka answers: what is not allowed is a part of its own, that worker is not known, and the others are judged."""
    missing = [Right(Operation.DESCRIBE, Resource.GROUP, "inmail-billing")]

    async def refuse(asked: Settings, _: object, purpose: str) -> None:
        raise MissingRightsError(asked, missing, purpose)

    await apply_topics(settings, await plan_topics(settings))
    monkeypatch.setattr(lag_source, "require_rights", refuse)
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    overview, lag = monitor.overview_json(), monitor.lag_json(["inmail-billing"])
    await monitor.close()

    parts = {part.name: part for part in overview["health"]}
    assert {} == overview["errors"]
    assert ("warning", "not allowed") == (parts["Kafka"].status, parts["Kafka"].cause)
    assert "grant it DESCRIBE on group inmail-billing" in parts["Kafka"].text
    assert ("unknown", "not known") == (parts["billing worker"].status, parts["billing worker"].cause)
    assert "not known" not in (parts["send worker"].cause, parts["expiry worker"].cause)
    assert parts["Kafka"].text == lag["error"]
    for groups in (overview["lag"]["groups"], lag["groups"]):
        assert {"inmail-send", "inmail-billing", "inmail-expiry"} <= {each["group"] for each in groups}
        hidden = [each for each in groups if each["group"] == "inmail-billing"]
        assert [("NOT KNOWN", "unknown", None)] == [(each["status"], each["kind"], each["records"]) for each in hidden]
    assert [("inmail-billing", [])] == [(each["group"], each["partitions"]) for each in lag["shown"]]


async def test_samples_are_taken_often_while_a_page_asks_for_them(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first page that asks has one at once; after the last one has closed, a sample comes every 15 s again."""
    taken = 0

    async def take(_: SystemMonitor) -> None:
        nonlocal taken
        taken += 1

    monkeypatch.setattr(SystemMonitor, "take_sample", take)
    monkeypatch.setattr(system_monitor, "VIEWED_SECONDS", 0.05)
    monkeypatch.setattr(system_monitor, "_ASKING_SECONDS", 0.5)
    monitor = SystemMonitor(QueryLimiter(settings), {})
    sampling = asyncio.create_task(monitor.run())
    before = -1

    async def reaches(number: int) -> bool:
        return taken >= number

    async def stays() -> bool:
        nonlocal before
        same, before = before == taken, taken
        await asyncio.sleep(0.3)
        return same

    await eventually(lambda: reaches(1), "the first sample")
    assert 1 == taken
    monitor.note_view()
    await eventually(lambda: reaches(4), "samples while a page asks")
    await eventually(stays, "no more samples")
    sampling.cancel()


async def test_dead_letters_that_cannot_be_read_are_not_taken_for_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka answers about lag, and refuses to let the console read them: nothing is known to be well."""
    await apply_topics(settings, await plan_topics(settings))
    monitor = SystemMonitor(QueryLimiter(settings), {})
    with monkeypatch.context() as patched:
        patched.setattr(ResultTail, "read", _refuse_letters)
        await monitor.take_sample()
    refused = {part.name: part for part in monitor.overview_json()["health"]}
    await monitor.take_sample()
    after = [part.name for part in monitor.overview_json()["health"]]
    await monitor.close()

    part = refused["Dead letters"]
    assert ("unknown", "not counted") == (part.status, part.cause)
    assert part.text.startswith("not counted: ")
    assert "Dead letters are not counted" == headline([part])["title"]
    assert ("ok", False) == (refused["Kafka"].status, "Dead letters" in after)


async def test_lag_of_before_kafka_fell_silent_is_no_lag_of_now(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statuses stay to be read, with their time; none of them, of a group or a partition, is well or unwell."""

    async def hang(_: LagSource) -> None:
        raise TimeoutError

    await apply_topics(settings, await plan_topics(settings))
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    before = monitor.lag_json()
    monkeypatch.setattr(LagSource, "refresh", hang)
    await monitor.take_sample()
    after = monitor.lag_json()
    await monitor.close()

    assert (False, True) == (before["is_stale"], after["is_stale"])
    assert before["at"] == after["at"]
    assert _statuses(before) == _statuses(after)
    assert "unknown" not in _kinds(before)
    assert {"unknown"} == _kinds(after)


def _rows(lag: dict[str, Any]) -> list[dict[str, Any]]:
    return [*lag["groups"], *lag["shown"], *(each for group in lag["shown"] for each in group["partitions"])]


def _statuses(lag: dict[str, Any]) -> list[str]:
    return [each["status"] for each in _rows(lag)]


def _kinds(lag: dict[str, Any]) -> set[str]:
    return {each["kind"] for each in _rows(lag)}


async def _refuse_letters(_: ResultTail) -> Results:
    raise TopicAuthorizationFailedError(DEAD_LETTERS)


async def test_one_question_about_locks_serves_a_sample(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lag and the ledger's part of a sample both name who holds a lock, by the same answer."""
    find, asked = postgres_locks.find_holders, list[Any]()

    def counted(sessions: Any) -> list[postgres_locks.LockHolder]:
        asked.append(sessions)
        return find(sessions)

    monkeypatch.setattr(postgres_locks, "find_holders", counted)
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    await monitor.close()

    assert 1 == len(asked)


async def test_a_server_that_hangs_is_named_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads that Postgres does not answer is not sent to look at Kafka too."""

    async def hang(_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(LedgerSample, "read", hang)
    await apply_topics(settings, await plan_topics(settings))
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    told = monitor.overview_json()["errors"]
    await monitor.close()

    assert ["postgres"] == list(told)
    assert f"Postgres at {database_address(settings)} gives no answer in time" in told["postgres"]
    assert "Kafka" not in told["postgres"]


async def test_a_server_that_refuses_is_not_said_to_be_silent_and_its_data_has_its_own_time(
    settings: Settings, database: Connection
) -> None:
    """Whoever reads that a table is missing does not look for a server that is away, nor takes old data for new."""
    await apply_topics(settings, await plan_topics(settings))
    monitor = SystemMonitor(QueryLimiter(settings), {})
    await monitor.take_sample()
    read_at = monitor.overview_json()["outcomes"]["at"]
    await database.execute("alter table lanes rename to lanes_elsewhere")
    await monitor.take_sample()
    overview = monitor.overview_json()
    await monitor.close()

    assert read_at < overview["at"]
    assert {"postgres": {"title": "Postgres refuses what the console asks", "at": read_at}} == overview["troubles"]
    part = next(each for each in overview["health"] if each.name == "Postgres")
    assert ("failed", "refused") == (part.status, part.cause)
    assert "run `inmail migrate`" in part.text


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionRefusedError(),
        asyncpg.CannotConnectNowError("starting up"),
        KafkaConnectionError("gone"),
    ],
)
def test_a_server_that_cannot_be_reached_is_silent(settings: Settings, error: Exception) -> None:
    """One of several servers too."""
    assert is_silence(error)
    assert is_silence(ServerError(settings, error))


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UndefinedTableError("no lanes"),
        asyncpg.InsufficientPrivilegeError("lanes"),
        asyncpg.TooManyConnectionsError("too many"),
        postgres_locks.LockedError("pid 7"),
        TopicAuthorizationFailedError("inmail.send-requests"),
    ],
)
def test_a_server_that_answers_is_not_silent(settings: Settings, error: Exception) -> None:
    """A lock, a missing table or right, and want of connections are no silence."""
    assert not is_silence(error)
    assert not is_silence(ServerError(settings, error))
