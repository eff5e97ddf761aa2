"""`inmail trace` and `inmail topics plan` as an operator reads them, and as the page tells."""

import asyncio
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import click.testing
from pydantic import SecretStr
from typer.testing import CliRunner

from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, DEAD_LETTERS, SEND_REQUESTS, SEND_RESULTS
from schemas.envelope import encode
from tests.workers.letters import platinum, records_of, set_aside
from tests.workers.wire import ends, publish, read, send, settled, working
from workers.cli import app
from workers.commands.running import Exit
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue

PAGE = Path(__file__).parents[4] / "docs" / "replay-trace.md"
REQUEST, EVENT = "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a11", "5d0c9f3a-0d5e-5b43-9f0e-3b1f6a1c2d10"


async def _run(settings: Settings, *arguments: str) -> click.testing.Result:
    variables = {
        "INMAIL_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "INMAIL_DATABASE_URL": settings.database_url.get_secret_value(),
        "INMAIL_TOPIC_PARTITIONS": str(settings.topic_partitions),
    }
    # In a thread of its own: a command has a loop of its own.
    return await asyncio.to_thread(lambda: CliRunner().invoke(app, arguments, env=variables))


async def _decide(settings: Settings, account: str, request: UUID) -> None:
    catalogue = load_catalogue()
    start = await ends(settings, SEND_RESULTS)
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):
        await publish(settings, SEND_REQUESTS, [send(account, request)])
        await read(settings, start, 1)
    await settled(settings)


async def test_the_page_tells_what_can_be_done(cluster: Settings, account: str) -> None:
    """Every command of it, on a request that was refused and answered."""
    request = uuid4()
    await _decide(cluster, account, request)
    event = json.loads((await records_of(cluster, SEND_RESULTS, account))[0].value)["id"]
    here: Callable[[str, str], str] = {"alice": account, REQUEST: str(request), EVENT: event}.get  # type: ignore[assignment]
    told = re.findall(r"^\$ inmail (.+)$", PAGE.read_text(), re.MULTILINE)

    done = [await _run(cluster, *(here(word, word) for word in shlex.split(command))) for command in told]

    assert 5 == len(told)
    assert [Exit.DONE] * 5 == [each.exit_code for each in done]
    assert [True] * 5 == [str(request) in each.stdout and event in each.stdout for each in done]


async def test_one_screen_tells_all_of_a_request(cluster: Settings, account: str) -> None:
    """For a person in lines, for a program in JSON: the same places."""
    request = uuid4()
    await _decide(cluster, account, request)
    (record,) = await records_of(cluster, SEND_REQUESTS, account)
    (answer,) = await records_of(cluster, SEND_RESULTS, account)

    text = (await _run(cluster, "trace", str(request))).stdout
    (found,) = json.loads((await _run(cluster, "trace", str(request), "--json")).stdout)["traces"]

    assert f"request     {request} of {account}\n" in text
    assert re.search(rf"record      inmail\.send-requests {record.partition}/{record.offset} at 2\d\d\d-", text)
    assert "line 1      insufficient_credits  balance 0 -> 0: refused: send to zoe: no credits\n" in text
    assert re.search(rf"  result    inmail\.send-results {answer.partition}/{answer.offset} at 2\d\d\d-", text)
    assert (record.partition, record.offset) == (found["record"]["partition"], found["record"]["offset"])
    (line,) = found["lines"]
    assert ("insufficient_credits", 1, 0) == (line["code"], line["sequence"], line["balance_after"])
    assert [(answer.partition, answer.offset, False)] == [
        (each["partition"], each["offset"], each["repeat"]) for each in line["event"]["results"]
    ]


async def test_a_trace_says_which_server_did_not_answer(cluster: Settings, account: str) -> None:
    """By its exit code too, and with --json as an object: without Kafka the books' part is shown, without them none."""
    request = uuid4()
    await _decide(cluster, account, request)
    no_kafka = cluster.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    no_books = cluster.model_copy(update={"database_url": SecretStr("postgresql://inmail@127.0.0.1:1/inmail")})

    half = await _run(no_kafka, "trace", str(request), "--json")
    words = await _run(no_kafka, "trace", str(request))
    nothing = await _run(no_books, "trace", str(request), "--json")

    errors = [json.loads(each.stderr.splitlines()[-1]) for each in (half, nothing)]
    assert [Exit.UNREACHABLE] * 3 == [each.exit_code for each in (half, words, nothing)]
    assert ["kafka", "postgres"] == [each["code"] for each in errors]
    (found,) = json.loads(half.stdout)["traces"]
    assert (str(request), "unknown") == (found["request_id"], found["record"]["state"])
    assert "inmail: the topics were not searched: " in words.stderr
    assert "" == nothing.stdout


async def test_a_dead_letter_is_told_in_words(cluster: Settings, account: str) -> None:
    """Where it is, why, and that nothing came of it yet."""
    event = platinum(account)
    await set_aside(cluster, BILLING_EVENTS, account, [encode(event)], "unknown_plan")
    (letter,) = await records_of(cluster, DEAD_LETTERS, account)

    done = await _run(cluster, "trace", str(event.id))

    assert Exit.DONE == done.exit_code
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"dead letter {letter.partition}/{letter.offset}, written at ")
    assert ["reason      unknown_plan: planted", "outcome     none yet"] == lines[2:]


async def test_what_nobody_knows_ends_with_1(cluster: Settings, account: str) -> None:
    """And neither an id nor an account with 2. What is no UUID may be a producer's id of a request."""
    unknown = str(uuid4())
    done = await _run(cluster, "trace", unknown)
    nobody = await _run(cluster, "trace", "--account", account)
    nothing = await _run(cluster, "trace")
    no_id = await _run(cluster, "trace", "no-id")

    assert (Exit.NO, "") == (done.exit_code, done.stdout)
    assert done.stderr.startswith(f"inmail: {unknown} is unknown: neither a decided or waiting request")
    assert Exit.NO == nobody.exit_code
    assert nobody.stderr.startswith(f"inmail: the ledger has no account {account}: no event was decided for it.")
    assert Exit.WRONG_USAGE == nothing.exit_code
    assert Exit.NO == no_id.exit_code
    assert no_id.stderr.startswith('inmail: "no-id" is no UUID and no id of a decided request')


async def test_a_plan_of_topics_shows_its_warnings(cluster: Settings) -> None:
    """Before the steps; alike ones of several topics together. With another number of partitions, there is no plan."""
    odd = cluster.model_copy(update={"topic_partitions": 5})
    right = await _run(cluster, "topics", "plan", "--json")
    wrong = await _run(odd, "topics", "plan")

    assert [] == json.loads(right.stdout)["broken_promises"]
    assert Exit.WRONG_USAGE == wrong.exit_code
    assert "warning partitions is 4, INMAIL_TOPIC_PARTITIONS is 5 on all topics. Guarantee: an account" in wrong.stdout
    assert "set INMAIL_TOPIC_PARTITIONS to 4" in wrong.stdout
