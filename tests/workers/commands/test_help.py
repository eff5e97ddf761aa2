"""Help in plain words, with examples that can be copied."""

import re
import shlex
from functools import cache

import pytest
from typer.testing import CliRunner

from tests.house.command_line import parse
from workers.cli import VERBS, app, load_verb
from workers.commands.examples import EXAMPLES
from workers.commands.running import Exit

COMMANDS = [*VERBS, *(f"{verb} {name}" for verb in VERBS for name in getattr(load_verb(verb), "commands", {}))]


@cache
def _help(command: str) -> str:
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == Exit.DONE
    return done.output


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself_without_code(command: str) -> None:
    """Neither marks of a markup language nor types of a programming language: `<list[str]>`, `x>=1`, backticks."""
    text = _help(command)

    assert "Usage:" in text
    assert [] == re.findall(r"`|<[a-z][^>]*>|\bx ?[<>]=|FileBinary|\{[a-z_]+\}", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_that_it_understands(command: str) -> None:
    """The examples stand whole in the help, and the command line knows their options."""
    text = _help(command)

    assert EXAMPLES[command]
    for line, _ in EXAMPLES[command]:
        assert line in text
        if (found := re.search(r"inmail (.*?)(?: \||>|$)", line)) is not None and not line.startswith("source"):
            parse(shlex.split(found[1]))


def test_examples_belong_to_commands_that_exist() -> None:
    """An example of a command that was renamed would never be seen."""
    assert set(EXAMPLES) == set(COMMANDS)


WORDS = {
    "inmail la": ["lag"],
    "inmail lag --fail": ["--fail-on"],
    "inmail worker ": ["send", "billing", "expiry", "ticker"],
    "inmail replay rew": ["rewind"],
}


@pytest.mark.parametrize("line", WORDS)
def test_a_shell_completes_verbs_options_and_choices(line: str) -> None:
    """As bash asks for them."""
    asked = {"_INMAIL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}

    done = CliRunner().invoke(app, prog_name="inmail", env=asked)

    assert (Exit.DONE, WORDS[line]) == (done.exit_code, done.output.split())
