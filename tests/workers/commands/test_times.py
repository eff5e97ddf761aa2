"""Times as people type them."""

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from types import ModuleType
from typing import Any, cast

import pytest
import typer
from typer.testing import CliRunner

from tests.house.command_line import parse
from workers.cli import VERBS, app, load_verb
from workers.commands import dead_letters, options, replay_reemit
from workers.commands.options import parse_instant
from workers.commands.running import Exit
from workers.ops.dead_letters.redrive_plan import RedrivePlan
from workers.ops.operations import OngoingOperation
from workers.ops.replay.reemit_plan import ReemitPlan

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


@pytest.mark.parametrize(
    ("line", "module", "runs", "plan"),
    [
        (("dead-letters", "redrive"), dead_letters, "_redrive", RedrivePlan(1, places={(0, 1, None), (0, 2, None)})),
        (
            ("replay", "reemit"),
            replay_reemit,
            "_reemit",
            ReemitPlan(rate=1, to=None, partitions={}, events=Counter({"inmail.send-results": 2})),
        ),
    ],
)
def test_a_command_that_was_stopped_names_the_time_that_it_goes_on_with(
    line: tuple[str, ...],
    module: ModuleType,
    runs: str,
    plan: RedrivePlan | ReemitPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The words `-2h` would leave out what two hours before the first run no longer is, or begin a run of its own."""
    result = {"sent": 1, "left": 1, "refused": 0, "not_sent": {}}
    asked: list[Any] = []

    def run(*arguments: object) -> OngoingOperation:
        asked.append(arguments[0])  # the filter
        return OngoingOperation(7, cast("Any", None), result, stopped=True)

    monkeypatch.setattr(module, "run_command", lambda _: plan)
    monkeypatch.setattr(module, runs, run)
    monkeypatch.setattr(options, "utc_now", lambda: NOW + timedelta(microseconds=1))
    ask = ["--by", "ann", "--because", "a test", "--yes"]

    stopped = CliRunner().invoke(app, [*line, "--after", "-2h", *ask])
    monkeypatch.setattr(options, "utc_now", lambda: NOW + timedelta(hours=1))
    CliRunner().invoke(app, [*line, *stopped.output.split("continue, with ")[-1].split()[:2], *ask])

    assert stopped.exit_code == Exit.INTERRUPTED
    assert [NOW + timedelta(microseconds=1) - timedelta(hours=2)] * 2 == [each.after for each in asked]
