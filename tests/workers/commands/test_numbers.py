"""Numbers of the command line: those that Kafka and Postgres cannot hold are wrong usage, and no defect."""

from typing import Any

import pytest

from infra.settings import Settings
from tests.workers.command import fork
from workers.cli import VERBS, load_verb
from workers.commands.options import MAX_INT32, MAX_INT64
from workers.commands.running import Exit
from workers.local.processes import environment

# One command for each number that reaches Kafka or Postgres.
COMMANDS = [
    "operations list --last {int64}",
    "operations show {int64}",
    "dead-letters list --operation {int64}",
    "dead-letters list --last {int64}",
    "dead-letters list --at {place}",
    "dead-letters list --count --at {place}",
    "dead-letters show {place}",
    "dead-letters redrive --dry-run --limit {int64}",
    "dead-letters redrive --dry-run --at {place}",
    "clock accept send {int32} --dry-run",
    "clock set-aside send {int32} --dry-run --to-offset {int64}",
    "clock set-aside send 0 --dry-run --to-offset {int64}",
    "clock set-back --dry-run --partition {int32}",
    "trace --account nobody --limit {int64}",
    "replay rewind send --dry-run --to-offset {int64} --partition 0",
    "replay rewind send --dry-run --to-offset 0 --partition {int32}",
    "replay rewind send --dry-run --undo {int64}",
    "replay skip send --dry-run --to-offset {int64} --partition 0",
    "replay skip send --dry-run --partition {int32}",
    "replay reemit --dry-run --worker send --partition {int32}",
    "replay reemit --dry-run --worker send --partition 0 --offsets 0:{int18}",
]


def _numbers(command: str, int32: int, int64: int, int18: int, place: str) -> list[str]:
    return command.format(int32=int32, int64=int64, int18=int18, place=place).split()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_number_that_no_server_can_hold_is_wrong_usage(command: str) -> None:
    """It ended in a traceback and in the words "a broken invariant or a defect". No server is asked."""
    huge = 10**20

    done = fork({}, *_numbers(command, huge, huge, huge, f"{huge}/{huge}"))

    assert Exit.WRONG_USAGE == done.code
    assert "Traceback" not in done.err


def test_the_largest_numbers_have_an_answer(cluster: Settings) -> None:
    """There is nothing of such a number, and no defect either."""
    numbers = MAX_INT32, MAX_INT64, 10**18 - 1, f"{10**9 - 1}/{10**18 - 1}"
    done = {command: fork(environment(cluster), *_numbers(command, *numbers)) for command in COMMANDS}

    assert {} == {command: each for command, each in done.items() if each.code not in {Exit.DONE, Exit.NO}}
    assert [] == [command for command, each in done.items() if "Traceback" in each.err]


def _integers(command: Any, path: str) -> list[tuple[str, Any]]:
    if (commands := getattr(command, "commands", None)) is not None:
        return [found for name, each in commands.items() for found in _integers(each, f"{path} {name}")]
    kinds = [(each, str(each.type_descriptor.annotation)) for each in command.params]
    return [(f"{path} {each.name}", each) for each, kind in kinds if "int" in kind]


def test_every_number_of_the_command_line_is_bounded() -> None:
    """But those of a simulation, which reach no server."""
    found = [each for verb in VERBS if verb != "simulate" for each in _integers(load_verb(verb), verb)]

    assert {"operations list last", "clock accept partition", "replay rewind to_offset"} <= {name for name, _ in found}
    assert [] == [name for name, each in found if each.min is None or each.max is None or each.max > MAX_INT64]
    assert [] == [name for name, each in found if name.endswith(" partition") and each.max > MAX_INT32]
