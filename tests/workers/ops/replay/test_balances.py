"""`replay balances`: the topic of balances has every account, also those that nothing has changed since it was on."""

import asyncio
import json
from uuid import uuid4

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from infra.kafka.sender import Outgoing, Sender
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BALANCES
from tests.ledger.book import Book
from tests.workers.balances_view import Written, compact, read_last_balance, read_log, sequences, view, written
from tests.workers.command import run
from tests.workers.replaying import ME
from tests.workers.wire import ends
from workers.commands.running import Exit
from workers.jobs.balances import balance_messages
from workers.ops.books.balance import UnknownAccountError
from workers.ops.operations import RefusedError
from workers.ops.replay import balances as replay_balances
from workers.ops.replay.balances import plan_balances, publish_balances

FAST = 50_000.0


async def test_every_account_has_a_balance_after_a_run_that_was_stopped_and_resumed(
    balances: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pages, each account once. What the topic has then is what the ledger has; accounts without a row have none."""
    monkeypatch.setattr(replay_balances, "_PAGE", 2)
    book, mine = Book(database), [f"b-{uuid4().hex[:12]}" for _ in range(7)]
    await book.decide(*(book.promotion(number + 1, each) for number, each in enumerate(mine)))
    await book.decide(book.send(mine[0]), book.send(mine[6]))
    await database.execute("insert into accounts (account_id, partition) values ('no-row', 0)")
    start, stop = await ends(balances, BALANCES), asyncio.Event()

    plan = await plan_balances(balances, None, FAST)
    first = await publish_balances(balances, plan, who=ME, stop=stop, progress=lambda _: stop.set())
    rest = await plan_balances(balances, None, FAST)
    second = await publish_balances(balances, rest, who=ME, stop=asyncio.Event())
    again = await plan_balances(balances, None, FAST)

    log = [record for each in mine for record in await read_log(balances, start, each)]
    now = {each: await read_last_balance(database, each) for each in mine}
    kept = view(compact(log))
    assert {each: (now[each].sequence, now[each].spendable) for each in mine} == {
        each: (data["sequence"], data["spendable"]) for each, data in kept.items()
    }
    assert (True, 2, 7, 5, False, 5) == (
        first.stopped, first.result["sent"], plan.accounts, rest.accounts, second.stopped, second.result["sent"],
    )  # fmt: skip
    assert (first.number, 2, None, 7) == (rest.resumes, rest.sent_before, again.resumes, again.accounts)
    assert 7 == len(log) == len({record.key for record in log})
    assert [] == await read_log(balances, start, "no-row")


@pytest.mark.parametrize(
    ("since_then", "left"),
    [
        ("set noted_at = noted_at - interval '23 hours'", 2),
        ("set noted_at = noted_at - interval '25 hours'", 3),
        ("set arguments = arguments || jsonb_build_object('topic_id', gen_random_uuid())", 3),
        ("set arguments = arguments - 'topic_id'", 3),
    ],
    ids=["of today", "of long ago", "of the topic before", "of nobody knows which topic"],
)
async def test_only_a_run_of_late_on_the_same_topic_is_resumed(
    balances: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch, since_then: str, left: int
) -> None:
    """A topic that was made again would lack the accounts of the first half for good, and nobody would know."""
    monkeypatch.setattr(replay_balances, "_PAGE", 1)
    book, stop = Book(database), asyncio.Event()
    await book.decide(*(book.promotion(1, f"b-{uuid4().hex[:12]}") for _ in range(3)))
    first = await plan_balances(balances, None, FAST)
    done = await publish_balances(balances, first, who=ME, stop=stop, progress=lambda _: stop.set())
    await database.execute(f"update operations {since_then}")

    plan = await plan_balances(balances, None, FAST)

    assert (left, left == 2) == (plan.accounts, plan.resumes == done.number)


async def test_a_run_hides_no_balance_that_a_lane_publishes_meanwhile(
    balances: Settings, database: Connection, account: str
) -> None:
    """A page is read, the account changes and its lane publishes, and only then the page is sent."""
    book = Book(database)
    await book.decide(book.promotion(5, account))
    page = await balance_messages(database, [account], lambda each, _: f"{each} operator")
    await book.decide(book.promotion(7, account))
    lane = await balance_messages(database, [account], lambda each, _: f"{each} inmail-billing 0")
    log = written([*lane, *page])

    start = await ends(balances, BALANCES)
    await publish_balances(balances, await plan_balances(balances, account, FAST), who=ME, stop=asyncio.Event())
    (record,) = await read_log(balances, start, account)

    assert ([2, 1], 2) == (sequences(log), view(compact(log))[account]["sequence"])
    assert [Written(*page[0][3:4], page[0].key or b"", lane[0].value)] == [record]  # the same key, the newest balance


async def test_a_balance_that_kafka_refuses_is_named_and_dealt_with(
    balances: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an event of `replay reemit` is; the others are published."""
    book, mine, dealt_with = Book(database), [f"b-{uuid4().hex[:12]}" for _ in range(3)], list[int]()
    await book.decide(*(book.promotion(number + 1, each) for number, each in enumerate(mine)))
    send = Sender.send

    async def refuses(self: Sender, number: int, outgoing: Outgoing) -> None:
        if (outgoing.key or b"").startswith(mine[1].encode()):
            self._on_refused(number, MessageSizeTooLargeError())
        else:
            await send(self, number, outgoing)

    monkeypatch.setattr(Sender, "send", refuses)
    plan = await plan_balances(balances, None, FAST)
    done = await publish_balances(balances, plan, who=ME, stop=asyncio.Event(), progress=dealt_with.append)

    assert (2, 1, 3) == (done.result["sent"], done.result["refused"], dealt_with[-1])
    assert [mine[1]] == [each["account"] for each in done.result["first_refused"]]


async def test_what_cannot_be_published_is_refused_with_its_reason(settings: Settings, balances: Settings) -> None:
    """Where the topic is off its balances would grow old; and an unknown account has none."""
    with pytest.raises(RefusedError, match="INMAIL_BALANCES_TOPIC is off"):
        await plan_balances(settings, None, FAST)
    with pytest.raises(UnknownAccountError):
        await plan_balances(balances, "nobody", FAST)


async def test_the_command_publishes_the_balance_of_an_account_and_tells_what_it_did(
    balances: Settings, database: Connection, account: str
) -> None:
    """With a reason, for the record."""
    book, start = Book(database), await ends(balances, BALANCES)
    await book.decide(book.promotion(5, account))

    code, out, err = await run(
        balances, "replay", "balances", "--account", account, "--because", "a test", "--yes", "--json"
    )

    answer = json.loads(out)
    (record,) = await read_log(balances, start, account)
    assert (Exit.DONE, 1, 1) == (code, answer["plan"]["accounts"], answer["result"]["sent"]), err
    assert 5 == json.loads(record.value)["data"]["spendable"]
