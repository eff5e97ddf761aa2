"""The topic of balances: compaction keeps each account's newest balance, in whatever order it was written."""

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from infra.clock import LATEST
from infra.kafka.transactions import Message, TransactionPair, TransactionTimes
from infra.postgres import Connection
from infra.settings import Settings
from schemas.balances import AccountBalance
from schemas.catalogue import BALANCES, CREDIT_EVENTS, SEND_RESULTS, fingerprint
from schemas.envelope import Event
from schemas.ticks import ExpiryTick
from tests.ledger.book import DAY, NEW_YEAR, Book
from tests.workers.balances_view import Written, compact, read_last_balance, read_log, sequences, view, written
from tests.workers.books_sound import write_story
from tests.workers.wire import ends, promotion, publish, read, send, working
from workers.jobs.balances import BalancePublisher, balance_messages, with_balances
from workers.jobs.billing import BillingJob
from workers.jobs.bisection import decide_bisected
from workers.jobs.expiry import ExpiryJob
from workers.jobs.job import Batch, Job, StoredRange
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import load_catalogue

ACCOUNT = "alice"
ROUNDS = 200
AFTER = (timedelta(0), timedelta(hours=1), timedelta(days=9), timedelta(days=31), timedelta(days=400))


def requests(partition: int, first_offset: int, *events: Event) -> list[Request[Any]]:
    """Return events as requests that came in on a partition."""
    return [
        Request(event, event.subject or "", event.id, fingerprint(event), event.time, partition, offset)
        for offset, event in enumerate(events, first_offset)
    ]


async def decided(job: Job, connection: Connection, given: Sequence[Request[Any]]) -> list[Message]:
    """Decide requests in a transaction; return what is to publish."""
    async with connection.transaction():
        return (await job.decide(connection, Batch(given, read_to=LATEST))).messages


def sending() -> Job:
    """Return a send job that publishes balances."""
    return BalancePublisher(SendJob(load_catalogue()))


def billing() -> Job:
    """Return a billing job that publishes balances."""
    return BalancePublisher(BillingJob(load_catalogue()))


async def newest_sequence(connection: Connection) -> int:
    """Return the sequence of the account in the ledger's database."""
    return int(await connection.fetchval("select sequence from accounts where account_id = $1", ACCOUNT))


# -- which record is the newest ---------------------------------------------------------------------------------------


async def test_compaction_keeps_the_newest_balance_in_whatever_order_lanes_publish(database: Connection) -> None:
    """Lanes of two workers, and a second lane of one that has misplaced records, in every order that can come to be.

    Each lane's transactions follow one another, those of different lanes do not. Keyed by the account, or by the
    account and the worker, an older balance is kept in some of the orders, and this test fails.
    """
    book = Book(database)
    jobs = {("inmail-billing", 0): billing(), ("inmail-send", 0): sending(), ("inmail-send", 1): sending()}
    transactions: dict[tuple[str, int], list[list[Written]]] = {lane: [] for lane in jobs}
    dice = Random(19)  # noqa: S311 - no secret
    order = [*(dice.choice(list(jobs)) for _ in range(10)), *jobs]  # the last two are lanes of one worker
    for offset, lane in enumerate(order):
        group, partition = lane
        event = book.promotion(2, ACCOUNT) if group == "inmail-billing" else book.send(ACCOUNT)
        found = await decided(jobs[lane], database, requests(partition, offset, event))
        transactions[lane].append(written(found))
        book.now += timedelta(seconds=1)
    newest = await newest_sequence(database)
    assert all(transactions.values())

    for _ in range(ROUNDS):
        left = {lane: list(each) for lane, each in transactions.items()}
        log: list[Written] = []
        while any(left.values()):
            log += left[dice.choice([lane for lane, each in left.items() if each])].pop(0)
        assert newest == view(compact(log))[ACCOUNT]["sequence"], sequences(log)


