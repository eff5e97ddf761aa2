"""What operators' commands refuse before they ask Kafka or Postgres anything."""

import pytest
from typer.testing import CliRunner

from workers.cli import app
from workers.commands.running import Exit


@pytest.mark.parametrize("number", ["nan", "inf"])
@pytest.mark.parametrize(
    "command",
    [
        ["dead-letters", "redrive", "--dry-run", "--rate"],
        ["replay", "reemit", "--all", "--dry-run", "--rate"],
        ["replay", "balances", "--all", "--dry-run", "--rate"],
        ["replay", "rebuild", "--schema", "s", "--dry-run", "--rate"],
        ["replay", "shadow", "--schema", "s", "--dry-run", "--rate"],
        ["replay", "rewind", "send", "--to-offset", "0", "--dry-run", "--drain-seconds"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_what_is_no_finite_number_is_wrong_usage(command: list[str], number: str) -> None:
    """Neither a rate nor a time to wait is one of them."""
    done = CliRunner().invoke(app, [*command, number])

    assert Exit.WRONG_USAGE == done.exit_code
    assert command[-1] in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["replay", "rewind", "send", "--dry-run", "--to-time"],
        ["replay", "shadow", "--schema", "s", "--dry-run", "--from"],
    ],
    ids=lambda command: command[-1],
)
def test_a_time_before_1970_is_wrong_usage(command: list[str]) -> None:
    """Kafka cannot say it."""
    done = CliRunner().invoke(app, [*command, "1969-12-31"])

    assert Exit.WRONG_USAGE == done.exit_code
    assert "expected a time in 1970 or later" in " ".join(done.stderr.split())


@pytest.mark.parametrize("account", ["", "has space", "é", "x" * 129])
@pytest.mark.parametrize(
    "command",
    [
        ["balance"],
        ["statement"],
        ["trace", "--account"],
        ["results", "--account"],
        ["replay", "reemit", "--dry-run", "--account"],
        ["replay", "balances", "--dry-run", "--account"],
    ],
    ids=" ".join,
)
def test_what_can_be_no_account_id_is_wrong_usage(command: list[str], account: str) -> None:
    """An empty variable of a script would be an account without results, and right."""
    done = CliRunner().invoke(app, [*command, account])

    assert Exit.WRONG_USAGE == done.exit_code
    assert "expected an account id of 1 to 128 visible ASCII" in " ".join(done.stderr.replace("│", " ").split())
