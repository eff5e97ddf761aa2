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
from workers.console.resumption import REBUILD_VERBS, parse_rebuild, parse_redrive, parse_reemit, parse_rewind
from workers.ops.dead_letters import redrive
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveOptions, RedrivePlan, plan_redrive
from workers.ops.operations import OngoingOperation, Operation, OperationStatus, Operator, RefusedError
from workers.ops.replay import reemit, reemit_plan, rewind_target
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildPlan, RebuildRequest, plan_rebuild
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import plan_rewind

__all__ = ["OperationRunner"]

_DRAIN_SECONDS: Final = 300.0  # as the command waits for workers to end
_MAX_PLANS: Final = 50
_START_SECONDS: Final = 1.0  # what is refused is refused by then; what is not is on record


class PlannedRedrive(NamedTuple):
    """A redrive that was shown and not begun."""

    selection: LetterFilter
    options: RedriveOptions
    plan: RedrivePlan


_OperationRun = Coroutine[Any, Any, OngoingOperation]


@dataclass(slots=True)
class _RunningOperation:
    operator: Operator
    stop: asyncio.Event
    task: "asyncio.Task[OngoingOperation]"


@dataclass(slots=True)
class OperationRunner:
    """The plans that were shown, and what runs."""

    settings: Settings
    _plans: "OrderedDict[str, PlannedRedrive]" = field(default_factory=OrderedDict)
    _running: dict[str, _RunningOperation] = field(default_factory=dict)  # by verb, of which one runs at a time

    async def plan(self, settings: Settings, selection: LetterFilter, options: RedriveOptions) -> dict[str, Any]:
        """Return what a redrive would do, for JSON, with the name by which it is begun.

        Raises:
            NotSetUpError, CatalogueError, KafkaError, OSError, asyncpg.PostgresError: as `plan_redrive` does.

        """
        plan = await plan_redrive(settings, selection, options)
        name = secrets.token_urlsafe(16)
        self._plans[name] = PlannedRedrive(selection, options, plan)
        while len(self._plans) > _MAX_PLANS:
            self._plans.popitem(last=False)
        return {"plan": name, **plan.summary()}

    async def redrive(self, name: str, operator: Operator) -> dict[str, Any]:
        """Begin what was shown. A plan is begun once.

        Raises:
            RefusedError: when it is not known any more, is empty, or another redrive is under way.

        """
        planned = self._plans.pop(name, None)
        if planned is None:
            raise RefusedError("that plan was begun already, or is not known any more: plan it again")
        return await self._start_redrive(planned, operator)

    async def resume(self, settings: Settings, operation: Operation, operator: Operator) -> dict[str, Any]:
        """Go on with an operation that was stopped, failed or broke off: the same is planned again, and begun.

        Args:
            settings: to plan with.
            operation: which one.
            operator: who goes on, and why.

        Raises:
            RefusedError: when it runs, is done, is of a verb that cannot, is not safe now, or nothing is left of it.
            CatalogueError, NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when it cannot be planned.

        """
        if operation.status in {OperationStatus.RUNNING, OperationStatus.DONE}:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to go on with")
        stop = asyncio.Event()
        match operation.verb:
            case redrive.VERB:
                selection, options = parse_redrive(operation)
                plan = await plan_redrive(settings, selection, options)
                return await self._start_redrive(PlannedRedrive(selection, options, plan), operator)
            case reemit_plan.VERB:
                run = await self._prepare_reemit(settings, operation, operator, stop)
            case rewind_target.VERB:
                run = await self._prepare_rewind(settings, operation, operator, stop)
            case verb if verb in REBUILD_VERBS:
                request = parse_rebuild(settings, operation)
                run = self._run_rebuild(request, await plan_rebuild(settings, request), operator, stop)
            case verb:
                raise RefusedError(f"a {verb} is not gone on with from here: see `inmail replay --help`")
        return await self._start(operation.verb, operator, stop, run)

    async def _prepare_reemit(
        self, settings: Settings, operation: Operation, operator: Operator, stop: asyncio.Event
    ) -> _OperationRun:
        rows, to, rate = parse_reemit(operation)
        plan = await reemit_plan.plan_reemit(settings, rows, to, rate)
        if not plan.count:
            raise RefusedError("nothing is left to be sent")
        return reemit.reemit(self.settings, rows, plan, who=operator, stop=stop)

    async def _prepare_rewind(
        self, settings: Settings, operation: Operation, operator: Operator, stop: asyncio.Event
    ) -> _OperationRun:
        worker, target, options = parse_rewind(operation)
        plan = await plan_rewind(settings, worker, target, options)
        if plan.refusal is not None:
            raise RefusedError(plan.refusal)
        if not plan.moves:
            raise RefusedError("the group stands there, or before it: there is nothing to set")
        return rewind(self.settings, target, options, plan, who=operator, stop=stop, drain_seconds=_DRAIN_SECONDS)

    async def _run_rebuild(
        self, request: RebuildRequest, plan: RebuildPlan, operator: Operator, stop: asyncio.Event
    ) -> OngoingOperation:
        running, _ = await rebuild(self.settings, request, plan, who=operator, stop=stop)
        return running

    async def _start_redrive(self, planned: PlannedRedrive, operator: Operator) -> dict[str, Any]:
        if not planned.plan.count:
            raise RefusedError("there is nothing to send")
        stop = asyncio.Event()
        run = redrive.redrive(self.settings, *planned, who=operator, stop=stop)
        return await self._start(redrive.VERB, operator, stop, run)

    async def _start(self, verb: str, operator: Operator, stop: asyncio.Event, run: _OperationRun) -> dict[str, Any]:
        if verb in self._running:
            run.close()
            raise RefusedError(f"another {verb} is under way here: wait for it, or stop it")
        task = asyncio.create_task(run)
        self._running[verb] = _RunningOperation(operator, stop, task)
        task.add_done_callback(lambda done: self._finish(verb, done))
        await asyncio.wait([task], timeout=_START_SECONDS)
        if not task.done():
            return {"verb": verb, "operation": None, "running": True}
        done = task.result()
        return {"verb": verb, "operation": done.number, "running": False, "result": done.result}

    def _finish(self, verb: str, task: "asyncio.Task[OngoingOperation]") -> None:
        del self._running[verb]
        if not task.cancelled() and (error := task.exception()) is not None:
            log = structlog.get_logger("inmail.console")
            log.warning("operation_failed", verb=verb, error=repr(error), known=isinstance(error, KNOWN))

    def can_resume(self, operation: Operation) -> bool:
        """Tell whether the record of an operation says all that it takes to go on with it from here."""
        if operation.status not in {OperationStatus.STOPPED, OperationStatus.FAILED, OperationStatus.BROKEN_OFF}:
            return False
        try:
            match operation.verb:
                case redrive.VERB:
                    parse_redrive(operation)
                case reemit_plan.VERB:
                    parse_reemit(operation)
                case rewind_target.VERB:
                    parse_rewind(operation)
                    return not operation.result.get("set")
                case verb if verb in REBUILD_VERBS:
                    parse_rebuild(self.settings, operation)
                case _:
                    return False
        except (RefusedError, OSError):
            return False
        return True

    def can_stop(self, operation: Operation) -> bool:
        """Tell whether an operation runs in this process."""
        running = self._running.get(operation.verb)
        same = running is not None and (running.operator.actor, running.operator.reason) == (
            operation.actor,
            operation.reason,
        )
        return same and operation.status == OperationStatus.RUNNING

    def stop(self, operation: Operation) -> None:
        """Ask an operation to stop: it ends between two messages.

        Raises:
            RefusedError: when it does not run, or in another process.

        """
        if operation.status != OperationStatus.RUNNING:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to stop")
        if not self.can_stop(operation):
            raise RefusedError("it runs in another process: stop it there, with Ctrl-C or SIGTERM")
        self._running[operation.verb].stop.set()

    async def close(self) -> None:
        """Stop what runs, and wait until that is on record."""
        operations = list(self._running.values())
        for running in operations:
            running.stop.set()
        await asyncio.gather(*(running.task for running in operations), return_exceptions=True)
