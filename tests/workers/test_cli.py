"""The command line as a shell sees it: what it prints, where, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from infra.settings import Settings
from workers.cli import app
from workers.commands.running import Exit

Run = Callable[..., subprocess.CompletedProcess[str]]

PASSWORD = "hunter2-in-the-url"  # noqa: S105 - looked for in what is printed
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def inmail() -> Run:
    """Run the command as a process of its own, with nothing to reach unless told."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
        nothing = {
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": NOWHERE,
            "INMAIL_DATABASE_URL": f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail",
        }
        return subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments],
            env=clean | nothing | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def _told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a known error prints."""
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


# -- help ---------------------------------------------------------------------------------------------------------


def test_help_tells_what_the_exit_codes_mean() -> None:
    """Scripts rest on them, so the first page says them."""
    text = CliRunner().invoke(app, ["--help"], terminal_width=200).output

    for code in (Exit.DONE, Exit.NO, Exit.WRONG_USAGE, Exit.UNREACHABLE, Exit.BROKEN):
        assert f"\n {code.value} " in text


@pytest.mark.parametrize(
    "command",
    [
        "migrate",
        "topics plan",
        "topics apply",
        "worker",
        "publish",
        "results",
        "statement",
        "lag",
        "audit",
        "dead-letters list",
        "dead-letters show",
    ],
)
def test_every_command_explains_itself(command: str) -> None:
    """No command needs a manual to be tried."""
    done = CliRunner().invoke(app, [*command.split(), "--help"])

    assert done.exit_code == Exit.DONE
    assert "Usage:" in done.output


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "worker nobody",
        "publish /no/such/file.ndjson",
        "results --request not-a-uuid",
        "statement alice --as-of yesterday",
        "dead-letters list --topic inmail.send-results",
        "dead-letters list --reason because",
        "dead-letters show 3",
        "dead-letters show 3/-1",
    ],
)
def test_wrong_usage_ends_with_2(arguments: str) -> None:
    """A typing mistake is told apart from an answer."""
    assert CliRunner().invoke(app, arguments.split()).exit_code == Exit.WRONG_USAGE


# -- settings -----------------------------------------------------------------------------------------------------


def test_a_wrong_setting_is_named_with_what_is_allowed(inmail: Run) -> None:
    """Its name as it is spelt in the environment."""
    done = inmail("audit", INMAIL_TICK_STEPS="many")

    assert done.returncode == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_TICK_STEPS: ")


def test_a_setting_that_does_not_exist_is_named_with_the_nearest(inmail: Run) -> None:
    """A misspelt setting would not hold, and nobody would know."""
    done = inmail("audit", INMAIL_TICK_STEP="5")

    assert done.returncode == Exit.WRONG_USAGE
    assert _told(done).startswith("inmail: INMAIL_TICK_STEP: there is no such setting; INMAIL_TICK_STEPS was meant?")


@pytest.mark.parametrize(
    "url",
    [
        f"http://inmail:{PASSWORD}@{NOWHERE}/inmail",
        f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail?sslmode=perhaps",
        f"postgresql://inmail:{PASSWORD}@{NOWHERE}/inmail",
    ],
)
@pytest.mark.parametrize("command", ["audit", "migrate"])
def test_no_error_shows_a_secret(inmail: Run, command: str, url: str) -> None:
    """Neither a wrong address nor one that nobody answers at."""
    done = inmail(command, INMAIL_DATABASE_URL=url)

    assert done.returncode in (Exit.WRONG_USAGE, Exit.UNREACHABLE)
    assert PASSWORD not in done.stdout + done.stderr


def test_a_plan_catalogue_that_is_not_there_is_a_wrong_setting(inmail: Run) -> None:
    """A worker does not start with half of its rules."""
    done = inmail("worker", "send", INMAIL_PLANS_FILE="/no/such/plans.toml")

    assert done.returncode == Exit.WRONG_USAGE
    assert "/no/such/plans.toml" in _told(done)


# -- nobody there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["lag", "results", "topics plan", "dead-letters list", "publish -"])
def test_a_kafka_that_is_away_ends_with_3(inmail: Run, command: str) -> None:
    """One line that says where it was looked for."""
    done = inmail(*command.split())

    assert done.returncode == Exit.UNREACHABLE
    assert f"Kafka cannot be reached at {NOWHERE}" in _told(done)


@pytest.mark.parametrize("command", ["audit", "migrate", "statement alice"])
def test_a_postgres_that_is_away_ends_with_3(inmail: Run, command: str) -> None:
    """One line that says where it was looked for."""
    done = inmail(*command.split())

    assert done.returncode == Exit.UNREACHABLE
    assert f"Postgres cannot be reached at {NOWHERE}" in _told(done)


# -- on a database ------------------------------------------------------------------------------------------------


@pytest.fixture
def on_database(inmail: Run, settings: Settings) -> Run:
    """Run the command on the test's own database."""
    url = settings.database_url.get_secret_value()
    return lambda *arguments: inmail(*arguments, INMAIL_DATABASE_URL=url)


def test_a_database_that_does_not_exist_ends_with_3(inmail: Run, settings: Settings) -> None:
    """The server's own words, which name the database."""
    base, _, _ = settings.database_url.get_secret_value().rpartition("/")

    done = inmail("audit", INMAIL_DATABASE_URL=f"{base}/not_created")

    assert done.returncode == Exit.UNREACHABLE
    assert 'database "not_created" does not exist' in _told(done)


def test_migrating_again_changes_no_table(on_database: Run) -> None:
    """It is part of every deploy."""
    done = on_database("migrate")

    assert done.returncode == Exit.DONE
    assert done.stdout.startswith("0 migrations applied, ")


def test_an_audit_of_sound_books_ends_with_0(on_database: Run) -> None:
    """Piped, its JSON is nothing but JSON."""
    done = on_database("audit", "--json")

    assert (Exit.DONE, "") == (done.returncode, done.stderr)
    assert json.loads(done.stdout)["passed"] is True


async def test_an_audit_of_broken_books_ends_with_1(on_database: Run, database: object) -> None:
    """So that a job can alarm by it."""
    await database.execute("insert into accounts (account_id, partition, sequence) values ('[red]', 0, 1)")  # type: ignore[attr-defined]

    done = on_database("audit")

    assert done.returncode == Exit.NO
    assert "1 x sequence_is_gap_free" in done.stdout
    assert "[red] sequence 1: 0 rows" in done.stdout  # an account's id is text, whatever it looks like


def test_an_unknown_account_ends_with_1(on_database: Run) -> None:
    """The question was fine; the answer is no."""
    done = on_database("statement", "nobody")

    assert done.returncode == Exit.NO
    assert _told(done) == "inmail: the books have no account nobody"
