"""What the live books owe where another catalogue gave otherwise, lot by lot."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from infra.settings import Settings
from schemas.billing import GrantVoided, SubscriptionPlanChanged
from tests.conftest import Connect
from tests.ledger.book import Book
from tests.workers.two_servers import lanes_stand
from workers.ledger.plans import load_catalogue
from workers.ops.compare.corrections import LotState, find_corrections, owed_credits

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(days=1)


def _lot(granted: int, remaining: int, **state: Any) -> LotState:
    usual = {"open": True, "expires_at": LATER, "lost": 0, "cut": 0, "voided": False}
    return LotState(granted, remaining, **(usual | state))


ENDED = {"open": False, "expires_at": NOW}


@pytest.mark.parametrize(
    ("mine", "theirs", "owed"),
    [
        pytest.param(_lot(5, 0), _lot(50, 43), 45, id="given too few, whatever was spent"),
        pytest.param(_lot(50, 48), _lot(5, 3), -45, id="given too many, and it holds them"),
        pytest.param(_lot(50, 10), _lot(5, 0), -10, id="given too many, and most are spent"),
        pytest.param(_lot(5, 0, **ENDED, lost=3), _lot(5, 3), 3, id="ended too early"),
        pytest.param(_lot(5, 4), _lot(5, 0, **ENDED, lost=4), -4, id="should have ended"),
        pytest.param(_lot(5, 4), _lot(5, 4, expires_at=NOW), -4, id="should have ended, at this instant"),
        pytest.param(_lot(5, 0, **ENDED), _lot(50, 0, **ENDED, lost=45), 0, id="ended either way"),
        pytest.param(_lot(5, 0, open=False, voided=True), _lot(50, 50), 0, id="taken back by billing meanwhile"),
        pytest.param(None, _lot(50, 50), 50, id="not given at all"),
        pytest.param(_lot(50, 20), None, -20, id="should not have been given"),
        pytest.param(_lot(5, 2, cut=3), _lot(5, 5), 3, id="cut to a cap that should not be"),
        pytest.param(_lot(5, 1), _lot(5, 4), 0, id="only the sends differ"),
    ],
)
def test_a_lot_is_owed_what_it_would_hold_now(mine: LotState | None, theirs: LotState | None, owed: int) -> None:
    """Upward what it was not given or lost; downward no more than it still has; nothing for what has ended anyway."""
    assert owed == owed_credits(mine, theirs, NOW, whole=True)


def test_what_a_cap_cut_says_nothing_without_the_lots_before() -> None:
    """Where the other books lack the beginning, they lack the lots that the cap counted."""
    assert 0 == owed_credits(_lot(5, 2, cut=3), _lot(5, 5), NOW, whole=False)


@pytest.mark.parametrize(
    ("ends", "owed"), [("voided", []), ("forfeited", []), ("open", ["alice"]), ("empty", ["alice"])]
)
async def test_a_send_that_is_free_is_owed_its_credit_while_the_lot_has_not_ended(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect, ends: str, owed: list[str]
) -> None:
    """One that was voided or forfeited keeps the end that it was given, and has ended; an empty one has not."""
    other = await other_books()
    grant, sent, void, change = uuid4(), uuid4(), uuid4(), uuid4()
    for own, relationship in ((settings, "none"), (other, "connection")):
        book = Book(await connect(own), load_catalogue(changes=['plans.premium_career.on_change="forfeit"']))
        given = (
            book.activated(id=grant) if ends == "forfeited" else book.promotion(1 if ends == "empty" else 3, id=grant)
        )
        await book.decide(given)
        await book.one(book.send(id=sent, relationship=relationship))
        if ends == "voided":
            data = {"grant_id": grant, "reason": "refunded"}
            event = GrantVoided.create(id=void, source="/test", subject="alice", time=book.now, data=data)
            assert "voided" == (await book.one(event))["code"]
        if ends == "forfeited":
            book.now += timedelta(days=1)
            period = {"subscription_id": "s-1", "plan": "recruiter_lite", "period_start": book.now}
            data = period | {"period_end": book.now + timedelta(days=30)}
            await book.decide(
                SubscriptionPlanChanged.create(id=change, source="/test", subject="alice", time=book.now, data=data)
            )
            assert await book.connection.fetchval("select exists (select from journal where code = 'forfeited')")
        await lanes_stand(book.connection, book)
        await book.connection.execute("update lanes set as_of = $1", book.now)

    found = await find_corrections(settings, other, "ops-1", "a trial", whole=True)

    assert owed == [event.subject for event in found.events if event.data.credits == 1]
    assert await book.connection.fetchval("select bool_and(expires_at > $1) from lots", book.now)
