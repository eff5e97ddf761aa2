"""The console's samples: flow rates, health, lag and dead letters as JSON."""

import asyncio
import gc
import re
import socket
import warnings
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.kafka.clients import admin_client, reader
from infra.lock_holder import LockHolder
from infra.settings import SettingsError, load_settings
from workers.console.advice import ADVICE
from workers.console.dead_letter_json import letter_json
from workers.console.flow import Flow
from workers.console.headline import CAUSES, headline, rank
from workers.console.health import (
    MANY_DEAD_LETTERS,
    Probe,
    SystemPart,
    add_since,
    dead_letters_part,
    lock_part,
    probe_addresses,
    query_probes,
    worker_health,
)
from workers.console.lag_json import history_json, worst_group_json
from workers.console.query_limiter import QueryLimiter
from workers.ops.books.lanes import LaneProgress
from workers.ops.dead_letters.letters import DeadLetter
from workers.ops.lag import GroupLag, PartitionLag, Sample, Status

NOW = datetime(2026, 1, 31, tzinfo=UTC)
TOPIC = "inmail.send-requests"


def lag(end: int, committed: int | None, **more: Any) -> list[GroupLag]:
    """Return the lag of one partition."""
    facts = {"records": 0, "seconds": 0.0, "lost": 0, "held": 0} | more
    return [GroupLag("inmail-send", TOPIC, (PartitionLag("inmail-send", TOPIC, 0, committed, end, **facts),))]


def lane(next_offset: int) -> list[LaneProgress]:
    """Return the progress of the partition's lane in the ledger's database."""
    return [LaneProgress("inmail-send", TOPIC, 0, next_offset, NOW)]


def test_flow_rates_are_growth_over_time() -> None:
    """Rates of arrival, decision and answer come from the growth of their offsets."""
    flow = Flow()
    flow.add_sample(NOW, lag(100, 80), lane(90))
    flow.add_sample(NOW + timedelta(seconds=2), lag(300, 100, seconds=1.5), lane(150))

    rates = flow.rates[-1]
    assert (100.0, 30.0, 10.0, 1.5) == (rates.came_in, rates.decided, rates.answered, rates.oldest_seconds)


def test_flow_rates_ignore_rewinds_and_unknown_offsets() -> None:
    """A rewind or a new partition adds no flow; without the database the decision rate is unknown."""
    flow = Flow()
    flow.add_sample(NOW, lag(100, None), lane(90))
    flow.add_sample(NOW + timedelta(seconds=1), lag(100, 100), None)
    assert (0.0, None, 0.0) == (flow.rates[-1].came_in, flow.rates[-1].decided, flow.rates[-1].answered)
    flow.add_sample(NOW + timedelta(seconds=2), lag(100, 10), lane(20))
    assert (0.0, 0.0) == (flow.rates[-1].decided, flow.rates[-1].answered)


READY, NOT_READY = Probe(ready=True, reasons=()), Probe(ready=False, reasons=("postgres: away",))


@pytest.mark.parametrize(
    ("status", "more", "members", "probe", "expected"),
    [
        (Status.OK, {}, 1, READY, ("ok", "running")),
        (Status.OK, {}, 1, None, ("ok", "running")),
        (Status.NEVER_COMMITTED, {}, 1, READY, ("failed", "never committed")),
        (Status.OK, {}, 0, None, ("failed", "stopped")),
        (Status.STOPPED, {"records": 4}, 0, None, ("failed", "stopped")),
        (Status.PAUSED, {"records": 4}, 0, None, ("failed", "paused")),
        (Status.BEYOND_BOOKS, {"records": 4}, 0, None, ("failed", "beyond books")),
        (Status.EXPIRED, {"records": 4}, 0, None, ("failed", "expired")),
        (Status.HALTED, {"records": 4}, 1, READY, ("failed", "halted")),
        (Status.STALLED, {"records": 4}, 1, NOT_READY, ("failed", "not ready")),
        (Status.STALLED, {"records": 4}, 1, READY, ("failed", "stalled")),
        (Status.HELD, {"records": 4, "held": 4}, 1, READY, ("warning", "held")),
        (Status.OK, {"records": 4, "seconds": 31.0}, 1, READY, ("warning", "behind")),
        (Status.OK, {"records": 4, "seconds": 29.0}, 1, READY, ("ok", "running")),
    ],
)
def test_a_workers_health_is_its_most_severe_problem(
    status: Status, more: dict[str, Any], members: int, probe: Probe | None, expected: tuple[str, str]
) -> None:
    """The health has the cause and advice."""
    found = [replace(group, members=members) for group in lag(9, 5, status=status, reason="so", **more)]
    part = worker_health(found, {"send": probe} if probe else {})[0]

    assert ("send worker", *expected) == (part.name, part.status, part.cause)
    assert (part.status == "ok") is (not part.do)


