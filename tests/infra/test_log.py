"""Logs of a worker whose broker is away: few lines, which say how many were left out."""

import asyncio
import io
import json
import logging
from typing import Any

import pytest
import structlog
from aiokafka.errors import ProducerFenced
from structlog.testing import capture_logs

from infra.log import configure_logging, quiet_late_errors
from infra.settings import Settings


@pytest.fixture
def lines() -> io.StringIO:
    """What is logged, in a file; all tests restore the loggers afterwards."""
    written = io.StringIO()
    configure_logging(Settings(log_format="json"), written)
    return written


def test_a_client_that_finds_no_broker_logs_one_line_in_ten_seconds(
    lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logged 40 a second. Other loggers' lines, and critical ones, are all there."""
    now = [100.0]
    monkeypatch.setattr("infra.log.time.monotonic", lambda: now[0])
    client = logging.getLogger("aiokafka.conn")
    for number in range(800):
        now[0] += 0.025
        client.error("Unable connect to node with id %s", number)
    client.critical("give up")
    for _ in range(3):
        logging.getLogger("other").error("kept")
    written = lines.getvalue().splitlines()

    assert [2, 1, 3] == [sum(words in line for line in written) for words in ("Unable", "give up", "kept")]
    assert sum("(399 more lines of aiokafka were left out)" in line for line in written) == 1


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes as a test says."""
    time = [100.0]
    monkeypatch.setattr("infra.log.time.monotonic", lambda: time[0])
    return time


def _lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_each_cause_is_logged_at_once_and_again_in_ten_seconds_with_what_was_held_back(
    lines: io.StringIO, now: list[float]
) -> None:
    """A cause is told by its words: partitions, offsets and times are numbers."""
    logger = structlog.get_logger("inmail.lane")
    for number in range(120):
        now[0] += 0.125
        logger.warning("lane_begins_again", partition=number % 12, error=f"offset {number} is not there", seconds=0.1)
        if number == 50:
            logger.warning("lane_begins_again", partition=1, error="no leader", seconds=0.1)
    found = _lines(lines)

    assert ["offset 0 is not there", "no leader", "offset 80 is not there"] == [line["error"] for line in found]
    assert [None, None, 79] == [line.get("held_back") for line in found]
    assert list(range(12)) == found[-1]["held_back_partitions"]


def test_what_is_logged_once_or_is_no_error_is_never_held_back(lines: io.StringIO, now: list[float]) -> None:
    """Nobody would log it again."""
    logger = structlog.get_logger("inmail.lane")
    for number in range(12):
        logger.error("lane_halted", partition=number, error="lost records")
        logger.warning("worker_told", action="stop")
        logger.info("lanes_open", partitions=[number])

    assert 36 == len(_lines(lines))
    assert now


def test_dead_letters_of_one_reason_are_one_cause(lines: io.StringIO, now: list[float]) -> None:
    """Their errors quote their records."""
    logger = structlog.get_logger("inmail.lane")
    for number, error in enumerate(["no such plan: gold", "no such plan: silver"] * 50):
        now[0] += 0.15
        logger.warning("dead_letter", topic="t", partition=0, offset=number, reason="invalid_event", error=error)

    assert [None, 66] == [line.get("held_back") for line in _lines(lines)]


def test_a_client_adds_nothing_while_our_own_lines_tell_of_its_server(lines: io.StringIO, now: list[float]) -> None:
    """And its warnings have their error, without a traceback."""
    logger, kafka, postgres = structlog.get_logger("ours"), logging.getLogger("aiokafka"), logging.getLogger("asyncpg")
    for _ in range(320):  # 40 s
        now[0] += 0.125
        logger.warning("lanes_begin_again", error="Kafka: Unable to bootstrap from 127.0.0.1:9092")
        kafka.error("Unable to connect")
        try:
            raise ConnectionResetError(104, "reset")  # noqa: TRY301 - as the client logs it
        except ConnectionResetError:
            postgres.warning("Failed to restore", exc_info=True)
    found = [line["event"] for line in _lines(lines)]

    assert 4 == found.count("lanes_begin_again")
    assert 0 == sum("Unable to connect" in event for event in found)
    assert 4 == sum("ConnectionResetError(104, 'reset')" in event for event in found)
    assert "exc_type" not in lines.getvalue()


def test_an_error_that_aiokafka_leaves_behind_is_a_line_that_says_where_it_was_raised() -> None:
    """It was a traceback in several lines, of callbacks and tasks without a name."""
    loop = asyncio.new_event_loop()
    quiet_late_errors(loop)
    with capture_logs() as logs:
        try:
            exec("def fail(): raise KeyError('a batch')\nfail()", {"__name__": "aiokafka.planted"})  # noqa: S102
        except KeyError as error:
            loop.call_exception_handler({"message": "Exception in callback", "exception": error})
    loop.close()

    assert [("kafka_client_error", "aiokafka.planted.fail")] == [(each["event"], each["raised_in"]) for each in logs]


@pytest.mark.parametrize(("error", "is_quiet"), [(ProducerFenced(), True), (ValueError("ours"), False)])
def test_only_a_client_s_forgotten_errors_are_quiet(error: Exception, monkeypatch: Any, *, is_quiet: bool) -> None:
    """A fenced producer of aiokafka leaves futures behind that nobody reads. An error of our own is a defect."""
    loop = asyncio.new_event_loop()
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loop, "default_exception_handler", told.append)
    quiet_late_errors(loop)
    loop.call_exception_handler({"message": "Future exception was never retrieved", "exception": error})
    loop.close()

    assert is_quiet == (told == [])
