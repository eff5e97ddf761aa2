"""A server that takes a connection and says nothing is named, with what is being waited for."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, nullcontext
from time import monotonic
from unittest.mock import AsyncMock, Mock

import pytest
from aiokafka import TopicPartition
from typer.testing import CliRunner

from infra import waiting
from infra.kafka import records
from infra.settings import load_settings
from infra.waiting import FIRST_SECONDS, WaitWatch, waiting_for, watched
from workers.cli import app

SECONDS = 0.05  # in place of the first five
HELD_SECONDS = 0.4  # so long a connection is held without a word


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server that answers nothing and hangs up after a while."""
    monkeypatch.setattr(waiting, "FIRST_SECONDS", SECONDS)
    monkeypatch.setattr(waiting, "_LOOK_SECONDS", SECONDS / 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        timers: list[threading.Timer] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                timers.append(threading.Timer(HELD_SECONDS, connection.close))
                timers[-1].start()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for timer in timers:
            timer.join()


@pytest.mark.parametrize(
    ("command", "server"),
    [
        ("balance a", "Postgres"),
        ("statement a", "Postgres"),
        ("audit", "Postgres"),
        ("migrate", "Postgres"),
        ("operations list", "Postgres"),
        ("clock show", "Postgres"),
        ("metrics", "Kafka"),
        ("trace --account a", "Postgres"),
        ("lag", "Kafka"),
        ("results", "Kafka"),
        ("publish README.md", "Kafka"),
        ("topics plan", "Kafka"),
        ("dead-letters list", "Kafka"),
        ("replay rewind send --to-offset 0 --dry-run", "Postgres"),
        ("replay reemit --all --dry-run", "Kafka"),
    ],
)
def test_every_verb_names_the_server_that_it_waits_for(command: str, server: str, silent: str) -> None:
    """On standard error, while it waits; the other server is a port where nobody listens."""
    addresses = {
        "INMAIL_KAFKA_BOOTSTRAP_SERVERS": silent,
        "INMAIL_DATABASE_URL": f"postgresql://u@{silent}/d",
        "INMAIL_DATABASE_TIMEOUT_SECONDS": "2",
    }

    done = CliRunner().invoke(app, command.split(), env=addresses)

    assert f"inmail: waiting for {server} at {silent}: no answer for 0 s (connecting)" in done.stderr.splitlines()


def test_a_command_that_gives_up_names_the_server_that_did_not_answer(silent: str) -> None:
    """Of Postgres a plain TimeoutError came up, and the sentence named Kafka as well."""
    settings = {
        "INMAIL_DATABASE_URL": f"postgresql://u@{silent}/d",
        "INMAIL_DATABASE_TIMEOUT_SECONDS": str(HELD_SECONDS / 4),
    }

    done = CliRunner().invoke(app, ["balance", "a"], env=settings)

    assert 3 == done.exit_code
    (told,) = [line for line in done.stderr.splitlines() if "waiting for" not in line]
    assert told.startswith(f"inmail: Postgres at {silent} gives no answer in time (connecting): it is slow, hangs")


def test_with_json_a_wait_is_json_too(silent: str) -> None:
    """Standard error has nothing but objects, and the error is the last."""
    done = CliRunner().invoke(
        app, ["balance", "a", "--json"], env={"INMAIL_DATABASE_URL": f"postgresql://u@{silent}/d"}
    )

    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert "waiting" == told[0]["code"]
    assert {"code", "message", "hint"} == set(told[-1])
    assert "postgres" == told[-1]["code"]


def test_a_server_is_named_after_five_seconds_and_then_every_ten() -> None:
    """A word each time, for the oldest request; a request that was answered is forgotten."""
    told: list[str] = []
    watch = WaitWatch(told.append)
    with watched(watch), waiting_for("Kafka", "asking", since=100.0):
        for now in (100 + FIRST_SECONDS - 0.1, 105.0, 105.3, 114.9, 115.1):
            watch.report(now)
    watch.report(130.0)

    assert told == [f"waiting for Kafka: no answer for {seconds} s (asking)" for seconds in (5, 15)]


async def test_a_long_read_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a topic with millions of records, of which a filter shows few, nothing else is seen for minutes."""
    told: list[str] = []
    watch, place, began = WaitWatch(told.append), TopicPartition("letters", 0), monotonic()
    consumer = Mock(
        beginning_offsets=AsyncMock(return_value={place: 10}),
        end_offsets=AsyncMock(return_value={place: 1_510}),
        getmany=AsyncMock(side_effect=[{place: [Mock(offset=10)]}, {place: [Mock(offset=1_009)]}]),
        position=AsyncMock(side_effect=[1_009, 1_510]),
    )
    monkeypatch.setattr(records, "reader", lambda _: nullcontext(consumer))
    with watched(watch):
        async with aclosing(records.read_records(load_settings(), [place])) as found:
            async for _ in found:
                for later in (FIRST_SECONDS - 1, FIRST_SECONDS + 1, FIRST_SECONDS + 2):
                    watch.report(began + later + 20 * (consumer.getmany.call_count - 1))
    watch.report(began + 100)

    assert ["read so far: 0 of 1,500 offsets", "read so far: 999 of 1,500 offsets"] == told
