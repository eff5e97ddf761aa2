"""Two Postgres servers under a load of sends and grants: one is killed, numbers move, workers are killed, at random."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import asyncpg

from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import Settings
from infra.shards import read_shard, settings_of_shards
from tests.cluster.judge import ALLOWED_SECONDS, Answers, count_answers, longest_pause
from tests.cluster.under_load import under_load
from tests.cluster.waits import all_lanes_move, group_members, member_replaced
from workers.local.processes import WorkerProcesses, member_names, server_of, worker_of
from workers.local.up import prepare_stack
from workers.ops.operations import Operator
from workers.ops.shards.move import MoveReport, MoveStep, move_numbers
from workers.ops.shards.move_plan import plan_moves
from workers.ops.shards.servers import UnreachableServerError
from workers.topology import WORKER_OF

__all__ = ["Act", "Disturbance", "Event", "ServersResult", "random_events", "run_servers"]

_WHO = Operator("tests.cluster", "several servers under load")
_BREAKS = (MoveStep.COPY_AHEAD, MoveStep.STOP, MoveStep.COPY, MoveStep.HAND_OVER)


class Act(StrEnum):
    """What is done to servers and workers under load."""

    KILL_SERVER = "kill_server"
    MOVE = "move"  # there, and back
    KILL_WORKER = "kill_worker"
    BREAK_MOVE = "break_move"  # a server is killed while a number moves; the same command goes on


class Event(NamedTuple):
    """One act, and to what. What does not count for it is ignored."""

    act: Act
    server: int = 1  # that is killed
    number: int = 0  # that moves
    worker: str = ""  # that is killed
    step: MoveStep = MoveStep.COPY  # at which the server is killed
    back: bool = True  # the number moves back as well


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What was done under load, and which sends paused for how long."""

    act: Act
    what: str
    numbers: tuple[int, ...]  # whose sends are meant to pause
    at: float  # Unix time
    pause: float = 0.0  # seconds, the longest of these numbers without an answer
    others: float = 0.0  # the same of the other numbers; 0 where there is no other
    stood: float | None = None  # for how long the lanes of the number stood, as the command says


@dataclass(slots=True)
class ServersResult(Answers):
    """What came of some disturbances."""

    session_seconds: float  # of the workers' groups
    disturbances: list[Disturbance] = field(default_factory=list)

    def of(self, act: Act) -> list[Disturbance]:
        """Return those of one kind."""
        return [each for each in self.disturbances if each.act is act]

    @property
    def passed(self) -> bool:
        """Whether everything is exact, and no other number paused for long where a server was killed."""
        return self.exact and all(each.others <= ALLOWED_SECONDS for each in self.of(Act.KILL_SERVER))


