"""With --json an error is JSON too: one object with a code, a message and a hint."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.settings import Settings
from workers.cli import VERBS, app, load_verb
from workers.commands.running import Exit

NOWHERE = {
    "INMAIL_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "INMAIL_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/d",
    "INMAIL_BALANCES_TOPIC": "true",
}


def _error(arguments: list[str], **variables: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, arguments, env=NOWHERE | variables)
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return done.exit_code, json.loads(line)


def _asking() -> list[list[str]]:
    """Return every command that has --json, with what it has to be given."""
    given = {
        "balance": ["a"],
        "statement": ["a"],
        "trace": ["--account", "a"],
        "publish": ["pyproject.toml"],
        "dead-letters show": ["0/0"],
        "operations show": ["1"],
        "topics apply": ["--yes"],
        "transactions end": ["--because", "a test", "--yes"],
        "dead-letters redrive": ["--dry-run"],
        "replay rewind": ["send", "--to-offset", "0", "--dry-run"],
        "replay skip": ["send", "--dry-run"],
        "replay reemit": ["--all", "--dry-run"],
        "prune": ["--dry-run"],
        "replay balances": ["--all", "--dry-run"],
        "replay rebuild": ["--schema", "s", "--dry-run"],
        "replay shadow": ["--schema", "s", "--dry-run"],
        "clock accept": ["send", "0", "--dry-run"],
        "clock set-aside": ["send", "0", "--dry-run"],
        "clock set-back": ["--dry-run"],
        "shards add": ["--to", "postgresql://localhost:1/d", "--dry-run"],
        "shards move": ["3", "--to", "1", "--dry-run"],
        "workers stop": ["send"],
        "workers start": ["send"],
        "workers restart": ["send"],
    }
    every: dict[str, Any] = {name: load_verb(name) for name in VERBS if name != "doctor"}  # its answer is the report
    for verb, group in [*every.items()]:
        every |= {f"{verb} {name}": each for name, each in getattr(group, "commands", {}).items()}
    with_json = [name for name, each in every.items() if any("--json" in option.opts for option in each.params)]
    return [[*name.split(), *given.get(name, []), "--json"] for name in with_json]


@pytest.mark.parametrize("arguments", _asking(), ids=" ".join)
def test_every_command_with_json_has_errors_in_json(arguments: list[str], tmp_path: Any) -> None:
    """One object, on standard error, with a code that programs can compare and no secret."""
    told = [*arguments, "--data", str(tmp_path)] if arguments[0] == "workers" else arguments

    code, error = _error(told)

    assert code in (Exit.UNREACHABLE, Exit.NO)
    assert {"code", "message", "hint"} == set(error)
    assert error["code"] in ("kafka", "postgres", "local_stack")
    assert error["message"]
    assert "hunter2" not in str(error)


def test_there_are_commands_with_json() -> None:
    """The table above is not empty."""
    assert len(_asking()) > 15


@pytest.mark.parametrize(
    "arguments",
    [
        ["balance", "--json"],
        ["balance", "a", "--json", "--as-of", "x"],
        ["lag", "--json", "--no-such"],
        ["no", "--json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_in_json(arguments: list[str]) -> None:
    """Where --json stands does not matter; the hint is the help of the command."""
    code, error = _error(arguments)

    assert (Exit.WRONG_USAGE, "usage") == (code, error["code"])
    assert error["hint"].endswith("--help")


def test_an_account_that_is_called_json_is_an_account() -> None:
    """What stands behind -- is no option."""
    done = CliRunner().invoke(app, ["balance", "--", "--json"], env=NOWHERE)

    assert done.stderr.startswith("inmail: ")


def test_a_hint_can_be_copied(settings: Settings) -> None:
    """It ends with the value, quoted for a shell."""
    url = settings.database_url.get_secret_value()

    _, error = _error(["balance", "zoe;b", "--json"], INMAIL_DATABASE_URL=url)

    assert "unknown_account" == error["code"]
    assert "inmail dead-letters list --account 'zoe;b'" == error["hint"]
