"""What operators' commands refuse before they ask Kafka or Postgres anything."""

import json
import os
import select
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.whole import whole
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


@pytest.mark.parametrize("name", ["", "two words", "a:b", "x" * 41])
def test_a_token_is_made_only_for_a_name_that_the_api_takes(name: str) -> None:
    """A line that the API refuses later would stop it at its next start."""
    done = CliRunner().invoke(app, ["api", "--new-token", "--name", name])

    assert (Exit.WRONG_USAGE, "") == (done.exit_code, done.stdout)
    assert "expected 1 to 40 letters" in " ".join(done.stderr.replace("│", " ").split())


_QUESTION = """
import typer
from infra.output import note_json
from workers.commands.options import confirm

def ask() -> None:
    note_json(asked={as_json})
    confirm("Go on?", yes=False)
    print("done")

typer.run(ask)
"""


def _asked(answer: bytes | signal.Signals, *, as_json: bool = False) -> tuple[int, str, str]:
    """Ask on a terminal, where standard output is a file; return exit code, output and what the operator saw."""
    ours, theirs = os.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _QUESTION.format(as_json=as_json)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            select.select([process.stdout, process.stderr], [], [], 60)  # until it asks
            if isinstance(answer, bytes):
                os.write(ours, answer)
            else:
                process.send_signal(answer)
            out, err = process.communicate(timeout=60)
            return process.returncode, out.decode(), err.decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize(
    ("answer", "exit_", "out"),
    [
        (b"y\n", Exit.DONE, "done\n"),
        (b"n\n", Exit.NO, ""),
        (signal.SIGINT, Exit.INTERRUPTED, ""),
        whole(b"\x04", Exit.INTERRUPTED, ""),
    ],
)
def test_a_question_is_no_part_of_the_answer(answer: bytes | signal.Signals, exit_: Exit, out: str) -> None:
    """It is asked on standard error; whoever interrupts it has not said no."""
    code, told, asked = _asked(answer)

    assert (exit_, out) == (code, told)
    assert asked.startswith("Go on? [y/N]:")


def test_with_json_nothing_is_confirmed_that_was_not_shown() -> None:
    """On a terminal, too: the plan is part of the answer, which comes after the question."""
    code, out, err = _asked(b"y\n", as_json=True)

    assert (Exit.WRONG_USAGE, "") == (code, out)
    assert "with --json, which shows no plan before: use --yes" in json.loads(err)["message"]
