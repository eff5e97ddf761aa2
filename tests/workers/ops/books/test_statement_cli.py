"""What `inmail statement`, `balance`, `audit` and `results` print."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from rich.console import Console
from typer.testing import CliRunner

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import CATALOGUE, OUTPUT_TOPICS
from tests.workers.books_sound import write_story
from workers.cli import app
from workers.commands.running import Exit
from workers.commands.views.results import show_result
from workers.ops.topics.results import Result

EXAMPLES = Path(__file__).parents[4] / "schemas" / "examples"
Run = Callable[..., click.testing.Result]


@pytest.fixture
async def inmail(settings: Settings, database: Connection) -> Run:
    """Run a command on the story's books, and on an account with an odd name."""
    await write_story(database)
    await database.execute("insert into accounts (account_id, partition) values ('[red]', 0), ('-x', 0)")
    url = settings.database_url.get_secret_value()
    return lambda *arguments: CliRunner().invoke(app, arguments, env={"INMAIL_DATABASE_URL": url})


def test_a_statement_is_for_people(inmail: Run) -> None:
    """The balance, what of it expires, the lots, and a line with its reason for each row."""
    done = inmail("statement", "alice", "--as-of", "2030-01-20T00:00:00Z")

    assert Exit.DONE == done.exit_code
    lines = done.stdout.splitlines()
    assert ["alice can spend 1 credit", "at 2030-01-20 00:00:00Z, the requested time"] == lines[:2]
    assert "  1 expire by 2030-04-01 00:00:00Z" == lines[2]
    assert any("expired" in line and "not used before 2030-01-20" in line for line in lines)


def test_a_balance_can_be_of_a_day_to_come(inmail: Run) -> None:
    """A day is its first instant in UTC; what expires is told by date."""
    done = inmail("balance", "carol", "--as-of", "2030-02-01")

    assert "carol can spend 5 credits" in done.stdout
    assert "  5 expire by 2030-05-02 00:00:00Z" in done.stdout
    assert "send to bob" not in done.stdout


def test_json_is_nothing_but_json(inmail: Run) -> None:
    """Both commands tell the same balance; the statement adds its lines."""
    statement = json.loads(inmail("statement", "dave", "--as-of", "2030-01-20", "--json").stdout)
    balance = json.loads(inmail("balance", "dave", "--as-of", "2030-01-20", "--json").stdout)

    lines = statement.pop("lines")
    assert balance == statement
    assert ["granted", "cap_forfeited", "cancelled"] == [line["code"] for line in lines]
    assert "over the cap: subscription s-3 may hold 4" == lines[1]["reason"]


def test_csv_is_nothing_but_csv(inmail: Run) -> None:
    """As bytes, with the line ends of RFC 4180."""
    done = inmail("statement", "alice", "--csv", "--as-of", "2030-01-20")

    rows = list(csv.DictReader(io.StringIO(done.stdout_bytes.decode(), newline="")))
    assert [str(number) for number in range(1, 23)] == [row["sequence"] for row in rows]
    assert 23 == done.stdout_bytes.count(b"\r\n")


@pytest.mark.parametrize("command", ["statement", "balance"])
def test_an_odd_name_is_text(inmail: Run, command: str) -> None:
    """Neither markup nor an option."""
    assert "[red] can spend 0 credits" in inmail(command, "[red]").stdout
    assert "-x can spend 0 credits" in inmail(command, "--", "-x").stdout


@pytest.mark.parametrize("arguments", ["statement nobody", "balance nobody", "statement nobody --csv"])
def test_an_unknown_account_ends_with_1(inmail: Run, arguments: str) -> None:
    """The question was fine; the answer is no."""
    done = inmail(*arguments.split())

    assert (Exit.NO, "") == (done.exit_code, done.stdout)
    assert "the ledger has no account nobody" in done.stderr


@pytest.mark.parametrize("arguments", ["statement alice --json --csv", "balance alice --as-of 2030-13-01"])
def test_what_cannot_be_meant_ends_with_2(inmail: Run, arguments: str) -> None:
    """Two formats at once, a day that there is none of."""
    assert Exit.WRONG_USAGE == inmail(*arguments.split()).exit_code


def test_an_audit_tells_where_every_credit_is(inmail: Run) -> None:
    """One line for the whole book."""
    done = inmail("audit")

    equation = "69 granted = 5 spent - 2 reversed + 3 expired + 8 voided + 45 forfeited + 10 remaining"
    assert Exit.DONE == done.exit_code
    assert "6 accounts, 9 lots, 39 journal rows" in done.stdout
    assert equation in done.stdout
    assert "The ledger balances." in done.stdout


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ("send.decided", "charged                   -1  balance 15 -> 14  lot 1 until 2026-05-30 00:00:00Z"),
        ("report.decided", "no_credit_back             0  balance 14 -> 14  send 00000000-"),
        ("credits.reversed", "reversed                  +1  balance 14 -> 15  lot 1 until"),
        ("credits.voided", "voided                   -10  balance 24 -> 14  lot 2 until"),
        ("credits.forfeited", "forfeited                -11  balance 26 -> 15  lot 1 until"),
        ("credits.low", "low                        0  balance 2 -> 2  at most 2"),
        ("credits.exhausted", "exhausted                  0  balance 0 -> 0"),
        ("credits.expiring-soon", "expiring_soon              0  balance 29 -> 29  14 of lot 1 until"),
        ("billing.decided", "cancelled                  0  balance 29 -> 29  sub-9  ends 2026-05-01"),
    ],
)
def test_a_result_is_one_line(event: str, told: str) -> None:
    """What moved, the balance, the lot, and what else this kind of event tells."""
    assert told in _line(f"inmail.{event}.v1")


@pytest.mark.parametrize("name", [row.name for row in CATALOGUE if row.topic in OUTPUT_TOPICS])
def test_no_result_is_without_its_line(name: str) -> None:
    """Every event of the topics that `inmail results` may read (tests/workers/ops/topics/test_results.py)."""
    line = _line(name)

    assert 1 == line.count("\n")
    assert name.removeprefix("inmail.").removesuffix(".v1") in line


def _line(name: str) -> str:
    """Return the example of an event as `inmail results` shows it."""
    out = Console(file=io.StringIO(), width=1_000)
    event = json.loads((EXAMPLES / f"{name}.json").read_text())
    show_result(Result("topic", 0, 0, utc_now(), b"", event), out)
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text