@pytest.mark.parametrize(
    ("reason", "title"),
    [
        ("waits for inmail-billing, partition 3, since 2026-01-31 00:00:00 UTC", "waits for the billing worker"),
        ("waits for another lane of its number", "waits for another lane of its number"),
        (
            "waits for the move of partition number 3 from server to server",
            "waits for the move of partition number 3 from server to server",
        ),
    ],
)
def test_a_headline_names_for_whom_a_worker_waits(reason: str, title: str) -> None:
    """Its own trouble is that other worker's, which may not be told yet."""
    found = [replace(group, members=1) for group in lag(9, 5, records=4, status=Status.WAITING, reason=reason)]
    part = worker_health(found, {})[0]

    assert (f"The send worker {title}", reason) == (headline([part])["title"], part.text)


def test_a_lock_is_the_cause_of_a_worker_whatever_its_probe_says() -> None:
    """The probe tells what the lock does; a table's lock is a failure, rows are one once a lane does not get on."""
    locked = [
        replace(group, members=1) for group in lag(9, 5, records=4, status=Status.LOCKED, reason="pid 7 holds it")
    ]
    table = LockHolder(7, "ada", "psql", state="active", tables=("accounts",))
    rows = LockHolder(8, "ada", "psql", state="active", rows_of=("accounts",))

    assert "pid 7 holds it" == worker_health(locked, {"send": NOT_READY})[0].text
    assert lock_part([], locked) is None
    kinds = [lock_part([table], lag(9, 9)), lock_part([rows], lag(9, 9)), lock_part([rows], locked)]
    assert [("failed", "locked"), ("warning", "rows locked"), ("failed", "locked")] == [
        (part.status, part.cause) for part in kinds if part is not None
    ]


def test_the_headline_is_the_worst_thing_now() -> None:
    """A server that is away, a lock, lanes that cannot go on, lag without a worker, dead letters, slowness."""
    worst_first = [
        SystemPart("Kafka", "failed", "no answer", "it is away", "start it"),
        SystemPart("Postgres", "failed", "locked", "pid 7 holds it"),
        SystemPart("send worker", "failed", "halted", "retention took what it needs"),
        SystemPart("billing worker", "failed", "stopped", "group inmail-billing has no members"),
        SystemPart("ticker", "failed", "not ready", "Kafka: no answer"),
        SystemPart("Dead letters", "failed", "many arriving", "400 in the last 5 minutes"),
        SystemPart("expiry worker", "warning", "rewound", "the offset went back"),
        SystemPart("billing worker", "warning", "waiting", "waits for inmail-send"),
        SystemPart("other", "unknown", "not known", "unknown while Kafka does not answer"),
    ]
    well = SystemPart("well", "ok", "running", "1 member in the group")

    assert worst_first == rank([well, *reversed(worst_first)])
    found = headline([well, *reversed(worst_first)])
    assert ("failed", "Kafka does not answer", "it is away", "start it") == tuple(found.values())[:4]
    assert ["The send worker has a lane that cannot continue by itself", "The billing worker is stopped"] == found[
        "also"
    ][1:3]
    assert ("ok", "All parts work.") == tuple(headline([well]).values())[:2]
    assert "unknown" == headline([])["kind"]


