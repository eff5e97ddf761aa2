"""Moves partition numbers to another server, one after the other, on record; a move that was broken off goes on."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID, uuid4

from infra.settings import Settings
from infra.shards import NumberState
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation
from workers.ops.shards.copy import copy_rows
from workers.ops.shards.members import check_members
from workers.ops.shards.move_plan import MoveKind, MovePlan, NumberMove, plan_number
from workers.ops.shards.privileges import require_mover
from workers.ops.shards.published import PublishedCheck, UnpublishedError, open_published_check
from workers.ops.shards.purge import purge_rows
from workers.ops.shards.servers import ShardSession, open_session
from workers.ops.shards.steps import (
    agree_on_count,
    mark_arriving,
    mark_held,
    mark_leaving,
    mark_left,
    take_back,
    wait_for_writers,
)

__all__ = ["VERB", "MoveReport", "MoveStep", "move_numbers"]

VERB: Final = "shards move"
_STOP_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5

Result = TypeVar("Result")


class MoveStep(StrEnum):
    """What a move does at a moment, in words."""

    PREPARE = "preparing"
    STOP = "stopping its lanes"
    WAIT = "waiting for what its lanes began"
    COPY_AHEAD = "copying, while its lanes go on"
    COPY = "copying what has changed since"
    HAND_OVER = "handing over"
    DELETE = "deleting what is left"
    TAKE_BACK = "taking back"
    DONE = "done"


class _Moved(NamedTuple):
    """What came of moving one number."""

    rows: int = 0  # that were copied; one that changed meanwhile, twice
    pause: float | None = None  # seconds for which its lanes stood; None: unknown, as they had stopped before


@dataclass(frozen=True, slots=True)
class MoveReport:
    """Called as a move goes on. An error that it raises ends the move like a kill."""

    step: Callable[[int, MoveStep], None] = lambda _, __: None
    rows: Callable[[int, int], None] = lambda _, __: None  # copied, and of how many
    purged: Callable[[int, int], None] = lambda _, __: None  # accounts whose rows were deleted, and of how many


class _StoppedError(Exception):
    """The operator stopped a move while its lanes went on."""


@dataclass(frozen=True, slots=True)
class _Conduct:
    """How numbers are moved."""

    keep: bool
    stop: asyncio.Event
    report: MoveReport


async def move_numbers(  # noqa: PLR0913 - what, by whom, and how to stop it
    settings: Settings,
    plan: MovePlan,
    who: Operator,
    *,
    keep: bool,
    stop: asyncio.Event,
    report: MoveReport | None = None,
) -> OngoingOperation:
    """Move numbers as planned; return the operation and its result.

    Args:
        settings: where the operation is recorded, and where Kafka is.
        plan: the accepted plan.
        who: the operator.
        keep: leave the rows on the server that a number leaves; they are nobody's.
        stop: ends the operation before the lanes of a number stop, or between two numbers; the same command goes on.
        report: called as it goes on.

    Raises:
        RefusedError: when another move runs, what a server holds is not as planned, a worker knows of one server only,
            or a comparison failed.
        MissingPrivilegesError: when the user may not do it, before anything has changed.
        UnreachableServerError, KafkaError, OSError, asyncpg.PostgresError: when a server fails; the same command goes
            on where it ended.

    """
    conduct = _Conduct(keep, stop, report or MoveReport())
    arguments = {"numbers": plan.numbers, "to": plan.target.address, "keep": keep}
    async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
        operation.result |= {"moved": [], "rows": 0, "pauses": {}}
        for each in plan.moves:
            if stop.is_set():
                operation.stopped = True
                break
            operation.result["under_way"] = each.number
            await operation.save_progress()
            try:
                moved = await _move_number(settings, plan, each, conduct)
            except _StoppedError:
                operation.stopped = True
                break
            operation.result["moved"] = sorted({*operation.result["moved"], each.number})
            operation.result["rows"] += moved.rows
            if moved.pause is not None:
                operation.result["pauses"][str(each.number)] = round(moved.pause, 2)
            operation.result["under_way"] = None
            await operation.save_progress()
    return operation


async def _move_number(settings: Settings, plan: MovePlan, planned: NumberMove, conduct: _Conduct) -> _Moved:
    """Bring one number to its end from wherever it is."""
    number, report = planned.number, conduct.report
    async with AsyncExitStack() as opened:
        # In one order, whichever way a number goes: two operators do not hold one server each.
        listed = [each for each in (planned.other, plan.target) if each is not None]
        listed.sort(key=lambda server: server.shard.ordinal)
        sessions = [await opened.enter_async_context(open_session(each.settings)) for each in listed]
        target = next(each for each in sessions if each.server.shard.shard_id == plan.target.shard.shard_id)
        source = next((each for each in sessions if each is not target), None)
        for each in sessions:
            await require_mover(each)
        # What they hold was read before the sessions were the only ones.
        kind = next((each.kind for each in plan_number(number, target.server, [it.server for it in sessions])), None)
        if kind is MoveKind.TAKE_BACK:
            report.step(number, MoveStep.TAKE_BACK)
            await take_back(target, source, number)
        if source is None:  # lost: what it has is deleted should it come back
            return _Moved()
        if kind is MoveKind.TAKE_BACK:
            await purge_rows(source.connection, number, report.purged)
            return _Moved()
        moved = _Moved()
        if kind is MoveKind.MOVE:
            moved = await _bring_over(settings, source, target, number, conduct)
        if kind is not None and not conduct.keep:
            report.step(number, MoveStep.DELETE)
            await purge_rows(source.connection, number, report.purged)
        report.step(number, MoveStep.DONE)
        return moved


async def _bring_over(
    settings: Settings, source: ShardSession, target: ShardSession, number: int, conduct: _Conduct
) -> _Moved:
    """Copy a number and hand it over, from whichever step it is at."""
    report = conduct.report
    here, there = source.server.shard.numbers.get(number), target.server.shard.numbers.get(number)
    leaving = here is not None and here.state is not NumberState.HELD
    arriving = there is not None and there.state is NumberState.ARRIVING
    known = (here.move if here is not None and leaving else None) or (there.move if there and arriving else None)
    move = known or uuid4()
    rows, stopped_at = 0, None
    if here is None or here.state is not NumberState.LEFT:
        report.step(number, MoveStep.PREPARE)
        if not arriving:
            await mark_arriving(target, source, number, move)
        with ExitStack() as standing:
            if not leaving:
                rows = await _unless_stopped(conduct.stop, _copy_ahead(source, target, number, report))
            else:
                standing.enter_context(_tell_standing(number, source))
                if not arriving:  # otherwise the target has what was copied before the lanes stopped
                    await _prepare(source, target, number, report)
            async with open_published_check(settings, source.connection) as published:
                await check_members(settings)  # what was copied stays, and the number's lanes go on if they did
                if not leaving:
                    _check_stop(conduct.stop)
                    report.step(number, MoveStep.STOP)
                    stopped_at = await _stop_lanes(source, target, number, move, published, stop=conduct.stop)
                    standing.enter_context(_tell_standing(number, source))
                report.step(number, MoveStep.WAIT)
                await wait_for_writers(source.connection)
                await published.check_others(number)
            report.step(number, MoveStep.COPY)
            rows += await copy_rows(source.connection, target.connection, number, report.rows)
            report.step(number, MoveStep.HAND_OVER)
            await agree_on_count(source, target)
            await mark_left(source, number, move)
    report.step(number, MoveStep.HAND_OVER)
    with _tell_standing(number, None):
        await mark_held(source, target, number, move)
    return _Moved(rows, None if stopped_at is None else monotonic() - stopped_at)


async def _prepare(source: ShardSession, target: ShardSession, number: int, report: MoveReport) -> None:
    """Delete what the target has of a number from before, and let it number accounts alike."""
    await purge_rows(target.connection, number, report.purged)
    await agree_on_count(source, target)


async def _copy_ahead(source: ShardSession, target: ShardSession, number: int, report: MoveReport) -> int:
    """Copy a number while its lanes go on, until they could stop; return how many rows were copied."""
    await _prepare(source, target, number, report)
    report.step(number, MoveStep.COPY_AHEAD)
    rows = await copy_rows(source.connection, target.connection, number, report.rows)
    await wait_for_writers(source.connection)  # one that stays open would keep the number standing, once it has stopped
    return rows


async def _unless_stopped(stop: asyncio.Event, part: Coroutine[Any, Any, Result]) -> Result:
    """Return what a part of a move returns, or break it off at a stop.

    Raises:
        _StoppedError: when a stop came before its end.

    """
    working, stopping = asyncio.ensure_future(part), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        if working.done() and (not stop.is_set() or working.exception() is not None):
            return working.result()
        raise _StoppedError
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)


@contextmanager
def _tell_standing(number: int, holder: ShardSession | None) -> Iterator[None]:
    """Add to an error that the number's lanes stand, and how they go on.

    Args:
        number: the partition number.
        holder: the server that can take the number back; None: it has given it away.

    """
    try:
        yield
    except Exception as error:
        back = (
            ""
            if holder is None
            else (
                f", or take it back with `--to {holder.server.shard.ordinal}`, without the other server in"
                " INMAIL_DATABASE_SHARDS if that one is lost"
            )
        )
        error.add_note(f"number {number} stands: run the same command again{back}")
        raise


def _check_stop(stop: asyncio.Event) -> None:
    if stop.is_set():
        raise _StoppedError


async def _stop_lanes(  # noqa: PLR0913 - which number goes where, and until when
    source: ShardSession,
    target: ShardSession,
    number: int,
    move: UUID,
    published: PublishedCheck,
    *,
    stop: asyncio.Event,
) -> float:
    """Stop the lanes of a number at a moment at which another server can go on with them; return when it began.

    Raises:
        _StoppedError: when the operator stopped the move before there was one: the lanes go on here.
        UnpublishedError, TimeoutError: when there was none in a minute: the lanes go on here.

    """
    deadline = monotonic() + _STOP_SECONDS
    while True:
        began = monotonic()
        try:
            await mark_leaving(source, target, number, move, lambda: published.check_lanes(number))
        except (UnpublishedError, TimeoutError):  # Kafka was too slow for lanes that wait
            _check_stop(stop)
            if monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return began
