"""Many connections on the same few accounts. Each race is also run on forms known to be broken, which must lose it."""

from itertools import count, product

import pytest

from infra.settings import Settings
from tests.ledger.races import Race, open_race, wrong_in_books
from tests.ledger.races_contests import CATALOGUE, CONTESTS, CROWDS, Contest, Crowd
from tests.ledger.races_forms import BROKEN, sql_of
from tests.whole import ALL, whole_but

# Of 15 trials of each broken form, each contest was lost in its first round, since its overlap is waited for; a crowd,
# which only chance lets overlap, in its third at the latest. So a crowd has more rounds than the worst that was seen.
ROUNDS = 1
CROWD_ROUNDS = 5
ROUNDS_TO_LOSE = 100
_BOOKED = "select code, coalesce(nullif(sum(amount), 0), count(*)) from journal where sequence > $1 group by code"

# Books with something of everything, and a batch of each kind at the same time. None moves a lot's end to before the
# tick: what comes of that has a test of its own.
FULL = (
    "2030-01-01 activate s-1 premium_career 2030-01-01..2030-02-01; promotion 5 of welcome as gift",
    "2030-01-10 send bob as sent; send eve",
    "2030-01-15 activate s-2 premium_business 2030-01-20..2030-02-20; cancel s-2 at 2030-04-20",
    "2030-02-15 renew s-1 premium_career 2030-03-01..2030-04-01; cancel s-1 at 2030-05-01",
)
KINDS = (
    "2030-04-01 send zoe; send max; send eva; send kim; send joe; send pat",
    "2030-03-31 undeliverable sent",
    "2030-04-01 renew s-1 premium_career 2030-04-01..2030-05-01",
    "2030-04-01 change s-1 premium_business 2030-04-01..2030-05-01",
    "2030-04-01 cancel s-1 at 2030-04-15",
    "2030-04-01 take-back s-1",
    "2030-04-01 purchase 10 of p-1",
    "2030-04-01 void gift because refund",
    "2030-04-01 adjust -4 by ann because test",
    "2030-04-01 erase",
    "2030-04-01 tick",
)
# A batch locks what it is about in one way, whatever it does: each kind meets its like, the sends and the tick.
PAIRS = [pair for pair in product(KINDS, KINDS) if ALL or pair[0] == pair[1] or {KINDS[0], KINDS[-1]} & set(pair)]


async def _in_turn(race: Race, *batches: str) -> str:
    """Return what the books say after batches one after the other."""
    await race.clear()
    await race.in_turn(*batches)
    return await race.digest()


async def _lost(race: Race, contest: Contest, rounds: int) -> list[str]:
    """Hold a contest again and again, in both orders and freely; return what went wrong in the first bad round."""
    orders = ((contest.one, contest.other), (contest.other, contest.one))
    in_turn = [await _in_turn(race, *contest.before, *order) for order in orders]
    ways = (
        (race.overlapping, orders[0], in_turn[:1]),
        (race.overlapping, orders[1], in_turn[1:]),
        (race.at_once, orders[0], in_turn),
    )
    for meet, batches, right in ways * rounds:
        await race.clear()
        await race.in_turn(*contest.before)
        problems = await meet(*batches) + await wrong_in_books(race.watcher)
        if await race.digest() not in right:
            problems.append(f"not as one after the other: {' | '.join(batches)}")
        if problems:
            return problems
    return []


async def _crowd_lost(race: Race, crowd: Crowd, rounds: int) -> list[str]:
    """Let in a crowd again and again; return what went wrong in the first bad round."""
    for _ in range(rounds):
        await race.clear()
        await race.in_turn(*crowd.before)
        known = await race.watcher.fetchval("select sequence from accounts")
        problems = await race.at_once(*crowd.batches)
        problems += await wrong_in_books(race.watcher)
        booked = {row[0]: row[1] for row in await race.watcher.fetch(_BOOKED, known)}
        if booked != crowd.booked:
            problems.append(f"booked {booked}")
        if problems:
            return problems
    return []


async def test_of_two_batches_at_once_one_is_first(settings: Settings) -> None:
    """Two batches for one account leave what one after the other leaves, to the last row: as they committed."""
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        lost = {contest.name: problems for contest in CONTESTS if (problems := await _lost(race, contest, ROUNDS))}

    assert {} == lost


async def test_every_kind_of_batch_excludes_every_other_one(settings: Settings) -> None:
    """Whatever two batches are about: one that comes while the other is uncommitted does what it does after it."""
    wrong = []
    names = count()
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        for first, other in PAIRS:
            second = other if first != other or ";" in other else f"{other} as again-{next(names)}"
            expected = await _in_turn(race, *FULL, first, second)
            await _in_turn(race, *FULL)
            problems = await race.overlapping(first, second) + await wrong_in_books(race.watcher)
            if problems or await race.digest() != expected:
                wrong.append((first, second, problems))

    assert [] == wrong


async def test_a_crowd_gets_what_is_there_and_no_more(settings: Settings) -> None:
    """Six lanes at once: the last credits are spent once, a request has one outcome, a period one lot, a cap holds."""
    async with open_race(settings, CATALOGUE) as race:
        lost = {crowd.name: problems for crowd in CROWDS if (problems := await _crowd_lost(race, crowd, CROWD_ROUNDS))}

    assert {} == lost


@pytest.mark.parametrize(
    "form",
    whole_but(BROKEN, "nothing is locked", "a tick does not lock", "nothing is locked and a period is no key"),
)
async def test_a_broken_form_loses_its_races(settings: Settings, form: str) -> None:
    """The races above bite: where something is missing in the SQL, each race about it is lost within some rounds."""
    races = {}
    async with open_race(settings, CATALOGUE) as race:
        await race.watcher.execute(sql_of(BROKEN[form]))
        for contest in CONTESTS:
            if form in contest.lost_if:
                races[contest.name] = await _lost(race, contest, ROUNDS_TO_LOSE)
        for crowd in CROWDS:
            if form == crowd.lost_if:
                races[crowd.name] = await _crowd_lost(race, crowd, ROUNDS_TO_LOSE)
    won = [name for name, problems in races.items() if not problems]

    assert races
    assert [] == won


async def test_a_lot_whose_end_moves_while_a_tick_waits_is_left_to_the_next_one(settings: Settings) -> None:
    """A tick that waits for a cancel books what had ended when it looked; the next one books what the cancel ended."""
    before = (
        "2030-01-01 activate s-1 premium_career 2030-01-01..2030-02-01; promotion 3 of welcome",
        "2030-01-02 activate s-2 premium_career 2030-03-01..2030-04-01",
    )
    async with open_race(settings, CATALOGUE, lanes=2) as race:
        await race.in_turn(*before)
        errors = await race.overlapping("2030-04-01 cancel s-2 at 2030-03-15", "2030-04-01 tick")
        lots = "select array_agg(lot order by lot) from lots where not open"
        booked = await race.watcher.fetchval(lots)
        await race.in_turn("2030-04-02 tick")
        booked_next = await race.watcher.fetchval(lots)
        wrong = await wrong_in_books(race.watcher)

    assert [] == errors + wrong
    assert [1, 2] == booked
    assert [1, 2, 3] == booked_next
