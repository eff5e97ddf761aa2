"""A worker is made to stand within a call, and is cancelled there as if it had waited for the answer."""

import asyncio
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from infra.settings import Settings
from tests.crash.gate import Gate
from tests.crash.points import Phase

_THIRD = ("known", Phase.WITHIN, 3)


class _Call:
    """A call that asks twice."""

    def __init__(self) -> None:
        self.questions = [asyncio.get_running_loop().create_future() for _ in range(2)]
        self.was_cancelled = False

    async def ask(self) -> list[str]:
        """Return both answers."""
        try:
            return [await each for each in self.questions]
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


@pytest.fixture
async def gate() -> tuple[Gate, Connection]:
    """Return a gate that has seen a call of two awaits, and was armed for the third; and the controller's end."""
    theirs, ours = Pipe()
    gate = Gate(ours, Settings(), _THIRD)
    task, call = await _begun(gate)
    call.questions[1].set_result("two")
    assert ["one", "two"] == await task
    assert not theirs.poll()
    return gate, theirs


async def _begun(gate: Gate) -> tuple["asyncio.Task[list[str]]", _Call]:
    """Return a call that has heard its first answer, after it had waited for it."""
    call = _Call()

    async def run() -> list[str]:
        return list(await gate._step("known", call.ask()))

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    call.questions[0].set_result("one")
    await asyncio.sleep(0)
    return task, call


async def _standing(gate: Gate, theirs: Connection) -> tuple["asyncio.Task[list[str]]", _Call]:
    """Return a call that stands at its second await."""
    task, call = await _begun(gate)
    assert await asyncio.to_thread(theirs.poll, 5)
    assert ("at", "known", Phase.WITHIN) == theirs.recv()
    return task, call


@pytest.mark.parametrize("is_answered_before", [True, False])
async def test_whoever_goes_on_hears_the_answer(gate: tuple[Gate, Connection], *, is_answered_before: bool) -> None:
    """Whether it came while it stood, or comes later."""
    task, call = await _standing(*gate)
    if is_answered_before:
        call.questions[1].set_result("two")
    gate[0]._may_go.set()
    await asyncio.sleep(0)
    if not is_answered_before:
        call.questions[1].set_result("two")

    assert (["one", "two"], False) == (await task, call.was_cancelled)


@pytest.mark.parametrize("is_answered_before", [True, False])
async def test_whoever_is_cancelled_there_is_so_within_the_call(
    gate: tuple[Gate, Connection], *, is_answered_before: bool
) -> None:
    """And so is what it waits for, unless that has ended. The controller is told."""
    task, call = await _standing(*gate)
    if is_answered_before:
        call.questions[1].set_result("two")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ("cancelled",) == gate[1].recv()
    assert (True, not is_answered_before) == (call.was_cancelled, call.questions[1].cancelled())