class _Held:
    """Keeps the transactions of a group from being published until they may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
        self.reached, self.may_go_on = asyncio.Event(), asyncio.Event()
        original = TransactionPair.publish

        async def publish_(
            pair: TransactionPair, messages: Sequence[Message], offsets: Any, of_group: str
        ) -> TransactionTimes:
            if of_group == group and messages:
                self.reached.set()
                await self.may_go_on.wait()
            return await original(pair, messages, offsets, of_group)

        monkeypatch.setattr(TransactionPair, "publish", publish_)


async def test_a_send_published_after_a_later_grant_hides_no_balance(
    balances: Settings, database: Connection, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    """The send worker has stored a send and is slow to publish; the billing worker grants and publishes meanwhile."""
    catalogue = load_catalogue()
    jobs = [with_balances(each(catalogue), balances) for each in (SendJob, BillingJob)]
    start = await ends(balances, BALANCES)
    of_credits, of_sends = await ends(balances, CREDIT_EVENTS), await ends(balances, SEND_RESULTS)
    await publish(balances, "inmail.billing-events", [promotion(account, 5)])
    async with working(balances, *jobs):
        await read(balances, of_credits, 1)
        held = _Held(monkeypatch, "inmail-send")
        try:
            await publish(balances, "inmail.send-requests", [send(account)])
            async with asyncio.timeout(30):
                await held.reached.wait()
            await publish(balances, "inmail.billing-events", [promotion(account, 7)])
            await read(balances, of_credits, 2)
        finally:
            held.may_go_on.set()
        (charged,) = await read(balances, of_sends, 1)

    log = await read_log(balances, start, account)
    now = await read_last_balance(database, account)
    kept = view(compact(log))[account]
    assert ([1, 3, 2], 2) == (sequences(log), charged["sequence"])  # the older one was written last
    assert (now.sequence, now.spendable) == (kept["sequence"], kept["spendable"]) == (3, 11)


# -- what is read again -----------------------------------------------------------------------------------------------


async def test_what_is_read_again_brings_the_balance_of_now(database: Connection) -> None:
    """After a crash, a rewind or a repeated request: never one older than was published under the key before."""
    book, job = Book(database), sending()
    await book.decide(book.promotion(50, ACCOUNT))
    batch = requests(0, 100, book.send(ACCOUNT))
    first = await decided(job, database, batch)
    at_once = await decided(job, database, batch)
    later = await decided(job, database, requests(0, 101, book.send(ACCOUNT), book.send(ACCOUNT)))
    again = await decided(job, database, batch)
    from_books = await job.replay_answers(database, 0, StoredRange(100, 102))

    assert written(first) == written(at_once)
    assert [[2], [4], [4], [4]] == [sequences(written(each)) for each in (first, later, again, from_books)]
    assert 1 == len({written(each)[0] for each in (later, again, from_books)})


async def test_each_transaction_has_one_balance_an_account_that_covers_its_results(database: Connection) -> None:
    """Answers, refusals and movements: of the highest sequence or a higher one, in the account's own partition."""
    book = Book(database)
    events = [book.promotion(2, ACCOUNT), book.promotion(1, "bob"), book.promotion(4, ACCOUNT)]
    sends = [book.send(ACCOUNT) for _ in range(8)]
    for job, given in ((billing(), events), (sending(), sends)):
        messages = await decided(job, database, requests(0, 10, *given))
        results = [json.loads(message.value) for message in messages if message.topic != BALANCES]
        found = [AccountBalance.model_validate_json(record.value) for record in written(messages)]

        assert len(found) == len({each.subject for each in found}) == len({each["subject"] for each in results})
        for each in found:
            assert each.data["sequence"] == max(
                result["data"]["sequence"] for result in results if result["subject"] == each.subject
            )


