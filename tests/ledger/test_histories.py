"""Random histories, decided by the oracle and by Postgres: all rows, all lots and all accounts have to be the same."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, given

from infra.postgres import connect_database
from infra.settings import Settings
from tests.ledger import (
    oracle_billing,
    oracle_calendar,
    oracle_changes,
    oracle_expiry,
    oracle_grants,
    oracle_periods,
    oracle_sends,
)
from tests.ledger.histories import ACCOUNTS, Draft, History, drafts, play
from tests.ledger.history_judge import judge
from tests.ledger.history_places import PLACES, places_reached
from tests.ledger.history_shrink import shortest
from tests.ledger.oracle import Oracle, Tick
from tests.ledger.oracle_calendar import Period, anchored
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_changes import close_old_lots
from tests.ledger.oracle_expiry import warn_of_expiry
from tests.ledger.oracle_grants import Opening
from tests.ledger.oracle_sends import charged_since
from tests.ledger.oracle_state import Lot, Request, Row
from tests.ledger.scenario import TableError, read_text
from tests.ledger.scenario_books import Books, OracleBooks, check_conservation
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks, fingerprint_of
from tests.ledger.told_lots import check_told_lots
from tests.whole import ALL, whole_but
from workers.ledger.model import Code

HISTORIES = int(os.environ.get("HISTORIES") or (120 if ALL else 20))  # of 45 records on average; about 80 ms each
TRIES = 1_000
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]
# What is drawn is not shrunk by hypothesis: a smaller move makes another history of everything after it, and minutes of
# that left longer tables than a few seconds of leaving records out (`shortest`) do.
RANDOM = hypothesis.settings(deadline=None, database=None, suppress_health_check=QUIET, phases=[Phase.generate])

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def run_now() -> Iterator[Run]:
    """Runs coroutines one by one on one event loop, as hypothesis calls a plain function for each history."""
    loop = asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.close()


@pytest.mark.timeout(max(600, HISTORIES))
def test_postgres_decides_random_histories_as_the_oracle_does(settings: Settings, run_now: Run) -> None:
    """All columns of all rows, all lots, levels and sequences, in batches of any size, by any of the catalogues.

    And the events alone tell what is left of each lot, and when it ends.

    What fails is shrunk, and printed as a scenario that can be pasted into `scenarios/`. HISTORIES=10000 makes it
    longer; the histories are others in each run.
    """
    connection = run_now(connect_database(settings))

    @asynccontextmanager
    async def empty_books(draft: Draft) -> AsyncIterator[Books]:
        transaction = connection.transaction()
        await transaction.start()
        plans = "force_generic_plan" if draft.generic_plans else "force_custom_plan"
        await connection.execute(f"set local plan_cache_mode = {plans}")
        books = SqlBooks(connection)
        try:
            yield books
            await check_told_lots(books)
        finally:
            await transaction.rollback()

    try:
        played = compare_all(run_now, empty_books, lambda: OracleBooks(fingerprint_of), HISTORIES)
    finally:
        run_now(connection.close())

    assert played >= HISTORIES


@pytest.mark.whole
@pytest.mark.timeout(600)  # half a minute where nothing runs beside it
def test_random_histories_meet_every_code_and_place_and_keep_the_oracles_books_in_balance(run_now: Run) -> None:
    """Rule 18 holds for the oracle too; and a code, or a place, that no history meets would be one nothing compares."""
    codes: Counter[str] = Counter()
    places: Counter[str] = Counter()

    @hypothesis.settings(RANDOM, max_examples=600, derandomize=True)
    @given(drafts())
    def play_all(draft: Draft) -> None:
        history = play(draft, OracleBooks())
        for account in ACCOUNTS:
            run_now(check_conservation(history.books, account))
        codes.update(row["code"] for entry in history.entries for row in entry.rows)
        for state in history.books.oracle.accounts.values():
            places.update(places_reached(state))

    play_all()

    assert set() == {code.value for code in Code} - codes.keys()
    assert [] == [name for name in PLACES if not places[name]]


def compare_all(
    run_now: Run,
    empty_books: Callable[[Draft], AbstractAsyncContextManager[Books]],
    empty_oracle: Callable[[], OracleBooks],
    count: int,
    **more: Any,
) -> int:
    """Play so many histories on the oracle and on other books; return how many were played.

    Raises:
        AssertionError: with the shortest history that the books decide in another way.

    """
    played = 0
    failed: list[tuple[Draft, History]] = []

    async def compare(draft: Draft, history: History) -> None:
        async with empty_books(draft) as books:
            await judge(history, books)

    async def fails(draft: Draft, history: History) -> bool:
        try:
            await compare(draft, history)
        except AssertionError:
            return True
        return False

    @hypothesis.settings(RANDOM, max_examples=count, **more)
    @given(drafts())
    def play_all(draft: Draft) -> None:
        nonlocal played
        history = play(draft, empty_oracle())
        failed.append((draft, history))
        run_now(compare(draft, history))
        failed.pop()
        played += 1

    try:
        play_all()
    except AssertionError as problem:
        found = problem
    else:
        return played
    draft, history = failed[-1]
    history = run_now(shortest(history, empty_oracle, partial(fails, draft)))
    run_now(compare(draft, history))
    raise found  # the books agreed this time: it depends on something else than the history, and is shown as found


# -- the histories find what is wrong, and say it so that it can be pasted --------------------------------------------


notice_after_all = Case.notice_after_all


class Planted(Oracle):
    """An oracle with a mistake in it: `target.name` is another function while it decides."""

    target: Any
    name: str
    mistake: Callable[..., Any]

    def decide(self, request: Request) -> list[Row]:
        """Decide, wrongly."""
        with patch.object(self.target, self.name, self.mistake):
            return super().decide(request)

    def tick(self, request: Request, horizon: datetime) -> Tick:
        """Decide a tick, wrongly."""
        with patch.object(self.target, self.name, self.mistake):
            return super().tick(request, horizon)


def planted(target: Any, name: str, mistake: Callable[..., Any]) -> type[Oracle]:
    """Return an oracle with a mistake in it."""
    return type("Planted", (Planted,), {"target": target, "name": name, "mistake": staticmethod(mistake)})


def newest_first(case: Case) -> list[Lot]:
    """Burn down with the wrong tie-break."""
    lots = [lot for lot in case.account.lots if lot.spendable(case.now) and lot.remaining]
    return sorted(lots, key=lambda lot: (lot.priority, lot.expires_at, -lot.lot))


def lost_reversal(case: Case, sent: Row) -> None:
    """Book a reversal and give nothing back."""
    lot = oracle_sends.lot_of(case, sent)
    case.answer("lot_ended", 0, lot, reverses=sent.sequence, details=oracle_sends.report_details(case))
    case.notice_after_all()


def window_closed(case: Case, window: timedelta, **columns: str) -> list[datetime]:
    """Count the sends of a window that is closed at both ends."""
    return charged_since(case, window + timedelta(microseconds=1), **columns)


def drifting(start: datetime, anchor_day: int, months: int) -> datetime:
    """Derive each date from the one before it."""
    del anchor_day
    for _ in range(months):
        start = anchored(start, start.day, 1)
    return start


def only_what_has_not_started(case: Case) -> None:
    """Forfeit nothing that has started, whatever its plan said."""
    lots = case.account.lots_of(case.data("subscription_id"))
    plans = [lot.on_change for lot in lots]
    for lot in lots:
        lot.on_change = "keep"
    close_old_lots(case)
    for lot, on_change in zip(lots, plans, strict=True):
        lot.on_change = on_change


def shares_more_than_half(one: Period, other: Period) -> bool:
    """Compare periods as if none began a plan change."""
    shared = min(one.end, other.end) - max(one.start, other.start)
    return one.start == other.start or 2 * shared > min(one.end - one.start, other.end - other.start)


def all_or_nothing(_: Case, period: Period, kept: list[Lot], credits_: int) -> Opening | None:
    """Leave a period that has a lot as it is."""
    return Opening(period, credits_) if credits_ and not kept else None


def own_cap_alone(case: Case) -> None:
    """Hold all that a subscription has to the cap of what is granted, late or not."""
    lots = case.account.lots_of(case.data("subscription_id"))
    ours = [lot for lot in lots if lot.request_id == case.request.request_id and lot.spendable(case.now)]
    if ours and ours[0].balance_cap is not None:
        oracle_grants.cut_to_cap(case, ours[0], case.now)
    bound = oracle_periods.bound_of(case)
    if ours and bound and bound <= case.now:
        oracle_grants.forfeit_late(case, bound)


def whatever_waits(case: Case) -> None:
    """Make room of later lots, also where a later change begins."""
    subscription = case.account.subscription(case.data("subscription_id"))
    changes, subscription.changes = subscription.changes, {}
    close_old_lots(case)
    subscription.changes = changes


def nothing(*_: Any) -> None:
    """Do nothing."""


def blind_to_dates(case: Case) -> None:
    """Compare with what was told last alone, as if nothing became available by date."""
    case.before = 0
    notice_after_all(case)


def once_for_each_lot(case: Case, horizon: datetime) -> None:
    """Announce no other end of a lot that was announced."""
    announced = [lot for lot in case.account.lots if lot.announced_ends]
    ends = [lot.announced_ends for lot in announced]
    for lot in announced:
        lot.announced_ends = [*lot.announced_ends, lot.expires_at]
    warn_of_expiry(case, horizon)
    for lot, before in zip(announced, ends, strict=True):
        lot.announced_ends = before


def empty_is_announced(case: Case, horizon: datetime) -> None:
    """Take an empty lot's end for announced."""
    warn_of_expiry(case, horizon)
    for lot in case.account.lots:
        if lot.spendable(horizon) and lot.expires_at <= horizon + case.terms.expiring:
            lot.announced_ends = list({*lot.announced_ends, lot.expires_at})


