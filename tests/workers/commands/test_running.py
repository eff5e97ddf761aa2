"""What comes before a command's own work."""

import asyncio
import gc
import sys
import weakref
from unittest.mock import AsyncMock

import pytest

from infra.settings import Settings, load_settings
from workers.commands import running


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["lag"], 1),
        (["lag", "--fail-on=60s"], 1),
        (["lag", "--group", "billing-reports"], 0),
        (["lag", "--group=billing-reports"], 0),
        (["lag", "--json", "--all"], 0),
    ],
)
async def test_the_lag_of_other_groups_needs_no_rights_of_ours(
    arguments: list[str], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the option is written: which topics a group reads is not known before it is looked up."""
    check, lag = AsyncMock(), AsyncMock(return_value="the lag")
    monkeypatch.setattr(running, "check_rights", check)
    monkeypatch.setattr(sys, "argv", ["inmail", *arguments])

    async def question(settings: Settings) -> str:
        return str(await lag(settings))

    assert await running._ask(question, load_settings()) == "the lag"
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