async def test_a_batch_decided_in_parts_has_one_balance_an_account(database: Connection) -> None:
    """The database refuses a request of the batch; the others are decided in parts, which share an account."""
    await database.execute("alter table lots add constraint no_poison check (granted <> 13)")
    book, job = Book(database), billing()
    batch = requests(0, 0, *(book.promotion(credits_, ACCOUNT) for credits_ in (1, 2, 13, 4)))
    async with database.transaction():
        decision = await decide_bisected(job, database, Batch(batch))

    (record,) = written(decision.messages)
    assert (3, 7) == (json.loads(record.value)["data"]["sequence"], json.loads(record.value)["data"]["spendable"])
    assert 4 == len(decision.messages)


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_balance_tells_what_can_be_spent_at_any_later_time(database: Connection) -> None:
    """Of lots that start, end, were cancelled, voided, erased: by the lots alone, as the ledger would decide then."""
    await write_story(database)
    ids = [row[0] for row in await database.fetch("select account_id from accounts order by 1")]
    messages = await balance_messages(database, ids, lambda account, _: account)
    compared = 0
    for record in written(messages):
        event = AccountBalance.model_validate_json(record.value)
        data, account = event.data, event.subject
        now = await read_last_balance(database, account)
        assert (now.sequence, now.as_of, now.spendable, now.erased_at, now.lot_count) == (
            data["sequence"], data["as_of"], data["spendable"], data["erased_at"], data["lot_count"],
        )  # fmt: skip
        moments = {data["as_of"] + each for each in AFTER} | {lot["expires_at"] for lot in data["lots"]}
        for moment in moments | {lot["granted_at"] for lot in data["lots"] if lot["granted_at"] > data["as_of"]}:
            spendable = await database.fetchval(
                "select available(a.account, $2) from accounts as a where a.account_id = $1", account, moment
            )
            assert spendable == _at(data["lots"], moment), (account, moment)
            if moment < (data["changes_at"] or LATEST):
                assert spendable == data["spendable"]
            compared += 1
    assert len(ids) == len(messages) > 3
    assert compared > 20


def _at(lots: Sequence[Any], moment: datetime) -> int:
    """Return what can be spent at a moment, as docs/events.md tells readers to compute it."""
    return sum(lot["remaining"] for lot in lots if lot["granted_at"] <= moment < lot["expires_at"])


async def test_an_expiry_that_is_booked_brings_a_balance_without_the_lot(
    database: Connection, settings: Settings
) -> None:
    """Read before, the balance said itself until when it held."""
    book = Book(database)
    await book.decide(book.promotion(3, ACCOUNT), book.survey(2, ACCOUNT))
    before = AccountBalance.model_validate_json(
        (await balance_messages(database, [ACCOUNT], lambda account, _: account))[0].value
    )
    later = NEW_YEAR + 91 * DAY
    tick = ExpiryTick.create(id=book.send().id, source="/test", time=later, data={"as_of": later})
    job = with_balances(ExpiryJob(load_catalogue(), settings), settings.model_copy(update={"balances_topic": True}))
    batch = Batch(requests(0, 0, tick), read_to=LATEST)
    assert job.step is not None
    while await job.step(database, batch):
        pass

    (record,) = written((await job.decide(database, batch)).messages)
    after = AccountBalance.model_validate_json(record.value)
    assert (5, NEW_YEAR + 90 * DAY) == (before.data["spendable"], before.data["changes_at"])
    assert 0 == _at(before.data["lots"], later) == after.data["spendable"]
    assert ([], None) == (after.data["lots"], after.data["changes_at"])
    assert after.data["sequence"] == await newest_sequence(database)
    assert f"{ACCOUNT} inmail-expiry 0".encode() == record.key


async def test_a_balance_of_very_many_lots_is_cut_and_counts_them_all(database: Connection) -> None:
    """Kafka takes no record of any size: the first 200 in the order of spending, and sums of all."""
    book = Book(database)
    for _ in range(3):
        await book.decide(*(book.promotion(1, ACCOUNT) for _ in range(70)))

    (message,) = await balance_messages(database, [ACCOUNT], lambda account, _: account)

    data = AccountBalance.model_validate_json(message.value).data
    assert (210, 210, list(range(1, 201))) == (
        data["lot_count"],
        data["spendable"],
        [lot["lot"] for lot in data["lots"]],
    )


def test_a_worker_that_is_not_told_to_publish_balances_is_the_job_itself(settings: Settings) -> None:
    """So that it costs nothing where it is off, as it is by default."""
    job = SendJob(load_catalogue())

    assert job is with_balances(job, settings)
    assert not settings.balances_topic
