"""Lag on a terminal, as JSON and over HTTP."""

import asyncio
import io
import json
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from unittest.mock import AsyncMock

import pytest
from aiokafka.errors import KafkaConnectionError
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner

from infra.kafka.rights import MissingRightsError
from infra.settings import Settings, SettingsError, load_settings
from tests.workers.api.served import Line
from tests.workers.lagging import Reading, make_reading
from workers.cli import app
from workers.commands import lag as lag_command
from workers.commands.lag import _repeat
from workers.commands.running import Exit
from workers.commands.views.lag import render_lag_page, show_lag, sparkline
from workers.local.processes import environment
from workers.ops.lag import GroupLag, LagObserver, PartitionLag, Sample, Status, StatusLimits, server
from workers.ops.lag.server import ServedLag, serve_lag, split_address
from workers.rights import RIGHTS
from workers.telemetry.lag_metric_table import LAG_METRICS

_END_SECONDS = 20


@pytest.fixture
async def reading(settings: Settings, account: str) -> Reading:
    """A topic with 3 records, of which a group without members has read 1."""
    made = await make_reading(settings, account)
    await made.write(3)
    await made.commit(1)
    return made


async def _get(url: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


async def test_it_is_served_as_json_and_as_metrics_under_the_names_of_the_table(reading: Reading) -> None:
    """Not before the first look: what is not known is not served as if it were none."""
    async with reading.observed(StatusLimits(behind_seconds=0)) as found, serve_lag(ServedLag(found), "0", 5) as place:
        assert (503, "the first look is not over yet\n") == await _get(f"{place}/metrics")
        await found.refresh()
        _, body = await _get(f"{place}/lag")
        _, text = await _get(f"{place}/metrics")

    (group,) = json.loads(body)["groups"]
    assert (reading.group, reading.place.topic, 2, "STOPPED") == tuple(
        group[key] for key in ("group", "topic", "records", "status")
    )
    (partition,) = group["partitions"]
    assert (1, 3, 0) == (partition["committed"], partition["end"], partition["oldest"])
    assert "nobody is in the group" in partition["reason"]
    samples = {
        (sample.name, sample.labels.get("inmail_lag_status")): (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    labels = {"consumergroup": reading.group, "topic": reading.place.topic, "partition": "0"}
    assert (labels, 2.0) == samples["kafka_consumergroup_lag", None]
    assert (labels, 1.0) == samples["kafka_consumergroup_current_offset", None]
    assert ({"consumergroup": reading.group}, 0.0) == samples["kafka_consumergroup_members", None]
    assert 3.0 == samples["kafka_topic_partition_current_offset", None][1]
    assert {"STOPPED"} == {
        state for (name, state), (_, value) in samples.items() if name == "inmail_lag_status" and value
    }
    names = {name for name, _ in samples}
    assert {each.name for each in LAG_METRICS} == {name for name in names if not name.startswith("process_")}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= names
    assert all(
        set(each.labels) == set(samples[each.name, None][0]) for each in LAG_METRICS if (each.name, None) in samples
    )


async def test_it_is_served_on_an_ipv6_address_as_well(reading: Reading) -> None:
    """Which is told with the brackets that a URL needs."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with reading.observed() as found, serve_lag(found, "[::1]:0", 5) as place:
        assert place.startswith("http://[::1]:")
        assert 200 == (await _get(f"{place}/livez"))[0]


async def test_readiness_costs_no_text_of_all_metrics(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of partitions that takes most of a second. What it answers is what the workers' probes answer."""
    monkeypatch.setattr(server, "generate_latest", None)
    async with reading.observed() as found, serve_lag(ServedLag(found), "0", 5) as place:
        status, body = await _get(f"{place}/readyz")
        assert (503, {"ready": False, "reasons": ["the first look is not over yet"]}) == (status, json.loads(body))
        await found.refresh()
        status, body = await _get(f"{place}/readyz")
        assert (200, {"ready": True, "reasons": []}) == (status, json.loads(body))


async def test_numbers_that_grew_old_are_not_served(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would look like good ones. What was wrong with the last look is said instead."""
    async with reading.observed() as found, serve_lag(ServedLag(found), "0", 5) as place:
        await found.refresh()
        assert 200 == (await _get(f"{place}/lag"))[0]
        monkeypatch.setattr(found, "refreshed_at", datetime(2026, 1, 1, tzinfo=UTC))
        monkeypatch.setattr(found, "kafka_trouble", "Kafka cannot be asked: it is away")

        assert (503, "Kafka cannot be asked: it is away\n") == await _get(f"{place}/lag")
        assert (503, "Kafka cannot be asked: it is away\n") == await _get(f"{place}/metrics")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("9000", ("127.0.0.1", 9000)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:80", ("::1", 80)),
        (":5", ("127.0.0.1", 5)),
    ],
)
def test_an_address_without_a_host_is_on_the_loopback(address: str, place: tuple[str, int]) -> None:
    """Who wants others to see it says so."""
    assert place == split_address(address)


@pytest.mark.parametrize("address", ["", "here", "a:b", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_a_wrong_setting(address: str) -> None:
    """With what was expected."""
    with pytest.raises(SettingsError, match="expected HOST:PORT"):
        split_address(address)


async def test_the_page_shows_what_is_unread_why_and_what_changed(reading: Reading) -> None:
    """Partitions that are read up are left out, their changes are not."""
    out = Console(record=True, width=200, file=io.StringIO())
    async with reading.observed(StatusLimits(behind_seconds=0)) as found:
        await reading.stands(found, Status.STOPPED)
        out.print(render_lag_page(found))
        stopped = out.export_text(clear=True)
        await reading.commit(3)
        await reading.stands(found, Status.OK)
        out.print(render_lag_page(found))
    read_up = out.export_text()

    assert f"{reading.group} on {reading.place.topic}: 2 records" in stopped
    assert "STOPPED in partition 0: nobody is in the group, and 2 of its records are unread" in stopped
    assert f"{reading.group} on {reading.place.topic}: nothing unread" in read_up
    assert f"{reading.place.topic}/0 OK all is read" in read_up
    assert "last changes" in read_up


def test_a_group_that_kafka_does_not_know_is_not_said_to_have_read_all(capsys: pytest.CaptureFixture[str]) -> None:
    """A name mistyped would look healthy."""
    show_lag([GroupLag("inmail-sent", "", ())])
    said = " ".join(capsys.readouterr().out.split())

    assert said.startswith("inmail-sent: NEVER COMMITTED: Kafka knows no group of this name")
    assert "`inmail lag --all` shows those it knows" in said


def test_one_lock_is_told_once_for_all_lanes(capsys: pytest.CaptureFixture[str]) -> None:
    """Its sentence is long, and partitions are many. Another lock, of one of them, is told beside it."""
    locked = PartitionLag(
        "inmail-send", "t", 0, 5, 9, 4, 7.0, lost=0, held=0, status=Status.LOCKED, reason="pid 7 holds a lock"
    )
    other = replace(locked, partition=2, seconds=1.0, reason="pid 8 holds rows")
    show_lag([GroupLag("inmail-send", "t", (locked, replace(locked, partition=1, seconds=6.0), other))])
    said = capsys.readouterr().out

    assert (1, 1, 2) == (said.count("pid 7"), said.count("pid 8"), said.count("the same lock"))
    assert "LOCKED in partition 0: pid 7 holds a lock" in said


def test_a_sparkline_is_as_high_as_its_highest_lag() -> None:
    """A space where all was read, and a bar, however low, where something was not."""
    at = datetime(2026, 1, 1, tzinfo=UTC)

    assert " ▁▄█" == sparkline([Sample(at, 0, lag, lag) for lag in (0, 1, 500, 1_000)])
    assert "  " == sparkline([Sample(at, 0, 0, 0)] * 2)


@asynccontextmanager
async def _inmail(settings: Settings, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `inmail lag` until it is left. One that an interrupt does not end says where it stood."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "workers.cli",
        "lag",
        *arguments,
        env=environment(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.communicate()
        except TimeoutError:
            process.send_signal(signal.SIGABRT)
            _, said = await process.communicate()
            pytest.fail(f"not ended {_END_SECONDS} s after an interrupt:\n{said.decode()}")


async def test_the_command_serves_and_writes_a_line_a_look_until_interrupted(reading: Reading) -> None:
    """Both at once, of the group that was asked for; an interrupt is its orderly end."""
    arguments = ("--group", reading.group, "--serve", "127.0.0.1:0", "--watch", "--json", "--every", "0.5")
    async with _inmail(reading.settings, *arguments) as process, asyncio.timeout(30):
        assert process.stdout is not None
        assert process.stderr is not None
        told = (await process.stderr.readline()).decode()
        lines = [json.loads(await process.stdout.readline()) for _ in range(2)]
        status, text = await _get(told.split()[-1])

    assert told.startswith("lag is served at http://127.0.0.1:")
    assert [[(reading.group, 2)]] * 2 == [[(each["group"], each["records"]) for each in line] for line in lines]
    assert (200, True) == (status, "kafka_consumergroup_lag{" in text)
    assert 0 == process.returncode


async def test_a_look_that_failed_is_no_sample_and_is_told(
    reading: Reading, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line is what Kafka said just now: while it is away, standard error says so and nothing is written."""
    looks = iter([None, KafkaConnectionError("it is away"), KafkaConnectionError("it is away"), None])
    sample = LagObserver.refresh

    async def refresh(found: LagObserver) -> None:
        error = next(looks, asyncio.CancelledError())
        if error is not None:
            raise error
        await sample(found)

    monkeypatch.setattr(LagObserver, "refresh", refresh)
    with pytest.raises(asyncio.CancelledError):
        await _repeat(reading.observed, None, 0.01, json=True, silent=False)
    said = capsys.readouterr()

    assert 2 == len(said.out.splitlines())
    assert ["Kafka cannot be asked: Kafka: it is away"] * 2 == said.err.splitlines()


async def test_the_command_serves_once_the_broker_is_there(cluster: Settings) -> None:
    """Alive meanwhile, and its pages say why they are empty; somebody who looks is told at once that it is away."""
    line = Line(f"kafka://{cluster.kafka_bootstrap_servers}")
    await line.mend()
    await line.cut()
    away = cluster.model_copy(update={"kafka_bootstrap_servers": f"127.0.0.1:{line.port}"})
    async with _inmail(away, "--serve", "127.0.0.1:0") as process, asyncio.timeout(30):
        assert process.stderr is not None
        place = (await _said(process.stderr, "lag is served at")).split()[-1]
        waits = await _said(process.stderr, "waiting for Kafka")
        alive, unready = await _get(place.replace("/metrics", "/livez")), await _get(place)
        assert unready == await _get(place.replace("/metrics", "/lag"))
        await line.mend()
        while (await _get(place))[0] != 200:
            pass  # it looks for the first time
    await line.cut()
    async with _inmail(away, "--watch") as process, asyncio.timeout(30):
        await process.wait()

    assert "Unable to bootstrap" in waits
    assert (200, 503) == (alive[0], unready[0])
    assert unready[1].startswith("waiting for Kafka: Kafka: Unable to bootstrap")
    assert Exit.UNREACHABLE == process.returncode


def test_who_may_not_read_our_groups_does_not_serve_their_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check waits for Kafka behind the open port, and what it finds ends the process as it does elsewhere."""
    missing = MissingRightsError(load_settings(), RIGHTS["lag"], "lag")
    monkeypatch.setattr(lag_command, "check_rights", AsyncMock(side_effect=missing))
    done = CliRunner().invoke(app, ["lag", "--serve", "127.0.0.1:0"])

    assert Exit.UNREACHABLE == done.exit_code
    assert str(missing) in done.stderr.replace("\n", " ")


async def _said(stderr: asyncio.StreamReader, words: str) -> str:
    while words not in (line := (await stderr.readline()).decode()):
        assert line, f"ended without: {words}"
    return line
