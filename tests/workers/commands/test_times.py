"""Times as people type them."""

import re
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
import typer
from typer.testing import CliRunner

from tests.house.command_line import parse
from workers.cli import VERBS, app, load_verb
from workers.commands import options
from workers.commands.options import parse_instant
from workers.commands.running import Exit

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("now", NOW),
        ("-2h", NOW - timedelta(hours=2)),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-15m", NOW - timedelta(minutes=15)),
        ("-1d12h", NOW - timedelta(hours=36)),
        ("+2w", NOW + timedelta(days=14)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        ("2026-01-31T10:30:00.5+01:00", NOW + timedelta(seconds=0.5)),
        ("2026-01-31T09:30Z", NOW),
    ],
)
def test_a_time_is_from_now_a_day_or_an_instant(text: str, instant: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this machine's clock; a day is its first instant in UTC."""
    monkeypatch.setattr(options, "utc_now", lambda: NOW)

    assert instant == parse_instant(text)


@pytest.mark.parametrize(
    "text", ["", "2h", "-2", "-2y", "yesterday", "2026-01-31T09:30:00", "2026-02-30", "-999999999w"]
)
def test_what_is_no_time_is_told_with_what_is(text: str) -> None:
    """A time without a zone could mean any."""
    with pytest.raises(typer.BadParameter, match="expected a time with a zone"):
        parse_instant(text)


def _instants() -> list[tuple[str, str]]:
    """Return every option that takes a time, with its command."""
    commands = {name: load_verb(name) for name in VERBS}
    every = dict(commands)
    for verb, group in commands.items():
        every |= {f"{verb} {name}": each for name, each in getattr(group, "commands", {}).items()}
    return [
        (name, parameter.opts[0])
        for name, command in every.items()
        for parameter in command.params
        if "datetime" in str(parameter.type_descriptor.annotation) or parameter.metavar == "TIME"  # type: ignore[attr-defined]
    ]


@cache
def _wide_help(command: str) -> str:
    return CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output


@pytest.mark.parametrize(("command", "option"), _instants())
def test_every_option_that_takes_a_time_takes_one_from_now(command: str, option: str) -> None:
    """Its help says so, and -2h is no option of its own."""
    assert re.search(rf"{option} .*-2h", _wide_help(command))
    parse([*command.split(), *(["send"] if command in ("replay rewind", "clock accept") else []), option, "-2h"])


def test_there_are_options_that_take_a_time() -> None:
    """The table above is not empty."""
    assert len(_instants()) >= 12


def test_a_wrong_time_is_wrong_usage() -> None:
    """As every typing mistake is."""
    assert CliRunner().invoke(app, ["balance", "a", "--as-of", "2y"]).exit_code == Exit.WRONG_USAGE
