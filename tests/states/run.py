"""One run: everything is started, each state is caused and ended in turn, and what the surfaces said is read off."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from infra.local.stack import LocalStack
from tests.states.load import Load
from tests.states.members import Members
from tests.states.prometheus import prometheus
from tests.states.surfaces import ALERTS, SURFACES, Surfaces
from tests.states.timeline import Right, Timeline, Words
from tests.states.world import State, World
from workers.local.up import prepare_stack, stack_settings

__all__ = ["Run", "cause", "running"]

_RATE: Final = 20.0
_PARTITIONS: Final = 4
_BEGIN_SECONDS: Final = 120.0  # until all is calm the first time
_STAYS_SECONDS: Final = 4.0  # calm counts once it has lasted so long
_LOOK_SECONDS: Final = 0.2


class Run(NamedTuple):
    """What runs, and who watches."""

    world: World
    surfaces: Surfaces
    watched: Sequence[str]
    tasks: Sequence[asyncio.Task[None]]

    def check(self) -> None:
        """Raise what ended the load or a watcher, if it did: all would look calm then."""
        for task in self.tasks:
            if task.done():
                task.result()
                raise AssertionError("they go on until cancelled")


@asynccontextmanager
async def running(logs: Path, folder: Path, tell: Callable[[str], None], databases: int = 1) -> AsyncIterator[Run]:
    """Start the stack, all processes, the load and the watchers; all end when left.

    With several Postgres servers each holds a part of the numbers.

    Raises:
        LocalStackError: when the stack cannot be started.
        TimeoutError: when a process is not ready in time, or not all is calm then.

    """
    with LocalStack(report=tell, databases=databases) as stack:
        settings = stack_settings(stack, topic_partitions=_PARTITIONS, log_format="json")
        await prepare_stack(settings)
        members = Members(settings, logs)
        timeline = Timeline()
        world = World(stack, settings, members, Load(settings, _RATE), timeline)
        with prometheus(members.ports, folder) as port:
            surfaces = Surfaces(members, port, timeline)
            try:
                for name in members.names:
                    members.start(name)
                for name in members.names:
                    await members.ready(name)
                tasks = [asyncio.create_task(world.load.run()), asyncio.create_task(surfaces.watch())]
                try:
                    watched = [name for name in SURFACES if name != ALERTS or port is not None]
                    run = Run(world, surfaces, watched, tasks)
                    await _first_calm(run)
                    yield run
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                await asyncio.to_thread(members.stop)


async def _first_calm(run: Run) -> None:
    before: dict[str, Words] = {name: {} for name in run.watched}
    if not await _calm(run, before, monotonic(), _BEGIN_SECONDS):
        raise TimeoutError(f"not calm at the beginning: { ({n: run.world.timeline.words(n) for n in run.watched}) }")


async def cause(run: Run, state: State) -> dict[str, Any]:
    """Cause a state, wait until each surface says so, end it, and wait until each is calm; return what was heard.

    Every wait has its end: what was not said by then is None.
    """
    world = run.world
    run.surfaces.rebase()
    await asyncio.sleep(_STAYS_SECONDS)
    before = {name: world.timeline.words(name) for name in run.watched}
    machine = os.getloadavg()[0]
    world.caused()
    began = monotonic()
    async with state.cause(world):
        await _told(run, state)
        world.ended()
    if world.ended_at < began:
        world.ended()
    calm = await _calm(run, before, world.ended_at, state.calm_seconds)
    heard = {
        name: asdict(world.timeline.heard(name, right, world.caused_at, world.ended_at, before[name]))
        for name, right in _rights(run, state).items()
    }
    if ALERTS in run.watched and ALERTS in state.rights:
        pending = Right(state.rights[ALERTS].subject, "pending|firing.*")
        said = world.timeline.heard(ALERTS, pending, world.caused_at, world.ended_at, before[ALERTS])
        heard[f"{ALERTS}, pending"] = asdict(said)
    return {
        "how": state.how,
        "until": state.until,
        "lasted_seconds": world.ended_at - world.caused_at,
        "machine_load": machine,
        "calm": calm,
        "heard": heard,
        "right": {name: [*right] for name, right in state.rights.items()},
        "silent": state.silent,
        "may_speak": sorted(state.may_speak),
        "false": {
            name: world.timeline.troubles(name, world.caused_at, world.ended_at, before[name])
            for name in state.silent
            if name in run.watched
        },
    }


def _rights(run: Run, state: State) -> dict[str, Right]:
    return {name: right for name, right in state.rights.items() if name in run.watched}


async def _told(run: Run, state: State) -> None:
    world = run.world
    while (lasted := monotonic() - world.caused_at) < state.most_seconds:
        run.check()
        missing = [
            name
            for name, right in _rights(run, state).items()
            if world.timeline.told(name, right, world.caused_at) is None
        ]
        if not missing and lasted >= state.least_seconds:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _calm(run: Run, before: dict[str, Words], since: float, seconds: float) -> bool:
    timeline = run.world.timeline
    quiet_from: float | None = None
    while (now := monotonic()) - since < seconds:
        run.check()
        calm = all(timeline.is_calm(name, before[name]) and timeline.looked_at[name] >= since for name in run.watched)
        quiet_from = (quiet_from or now) if calm else None
        if quiet_from is not None and now - quiet_from >= _STAYS_SECONDS:
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    return False