def test_every_cause_of_a_worker_has_its_place_in_the_order() -> None:
    """A status that the table lacks would stand below everything else."""
    assert set() == {status.lower() for status in Status} - {"ok"} - set(CAUSES)


@pytest.mark.parametrize("cause", CAUSES)
def test_a_headline_is_a_sentence_about_its_part(cause: str) -> None:
    """No cause is put behind a name and a colon, and no name is said twice."""
    title = headline([SystemPart("Books", "failed", cause, "so")])["title"]

    assert title.startswith("The books ")
    assert ":" not in title
    assert 1 == title.lower().count("books")


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ({}, None),
        (
            {"invalid_json": 2.0, "unknown_plan": 1.0},
            ("warning", "3 in the last 5 minutes, the first at 00:00:00 UTC: 2 invalid json, 1 unknown plan"),
        ),
        ({"not_json": 1.0}, ("warning", "1 in the last 5 minutes, that at 00:00:00 UTC: 1 not json")),
        (
            {"invalid_json": float(MANY_DEAD_LETTERS), "b": 3.0, "c": 2.0, "d": 1.0},
            (
                "failed",
                "306 in the last 5 minutes, the first at 00:00:00 UTC: 300 invalid json, 3 b, 2 c, and another reason",
            ),
        ),
    ],
)
def test_dead_letters_that_just_came_are_trouble(reasons: dict[str, float], expected: tuple[str, str] | None) -> None:
    """With how many, since when and why, and in the headline how many; those of before are not news."""
    part = dead_letters_part(reasons, NOW, 5)

    assert (part is None) is (expected is None)
    if part is not None and expected is not None:
        assert expected == (part.status, part.text)
        letters = "dead letter" if part.text.startswith("1 ") else "dead letters"
        assert f"{part.text.split()[0]} {letters} in the last 5 minutes" == headline([part])["title"]


def test_a_process_that_does_not_answer_is_not_merely_unready() -> None:
    """A killed or frozen worker is told by its probe before its group knows."""
    found = [replace(group, members=1) for group in lag(9, 5, records=4)]
    part = worker_health(found, {"send": Probe(ready=False, reasons=("no answer",), answers=False)})[0]

    assert ("failed", "not answering") == (part.status, part.cause)
    assert "The send worker does not answer" == headline([part])["title"]


def test_a_process_without_a_group_has_the_health_of_its_probe() -> None:
    """The ticker has the state of its probe; workers without a topic are not set up."""
    parts = worker_health(lag(9, 9), {"send": READY, "ticker": NOT_READY})

    assert ("ticker", "failed", "postgres: away") == (parts[-1].name, parts[-1].status, parts[-1].text)
    assert ["not set up", "not set up"] == [part.cause for part in parts[1:3]]


def test_each_lag_status_has_advice_in_the_page_and_in_the_document() -> None:
    """The page, the document and the code have the same statuses."""
    text = (Path(__file__).parents[2] / "docs" / "lag.md").read_text(encoding="utf-8")

    assert (
        set(Status) == set(ADVICE) == {Status(found) for found in re.findall(r"^\| `([A-Z ]+)` \|", text, re.MULTILINE)}
    )
    assert all(each.means and each.do and each.kind in {"ok", "warning", "failed"} for each in ADVICE.values())


def test_the_worst_group_has_a_reason_a_time_and_advice() -> None:
    """Groups are compared by status, then by age; the result is None where every group is OK."""
    slow = lag(9, 5, records=4, seconds=99.0, status=Status.SLOW, reason="slowly")
    stopped = lag(9, 5, records=4, seconds=9.0, status=Status.STOPPED, reason="nobody", since=NOW)
    found = worst_group_json([*slow, *stopped])

    assert found is not None
    assert ("STOPPED", "nobody", NOW, 0) == tuple(found[name] for name in ("status", "reason", "since", "partition"))
    assert "inmail worker" in found["do"]
    assert worst_group_json(lag(9, 9)) is None


