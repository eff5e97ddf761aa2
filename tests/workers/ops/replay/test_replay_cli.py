"""Replaying as an operator does it at night: by command, stopped by Ctrl-C or killed, and as the pages tell it."""

import json
import re
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import NewTopic

from infra.kafka.clients import admin_client, partition_of, partitions_of
from infra.settings import Settings
from tests.whole import whole
from tests.workers.command import end, run, start
from tests.workers.life import living
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import Marks, fund_and_send
from tests.workers.wire import eventually, settled
from workers.commands.running import Exit
from workers.ops.operations import OperationStatus

PAGES = Path(__file__).parents[4] / "docs"
WHY = ["--by", "ops-1", "--because", "a trial", "--yes"]


async def made(settings: Settings) -> tuple[str, Marks]:
    """Return a new topic, and where it ends."""
    name = f"downstream-{uuid4().hex[:8]}"
    async with admin_client(settings) as admin:
        await admin.create_topics([NewTopic(name, 4, 1)])
    return name, Marks(dict.fromkeys(partitions_of(name, 4), 0))


async def as_told(settings: Settings, page: str, here: Mapping[str, str]) -> list[tuple[str, int | None, str]]:
    """Run every command of a page, in order; `12` and `13` stand for the newest operation."""
    done = []
    for command in re.findall(r"^\$ inmail (.+)$", (PAGES / page).read_text(), re.MULTILINE):
        operations = await list_operations(settings, 1)
        number = str(operations[0].operation) if operations else "none"
        words = here | {"12": number, "13": number}
        code, _, err = await run(settings, *(words.get(word, word) for word in shlex.split(command)))
        done.append((command, code, err))
    return done


async def test_what_the_page_on_rewinding_tells_can_be_done(cluster: Settings, account: str) -> None:
    """Every command of it, on a request that was decided."""
    requests = await fund_and_send(cluster, account, 2)
    now = requests[0].time.isoformat()
    here = {"2026-01-31T09:30:00Z": now, "0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a11": str(requests[0].id)}

    done = await as_told(cluster, "replay-rewind.md", here)

    assert len(done) == 6
    assert [] == [each for each in done if each[1] != Exit.DONE]
    undone, made_ = await list_operations(cluster, 2)
    assert ("rewind", "undo", "request") == (undone.verb, undone.arguments["to"], made_.arguments["to"])
    moved = [(each["from"], each["to"]) for operation in (undone, made_) for each in operation.result["moves"]]
    assert moved[0] == moved[1][::-1]


async def test_what_the_page_on_reemitting_tells_can_be_done(cluster: Settings, account: str) -> None:
    """Every command of it, on an account that has sent."""
    requests = await fund_and_send(cluster, account, 2)
    topic, everything = await made(cluster)
    partition = str(partition_of(account.encode(), cluster.topic_partitions))
    request = {"0b5d6f0e-6d5c-4b1f-9a51-3f0f4c8f7a11": str(requests[0].id)}

    done = await as_told(
        cluster, "replay-reemit.md", request | {"alice": account, "crm-backfill": topic, "3": partition}
    )

    assert len(done) == 6
    assert [] == [each for each in done if each[1] != Exit.DONE]
    assert 3 <= len(await everything.read(cluster))


async def test_a_plan_comes_first_and_a_dry_run_ends_with_it(cluster: Settings, account: str) -> None:
    """How many, of what, how long; and for a rewind that would be refused, why, with an exit code that says no."""
    requests = await fund_and_send(cluster, account, 2)

    code, out, _ = await run(cluster, "replay", "reemit", "--account", account, "--rate", "0.25", "--dry-run")
    no, plan, err = await run(cluster, "replay", "rewind", "send", "--to-request", str(requests[0].id), "--dry-run")

    assert Exit.DONE == code
    assert re.search(r"inmail\.send-results +inmail\.send-results +2\n", out)
    assert "3 events to send, at 0.25 a second: 0:00:12" in out
    assert Exit.NO == no
    assert "2 records to read again: about 0:00:00" in plan
    assert "refused: 2 records have an outcome or a dead letter" in err
    assert [] == await list_operations(cluster, 1)


