"""A slice of the fuzz, and every record that ever got the better of it. `make fuzz` has the rest."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import islice
from typing import Any

import pytest

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS
from tests.fuzz.mutations import KINDS, make_record
from tests.fuzz.records import Record
from tests.fuzz.rounds import fuzzing
from tests.whole import ALL
from tests.workers.wire import prepare, remove_records
from workers.jobs.dead_letters import LETTER_HEADER
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter
from workers.ops.dead_letters.pages import list_dead_letters
from workers.ops.dead_letters.redrive import OPERATION_HEADER, redrive
from workers.ops.dead_letters.redrive_plan import RedriveOptions, plan_redrive
from workers.ops.operations import Operator

RECORDS = 3_000 if ALL else 500
ROUND = RECORDS // 2
REDRIVEN = 600 if ALL else 100
SEED = "a"

# Records that were found to be dropped, or answered twice, or to end a worker: as `make fuzz` printed them.
FOUND: list[Record] = []


@pytest.fixture
async def no_letters_left(settings: Settings) -> AsyncIterator[None]:
    """Remove all dead letters after a test, also after one that failed: other tests read them all."""
    yield
    await remove_records(settings, DEAD_LETTERS)


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("no_letters_left")
async def test_each_record_has_one_dead_letter_or_one_answer(settings: Settings) -> None:
    """Whatever the bytes: no worker ends or begins again, nothing is dropped, and the books balance."""
    await prepare(settings)
    records = (make_record(SEED, number) for number in range(RECORDS))
    async with fuzzing(settings) as fuzz:
        while some := list(islice(records, ROUND)):
            await fuzz.round(some)
        if FOUND:
            await fuzz.round(FOUND)
    await fuzz.end()

    judged = fuzz.judged
    assert [] == judged.complaints
    assert RECORDS + len(FOUND) == fuzz.sent == judged.answered + judged.reasons.total()
    assert judged.answered > RECORDS / 50
    assert judged.reasons.total() > RECORDS / 2
    assert len(judged.reasons) > 8


@pytest.mark.timeout(240)
async def test_each_dead_letter_that_is_sent_back_is_accounted_for_again(
    settings: Settings, database: Connection
) -> None:
    """As it was, and told where it was: junk stays junk, and nothing is decided that was not."""
    await prepare(settings)
    began = utc_now()
    async with fuzzing(settings) as fuzz:
        await fuzz.round([make_record("b", number) for number in range(REDRIVEN)])
        first = fuzz.judged.reasons.copy()
        ours, options = LetterFilter(after=began), RedriveOptions(rate=5000, anyway=True)
        plan = await plan_redrive(settings, ours, options)
        done = await redrive(settings, ours, options, plan, who=Operator("fuzz", "to see"), stop=asyncio.Event())
        letters = {letter.place: letter for letter in (await list_dead_letters(settings, ours)).letters}
        rows = await database.fetch("select * from redriven")
        await fuzz.account_for(
            {(row["topic"], row["partition"], row["sent_offset"]): _again(row, letters) for row in rows}
        )

    assert [] == fuzz.judged.complaints
    assert plan.count == done.result["sent"] == len(rows) == first.total() - plan.refused["cut"]
    assert plan.count > REDRIVEN / 2
    assert plan.refused.keys() <= {"cut", "answered"}
    assert first.total() + plan.count == fuzz.judged.reasons.total()


def _again(row: Mapping[str, Any], letters: Mapping[str, DeadLetter]) -> Record:
    """Return the record that a letter's message has to be when it is sent back."""
    letter = letters[f"{row['letter_partition']}/{row['letter_offset']}"]
    added = ((OPERATION_HEADER, str(row["operation"]).encode()), (LETTER_HEADER, letter.place.encode()))
    headers = tuple((name.encode(), value) for name, value in (*letter.headers, *added))
    assert (letter.origin_topic, letter.origin_partition) == (row["topic"], row["partition"])
    return Record(row["topic"], row["partition"], letter.key, letter.value, headers, kind="sent back")


def test_a_record_of_the_fuzz_can_be_made_again_and_pasted() -> None:
    """What failed once can be tried again, by its name or by what was printed."""
    for number in range(300):
        record = make_record(SEED, number)
        assert record == make_record(SEED, number)
        assert record == eval(repr(record))  # noqa: S307 - of our own making
    assert {kind for kind, (weight, _) in KINDS.items() if weight >= 1} <= {
        make_record(SEED, number).kind.removesuffix(" and more") for number in range(2_000)
    }