def test_a_history_has_at_most_as_many_points_as_a_sparkline() -> None:
    """The oldest sample is kept, and each point has its age in seconds."""
    past = [Sample(NOW - timedelta(minutes=10), 0, 70, 70)]
    found = history_json([*past, *(Sample(NOW + timedelta(seconds=number), 0, 70, number) for number in range(200))])

    assert len(found["records"]) == len(found["seconds_ago"]) <= 92
    assert (799.0, 70, 0.0, 199) == (
        found["seconds_ago"][0],
        found["records"][0],
        found["seconds_ago"][-1],
        found["records"][-1],
    )


async def test_the_shared_sample_waits_for_no_query() -> None:
    """The sample needs no slot while three queries run; a fourth query waits up to its limit."""
    reading = QueryLimiter(load_settings(console_timeout_seconds=0.3))
    async with AsyncExitStack() as busy:
        for _ in range(3):
            await busy.enter_async_context(reading.slot())
        async with reading.sample_slot() as settings:
            assert 0.3 == settings.database_timeout_seconds
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), reading.slot():
                pytest.fail("four at once")


def test_since_is_kept_while_the_cause_is_the_same() -> None:
    """A change of the text alone does not change the time."""
    later = NOW + timedelta(minutes=1)
    (first,) = add_since([SystemPart("p", "failed", "stopped", "1 waits")], {}, NOW)
    (same,) = add_since([SystemPart("p", "failed", "stopped", "2 wait")], {"p": first}, later)
    (other,) = add_since([SystemPart("p", "ok", "running", "")], {"p": same}, later)

    assert (NOW, NOW, later) == (first.since, same.since, other.since)


def test_probe_addresses_are_parsed_or_refused() -> None:
    """An error names the setting."""
    good = load_settings(console_workers="send=127.0.0.1:9101, ticker=[::1]:9102")
    assert {"send": "127.0.0.1:9101", "ticker": "[::1]:9102"} == probe_addresses(good)
    for wrong in ("send", "send=", "send=host", "=host:1", "send=host:port"):
        with pytest.raises(SettingsError, match="INMAIL_CONSOLE_WORKERS"):
            probe_addresses(load_settings(console_workers=wrong))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"ready": true, "reasons": []}', Probe(ready=True, reasons=[])),
        ('{"ready": false, "reasons": ["a lane stands"]}', Probe(ready=False, reasons=["a lane stands"])),
        *((body, None) for body in ("[]", "null", '"up"', "7", "{}", "{", "[" * 100_000)),
        *((f'{{"ready": true, "reasons": {reasons}}}', None) for reasons in ("null", "7", '"up"', "{}")),
        ('{"ready": "yes", "reasons": []}', None),
    ],
)
async def test_what_answers_at_a_probes_address_and_is_none_does_not_answer(body: str, told: Probe | None) -> None:
    """Another program may listen there: its answer ends no sampling."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(text=body)

    application = web.Application()
    application.add_routes([web.get("/readyz", answer)])
    async with TestServer(application) as server:
        address = f"{server.host}:{server.port}"
        probes = await query_probes({"send": address})

    silent = Probe(ready=False, reasons=(f"its probe at {address} does not answer",), answers=False)
    assert {"send": told or silent} == probes


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (b"plain", "plain"),
        (b"\xff\x00", "00000000  ff 00"),
        (("é" * 70_000).encode(), "é" * 65_536 + "\n… (cut here)"),
    ],
)
def test_a_message_is_shown_as_text_or_hex_dump_and_cut(value: bytes | None, shown: str | None) -> None:
    """A cut is marked, and falls between characters."""
    letter = DeadLetter(0, 0, None, "r", "e", None, None, "t", 0, 0, NOW, NOW, None, value, (), cut=False)
    found = letter_json(letter, None)["value"]

    assert found == shown if shown is None else found.startswith(shown)


@pytest.mark.parametrize("client", [reader, admin_client])
async def test_a_sample_that_times_out_closes_its_clients(client: Any) -> None:
    """A broker that accepts the connection and never answers costs only the time limit."""
    with socket.create_server(("127.0.0.1", 0)) as silent, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        settings = load_settings(kafka_bootstrap_servers=f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), client(settings):
                pytest.fail("it connected to nobody")
        gc.collect()

    assert [] == [str(each.message) for each in left]
