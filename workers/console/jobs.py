"""What this console was told to do, while it does it: redrives and replays, each to be stopped and gone on with.

What they did is on record in the table of operations. Kept here is only what it takes to begin and to stop one.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import structlog

from infra.settings import Settings
from workers.console.problems import KNOWN
from workers.console.resumption import RERUNS, redrive_of, reemission_of, rerun_of, rewind_of
from workers.ops.dead_letters import redrive
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveOptions, RedrivePlan, plan_redrive
from workers.ops.operations import OngoingOperation, Operation, OperationStatus, Operator, RefusedError
from workers.ops.replay import reemit, reemit_plan, rewind_target
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, plan_rebuild
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import plan_rewind

__all__ = ["Jobs"]

_DRAIN_SECONDS: Final = 300.0  # as the command waits for workers to end
_PLANS_KEPT: Final = 50
_BEGIN_SECONDS: Final = 1.0  # what is refused is refused by then; what is not is on record


class Planned(NamedTuple):
    """A redrive that was shown and not begun."""

    selection: LetterFilter
    options: RedriveOptions
    plan: RedrivePlan


_VerbRun = Coroutine[Any, Any, OngoingOperation]


@dataclass(slots=True)
class _RunningVerb:
    who: Operator
    stop: asyncio.Event
    task: "asyncio.Task[OngoingOperation]"


@dataclass(slots=True)
class Jobs:
    """The plans that were shown, and what runs."""

    settings: Settings
    _plans: "OrderedDict[str, Planned]" = field(default_factory=OrderedDict)
    _jobs: dict[str, _RunningVerb] = field(default_factory=dict)  # by verb, of which one runs at a time

    async def plan(self, settings: Settings, selection: LetterFilter, options: RedriveOptions) -> dict[str, Any]:
        """Return what a redrive would do, for JSON, with the name by which it is begun.

        Raises:
            NotSetUpError, CatalogueError, KafkaError, OSError, asyncpg.PostgresError: as `plan_redrive` does.

        """
        plan = await plan_redrive(settings, selection, options)
        name = secrets.token_urlsafe(16)
        self._plans[name] = Planned(selection, options, plan)
        while len(self._plans) > _PLANS_KEPT:
            self._plans.popitem(last=False)
        return {"plan": name, **plan.summary()}

    async def redrive(self, name: str, who: Operator) -> dict[str, Any]:
        """Begin what was shown. A plan is begun once.

        Raises:
            RefusedError: when it is not known any more, is empty, or another redrive is under way.

        """
        planned = self._plans.pop(name, None)
        if planned is None:
            raise RefusedError("that plan was begun already, or is not known any more: plan it again")
        return await self._redrive(planned, who)

    async def resume(self, settings: Settings, operation: Operation, who: Operator) -> dict[str, Any]:
        """Go on with an operation that was stopped, failed or broke off: the same is planned again, and begun.

        Args:
            settings: to plan with.
            operation: which one.
            who: who goes on, and why.

        Raises:
            RefusedError: when it runs, is done, is of a verb that cannot, is not safe now, or nothing is left of it.
            CatalogueError, NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when it cannot be planned.

        """
        if operation.status in {OperationStatus.RUNNING, OperationStatus.DONE}:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to go on with")
        stop = asyncio.Event()
        match operation.verb:
            case redrive.VERB:
                selection, options = redrive_of(operation)
                plan = await plan_redrive(settings, selection, options)
                return await self._redrive(Planned(selection, options, plan), who)
            case reemit_plan.VERB:
                running = await self._reemission(settings, operation, who, stop)
            case rewind_target.VERB:
                running = await self._rewind(settings, operation, who, stop)
            case verb if verb in RERUNS:
                asked = rerun_of(settings, operation)
                running = self._rerun(asked, await plan_rebuild(settings, asked), who, stop)
            case verb:
                raise RefusedError(f"a {verb} is not gone on with from here: see `inmail replay --help`")
        return await self._begin(operation.verb, who, stop, running)

    async def _reemission(
        self, settings: Settings, operation: Operation, who: Operator, stop: asyncio.Event
    ) -> _VerbRun:
        rows, to, rate = reemission_of(operation)
        plan = await reemit_plan.plan_reemit(settings, rows, to, rate)
        if not plan.count:
            raise RefusedError("nothing is left to be sent")
        return reemit.reemit(self.settings, rows, plan, who=who, stop=stop)

    async def _rewind(self, settings: Settings, operation: Operation, who: Operator, stop: asyncio.Event) -> _VerbRun:
        worker, target, options = rewind_of(operation)
        plan = await plan_rewind(settings, worker, target, options)
        if plan.refusal is not None:
            raise RefusedError(plan.refusal)
        if not plan.moves:
            raise RefusedError("the group stands there, or before it: there is nothing to set")
        return rewind(self.settings, target, options, plan, who=who, stop=stop, drain_seconds=_DRAIN_SECONDS)

    async def _rerun(
        self, asked: RebuildRequest, plan: RebuildPlan, who: Operator, stop: asyncio.Event
    ) -> OngoingOperation:
        running, _ = await rebuild(self.settings, asked, plan, who=who, stop=stop)
        return running

    async def _redrive(self, planned: Planned, who: Operator) -> dict[str, Any]:
        if not planned.plan.count:
            raise RefusedError("there is nothing to send")
        stop = asyncio.Event()
        running = redrive.redrive(self.settings, *planned, who=who, stop=stop)
        return await self._begin(redrive.VERB, who, stop, running)

    async def _begin(self, verb: str, who: Operator, stop: asyncio.Event, running: _VerbRun) -> dict[str, Any]:
        if verb in self._jobs:
            running.close()
            raise RefusedError(f"another {verb} is under way here: wait for it, or stop it")
        task = asyncio.create_task(running)
        self._jobs[verb] = _RunningVerb(who, stop, task)
        task.add_done_callback(lambda done: self._ended(verb, done))
        await asyncio.wait([task], timeout=_BEGIN_SECONDS)
        if not task.done():
            return {"verb": verb, "operation": None, "running": True}
        done = task.result()
        return {"verb": verb, "operation": done.number, "running": False, "result": done.result}

    def _ended(self, verb: str, task: "asyncio.Task[OngoingOperation]") -> None:
        del self._jobs[verb]
        if not task.cancelled() and (error := task.exception()) is not None:
            log = structlog.get_logger("inmail.console")
            log.warning("operation_failed", verb=verb, error=repr(error), known=isinstance(error, KNOWN))

    def may_resume(self, operation: Operation) -> bool:
        """Tell whether the record of an operation says all that it takes to go on with it from here."""
        if operation.status not in {OperationStatus.STOPPED, OperationStatus.FAILED, OperationStatus.BROKEN_OFF}:
            return False
        try:
            match operation.verb:
                case redrive.VERB:
                    redrive_of(operation)
                case reemit_plan.VERB:
                    reemission_of(operation)
                case rewind_target.VERB:
                    rewind_of(operation)
                    return not operation.result.get("set")
                case verb if verb in RERUNS:
                    rerun_of(self.settings, operation)
                case _:
                    return False
        except (RefusedError, OSError):
            return False
        return True

    def may_stop(self, operation: Operation) -> bool:
        """Tell whether an operation runs in this process."""
        job = self._jobs.get(operation.verb)
        same = job is not None and (job.who.actor, job.who.reason) == (operation.actor, operation.reason)
        return same and operation.status == OperationStatus.RUNNING

    def stop(self, operation: Operation) -> None:
        """Ask an operation to stop: it ends between two messages.

        Raises:
            RefusedError: when it does not run, or in another process.

        """
        if operation.status != OperationStatus.RUNNING:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to stop")
        if not self.may_stop(operation):
            raise RefusedError("it runs in another process: stop it there, with Ctrl-C or SIGTERM")
        self._jobs[operation.verb].stop.set()

    async def close(self) -> None:
        """Stop what runs, and wait until that is on record."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.stop.set()
        await asyncio.gather(*(job.task for job in jobs), return_exceptions=True)
