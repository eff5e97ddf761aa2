"""Reading results where a stranger wrote to their topics: what is no event is named, and costs no other its place."""

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from contextlib import aclosing
from uuid import UUID, uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from rich.console import Console
from typer.testing import CliRunner

from infra.clock import utc_now
from infra.kafka.clients import create_producer, partition_of
from infra.settings import Settings
from schemas.catalogue import OUTPUT_TOPICS, SEND_RESULTS
from tests.ledger.book import NEW_YEAR
from workers.cli import app
from workers.commands.running import Exit
from workers.commands.views.results import show_result
from workers.ops.topics import results as module

EVENT = {
    "type": "inmail.send.decided.v1",
    "subject": "a-1",
    "time": "2026-01-31T09:30:00Z",
    "data": {"code": "charged", "balance_before": 1, "balance_after": 0, "sequence": 1},
}

# No time, none with a zone, and one that is no instant of the calendar.
TIMES_OF_NO_WORKER = ("now", "2026-01-31T09:30:00", "2026-01-31", "0001-01-01T00:00:00+14:00")


def _record(offset: int, value: bytes | None) -> ConsumerRecord:
    return ConsumerRecord(SEND_RESULTS, 3, offset, 1_900_000_000_000, 0, b"a-1", value, None, 0, 0, ())


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    "value",
    [
        *(b"\xff", b"{", b"[]", b'"text"', b"{}", b"[" * 100_000, None),
        *(json.dumps({"type": "t", "time": time, "data": {}}).encode() for time in TIMES_OF_NO_WORKER),
    ],
    ids=["bytes", "cut", "list", "text", "empty", "deep", "none", *TIMES_OF_NO_WORKER],
)
def test_a_record_that_is_no_event_is_passed_over_with_its_place(
    value: bytes | None, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one behind it is shown, alone, and standard error says where the record is."""

    async def partition_counts(*_: object) -> dict[str, int]:
        return {SEND_RESULTS: 4}

    async def read_records(*_: object, **__: object) -> AsyncIterator[ConsumerRecord]:
        yield _record(7, value)
        yield _record(8, json.dumps(EVENT).encode())

    monkeypatch.setattr(module, "partition_counts", partition_counts)
    monkeypatch.setattr(module, "read_records", read_records)
    done = CliRunner().invoke(app, ["results", *options])

    assert done.exit_code == Exit.DONE
    (line,) = done.stdout.splitlines()
    assert EVENT == json.loads(line) if options else "charged" in line
    (warning,) = [json.loads(each) for each in done.stderr.splitlines()]
    assert ("not_an_event", SEND_RESULTS, 3, 7) == (
        warning["event"],
        warning["topic"],
        warning["partition"],
        warning["offset"],
    )


def _newest(results: Iterable[module.Result], last: int) -> list[module.Result]:
    newest = module.NewestResults(last)
    for each in results:
        newest.add(each)
    return newest.in_order()


def test_the_newest_results_come_oldest_first() -> None:
    """Of all partitions together, whatever the order in which they are read; fewer than asked for are all."""
    results = [
        module.Result(SEND_RESULTS, second % 2, offset, NEW_YEAR, b"", EVENT | {"time": f"2026-01-31T09:30:0{second}Z"})
        for offset, second in enumerate((5, 1, 4, 2, 3))
    ]

    assert ["4", "5"] == [each.event["time"][-2] for each in _newest(results, 2)]
    assert ["1", "2", "3", "4", "5"] == [each.event["time"][-2] for each in _newest(results, 9)]


async def test_the_last_results_are_found_from_the_end(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands those before them are not read, nor fetched: of an account, of all, and as JSON."""
    values = [
        json.dumps(EVENT | {"subject": account, "time": f"2100-01-{1 + number // 1440:02}T{_clock(number)}Z"}).encode()
        for number in range(3000)
    ]
    partition = partition_of(account.encode(), cluster.topic_partitions)
    async with create_producer(cluster, "test") as producer:
        for value in values:
            await producer.send(SEND_RESULTS, value, key=account.encode(), partition=partition)
    parse, parsed = module._parse_result, list[int]()

    def note(record: ConsumerRecord) -> module.Result | None:
        parsed.append(record.offset)
        return parse(record)

    monkeypatch.setattr(module, "_parse_result", note)
    env = {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": cluster.kafka_bootstrap_servers}
    done = [
        await asyncio.to_thread(CliRunner().invoke, app, ["results", "--last", "3", "--json", *options], env=env)
        for options in ([], ["--account", account])
    ]

    assert [values[-3:]] * 2 == [each.stdout.encode().splitlines() for each in done]
    assert len(parsed) < 1000


def _clock(minutes: int) -> str:
    return f"{minutes // 60 % 24:02}:{minutes % 60:02}:00"


async def test_the_last_results_of_all_partitions_are_the_newest(cluster: Settings, account: str) -> None:
    """Also where one of them has more than all others, and few of its records are wanted."""
    old, new = f"{account}-old", f"{account}-new"
    places = [partition_of(each.encode(), cluster.topic_partitions) for each in (old, new)]
    request = str(uuid4())
    async with create_producer(cluster, "test") as producer:
        for number in range(200):
            for name, place in zip((old, new), places, strict=True):
                wanted = number < 4
                data = EVENT["data"] | {"request_id": request if wanted else str(uuid4()), "sequence": number}  # type: ignore[operator]
                time = utc_now().isoformat()
                value = json.dumps(EVENT | {"subject": name, "time": time, "data": data}).encode()
                await producer.send_and_wait(SEND_RESULTS, value, key=name.encode(), partition=place)

    async with aclosing(module.read_newest_results(cluster, 3, module.ResultFilter(request=UUID(request)))) as results:
        found = [(each.account_id, each.data["sequence"]) async for each in results]

    assert [(new, 2), (old, 3), (new, 3)] == found


@pytest.mark.parametrize("asked", ["01HZX3V9QK8J", "9F1C0A52-3D58-4D0B-9C2E-0A7D35C7E001"])
def test_an_answer_is_found_by_its_id_as_it_is_and_by_its_producers_own(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that is no UUID was wrong usage, though the answer carries it."""
    ids = {"request_id": "9f1c0a52-3d58-4d0b-9c2e-0a7d35c7e001", "original_id": "01HZX3V9QK8J"}
    wanted = json.dumps(EVENT | {"data": EVENT["data"] | ids}).encode()  # type: ignore[operator]

    async def partition_counts(*_: object) -> dict[str, int]:
        return {SEND_RESULTS: 4}

    async def read_records(*_: object, **__: object) -> AsyncIterator[ConsumerRecord]:
        yield _record(7, json.dumps(EVENT).encode())
        yield _record(8, wanted)

    monkeypatch.setattr(module, "partition_counts", partition_counts)
    monkeypatch.setattr(module, "read_records", read_records)
    done = CliRunner().invoke(app, ["results", "--request", asked, "--json"])

    assert (Exit.DONE, [wanted]) == (done.exit_code, done.stdout.encode().splitlines())


async def test_results_of_one_second_come_in_the_order_of_their_instants() -> None:
    """As text, a whole second comes after its own fractions, and a time of another zone anywhere."""
    times = ["2026-01-31T09:30:00Z", "2026-01-31T09:30:00.005000Z", "2026-01-31T10:30:00.006+01:00"]

    async def read() -> AsyncGenerator[module.Result, None]:
        for offset, time in enumerate(reversed(times)):
            yield module.Result(SEND_RESULTS, 0, offset, NEW_YEAR, b"", EVENT | {"time": time})

    assert times == [each.event["time"] async for each in module.sort_by_time(read())]
    assert times[1:] == [each.event["time"] for each in _newest([each async for each in read()], 2)]


async def test_a_foreign_account_or_sequence_ends_no_sorting() -> None:
    """Anybody may write events of an own kind to a result topic."""
    foreign: list[dict[str, object]] = [{"subject": 7}, {"subject": None}]
    foreign += [{"data": {"sequence": "x"}}, {"data": {"sequence": None}}]

    async def read() -> AsyncGenerator[module.Result, None]:
        for offset, each in enumerate([{}, *foreign]):
            yield module.Result(SEND_RESULTS, 0, offset, NEW_YEAR, b"", EVENT | each)

    assert 5 == len([each async for each in module.sort_by_time(read())])
    assert 5 == len(_newest([each async for each in read()], 9))


# Bodies that no worker of this version writes.
FOREIGN: list[dict[str, object]] = [
    {},
    {"code": "charged"},
    {"code": ["charged"], "balance_before": 1, "balance_after": 0},
    {"code": None, "balance_before": 1, "balance_after": 0},
    {"code": "charged", "balance_before": 1, "balance_after": 0, "credits": "one"},
    {"code": "charged", "balance_before": 1, "balance_after": 0, "lot": 1, "lot_expires_at": 7},
    {"code": "charged", "balance_before": 1, "balance_after": 0, "retry_at": "soon"},
    {"code": "booked", "lots": None, "credits": 1, "horizon": "2026-01-31T09:30:00Z"},
    {"code": "booked", "lots": 1, "credits": 1, "horizon": 7},
    {"origin": None, "reason": "not_json", "error": "e"},
]


@pytest.mark.parametrize("data", FOREIGN, ids=json.dumps)
@pytest.mark.parametrize(
    "kind", ["send.decided.v1", "tick.decided.v1", "message.dead-lettered.v1", "credits.lent.v9", "\x1b[2J\ud800"]
)
def test_a_result_of_another_version_is_shown_by_its_time_account_and_name(kind: str, data: dict[str, object]) -> None:
    """The command goes on to the next one. What controls a terminal is escaped."""
    out = Console(file=io.StringIO(), width=1_000)
    event = EVENT | {"type": f"inmail.{kind}", "data": data}

    result = module.Result(SEND_RESULTS, 0, 7, NEW_YEAR, b"", event)
    assert result.is_empty_tick is False
    show_result(result, out)

    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    line = text.encode().decode().removesuffix("\n")
    assert line.isprintable()
    assert ["2026-01-31", "09:30:00Z", "a-1", kind.removesuffix(".v1").encode("unicode_escape").decode()] == (
        line.split()[:4]
    )


@pytest.mark.parametrize("option", ["--follow", "--from-end"])
def test_the_last_results_have_an_end(option: str) -> None:
    """Nobody knows which are the last of what is still to come."""
    assert CliRunner().invoke(app, ["results", "--last", "3", option]).exit_code == Exit.WRONG_USAGE


def test_balances_are_no_results_also_where_their_topic_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A balance beside each answer would tell nothing that its line does not; who counts lines counts answers."""
    asked: list[str] = []

    async def partition_counts(_: object, topics: Collection[str]) -> dict[str, int]:
        asked.extend(topics)
        return dict.fromkeys(topics, 4)

    async def read_records(
        _: object, places: Collection[TopicPartition], **__: object
    ) -> AsyncIterator[ConsumerRecord]:
        assert set(asked) == {place.topic for place in places}
        yield _record(8, json.dumps(EVENT).encode())

    monkeypatch.setenv("INMAIL_BALANCES_TOPIC", "true")
    monkeypatch.setattr(module, "partition_counts", partition_counts)
    monkeypatch.setattr(module, "read_records", read_records)
    done = CliRunner().invoke(app, ["results", "--dead-letters", "--ticks"])

    assert (Exit.DONE, 1) == (done.exit_code, len(done.stdout.splitlines()))
    assert set(OUTPUT_TOPICS) == set(asked)


@pytest.mark.parametrize(("options", "told"), [([], "No results.\n"), (["--json"], "")])
def test_nothing_found_is_said_beside_the_results(
    options: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence would look like an answer that was lost; standard output has results alone."""

    async def partition_counts(*_: object) -> dict[str, int]:
        return {SEND_RESULTS: 4}

    async def read_records(*_: object, **__: object) -> AsyncIterator[ConsumerRecord]:
        for each in ():
            yield each

    monkeypatch.setattr(module, "partition_counts", partition_counts)
    monkeypatch.setattr(module, "read_records", read_records)
    done = CliRunner().invoke(app, ["results", "--account", "nobody", *options])

    assert (Exit.DONE, "", told) == (done.exit_code, done.stdout, done.stderr)
