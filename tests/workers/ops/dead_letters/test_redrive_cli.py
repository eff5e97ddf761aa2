"""Redriving as an operator does it: by command, stopped by Ctrl-C or killed, and as the guide tells it."""

import json
import re
import shlex
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from schemas.envelope import encode
from tests.workers.command import end, run, start
from tests.workers.letters import platinum, records_of, set_aside
from tests.workers.noted_operations import list_operations
from tests.workers.wire import eventually
from workers.commands.running import Exit
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.pages import list_dead_letters
from workers.ops.operations import OperationStatus

GUIDE = Path(__file__).parents[4] / "docs" / "dead-letters.md"


def _redrive(account: str, *options: str) -> list[str]:
    return ["dead-letters", "redrive", "--account", account, "--by", "ops-1", "--because", "a trial", *options]


async def test_a_plan_comes_first_and_a_dry_run_ends_with_it(
    mended: Settings, account: str, database: Connection
) -> None:
    """Counts by topic and reason, what is left out and why, and how long it would take."""
    values = [encode(platinum(account)) for _ in range(30)]
    await set_aside(mended, BILLING_EVENTS, account, values, "unknown_plan")
    await set_aside(mended, SEND_REQUESTS, account, [b"{"], "not_json")
    arguments = ["dead-letters", "redrive", "--account", account, "--rate", "0.25", "--dry-run"]

    code, out, err = await run(mended, *arguments)
    _, as_json, _ = await run(mended, *arguments, "--json")

    assert (Exit.DONE, "") == (code, err)
    assert re.search(r"inmail\.billing-events +unknown_plan +30\n", out)
    assert "1 message not sent: it would become a dead letter again" in out
    (error,) = json.loads(as_json)["plan"]["errors"]
    assert "JSON" in error["error"]
    assert f"\n  1 of them: {error['error']}\n" in out
    assert "30 messages to send, at 0.25 a second: 0:02:00" in out
    plan = json.loads(as_json)["plan"]
    assert (30, {"refused_again": 1}, 120.0) == (plan["messages"], plan["not_sent"], plan["seconds"])
    assert 0 == await database.fetchval("select count(*) from operations")


async def test_what_was_refused_of_a_message_is_not_kept_with_the_operation(
    mended: Settings, account: str, database: Connection
) -> None:
    """A dry run tells the error, which has a part of the message; an operation is kept for good."""
    named = encode(platinum(account)).replace(b'"subscription_id":"s"', b'"subscription_id":"Erika Mustermann"')
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account)), named], "unknown_plan")

    _, told, _ = await run(mended, *_redrive(account, "--dry-run", "--json"))
    code, _, _ = await run(mended, *_redrive(account, "--yes"))

    assert (Exit.DONE, True) == (code, "Mustermann" in told)
    assert [False] == [
        "Mustermann" in row["text"] for row in await database.fetch("select operations::text as text from operations")
    ]


async def test_a_filter_that_nothing_matches_says_so(mended: Settings, account: str) -> None:
    """A mistyped account is not the same as letters that are left out."""
    code, out, _ = await run(mended, "dead-letters", "redrive", "--account", account, "--dry-run")

    assert (Exit.DONE, "Nothing to send: no dead letter matches.\n") == (code, out)


async def test_nobody_to_ask_is_a_no(mended: Settings, account: str) -> None:
    """A script has to say that it means it."""
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account))], "unknown_plan")

    code, _, err = await run(mended, *_redrive(account))

    assert (Exit.WRONG_USAGE, "inmail: cannot ask for confirmation without a terminal: use --yes\n") == (code, err)
    assert [] == await records_of(mended, BILLING_EVENTS, account)


