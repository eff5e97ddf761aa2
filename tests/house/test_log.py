"""Logs: what an exception may tell, and what it never may."""

import subprocess
import sys

import pytest

# Exceptions reach the log in three ways: our own calls, a library's, and asyncio's about a task that nobody awaited.
PROGRAM = """
import asyncio, gc, logging, sys
import structlog
from infra.log import configure_logging
from infra.settings import load_settings

configure_logging(load_settings(log_format=sys.argv[1]))

def connect(way):
    password = "hunter2" + way
    credentials = {"password": password}
    raise ConnectionError("refused " + way)

async def main():
    async def leaks():
        connect("by asyncio")
    task = asyncio.ensure_future(leaks())
    await asyncio.wait([task])

try:
    connect("by us")
except ConnectionError:
    structlog.get_logger("inmail.test").exception("failed")
try:
    connect("by a library")
except ConnectionError:
    logging.getLogger("library").exception("failed")
asyncio.run(main())
gc.collect()
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_logged_without_the_variables_of_its_frames(form: str) -> None:
    """They hold passwords. The message and the way to it are there, in both formats."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)

    for way in ("by us", "by a library", "by asyncio"):
        assert f"refused {way}" in ended.stderr
    assert 3 <= ended.stderr.count("ConnectionError")
    assert "connect" in ended.stderr
    assert "hunter2" not in ended.stdout + ended.stderr
