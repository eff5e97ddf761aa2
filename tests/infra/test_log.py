"""Logs of a worker whose broker is away: few lines, which say how many were left out."""

import asyncio
import io
import logging
from typing import Any

import pytest
from aiokafka.errors import ProducerFenced

from infra import log
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
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
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