async def test_a_redrive_tells_how_far_it_is_and_what_it_did(mended: Settings, account: str) -> None:
    """Progress for whoever waits, and the number by which to find it again."""
    values = [encode(platinum(account)) for _ in range(20)]
    await set_aside(mended, BILLING_EVENTS, account, values, "unknown_plan")

    code, out, err = await run(mended, *_redrive(account, "--yes", "--rate", "10"))

    (operation,) = await list_operations(mended, 1)
    assert Exit.DONE == code
    assert f"20 messages redriven: operation {operation.operation}" in out
    assert [f"{n} of 20 messages" for n in (10, 20)] == [line.partition(",")[0] for line in err.splitlines()]
    assert (OperationStatus.DONE, "ops-1", "a trial") == (operation.status, operation.actor, operation.reason)
    again, out, _ = await run(mended, *_redrive(account, "--yes"))
    assert (Exit.DONE, True) == (again, "20 messages not sent: redriven before" in out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_a_redrive_that_was_stopped_or_killed_goes_on(
    mended: Settings, account: str, number: signal.Signals
) -> None:
    """Ctrl-C leaves nothing in doubt; a kill at most what was about to be sent, which is then sent again."""
    events = [platinum(account) for _ in range(30)]
    await set_aside(mended, BILLING_EVENTS, account, [encode(event) for event in events], "unknown_plan")
    process = await start(mended, *_redrive(account, "--yes", "--rate", "5"))

    async def has_sent_some() -> bool:
        return len(await records_of(mended, BILLING_EVENTS, account)) > 5

    await eventually(has_sent_some, "some messages were sent back")
    process.send_signal(number)
    code, *_ = await end(process)
    stopped, ended = number is signal.SIGINT, (await list_operations(mended, 1))[0].status
    _, plan, _ = await run(mended, "dead-letters", "redrive", "--account", account, "--dry-run", "--json")
    again, *_ = await run(mended, *_redrive(account, "--yes", "--rate", "5000"))

    assert (Exit.INTERRUPTED if stopped else -signal.SIGKILL) == code
    assert (OperationStatus.STOPPED if stopped else OperationStatus.BROKEN_OFF) == ended
    assert (0 if stopped else 5) >= json.loads(plan)["plan"]["in_doubt"]
    sent = Counter(json.loads(each.value)["id"] for each in await records_of(mended, BILLING_EVENTS, account))
    assert {str(event.id) for event in events} == sent.keys()
    assert sent.total() - len(events) <= (0 if stopped else 5)
    assert Exit.DONE == again


async def test_dead_letters_are_seen_also_where_postgres_is_away(mended: Settings, account: str) -> None:
    """What became of them is not known then: that is said, and the exit code is that of an incomplete answer."""
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account))], "unknown_plan")
    nowhere = {"INMAIL_DATABASE_URL": "postgresql://inmail@127.0.0.1:1/inmail"}

    code, out, err = await run(mended, "dead-letters", "list", "--account", account, "--json", **nowhere)

    assert Exit.UNREACHABLE == code
    assert ["unknown_plan"] == [each["reason"] for each in json.loads(out)]
    assert [None] == [each["became"] for each in json.loads(out)]
    (error,) = [json.loads(line) for line in err.splitlines()]
    assert ("postgres", True) == (error["code"], "cannot be queried" in error["message"])


async def test_what_the_guide_tells_can_be_done(mended: Settings, account: str) -> None:
    """Every command of it, in order, on a letter that is there."""
    await set_aside(mended, BILLING_EVENTS, account, [encode(platinum(account))], "unknown_plan")
    (letter,) = (await list_dead_letters(mended, LetterFilter(account=account))).letters
    told = re.findall(r"^\$ inmail (.+)$", GUIDE.read_text(), re.MULTILINE)
    done = []
    for command in told:
        operations = await list_operations(mended, 1)
        number = str(operations[0].operation) if operations else "none"
        here: Callable[[str], str] = {"3/17": letter.place, "12": number}.get  # type: ignore[assignment]
        arguments = [here(word, word) for word in shlex.split(command)]  # type: ignore[call-arg]
        # Other tests' letters are theirs.
        only = ["--account", account] if arguments[1:2] in (["list"], ["redrive"]) else []
        done.append((command, (await run(mended, *arguments, *only)).code))

    assert len(told) > 8
    assert [(command, Exit.DONE) for command in told] == done
    assert 1 == len(await records_of(mended, BILLING_EVENTS, account))
