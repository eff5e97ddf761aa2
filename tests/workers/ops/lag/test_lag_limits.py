"""`inmail lag --fail-on`: what a job alarms of."""

from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from workers.cli import app
from workers.commands import lag as command
from workers.commands.lag_limits import parse_limit
from workers.commands.running import Exit
from workers.ops.lag import GroupLag, PartitionLag, Status

FINE = PartitionLag("g", "t", 0, 5, 5, 0, 0.0, 0, 0)
BEHIND = replace(FINE, partition=1, end=105, records=100, seconds=42.5, status=Status.STALLED)


@pytest.mark.parametrize(
    ("limit", "exceeded"),
    [
        ("STALLED", True),
        ("stalled", True),
        ("never-committed", False),
        ("STOPPED", False),
        ("SLOW", True),
        ("100", True),
        ("101", False),
        ("42s", True),
        ("43s", False),
        ("0.5s", True),
    ],
)
def test_a_limit_is_a_status_or_worse_a_number_of_records_or_an_age(limit: str, exceeded: object) -> None:
    """Of any partition; a group that is up to date exceeds none."""
    assert exceeded == parse_limit(limit).exceeded(GroupLag("g", "t", (FINE, BEHIND)))
    assert not parse_limit(limit).exceeded(GroupLag("g", "t", (FINE,)))


@pytest.mark.parametrize("text", ["", "OK", "0", "0s", "-1", "60m", "slowly"])
def test_what_is_no_limit_is_told_with_what_is(text: str) -> None:
    """A limit that never holds would be an alarm that never rings."""
    with pytest.raises(typer.BadParameter, match="expected a number of records, like 1000, an age in seconds"):
        parse_limit(text)


@pytest.mark.parametrize(("limits", "code"), [([], 0), (["STOPPED"], 0), (["STOPPED", "60s", "50"], 1)])
def test_the_exit_code_says_whether_a_limit_is_exceeded(
    limits: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lag is shown all the same."""
    monkeypatch.setattr(command, "run_command", lambda _, **__: ([GroupLag("g", "t", (FINE, BEHIND))], None))

    done = CliRunner().invoke(app, ["lag", *(part for limit in limits for part in ("--fail-on", limit))])

    assert code == done.exit_code
    assert "STALLED" in done.stdout


def test_a_group_that_kafka_does_not_know_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that asks for a misspelt name would take it for a group without lag."""
    monkeypatch.setattr(command, "run_command", lambda _, **__: ([GroupLag("inmail-sent", "", ())], None))

    done = CliRunner().invoke(app, ["lag", "--group", "inmail-sent"])

    assert Exit.NO == done.exit_code
    assert "Kafka knows no group of this name" in done.stdout


@pytest.mark.parametrize(
    ("group", "limits", "code"),
    [
        ("inmail-send", ["STOPPED"], Exit.UNREACHABLE),
        ("inmail-send", ["STOPPED", "50"], Exit.NO),  # exceeded, whatever the books would tell
        ("inmail-send", [], Exit.DONE),
        ("others", ["STOPPED"], Exit.DONE),  # of whom the books know nothing
    ],
)
def test_a_limit_is_not_kept_for_want_of_the_books(
    group: str, limits: list[str], code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An alarm that cannot be judged must not be silent: a lane may be halted, or kept by a lock."""
    lag, trouble = [GroupLag(group, "t", (FINE, BEHIND))], "the books cannot be read (away)"
    monkeypatch.setattr(command, "run_command", lambda _, **__: (lag, trouble))

    done = CliRunner().invoke(app, ["lag", *(part for limit in limits for part in ("--fail-on", limit))])

    assert code == done.exit_code
    assert trouble in done.stderr
    assert (code == Exit.UNREACHABLE) is ("whether a worker's group is within the limits is not known" in done.stderr)


def test_a_limit_wants_a_single_sample() -> None:
    """A command that runs until Ctrl-C has no verdict."""
    assert CliRunner().invoke(app, ["lag", "--watch", "--fail-on", "60s"]).exit_code == Exit.WRONG_USAGE