class Forgetful(Oracle):
    """Forgets that an account was erased."""

    def decide(self, request: Request) -> list[Row]:
        """Decide, having forgotten."""
        rows = super().decide(request)
        self.accounts[request.account].erased_at = None
        return rows


MISTAKES = {
    "a lot can be spent at its end": planted(Lot, "ended", lambda lot, now: not lot.open or lot.expires_at < now),
    "a lot cannot be spent at its start": planted(Lot, "started", lambda lot, now: lot.granted_at < now),
    "equal ends are spent newest first": planted(oracle_sends, "burn_down", newest_first),
    "a reversal is lost": planted(oracle_sends, "give_back", lost_reversal),
    "a report is believed twice": planted(oracle_sends, "FINAL", ()),
    "a limit counts a send of exactly 24 hours ago": planted(oracle_sends, "charged_since", window_closed),
    "dates drift": planted(oracle_calendar, "anchored", drifting),
    "an anchor that is known is forgotten": planted(
        oracle_periods, "anchor_of", lambda start, told, _known: told or start.day
    ),
    "a renewal told an hour later is another": planted(Period, "tells_of", lambda one, other: one.start == other.start),
    "a change is a twin of what began before it": planted(Period, "tells_of", shares_more_than_half),
    "a late change tops nothing up": planted(oracle_changes, "opening_for", all_or_nothing),
    "a late allotment is held to its own cap": planted(oracle_grants, "cut_after_grant", own_cap_alone),
    "a change that is refused is forgotten": planted(oracle_changes, "note_refused", nothing),
    "an earlier change closes a later one's lots": planted(oracle_changes, "close_old_lots", whatever_waits),
    "the end of a period that was told is not named": planted(oracle_sends, "renewals_due", lambda *_: iter(())),
    "a lot that waits is not named": planted(oracle_sends, "waiting", lambda *_: []),
    "a cap is not applied": planted(oracle_grants, "cut_to_cap", nothing),
    "a late grant is not clamped": planted(oracle_grants, "clamp_to_end", nothing),
    "a plan change forfeits nothing": planted(oracle_changes, "close_old_lots", only_what_has_not_started),
    "a cancel clamps a lot to before its start": planted(oracle_billing, "clamp", lambda _, expires_at: expires_at),
    "an erased account goes on": Forgetful,
    "nothing is announced": planted(Case, "_notice_if_worse", nothing),
    "lots that end are not announced": planted(oracle_expiry, "warn_of_expiry", nothing),
    "what came by date is not seen": planted(Case, "notice_after_all", blind_to_dates),
    "a lot is announced once, whatever its end": planted(oracle_expiry, "warn_of_expiry", once_for_each_lot),
    "an empty lot counts as announced": planted(oracle_expiry, "warn_of_expiry", empty_is_announced),
}


@pytest.mark.parametrize("mistake", whole_but(MISTAKES, "a reversal is lost"))
def test_a_mistake_is_found_and_told_as_a_table_that_shows_it(run_now: Run, mistake: str) -> None:
    """The table, pasted as a scenario, holds on the oracle and names the line on the books with the mistake."""

    @asynccontextmanager
    async def wrong(_draft: Draft) -> AsyncIterator[Books]:
        yield OracleBooks(oracle=MISTAKES[mistake])

    with pytest.raises(AssertionError) as found:
        compare_all(run_now, wrong, OracleBooks, TRIES, derandomize=True)

    (scenario,) = read_text(str(found.value).partition("\n\n")[2], "pasted.txt")
    run_now(run(scenario, OracleBooks()))
    with pytest.raises(TableError, match=r"^pasted.txt:\d+: "):
        run_now(run(scenario, OracleBooks(oracle=MISTAKES[mistake])))
    assert len(scenario.steps) <= 30
