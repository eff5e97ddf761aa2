"""A slice of the fuzz, and every record that ever got the better of it. `make fuzz` has the rest."""

from itertools import islice

import pytest

from infra.settings import Settings
from tests.fuzz.mutations import KINDS, make_record
from tests.fuzz.records import Record
from tests.fuzz.rounds import fuzzing
from tests.workers.wire import prepare

RECORDS = 3_000
ROUND = 1_500
SEED = "a"

# Records that were found to be dropped, or answered twice, or to end a worker: as `make fuzz` printed them.
FOUND: list[Record] = []


@pytest.mark.timeout(240)
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


def test_a_record_of_the_fuzz_can_be_made_again_and_pasted() -> None:
    """What failed once can be tried again, by its name or by what was printed."""
    for number in range(300):
        record = make_record(SEED, number)
        assert record == make_record(SEED, number)
        assert record == eval(repr(record))  # noqa: S307 - of our own making
    assert {kind for kind, (weight, _) in KINDS.items() if weight >= 1} <= {
        make_record(SEED, number).kind.removesuffix(" and more") for number in range(2_000)
    }