class _Servers:
    """A stack with several servers, their workers, and what is done to them."""

    def __init__(self, stack: LocalStack, settings: Settings, workers: WorkerProcesses, down_seconds: float) -> None:
        self._stack, self._settings, self._workers, self._down_seconds = stack, settings, workers, down_seconds

    async def held(self) -> dict[int, tuple[int, ...]]:
        """Return the numbers that each server holds."""
        found = {}
        for place, server in enumerate(settings_of_shards(self._settings), 1):
            connection = await connect_database(server)
            shard = await read_shard(connection)
            await connection.close()
            found[place] = tuple(number for number in range(self._settings.topic_partitions) if shard.holds(number))
        return found

    async def do(self, event: Event) -> list[Disturbance]:
        """Do one act, and wait until every lane is at work again."""
        acts = {
            Act.KILL_SERVER: self._kill_server,
            Act.KILL_WORKER: self._kill_worker,
            Act.MOVE: self._move_there_and_back,
            Act.BREAK_MOVE: self._break_move,
        }
        return await acts[event.act](event)

    async def _kill_server(self, event: Event) -> list[Disturbance]:
        numbers, at = (await self.held())[event.server], time.time()
        await asyncio.to_thread(self._stack.kill_postgres, event.server)
        await asyncio.wait([asyncio.create_task(asyncio.sleep(self._down_seconds))])
        await asyncio.to_thread(self._stack.start_postgres, event.server)
        await all_lanes_move(self._settings, f"after the kill of Postgres {event.server}")
        return [Disturbance(event.act, f"Postgres {event.server} was killed", numbers, at)]

    async def _kill_worker(self, event: Event) -> list[Disturbance]:
        topic = next(topic for topic, worker in WORKER_OF.items() if worker == worker_of(event.worker))
        numbers, before = (await self.held())[server_of(event.worker) or 1], await group_members(self._settings, topic)
        at = time.time()
        await asyncio.to_thread(self._workers.kill_and_restart, event.worker)
        await member_replaced(self._settings, topic, before)
        await all_lanes_move(self._settings, f"after the kill of {event.worker}")
        return [Disturbance(event.act, f"`{event.worker}` was killed", numbers, at)]

    async def _move_there_and_back(self, event: Event) -> list[Disturbance]:
        home = next(place for place, numbers in (await self.held()).items() if event.number in numbers)
        there = home % self._stack.databases + 1
        found = []
        for target in (there, home) if event.back else (there,):
            at = time.time()
            result = await self._move(event.number, target, MoveReport())
            await all_lanes_move(self._settings, f"after the move of {event.number} to Postgres {target}")
            what = f"number {event.number} moved to Postgres {target}"
            stood = result["pauses"].get(str(event.number))
            found.append(Disturbance(event.act, what, (event.number,), at, stood=stood))
        return found

    async def _break_move(self, event: Event) -> list[Disturbance]:
        held, at = await self.held(), time.time()
        home = next(place for place, numbers in held.items() if event.number in numbers)
        target, broken = home % self._stack.databases + 1, False

        def break_off(_: int, step: MoveStep) -> None:
            nonlocal broken
            if step is event.step and not broken:
                broken = True
                self._stack.kill_postgres(event.server)

        try:
            await self._move(event.number, target, MoveReport(break_off))
        except (UnreachableServerError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.to_thread(self._stack.start_postgres, event.server)
        else:
            raise AssertionError(f"a move went on without Postgres {event.server}: {event}")
        await self._move(event.number, target, MoveReport())
        await all_lanes_move(self._settings, f"after {event}")
        what = (
            f"number {event.number} moved to Postgres {target}, Postgres {event.server} was killed while {event.step}"
        )
        return [Disturbance(event.act, what, tuple(sorted({*held[event.server], event.number})), at)]

    async def _move(self, number: int, target: int, report: MoveReport) -> dict[str, Any]:
        plan = await plan_moves(self._settings, [number], str(target - 1))  # ordinals begin with 0
        stop = asyncio.Event()
        return (await move_numbers(self._settings, plan, _WHO, keep=False, stop=stop, report=report)).result


async def run_servers(
    stack: LocalStack,
    settings: Settings,
    logs: Path,
    events: Sequence[Event],
    *,
    rate: float = 60.0,
    members: int = 1,
    down_seconds: float = 3.0,
    report: Callable[[Disturbance], None] = lambda _: None,
) -> ServersResult:
    """Run workers of every server under load, do one act after the other, and return what was seen.

    Args:
        stack: of several Postgres servers, new.
        settings: of the workers.
        logs: a folder for the workers' logs.
        events: what to do.
        rate: sends a second.
        members: of each worker, for each server.
        down_seconds: for which a server that is killed is away, before it is started.
        report: is told each disturbance, without its pauses, which the topics tell afterwards.

    """
    await prepare_stack(settings)
    result = ServersResult(settings.session_seconds)
    workers = WorkerProcesses(settings, logs, member_names(members, stack.databases))
    servers = _Servers(stack, settings, workers, down_seconds)
    async with under_load(settings, workers, rate, result) as published:
        for event in events:
            for seen in await servers.do(event):
                result.disturbances.append(seen)
                report(seen)
    given = await count_answers(settings, published, result)
    ends = [each.at for each in result.disturbances[1:]] + [time.time()]
    result.disturbances = [_timed(each, given, end) for each, end in zip(result.disturbances, ends, strict=True)]
    return result


def _timed(seen: Disturbance, given: dict[int, list[float]], end: float) -> Disturbance:
    own = {number: times for number, times in given.items() if number in seen.numbers}
    others = {number: times for number, times in given.items() if number not in seen.numbers}
    return replace(
        seen, pause=longest_pause(own, seen.at, end), others=longest_pause(others, seen.at, end) if others else 0.0
    )


def random_events(seed: int, count: int, databases: int, partitions: int, members: int = 1) -> Iterator[Event]:
    """Yield acts in random order, to random servers, numbers and workers; of each kind as many as of the others."""
    dice = Random(seed)  # noqa: S311 - a workload
    names = [name for name in member_names(members, databases) if server_of(name) is not None]
    acts: list[Act] = []
    for _ in range(count):
        acts = acts or dice.sample(list(Act), len(Act))
        yield Event(
            acts.pop(),
            dice.randint(1, databases),
            dice.randrange(partitions),
            dice.choice(names),
            dice.choice(_BREAKS),
        )