@pytest.mark.parametrize("number", [whole(signal.SIGINT), signal.SIGKILL])
async def test_a_reemission_that_was_stopped_or_killed_goes_on(
    cluster: Settings, account: str, number: signal.Signals
) -> None:
    """Ctrl-C leaves nothing to send twice, a kill at most what was not noted; in both cases nothing is left out."""
    await fund_and_send(cluster, account, 5)
    topic, everything = await made(cluster)
    command = ["replay", "reemit", "--account", account, "--to", topic, *WHY]
    process = await start(cluster, *command, "--rate", "2")

    async def has_noted_some() -> bool:
        operations = await list_operations(cluster, 1)
        return bool(operations and operations[0].result.get("sent"))

    await eventually(has_noted_some, "some events were sent")
    process.send_signal(number)
    code, *_ = await end(process)
    stopped, ended = number is signal.SIGINT, (await list_operations(cluster, 1))[0].status
    again, out, _ = await run(cluster, *command, "--json")
    await settled(cluster)

    answer = json.loads(out)
    sent = [json.loads(each.value)["data"]["sequence"] for each in await everything.read(cluster)]
    assert (Exit.INTERRUPTED if stopped else -signal.SIGKILL) == code
    assert (OperationStatus.STOPPED if stopped else OperationStatus.BROKEN_OFF) == ended
    assert (Exit.DONE, list(range(1, max(sent) + 1))) == (again, sorted(set(sent)))
    assert max(sent) == answer["plan"]["sent_before"] + answer["result"]["sent"]
    assert len(sent) - len(set(sent)) <= (0 if stopped else 2)


@pytest.mark.parametrize("number", [whole(signal.SIGINT), signal.SIGKILL])
async def test_a_rewind_that_was_stopped_or_killed_as_it_waited_has_moved_nothing(
    cluster: Settings, account: str, number: signal.Signals
) -> None:
    """The same command again, once the worker has ended, does it."""
    (request,) = await fund_and_send(cluster, account, 1)
    command = ["replay", "rewind", "send", "--to-request", str(request.id), "--publish-again", "--drain", *WHY]

    async def waits() -> bool:
        return bool(await list_operations(cluster, 1))

    async with living(cluster) as life:
        await life.ready()
        process = await start(cluster, *command)
        await eventually(waits, "a rewind that waits for the worker")
        process.send_signal(number)
        code, _, _ = await end(process)
    stopped, broken_off = number is signal.SIGINT, (await list_operations(cluster, 1))[0]
    again, out, _ = await run(cluster, *command, "--json")

    assert (Exit.INTERRUPTED if stopped else -signal.SIGKILL) == code
    assert (OperationStatus.STOPPED if stopped else OperationStatus.BROKEN_OFF, {}) == (
        broken_off.status,
        broken_off.result,
    )
    assert (Exit.DONE, 1) == (again, json.loads(out)["result"]["moves"][0]["published_again"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reemit", *WHY], "give either a filter or --all"),
        (["reemit", "--offsets", "1:2", *WHY], "needs --worker and --partition"),
        (["reemit", "--worker", "send", "--partition", "0", "--offsets", "2:1", *WHY], "expected FIRST:END"),
        (["rewind", "send", *WHY], "give one of them"),
        (["rewind", "send", "--to-offset", "0"], "give a reason, for the record"),
    ],
)
async def test_a_command_that_does_not_say_what_it_wants_is_refused(
    settings: Settings, arguments: list[str], words: str
) -> None:
    """Before anything is asked of Kafka or Postgres."""
    code, _, err = await run(settings, "replay", *arguments)

    assert (Exit.WRONG_USAGE, True) == (code, words in " ".join(err.replace("│", " ").split()))
