"""What comes before a command's own work."""

import sys
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
