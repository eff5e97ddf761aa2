"""How credits come, carry over and end: grants, cancels, expiry."""

from datetime import timedelta
from uuid import uuid4

import pytest

from infra.postgres import Connection
from tests.ledger.book import DAY, Book, at, pick


@pytest.fixture
def book(database: Connection) -> Book:
    """An empty ledger on New Year's Day 2030."""
    return Book(database)


async def test_an_allotment_lives_ninety_days_from_its_period_start(book: Book) -> None:
    """Rule 4: also when the event comes late, so that lateness never lengthens a credit's life."""
    book.now = at("2030-01-02")

    answer = await book.one(book.activated(period_start=at("2030-01-01")))

    assert ("granted", 5, "2030-01-01T00:00:00Z", "2030-04-01T00:00:00Z", 0, 5) == pick(
        answer, "code", "credits", "granted_at", "expires_at", "balance_before", "balance_after"
    )


async def test_an_early_renewal_is_not_spendable_before_its_period(book: Book) -> None:
    """Rule 11: availability is a predicate at both ends."""
    early = await book.one(book.renewed(period_start=book.now + DAY))
    today = await book.one(book.send())
    book.now += DAY
    tomorrow = await book.one(book.send())

    assert (0, 0) == pick(early, "balance_before", "balance_after")
    assert ("insufficient_credits", "charged") == (today["code"], tomorrow["code"])


async def test_one_period_is_granted_once_whatever_the_event_ids(book: Book) -> None:
    """Rule 11: two event ids for one renewal, in one batch and across batches."""
    first, second = await book.decide(book.activated(), book.renewed())
    third = await book.one(book.activated())

    assert ["granted", "period_already_granted", "period_already_granted"] == [
        answer["code"] for answer in (first, second, third)
    ]
    assert 5 == await book.balance()


async def test_a_lot_of_an_older_version_uses_a_month_of_its_subscription(book: Book) -> None:
    """Lots that were opened before periods had an end in the books (migration 0011) are taken for a month's."""
    await book.decide(book.activated())
    await book.connection.execute("update lots set period_end = null")

    told_again = await book.one(book.renewed(period_start=book.now + timedelta(hours=1)))
    following = await book.one(book.renewed(period_start=at("2030-02-01")))

    assert ("period_already_granted", "granted") == (told_again["code"], following["code"])


async def test_the_plan_change_that_an_older_version_noted_is_kept_beside_new_ones(book: Book) -> None:
    """Before migration 0021 only where the latest change begins was noted; the next change does not replace that."""
    await book.decide(book.changed(plan="premium_business", period_start=at("2030-02-01")))
    await book.connection.execute(
        "update subscriptions set changes = '{}', change_plans = '{}', change_ends = '{}', change_credits = '{}'"
    )

    await book.decide(book.changed(plan="recruiter_lite", period_start=at("2030-05-01")))
    await book.decide(book.activated(term="annual", period_end=at("2031-01-01")))

    assert [15, 30, 5] == await book.remaining()  # the old plan's term ends where the first change begins


async def test_of_a_lot_that_an_older_version_voided_the_journal_tells_that_it_gave_nothing(book: Book) -> None:
    """Migration 0025 leaves lots as they are: only the journal says whether one was withdrawn, or ended by itself."""
    plans = book.catalogue.plans
    book.catalogue.plans["strict"] = plans["premium_career"].model_copy(update={"rollover": False})
    march = {"period_start": at("2030-02-14"), "period_end": at("2030-03-14")}
    book.now = at("2030-02-03")
    for account in ("alice", "bob"):
        old = book.renewed(account, plan="strict", period_start=at("2030-02-01"), period_end=at("2030-03-01"))
        await book.decide(old)
        await book.decide(book.changed(account, plan="premium_business", period_start=at("2030-01-14")))
        if account == "alice":
            await book.decide(book.voided(old.id))
    book.now = at("2030-03-01")
    await book.tick()
    await book.connection.execute("update lots set withdrawn = null")

    voided, ended = [
        await book.one(book.renewed(account, plan="premium_business", **march)) for account in ("alice", "bob")
    ]

    assert (15, 10) == (voided["credits"], ended["credits"])


