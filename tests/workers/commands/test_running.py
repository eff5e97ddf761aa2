"""What comes before a command's own work."""

import asyncio
import gc
import sys
import weakref
from unittest.mock import AsyncMock

import pytest
from typer.testing import CliRunner

from infra.settings import Settings
from workers.cli import app
from workers.commands import lag, running


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ([], 1),
        (["--fail-on=60s"], 1),
        (["--group", "billing-reports"], 0),
        (["--group=billing-reports"], 0),
        (["--json", "--all"], 0),
    ],
)
def test_the_lag_of_other_groups_needs_no_rights_of_ours(
    options: list[str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the option is written: which topics a group reads is not known before it is looked up."""
    check = AsyncMock()
    monkeypatch.setattr(running, "check_rights", check)
    monkeypatch.setattr(lag, "_once", AsyncMock(return_value=([], None)))
    monkeypatch.setattr(sys, "argv", ["inmail", "lag", *options])

    assert 0 == CliRunner().invoke(app, ["lag", *options]).exit_code
    assert asked == check.await_count


class _Node:
    """Something that keeps itself in memory."""

    def __init__(self) -> None:
        self.itself = self


def test_a_process_frees_what_only_a_cycle_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its thresholds leave that to the hour in which a hundred thousand objects have come together."""
    monkeypatch.setattr(running, "_CYCLES_SECONDS", 0.01)
    monkeypatch.setattr(gc, "freeze", lambda: None)  # not in the process of the tests
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    found: list[bool] = []

    async def worker(_: Settings) -> None:
        freed = asyncio.Event()
        weakref.finalize(_Node(), freed.set)
        async with asyncio.timeout(5):
            found.append(await freed.wait())

    gc.disable()
    try:
        running.run_process(worker)
    finally:
        gc.enable()

    assert found == [True]
