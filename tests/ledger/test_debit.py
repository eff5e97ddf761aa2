"""What a send costs, and what it is told."""

from typing import Any

import pytest

from infra.postgres import Connection
from tests.ledger.book import DAY, Book, at, body, pick
from workers.jobs.job import Batch
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue, Limits, load_catalogue


@pytest.fixture
def book(database: Connection) -> Book:
    """An empty ledger on New Year's Day 2030."""
    return Book(database)


async def test_a_paid_send_costs_one_credit(book: Book) -> None:
    """Rule 1: one credit, whether or not the recipient answers."""
    await book.decide(book.activated())

    answer = await book.one(book.send())

    assert ("accepted", "charged", 1, 1, 5, 4) == pick(
        answer, "outcome", "code", "credits_charged", "lot", "balance_before", "balance_after"
    )


@pytest.mark.parametrize("relationship", ["connection", "open_profile"])
async def test_a_send_to_a_direct_connection_is_free_and_needs_no_balance(book: Book, relationship: str) -> None:
    """Rule 7: recorded with cost 0, also for an account never seen."""
    answer = await book.one(book.send(relationship=relationship))

    assert ("accepted", "free", 0, None, 0, 0, 1) == pick(
        answer, "outcome", "code", "credits_charged", "lot", "balance_before", "balance_after", "sequence"
    )


async def test_a_batch_spends_to_the_last_credit_and_not_beyond(book: Book) -> None:
    """Rule 8: seven paid sends on five credits; a free one passes in between."""
    await book.decide(book.activated())

    events = await book.decide_all(*[book.send() for _ in range(6)], book.send(relationship="connection"), book.send())

    answers = [event for event in events if event["type"] == "inmail.send.decided.v1"]
    assert ["charged"] * 5 + ["insufficient_credits", "free", "insufficient_credits"] == [a["code"] for a in answers]
    assert [5, 4, 3, 2, 1, 0, 0, 0] == [a["balance_before"] for a in answers]
    assert list(range(2, 12)) == [event["sequence"] for event in events]
    assert ["low", "exhausted"] == [event["code"] for event in events if event not in answers]
    assert [0] == await book.remaining()


async def test_out_of_credits_names_the_next_allotment(book: Book) -> None:
    """Rule 8 and 11: derived from the anchor, so 31 January leads to 28 February and that to 31 March."""
    book.now = at("2030-01-31")
    await book.decide(book.activated(plan="premium_career"))
    await book.decide(*[book.send() for _ in range(5)])

    book.now = at("2030-02-01")
    in_february = await book.one(book.send())
    book.now = at("2030-02-28")
    await book.decide(book.renewed(period_end=at("2030-03-31")))
    await book.decide(*[book.send() for _ in range(5)])
    in_march = await book.one(book.send())

    assert ("insufficient_credits", "2030-02-28T00:00:00Z") == pick(in_february, "code", "next_allotment_at")
    assert ("insufficient_credits", "2030-03-31T00:00:00Z") == pick(in_march, "code", "next_allotment_at")


async def test_no_next_allotment_is_named_where_none_is_known(book: Book) -> None:
    """Rule 8: neither without a subscription nor after its end."""
    unknown = await book.one(book.send("stranger"))
    await book.decide(book.activated())
    await book.decide(book.cancelled(effective_at=book.now + DAY))
    book.now += 2 * DAY
    ended = await book.one(book.send())

    assert [("insufficient_credits", None)] * 2 == [
        pick(answer, "code", "next_allotment_at") for answer in (unknown, ended)
    ]


async def test_lots_burn_down_by_priority_then_expiry_then_age(book: Book) -> None:
    """The soonest to expire pays first; of equals the older lot."""
    await book.decide(book.promotion(2))  # lot 1: ends 1 April
    book.now += DAY
    await book.decide(book.promotion(1))  # lot 2: ends 2 April
    await book.decide(book.promotion(1, "alice"))  # lot 3: ends with lot 2

    answers = await book.decide(*[book.send() for _ in range(4)])

    assert [1, 1, 2, 3] == [answer["lot"] for answer in answers]


async def test_a_lot_is_spendable_from_its_first_instant_until_just_before_its_last(book: Book) -> None:
    """Rule 4: half-open. At exactly expires_at it is gone."""
    await book.decide(book.promotion(3))

    book.now += 90 * DAY - DAY / 86_400_000
    before = await book.one(book.send())
    book.now = at("2030-04-01")
    on_the_instant = await book.one(book.send())

    assert ("charged", "insufficient_credits") == (before["code"], on_the_instant["code"])
    assert "2030-04-01T00:00:00Z" == before["lot_expires_at"]


async def test_a_batch_in_which_a_lot_ends_charges_each_send_by_its_own_instant(book: Book) -> None:
    """Rule 16: as_of belongs to the record, not to the batch."""
    await book.decide(book.promotion(3))
    sends = [book.send(), book.send(), book.send()]
    requests = [book._request(send) for send in sends]
    requests[1] = requests[1]._replace(as_of=at("2030-03-31T23:59:59"))
    requests[2] = requests[2]._replace(as_of=at("2030-04-01"))

    codes = await _decide_requests(book, requests)

    assert ["charged", "charged", "insufficient_credits"] == codes


async def _decide_requests(book: Book, requests: list[Request[Any]]) -> list[str]:
    job = SendJob(book.catalogue)
    async with book.connection.transaction():
        bodies = [body(m) for m in (await job.decide(book.connection, Batch(requests))).messages]
    return [each["code"] for each in bodies if each["type"] == "inmail.send.decided.v1"]


