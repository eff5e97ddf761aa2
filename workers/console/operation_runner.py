"""Operations that run in the console's process: redrives and replays, which the page can start, stop and continue.

The table of operations records them. This module keeps only the plans and the tasks.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import structlog

from infra.settings import Settings
from workers.console.problems import KNOWN
from workers.console.resumption import REBUILD_VERBS, parse_rebuild, parse_redrive, parse_reemit, parse_rewind
from workers.ops.books.shards import naming_server
from workers.ops.dead_letters import redrive
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import REFUSALS, RedriveOptions, RedrivePlan, plan_redrive
from workers.ops.operations import OngoingOperation, Operation, OperationStatus, Operator, RefusedError
from workers.ops.replay import reemit, reemit_plan, rewind_target
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_servers import ServerRebuild, plan_each_server
from workers.ops.replay.rewind import rewind
from workers.ops.replay.rewind_plan import plan_rewind
from workers.rights import check_rights

__all__ = ["OperationRunner"]

_DRAIN_SECONDS: Final = 300.0  # the command's own limit for workers to end
_MAX_PLANS: Final = 50
_START_SECONDS: Final = 1.0  # by then an operation has been refused, or recorded
# The row of the table of rights that an operation's command asks for before it begins, by verb.
_RIGHTS_OF: Final = {
    redrive.VERB: "dead-letters redrive",
    reemit_plan.VERB: "replay reemit",
    rewind_target.VERB: "replay rewind",
}


class PlannedRedrive(NamedTuple):
    """A planned redrive that has not started."""

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
    """The redrive plans that were shown, and the running operations."""

    settings: Settings
    _plans: "OrderedDict[str, PlannedRedrive]" = field(default_factory=OrderedDict)
    _running: dict[str, _RunningOperation] = field(
        default_factory=dict
    )  # by verb: one operation of a verb runs at a time

    async def plan(self, settings: Settings, selection: LetterFilter, options: RedriveOptions) -> dict[str, Any]:
        """Return the plan of a redrive, for JSON: its name, what is not sent and why, and servers that did not answer.

        Raises:
            NotSetUpError, CatalogueError, KafkaError, OSError, asyncpg.PostgresError: as `plan_redrive` does.

        """
        plan = await plan_redrive(settings, selection, options)
        name = secrets.token_urlsafe(16)
        self._plans[name] = PlannedRedrive(selection, options, plan)
        while len(self._plans) > _MAX_PLANS:
            self._plans.popitem(last=False)
        more = {
            "refusals": {why: REFUSALS[why] for why in plan.refused},
            "silent_servers": [str(each) for each in plan.silent],
        }
        return {"plan": name, **plan.summary(), **more}

    async def redrive(self, name: str, operator: Operator) -> dict[str, Any]:
        """Start a planned redrive and return its operation, for JSON. A plan starts once.

        Raises:
            RefusedError: when the plan is unknown or empty, or another redrive is running; after the latter the plan
                can be started as before.
            MissingRightsError: when the console's user lacks rights on Kafka; the plan can be started then as before.
            KafkaError: when the cluster cannot be asked for them.

        """
        await check_rights(self.settings, _RIGHTS_OF[redrive.VERB])
        if name not in self._plans:
            raise RefusedError("this plan was started already, or has been discarded: plan again")
        if redrive.VERB in self._running:
            raise _busy(redrive.VERB)
        planned = self._plans.pop(name)
        return await self._start_redrive(planned, operator)

    async def resume(self, settings: Settings, operation: Operation, operator: Operator) -> dict[str, Any]:
        """Plan an operation that was stopped, failed or broke off again, and start it.

        Args:
            settings: the settings to plan with.
            operation: the operation to continue.
            operator: who continues, and why.

        Raises:
            RefusedError: when the operation runs, is done, has a verb that cannot continue here, is not safe now, or
                has nothing left to do.
            MissingRightsError: when the console's user lacks rights on Kafka.
            CatalogueError, NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when planning fails.

        """
        if operation.status in {OperationStatus.RUNNING, OperationStatus.DONE}:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to continue")
        if operation.verb in _RIGHTS_OF:
            await check_rights(settings, _RIGHTS_OF[operation.verb])
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
                run = self._run_rebuilds(await plan_each_server(settings, request), operator, stop)
            case verb:
                raise RefusedError(f"the console cannot continue a {verb}: see `inmail replay --help`")
        return await self._start(operation.verb, operator, stop, run)

    async def _prepare_reemit(
        self, settings: Settings, operation: Operation, operator: Operator, stop: asyncio.Event
    ) -> _OperationRun:
        rows, to, rate = parse_reemit(operation)
        plan = await reemit_plan.plan_reemit(settings, rows, to, rate)
        if plan.resumes != operation.operation:
            raise RefusedError(
                f"operation {operation.operation} cannot go on from where it ended: a later one of the same arguments"
                " did, or sent everything, or the topic was created again. `inmail replay reemit --dry-run` says what"
                " the same command would send now"
            )
        if not plan.count:
            raise RefusedError("nothing is left to send")
        return reemit.reemit(self.settings, rows, plan, who=operator, stop=stop)

    async def _prepare_rewind(
        self, settings: Settings, operation: Operation, operator: Operator, stop: asyncio.Event
    ) -> _OperationRun:
        worker, target, options = parse_rewind(operation)
        plan = await plan_rewind(settings, worker, target, options)
        if plan.refusal is not None:
            raise RefusedError(plan.refusal)
        if not plan.moves:
            raise RefusedError("the group is already at or before the target: there is nothing to set")
        return rewind(self.settings, target, options, plan, who=operator, stop=stop, drain_seconds=_DRAIN_SECONDS)

    async def _run_rebuilds(
        self, rebuilds: Sequence[ServerRebuild], operator: Operator, stop: asyncio.Event
    ) -> OngoingOperation:
        """Rebuild one server after the other, as the command does, until a stop; return the last one's operation."""
        for each in rebuilds:
            # The plan was made with a page's limits of time.
            server = self.settings.model_copy(update={"database_url": each.server.database_url})
            with naming_server(server):
                running, _ = await rebuild(
                    server, each.request, each.plan, who=operator, stop=stop, noted_on=self.settings
                )
            if running.stopped:
                break
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
            raise _busy(verb)
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
        """Return whether the console can continue an operation from its record."""
        if operation.status not in {OperationStatus.STOPPED, OperationStatus.FAILED, OperationStatus.BROKEN_OFF}:
            return False
        try:
            match operation.verb:
                case redrive.VERB:
                    _, options = parse_redrive(operation)
                    return not options.again and options.limit is None  # it would begin, or count, anew
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
        """Return whether an operation runs in this process."""
        running = self._running.get(operation.verb)
        same = running is not None and (running.operator.actor, running.operator.reason) == (
            operation.actor,
            operation.reason,
        )
        return same and operation.status == OperationStatus.RUNNING

    def stop(self, operation: Operation) -> None:
        """Request a stop; the operation ends between two messages.

        Raises:
            RefusedError: when the operation is not running, or runs in another process.

        """
        if operation.status != OperationStatus.RUNNING:
            raise RefusedError(f"operation {operation.operation} is {operation.status}: there is nothing to stop")
        if not self.can_stop(operation):
            raise RefusedError("the operation runs in another process: stop it there, with Ctrl-C or SIGTERM")
        self._running[operation.verb].stop.set()

    async def close(self) -> None:
        """Stop all running operations, and wait until they are recorded as stopped."""
        operations = list(self._running.values())
        for running in operations:
            running.stop.set()
        await asyncio.gather(*(running.task for running in operations), return_exceptions=True)


def _busy(verb: str) -> RefusedError:
    return RefusedError(f"another {verb} is running here: wait for it, or stop it")
