"""Turns under way: what is decided side by side, and what is published when."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from infra.kafka.transactions import Message
from workers.lane.deciding import Decided
from workers.lane.lane import Lane
from workers.lane.turn_queue import TurnQueue


class _Turns:
    """Turns of a lane each, whose decision ends when it is told to, and what was published of them."""

    def __init__(self, changed: Callable[[TurnQueue], None] = lambda _: None, *, gather_seconds: float = 0.0) -> None:
        self.queue: TurnQueue = TurnQueue(lambda: changed(self.queue), gather_seconds)
        self.lanes = [cast("Lane", f"lane {number}") for number in range(4)]
        self.decisions: list[asyncio.Future[None]] = []
        self.published: list[int] = []  # the turns that published
        self.together: list[list[int]] = []  # the turns whose answers they published
        self.publications = [asyncio.Event() for _ in self.lanes]  # each ends once its event is set
        for each in self.publications:
            each.set()

    async def begin(self, number: int, *, alone: bool = False, answers: int = 1) -> None:
        self.decisions.append(decision := asyncio.get_running_loop().create_future())

        async def decide() -> Sequence[Decided]:
            await decision
            return [Decided({}, [cast("Message", number)] * answers)]

        async def publish(decided: Sequence[Decided]) -> None:
            self.together.append([cast("int", each.messages[0]) for each in decided])
            await self.publications[number].wait()
            self.published.append(number)

        await self.queue.begin([self.lanes[number]], decide, publish, alone=alone)


async def test_turns_are_published_in_the_order_in_which_they_began() -> None:
    """One that is decided first waits for the one before: its offsets would be overwritten with older ones."""
    turns = _Turns()
    await turns.begin(0)
    await turns.begin(1)

    turns.decisions[1].set_result(None)
    await _settle()
    assert not turns.published
    assert turns.queue.is_full  # one more would be a third that is not published

    turns.decisions[0].set_result(None)
    await turns.queue.finish()
    assert [0, 1] == turns.published
    assert not turns.queue.is_full


async def test_after_a_turn_that_failed_nothing_is_published_and_no_lane_of_it_is_decided() -> None:
    """Its records are gone from the inbox: what follows them must not be stored as if they were."""
    turns = _Turns()
    await turns.begin(0)
    await turns.begin(1)

    turns.decisions[1].set_result(None)
    turns.decisions[0].set_exception(OSError("the server is away"))
    with pytest.raises(OSError, match="away"):
        await turns.queue.finish()

    assert not turns.published
    assert turns.queue.is_full  # what began now would be stored, and not published
    assert {turns.lanes[0]} == turns.queue.deciding
    await turns.queue.end()
    assert not turns.queue.deciding
    assert not turns.queue.is_full


async def test_a_failure_is_over_with_the_end_however_early_it_was_seen() -> None:
    """An owner that another event woke in that moment saw it before the loop had called back: it stood for ever."""
    turns = _Turns()
    await turns.begin(0)
    await _settle()
    turns.decisions[0].set_exception(OSError("the server is away"))
    for _ in range(10):
        if not turns.queue._turns[0].done():
            await asyncio.sleep(0)
    with pytest.raises(OSError, match="away"):
        turns.queue.raise_failures()
    assert turns.queue.is_full

    await turns.queue.end()
    await _settle()
    assert not turns.queue.is_full


async def test_whoever_waits_for_room_is_told_when_there_is_some() -> None:
    """A turn that waited for the one before makes room when it begins to be published, not only when it is."""
    full: list[bool] = []
    turns = _Turns(lambda queue: full.append(queue.is_full))
    for number in (0, 1):
        turns.publications[number].clear()
        await turns.begin(number)
        turns.decisions[number].set_result(None)
        await _settle()
    assert turns.queue.is_full

    turns.publications[0].set()
    await _settle()
    assert [0] == turns.published
    assert not full[-1]

    turns.publications[1].set()
    await turns.queue.finish()


async def test_a_turn_is_decided_alone_where_its_order_among_others_matters() -> None:
    """It begins after all others are published, and no other begins before it is decided."""
    turns = _Turns()
    await turns.begin(0)
    beginning = asyncio.create_task(turns.begin(1, alone=True))
    await _settle()
    assert not beginning.done()

    turns.decisions[0].set_result(None)
    await beginning
    assert [0] == turns.published
    assert turns.queue.is_full

    turns.decisions[1].set_result(None)
    await turns.queue.finish()
    assert not turns.queue.is_full


async def test_an_end_stops_what_is_being_decided_and_lets_a_publication_finish() -> None:
    """A decision that went on would be stored beside the next beginning; half a commit helps nobody."""
    turns = _Turns()
    turns.publications[0].clear()
    await turns.begin(0)
    await turns.begin(1)
    turns.decisions[0].set_result(None)
    await _settle()

    ending = asyncio.create_task(turns.queue.end())
    await _settle()
    assert turns.decisions[1].cancelled()
    assert not ending.done()

    turns.publications[0].set()
    await ending
    assert [0] == turns.published


async def _gathering() -> _Turns:
    """Turns of which the first was published a moment ago: the next ones gather."""
    turns = _Turns(gather_seconds=60.0)
    await turns.begin(0)
    turns.decisions[0].set_result(None)
    await _settle()
    assert [[0]] == turns.together  # at once: there was none before it
    return turns


async def test_turns_of_few_records_are_published_together() -> None:
    """In their order, with none left out; and what waits for that makes no room for others wait."""
    turns = await _gathering()
    for number in (1, 2, 3):
        await turns.begin(number)
    for number in (1, 3, 2):
        turns.decisions[number].set_result(None)
        await _settle()
        assert [[0]] == turns.together
    assert not turns.queue.is_full

    await turns.queue.finish()
    assert [[0], [1, 2, 3]] == turns.together


async def test_the_next_turn_is_decided_while_those_before_it_are_published_together() -> None:
    """As while one is published alone: what other workers wait for is stored sooner."""
    turns = await _gathering()
    turns.publications[1].clear()
    for number in (1, 2):
        await turns.begin(number)
        turns.decisions[number].set_result(None)
    finishing = asyncio.create_task(turns.queue.finish())
    await _settle()
    assert [[0], [1, 2]] == turns.together
    assert not turns.queue.is_full

    turns.publications[1].set()
    await finishing


async def test_nothing_is_published_before_a_turn_that_is_not_decided() -> None:
    """Its offsets would be written after newer ones."""
    turns = await _gathering()
    for number in (1, 2, 3):
        await turns.begin(number)
    for number in (1, 3):
        turns.decisions[number].set_result(None)
    await _settle()
    finishing = asyncio.create_task(turns.queue.finish())
    await _settle()
    assert [[0], [1]] == turns.together

    turns.decisions[2].set_result(None)
    await finishing
    assert [[0], [1], [2, 3]] == turns.together


@pytest.mark.parametrize("full", [1, 2])
async def test_a_full_transaction_waits_for_no_more(full: int) -> None:
    """However much of it is of the turn that waits, or of one after it."""
    turns = await _gathering()
    for number in (1, 2):
        await turns.begin(number, answers=250 if number == full else 1)
        turns.decisions[number].set_result(None)
    await _settle()
    assert [1, 2] == sorted(number for together in turns.together[1:] for number in together)


async def test_turns_that_were_published_with_one_that_failed_fail_as_well() -> None:
    """None of them is certain; and what had not been published is not, after it."""
    turns = await _gathering()
    for number in (1, 2):
        await turns.begin(number)
        turns.decisions[number].set_result(None)
    turns.publications[1] = cast("asyncio.Event", _Refused())
    with pytest.raises(OSError, match="the brokers are away"):
        await turns.queue.finish()
    assert [[0], [1, 2]] == turns.together
    assert turns.queue.is_full
    await turns.queue.end()
    assert not turns.queue.is_full


async def test_an_end_does_not_publish_what_waits() -> None:
    """Its owner begins again under another name; whoever has the lanes next publishes it from what is stored."""
    turns = await _gathering()
    await turns.begin(1)
    turns.decisions[1].set_result(None)
    await _settle()
    await turns.queue.end()
    assert [[0]] == turns.together


class _Refused:
    async def wait(self) -> None:
        raise OSError("the brokers are away")


async def _settle() -> None:
    """Let every task run that can."""
    for _ in range(10):
        await asyncio.sleep(0)