@pytest.mark.parametrize(("limit", "what"), [("paid_sends_per_day", "account"), ("seat_sends_per_day", "seat")])
async def test_a_send_as_of_a_day_ahead_leaves_the_limit_of_today_alone(book: Book, limit: str, what: str) -> None:
    """Rule 9: after a clock was set back, the paid sends of the next 24 hours count, and later ones do not."""
    book.catalogue = _limited(f"{limit} = 1")
    await book.decide(book.promotion(3))
    today = book.now
    book.now = today + DAY
    await book.one(book.send(sender_id="seat-1"))

    book.now = today
    now = await book.one(book.send(sender_id="seat-1"))
    book.now = today + DAY / 86_400
    then = await book.one(book.send(sender_id="seat-1"))

    assert ("charged", "rate_limited", what) == (now["code"], then["code"], then["limit"])


async def test_a_send_as_of_a_cool_down_ahead_holds_no_send_to_the_recipient(book: Book) -> None:
    """Rule 9: nor does one of a time that the clock has been set back from count for the recipient."""
    book.catalogue = _limited("recipient_cooldown_hours = 48")
    await book.decide(book.promotion(3))
    today = book.now
    book.now = today + 2 * DAY
    await book.one(book.send())

    book.now = today
    now = await book.one(book.send())
    book.now = today + DAY / 86_400
    then = await book.one(book.send())

    assert ("charged", "rate_limited", "recipient") == (now["code"], then["code"], then["limit"])


def _limited(limit: str) -> Catalogue:
    """Return the shipped catalogue with no limit but one."""
    others = [f"limits.{name} = 0" for name in Limits.model_fields]
    return load_catalogue(changes=[*others, f"limits.{limit}"])


async def test_accounts_of_one_batch_do_not_touch_each_other(book: Book) -> None:
    """Interleaved requests of three accounts are decided as if each were alone."""
    await book.decide(book.promotion(1, "carol"), book.promotion(2, "alice"))

    answers = await book.decide(*[book.send(name) for name in ("alice", "bob", "carol") * 2])

    assert [
        "charged",
        "insufficient_credits",
        "charged",
        "charged",
        "insufficient_credits",
        "insufficient_credits",
    ] == [answer["code"] for answer in answers]
    # Carol's first send left nothing, which takes a row of its own
    assert [2, 1, 2, 3, 2, 4] == [answer["sequence"] for answer in answers]


async def test_what_only_some_requests_of_a_batch_have_stays_with_them(book: Book) -> None:
    """A free send first, then the last credit, then none: lot and next allotment belong to their own answers."""
    await book.decide(book.activated())
    await book.decide(*[book.send() for _ in range(4)])

    answers = await book.decide(book.send(relationship="connection"), book.send(), book.send(), book.send())

    assert [
        ("free", None, None),
        ("charged", 1, None),
        ("insufficient_credits", None, "2030-02-01T00:00:00Z"),
        ("insufficient_credits", None, "2030-02-01T00:00:00Z"),
    ] == [pick(answer, "code", "lot", "next_allotment_at") for answer in answers]


async def test_a_batch_of_refusals_names_the_dates_that_refusals_one_by_one_name(book: Book) -> None:
    """Rule 8: each date is looked for once in a batch, and how records are cut into batches changes no answer."""
    book.now = at("2030-01-15")
    await book.decide(*(book.activated(each, period_end=at("2030-02-01")) for each in ("alice", "bob")))
    await book.decide(*(book.send(each) for each in ("alice", "bob") for _ in range(5)))
    days = ["2030-01-20"] * 50 + ["2030-01-31T23:59:59", "2030-02-01", "2030-02-14", "2030-02-15", "2030-03-01"]
    requests = [
        book._request(book.send(account))._replace(as_of=at(day)) for day in days for account in ("alice", "bob")
    ]
    named = {}
    for size in (1, 7, len(requests)):
        batches = [requests[first : first + size] for first in range(0, len(requests), size)]
        named[size] = await _decide_and_take_back(book, batches)

    dates, calls = named[len(requests)]
    assert ["2030-02-01"] * 102 + ["2030-02-15"] * 4 + ["2030-03-15"] * 4 == dates
    assert {tuple(dates)} == {tuple(each) for each, _ in named.values()}
    assert 2 * 3 == calls < named[7][1] < named[1][1] == len(requests)


async def _decide_and_take_back(book: Book, batches: list[list[Request[Any]]]) -> tuple[list[str], int]:
    """Return the dates that refusals name, and how often a date was looked for."""
    job = SendJob(book.catalogue)
    transaction = book.connection.transaction()
    await transaction.start()
    await book.connection.execute("set local track_functions = 'pl'")
    before = await book.connection.fetchval(_CALLS)
    decided = [body(m) for each in batches for m in (await job.decide(book.connection, Batch(each))).messages]
    calls = await book.connection.fetchval(_CALLS) - before
    await transaction.rollback()
    dates = [each["next_allotment_at"][:10] for each in decided if each["type"] == "inmail.send.decided.v1"]
    return dates, calls


_CALLS = """
select coalesce(sum(f.calls), 0)::integer from pg_stat_xact_user_functions as f where f.funcname = 'next_allotment'
"""


async def test_the_two_hundred_requests_of_a_hot_account_are_decided_in_order(book: Book) -> None:
    """The arrays inside the function stay aligned however many requests one account has."""
    await book.decide(book.promotion(150))

    answers = await book.decide(*[book.send() for _ in range(200)])

    assert [150 - n if n < 150 else 0 for n in range(200)] == [a["balance_before"] for a in answers]
    assert 150 == sum(answer["credits_charged"] for answer in answers)