async def test_unused_credits_carry_over_into_the_next_periods(book: Book) -> None:
    """Rule 5: a month's leftovers are there next month, until their own ninety days are over."""
    for month in ("2030-01-01", "2030-02-01", "2030-03-01"):
        book.now = at(month)
        await book.decide(book.renewed(period_start=at(month)))
    in_march = await book.balance()
    book.now = at("2030-04-01")  # 1 January + 90 days
    await book.decide(book.renewed())

    assert 15 == in_march
    assert 15 == await book.balance()


async def test_without_rollover_a_lot_ends_with_its_period(book: Book) -> None:
    """Rule 5: the plan says so in the catalogue; no code does."""
    plans = book.catalogue.plans
    book.catalogue.plans["strict"] = plans["premium_career"].model_copy(update={"rollover": False})

    answer = await book.one(book.activated(plan="strict", period_end=at("2030-02-01")))

    assert "2030-02-01T00:00:00Z" == answer["expires_at"]


async def test_a_plan_of_no_credits_is_accepted_and_opens_no_lot(book: Book) -> None:
    """The free plan's activation is no error."""
    answer = await book.one(book.activated(plan="basic"))

    assert ("accepted", "no_credits_in_plan") == pick(answer, "outcome", "code")
    assert [] == await book.remaining()


async def test_promotions_and_surveys_give_credits_without_a_subscription(book: Book) -> None:
    """Rule 6: they start when they are read."""
    promotion, survey = await book.decide(book.promotion(3), book.survey(2))

    assert [("promotion", 3, None), ("survey", 2, None)] == [
        pick(answer, "origin", "credits", "subscription_id") for answer in (promotion, survey)
    ]
    assert 5 == await book.balance()


async def test_a_cancel_ends_the_subscriptions_lots_and_leaves_promotions_alone(book: Book) -> None:
    """Rules 6 and 10: at effective_at the allotment is gone, the gift is not."""
    await book.decide(book.activated(), book.promotion(3))
    end = book.now + 10 * DAY

    answer = await book.one(book.cancelled(effective_at=end))
    before = await book.balance()
    book.now = end

    assert ("accepted", "cancelled", "2030-01-11T00:00:00Z", 8, 8) == pick(
        answer, "outcome", "code", "effective_at", "balance_before", "balance_after"
    )
    assert (8, 3) == (before, await book.balance())


async def test_of_several_cancels_the_earliest_end_holds(book: Book) -> None:
    """A scheduled cancel, a forced one, and a later one that changes nothing."""
    await book.decide(book.activated())

    answers = await book.decide(*[book.cancelled(effective_at=book.now + days * DAY) for days in (20, 5, 30)])

    assert ["2030-01-21", "2030-01-06", "2030-01-06"] == [answer["effective_at"][:10] for answer in answers]
    book.now += 5 * DAY
    assert 0 == await book.balance()


async def test_a_cancel_in_the_past_clamps_as_it_says_and_spent_credits_stay_spent(book: Book) -> None:
    """Rule 10: no debt arises."""
    await book.decide(book.activated())
    await book.decide(book.send())
    book.now += 3 * DAY

    answer = await book.one(book.cancelled(effective_at=book.now - DAY))

    assert (4, 0) == pick(answer, "balance_before", "balance_after")
    assert [4] == await book.remaining()


async def test_a_late_grant_is_clamped_by_a_cancel_that_came_first(book: Book) -> None:
    """Rule 10: cancel before activate: the same lot as in the other order."""
    end = book.now + 10 * DAY
    await book.decide(book.cancelled(effective_at=end))

    answer = await book.one(book.activated())

    assert ("granted", "2030-01-11T00:00:00Z") == pick(answer, "code", "expires_at")


async def test_a_grant_for_a_period_from_the_end_on_is_refused(book: Book) -> None:
    """Rule 10: a period that starts at effective_at is a later one."""
    end = book.now + 10 * DAY
    await book.decide(book.activated(period_end=end), book.cancelled(effective_at=end))

    at_the_end = await book.one(book.renewed(period_start=end))
    just_before = await book.one(book.renewed(period_start=end - timedelta(microseconds=1)))

    assert ("rejected", "subscription_ended") == pick(at_the_end, "outcome", "code")
    assert "granted" == just_before["code"]


async def test_a_lot_of_a_later_period_is_clamped_to_nothing(book: Book) -> None:
    """An early renewal, then a cancel before its period starts."""
    await book.decide(book.renewed(period_start=book.now + 20 * DAY))

    await book.decide(book.cancelled(effective_at=book.now + 10 * DAY))

    book.now += 20 * DAY
    assert 0 == await book.balance()


