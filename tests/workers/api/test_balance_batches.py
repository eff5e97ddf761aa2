"""Balances that are asked for at once are read together, and none is older than its question."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from workers.api.balance_batches import BalanceBatches
from workers.api.problems import ApiError, ProblemKind
from workers.ops.books.current_balance import BalanceQuestion, BalanceVersion

ALICE = BalanceQuestion("alice", BalanceVersion(1, 0))


def _too_late(_: TimeoutError) -> ApiError:
    """Say that an answer did not come in time."""
    return ApiError(ProblemKind.DATABASE_AWAY, "late")


class Reads:
    """Reads that wait until they may go on, and are remembered."""

    def __init__(self) -> None:
        self.begun: list[set[str]] = []
        self.may_go_on = asyncio.Event()

    async def read(self, questions: Collection[BalanceQuestion]) -> dict[BalanceQuestion, BalanceVersion]:
        """Answer each question but nobody's with the number of this read."""
        self.begun.append({each.account_id for each in questions})
        number = len(self.begun)
        await self.may_go_on.wait()
        return {each: BalanceVersion(number, 0) for each in questions if each.account_id != "nobody"}

    async def until(self, count: int) -> None:
        """Wait until so many reads have begun."""
        async with asyncio.timeout(10):
            while len(self.begun) < count:  # noqa: ASYNC110 - the reads' own tasks move it
                await asyncio.sleep(0.001)


async def _keep_both_busy(batches: BalanceBatches, reads: Reads) -> list["asyncio.Task[Any]"]:
    """Let as many reads as there may be begin, and return who asked: what is asked now waits for their end."""
    asked = []
    for count in (1, 2):
        asked.append(asyncio.create_task(batches.balance(ALICE)))
        await reads.until(count)
    return asked


async def test_what_is_asked_soon_after_a_read_has_begun_is_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question is read at once, by itself; all that come a little later, one after another, together."""
    monkeypatch.setattr("workers.api.balance_batches._APART_SECONDS", 0.5)
    reads = Reads()
    batches = BalanceBatches(reads.read, 60, _too_late)
    first = asyncio.create_task(batches.balance(ALICE))
    await reads.until(1)
    names = [f"member-{number}" for number in range(20)] + ["nobody"]
    others = []
    for name in names:
        others.append(asyncio.create_task(batches.balance(BalanceQuestion(name))))
        for _ in range(3):
            await asyncio.sleep(0)  # enough for a read to begin, if one would
    await reads.until(2)
    reads.may_go_on.set()
    answers = await asyncio.gather(first, *others)

    assert [{"alice"}, set(names)] == reads.begun
    assert [BalanceVersion(1, 0), *[BalanceVersion(2, 0)] * 20, None] == answers


async def test_a_question_does_not_join_a_read_that_has_begun() -> None:
    """The same question is asked again while it is being read: the second answer is of a read of its own."""
    reads = Reads()
    batches = BalanceBatches(reads.read, 60, _too_late)
    first = asyncio.create_task(batches.balance(ALICE))
    await reads.until(1)
    second = asyncio.create_task(batches.balance(ALICE))
    await reads.until(2)
    reads.may_go_on.set()

    assert (BalanceVersion(1, 0), BalanceVersion(2, 0)) == (await first, await second)


async def test_an_error_of_a_read_is_told_to_each_question_and_the_next_is_read() -> None:
    """Nobody waits for ever for an answer that does not come."""
    fails = True

    async def read(questions: Collection[BalanceQuestion]) -> dict[BalanceQuestion, BalanceVersion]:
        if fails:
            raise ApiError(ProblemKind.DATABASE_AWAY, "away")
        return {each: BalanceVersion(1, 0) for each in questions}

    batches = BalanceBatches(read, 60, _too_late)
    found = await asyncio.gather(*(batches.balance(ALICE) for _ in range(3)), return_exceptions=True)
    fails = False

    assert all(isinstance(each, ApiError) for each in found), found
    assert BalanceVersion(1, 0) == await batches.balance(ALICE)


async def test_a_question_asked_in_the_very_step_in_which_all_reads_end_is_read() -> None:
    """Both reads end in one turn of the loop, and a question comes in that turn: it waits for no other."""
    reads = Reads()
    batches = BalanceBatches(reads.read, 60, _too_late)
    early = [asyncio.create_task(batches.balance(ALICE))]
    await reads.until(1)
    early.append(asyncio.create_task(batches.balance(ALICE)))
    await reads.until(2)
    reads.may_go_on.set()  # both go on in the next turn, in which the late one asks after them
    late = asyncio.create_task(batches.balance(BalanceQuestion("late")))
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*early, late)

    assert [BalanceVersion(1, 0), BalanceVersion(2, 0), BalanceVersion(3, 0)] == answers


async def test_a_read_that_ends_of_a_fault_leaves_nobody_waiting() -> None:
    """What waits for a turn while all reads end of what no request can be told is cancelled with them."""
    reads = Reads()

    async def read(questions: Collection[BalanceQuestion]) -> dict[BalanceQuestion, BalanceVersion]:
        await reads.read(questions)
        raise asyncio.CancelledError

    batches = BalanceBatches(read, 60, _too_late)
    asked = await _keep_both_busy(batches, reads)
    asked.append(asyncio.create_task(batches.balance(BalanceQuestion("waits"))))
    await asyncio.sleep(0)
    reads.may_go_on.set()
    ended, waiting = await asyncio.wait(asked, timeout=5)

    assert not waiting
    assert all(each.cancelled() for each in ended)


async def test_a_question_whose_read_does_not_begin_in_time_is_given_up_and_never_read() -> None:
    """All reads hang: whoever waits behind them is told so as soon as whoever is in one."""
    reads = Reads()
    batches = BalanceBatches(reads.read, 0.2, _too_late)
    asked = await _keep_both_busy(batches, reads)
    asked.append(asyncio.create_task(batches.balance(BalanceQuestion("waits"))))
    async with asyncio.timeout(10):
        found = await asyncio.gather(*asked, return_exceptions=True)
    reads.may_go_on.set()
    answer = await batches.balance(BalanceQuestion("next"))

    assert [ProblemKind.DATABASE_AWAY] * 3 == [each.kind for each in found if isinstance(each, ApiError)]
    assert BalanceVersion(3, 0) == answer
    assert [{"alice"}, {"alice"}, {"next"}] == reads.begun


async def test_no_more_wait_than_could_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next is refused at once, and those that wait are answered."""
    monkeypatch.setattr("workers.api.balance_batches._WAITING_AT_MOST", 2)
    reads = Reads()
    batches = BalanceBatches(reads.read, 60, _too_late)
    asked = await _keep_both_busy(batches, reads)
    asked += [asyncio.create_task(batches.balance(ALICE)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="too many requests wait") as refused:
        await batches.balance(ALICE)
    reads.may_go_on.set()

    assert ProblemKind.BUSY is refused.value.kind
    assert 4 == len(await asyncio.gather(*asked))
