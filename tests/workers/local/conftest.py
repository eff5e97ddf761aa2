"""What the tests of `inmail up` share."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.workers.local.running_up import start_up

Up = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data directory of a test's `inmail up`."""
    return tmp_path / "data"


@pytest.fixture
def up(data: Path) -> Iterator[Up]:
    """Start `inmail up` on the test's own data directory; what a test leaves running is ended."""
    with ExitStack() as running:

        def start() -> "subprocess.Popen[str]":
            process = running.enter_context(start_up(data))
            running.callback(process.kill)
            return process

        yield start