async def test_another_subscription_is_not_touched_by_a_cancel(book: Book) -> None:
    """A second, parallel subscription and a resubscription are subscriptions of their own."""
    await book.decide(book.activated(), book.activated(subscription_id="s-2"))

    await book.decide(book.cancelled(effective_at=book.now))

    assert 5 == await book.balance()


async def test_a_tick_books_a_line_for_each_lot_that_ended_with_credits(book: Book) -> None:
    """Rule 15: the credit was gone at its instant; the tick makes it a line of the statement."""
    await book.decide(book.promotion(2), book.promotion(1))
    await book.decide(book.send(), book.send())  # spends lot 1 to nothing
    book.now = at("2030-04-01")

    line, notice, answer = await book.tick()

    assert ("expired", 1, 2, 0, 0) == pick(line, "code", "credits", "lot", "balance_before", "balance_after")
    assert "exhausted" == notice["code"]
    assert ("booked", 2, 1, True) == pick(answer, "code", "lots", "credits", "complete")
    assert [0, 0] == await book.remaining()


async def test_a_tick_is_complete_where_it_leaves_nothing_but_announcements(book: Book) -> None:
    """As its field says: all lots that have ended are booked."""
    await book.decide(book.promotion(2), book.promotion(1, "alice"))
    book.now = at("2030-03-30")

    *notices, answer = await book.tick(step_lots=1, steps=1)

    assert ["expiring_soon"] == [each["code"] for each in notices]
    assert ("booked", 0, True) == pick(answer, "code", "lots", "complete")


async def test_a_tick_that_books_two_lots_of_an_account_moves_no_balance(book: Book) -> None:
    """Both lots had ended: what can be spent is the third lot, before and after each line."""
    await book.decide(book.promotion(2), book.promotion(3))
    book.now += 1 * DAY
    await book.decide(book.promotion(4))
    book.now = at("2030-04-01")

    first, second, soon, _ = await book.tick()

    assert [(2, 4, 4), (3, 4, 4)] == [
        pick(line, "credits", "balance_before", "balance_after") for line in (first, second)
    ]
    assert [4, 5, 6] == [line["sequence"] for line in (first, second, soon)]
    assert ("expiring_soon", 4, 3) == pick(soon, "code", "credits", "lot")


async def test_a_tick_repeated_late_or_early_changes_nothing(book: Book) -> None:
    """Rule 15: a repeat gets its first answer, without the lines; another tick finds nothing left."""
    await book.decide(book.promotion(2))
    early = await book.tick()
    book.now = at("2030-05-01")
    id_ = uuid4()
    first = await book.tick(id=id_)

    again = await book.tick(id=id_)
    another = await book.tick()

    assert [1, 3, 1, 1] == [len(messages) for messages in (early, first, again, another)]
    assert first[-1] | {"repeat": True} == again[0]
    assert 0 == another[0]["lots"]


async def test_a_tick_books_nothing_beyond_what_its_neighbours_have_read(book: Book) -> None:
    """Rule 15: a lagging lane may still spend, by its own time, what has ended by the tick's."""
    await book.decide(book.promotion(2))
    book.now = at("2030-04-02")

    held = await book.tick(horizon=at("2030-03-31"))
    due = await book.tick(horizon=at("2030-04-01"))

    assert (0, 1) == (held[-1]["lots"], due[-1]["lots"])


async def test_the_same_tick_id_with_another_body_is_a_conflict(book: Book) -> None:
    """Rule 14 holds for ticks too."""
    id_ = uuid4()
    await book.tick(id=id_)
    book.now += DAY

    (conflict,) = await book.tick(id=id_)

    assert "key_conflict" == conflict["code"]


async def test_one_batch_of_mixed_events_is_decided_in_order(book: Book) -> None:
    """Activate, cancel now, renew, gift: each sees what the one before it left."""
    events = await book.decide_all(
        book.activated(), book.cancelled(effective_at=book.now), book.renewed(period_start=book.now), book.promotion(2)
    )

    assert ["granted", "cancelled", "exhausted", "subscription_ended", "granted"] == [e["code"] for e in events]
    assert [1, 2, 3, 4, 5] == [event["sequence"] for event in events]
    assert 2 == await book.balance()
