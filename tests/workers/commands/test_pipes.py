"""A command whose reader has seen enough, as `head -1` has: it ends, and says nothing."""

import json
from collections.abc import Awaitable, Callable

import pytest

from infra.postgres import Connection, connect_database
from infra.settings import Settings
from schemas.catalogue import SEND_REQUESTS
from tests.workers.books_sound import write_story
from tests.workers.command import fork
from tests.workers.letters import set_aside
from workers.commands.running import Exit
from workers.local.processes import environment

# A command that asks nobody, one of each way to write, and one of each server.
COMMANDS = [
    "--help",
    "simulate --accounts 200",
    "balance alice",
    "statement alice",
    "statement alice --csv",
    "audit",
    "clock show",
    "metrics",
    "results --dead-letters --json",
    "results --dead-letters --follow",
    "lag",
    "lag --watch --json",
    "topics plan",
    "dead-letters list",
    "doctor --before-start",
    "trace --account alice",
]


@pytest.fixture
async def story(cluster: Settings, account: str, other_books: Callable[[], Awaitable[Settings]]) -> Settings:
    """A cluster with a dead letter, and books that have accounts with a history."""
    await set_aside(cluster, SEND_REQUESTS, account, [b"{"], "not_json")
    settings = cluster.model_copy(update={"database_url": (await other_books()).database_url})
    connection = await connect_database(settings)
    await write_story(connection)
    await connection.close()
    return settings


def test_a_reader_that_leaves_ends_every_verb_in_silence(story: Settings) -> None:
    """No traceback, and no word of a server that "cannot be reached (Broken pipe)"."""
    done = {command: fork(environment(story), *command.split(), without_reader=True) for command in COMMANDS}

    assert {} == {command: said for command, said in done.items() if said.err}
    assert {} == {command: said for command, said in done.items() if said.code not in (Exit.DONE, Exit.NO)}


async def test_a_verdict_is_kept_when_nobody_reads_it(settings: Settings, database: Connection) -> None:
    """With `pipefail`, `inmail audit | head -1` fails where the audit does."""
    sound = fork(environment(settings), "audit", without_reader=True)
    await database.execute("insert into accounts (account_id, partition, sequence) values ('x', 0, 1)")
    broken = fork(environment(settings), "audit", without_reader=True)

    assert (Exit.DONE, "") == (sound.code, sound.err)
    assert (Exit.NO, "") == (broken.code, broken.err)


# Of each way to write one that asks nobody: the help, a version, and events.
@pytest.mark.parametrize("command", ["--help", "balance --help", "--version", "simulate --accounts 20"])
def test_an_output_without_room_is_told_as_such(command: str) -> None:
    """In one line, and with the code of any file: no traceback, and no word of a server."""
    done = fork({}, *command.split(), output="/dev/full")

    assert done.code == Exit.WRONG_USAGE
    assert done.err == "inmail: the output cannot be written: No space left on device\n"


async def test_an_answer_without_room_is_told_as_such(settings: Settings, database: Connection) -> None:
    """It is written after the servers have answered. What is a JSON object with --json is one here too."""
    assert await database.fetchval("select count(*) from operations") == 0
    said = fork(environment(settings), "operations", "list", output="/dev/full")
    written = fork(environment(settings), "operations", "list", "--json", output="/dev/full")

    sentence = "the output cannot be written: No space left on device"
    assert (Exit.WRONG_USAGE, f"inmail: {sentence}\n") == (said.code, said.err)
    assert {"code": "file", "message": sentence, "hint": None} == json.loads(written.err)
