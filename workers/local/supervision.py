"""Keeps the workers of `inmail up` running: one that ends is started again, and never takes the rest with it.

The same for the brokers of a cluster and for Postgres servers, where there are several.

The wait before a start doubles with each end in a row. A worker that its circuit breaker ended stays ended: the same
records would end it again, and whether they may become dead letters is an operator's decision.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from infra.clock import utc_now
from infra.local.errors import LocalStackError
from workers.commands.running import Exit
from workers.console.local_workers import ControlError, ProcessState, WorkerAction, WorkerStatus
from workers.local.processes import WorkerProcesses, server_of, server_title, worker_of
from workers.local.servers import ServerProcesses

__all__ = ["WorkerSupervisor"]

_LEAST_SECONDS: Final = 1.0
_MOST_SECONDS: Final = 60.0  # between an end and the next start
_LET_THROUGH: Final = {"INMAIL_DEAD_LETTER_SHARE": "1"}
_ENDING: Final = "this inmail up is ending, and stops all that it runs"
_DOWN: Final = (ProcessState.STOPPED, ProcessState.TRIPPED, ProcessState.BACKING_OFF)


class _Processes(Protocol):
    """Processes of one sort, by name."""

    def log_path(self, name: str) -> Path: ...

    def start_one(self, name: str, more: Mapping[str, str]) -> int: ...

    def stop_one(self, name: str) -> int: ...

    def exit_code(self, name: str) -> int | None: ...

    def last_words(self, name: str, begun_at: int, code: int) -> str: ...

    def forget(self, name: str) -> None: ...


@dataclass(slots=True)
class _Supervised:
    """One process, and what became of it."""

    status: WorkerStatus
    of: _Processes
    more: dict[str, str] = field(default_factory=dict)  # variables beside those of all workers
    log_from: int = 0  # where in its log the lines of this process begin
    started_at: float = 0.0
    start_at: float = 0.0  # while it backs off
    is_awaited: bool = False  # a server that was started and does not answer yet


class WorkerSupervisor:
    """The workers, watched. `look` has to be called a few times a second; nothing here blocks for longer than a moment.

    Args:
        workers: the processes.
        say: is told, in a line, each end and each start after one.
        least_seconds: the wait after the first end.
        servers: which run already, and are watched too.
        data_option: at the end of each `inmail workers` that is advised.

    """

    def __init__(
        self,
        workers: WorkerProcesses,
        say: Callable[[str], None],
        least_seconds: float = _LEAST_SECONDS,
        servers: Sequence[ServerProcesses] = (),
        data_option: str = "",
    ) -> None:
        self._workers = workers
        self._servers = servers
        self._say = say
        self._least_seconds = least_seconds
        self._data_option = data_option
        self._all: dict[str, _Supervised] = {}
        self._is_ending = False

    def start(self) -> None:
        """Start all workers."""
        for name in self._workers.names:
            status = WorkerStatus(
                name,
                ProcessState.STOPPED,
                utc_now(),
                self._workers.log_path(name),
                is_one_of_several=sum(_group_of(each) == _group_of(name) for each in self._workers.names) > 1,
                server=server_title(name),
                data_option=self._data_option,
            )
            self._all[name] = _Supervised(status, self._workers)
            self._start(self._all[name])
        for servers in self._servers:
            for status in servers.statuses():
                self._all[status.name] = _Supervised(replace(status, data_option=self._data_option), servers)

    async def stop(self, seconds: float | None = None) -> dict[str, int]:
        """Stop all workers for good and return their exit codes: what drains for a restart meanwhile stays ended.

        Args:
            seconds: the time limit for all workers together; by default, the longest time that draining may take.

        """
        self._is_ending = True
        return await asyncio.to_thread(self._workers.stop, seconds)

    def statuses(self) -> list[WorkerStatus]:
        """Return how each worker's process stands."""
        now = monotonic()
        return [
            replace(each.status, starts_in_seconds=max(0.0, each.start_at - now))
            if each.status.state is ProcessState.BACKING_OFF
            else each.status
            for each in self._all.values()
        ]

    def look(self) -> None:
        """Notice workers that have ended, and start those whose wait is over."""
        for each in self._all.values():
            if each.status.state is ProcessState.RUNNING:
                if each.status.restarts and monotonic() - each.started_at > _MOST_SECONDS:
                    each.status = replace(each.status, restarts=0)  # it has come up: an end is not one more of the same
                code = each.of.exit_code(each.status.name)
                if code is not None:
                    self._note_end(each, code)
                elif each.is_awaited:
                    self._note_answer(each)
            elif each.status.state is ProcessState.BACKING_OFF and monotonic() >= each.start_at and self._start(each):
                self._say(f"{each.status.name}: started again, as process {each.status.pid}")

    async def act(self, name: str, action: WorkerAction, *, let_through: bool = False) -> WorkerStatus:
        """Start, stop or restart a worker, and return how it stands then. A stop waits until the worker has drained.

        Args:
            name: the worker.
            action: what to do.
            let_through: whether the process that is started makes dead letters of all that cannot be decided, however
                many that are. Holds until an operator starts the worker again.

        Raises:
            ControlError: when there is no such worker, it stands so already, the brokers would lose their majority, or
                all workers are being stopped.

        """
        if self._is_ending:
            raise ControlError(_ENDING)
        each = self._all.get(name)
        if each is None:
            raise ControlError(f"there is no worker {name}: there are {', '.join(self._all)}")
        if each.status.state is ProcessState.STOPPING:
            raise ControlError(f"{name} is draining: wait for its end")
        if action is WorkerAction.START and each.status.state is ProcessState.RUNNING:
            raise ControlError(f"{name} runs already, as process {each.status.pid}")
        if action is WorkerAction.STOP and each.status.state is ProcessState.STOPPED:
            raise ControlError(f"{name} is stopped already")
        if action is WorkerAction.STOP or (action is WorkerAction.RESTART and each.status.state not in _DOWN):
            self._check_majority(each.status)
        if action is not WorkerAction.START and each.status.state not in _DOWN:
            await self._drain(each)
            if self._is_ending:
                self._become(each, ProcessState.STOPPED)
                raise ControlError(_ENDING)
        if action is WorkerAction.STOP:
            self._become(each, ProcessState.STOPPED)
        else:
            each.more = dict(_LET_THROUGH) if let_through else {}
            each.status = replace(each.status, restarts=0, error="")
            self._start(each)
        return each.status

    def _check_majority(self, status: WorkerStatus) -> None:
        """Check that most brokers answer without one: without a majority of them nothing can be read or written.

        A broker whose process was only just started does not answer yet, and is no part of a majority.

        Raises:
            ControlError: when they would not.

        """
        if not status.is_broker:
            return
        brokers = [each for each in self._all.values() if each.status.is_broker]
        others = [each for each in brokers if each.status.name != status.name]
        running = [each for each in others if each.status.state is ProcessState.RUNNING]
        for each in running:
            if each.is_awaited:
                self._note_answer(each)
        starting = [each.status.name for each in running if each.is_awaited]
        answering = len(running) - len(starting)
        if answering * 2 <= len(brokers):
            down = [each.status.name for each in others if each not in running]
            to_do = [f"start {' and '.join(down)} first"] if down else []
            to_do += [f"wait for {' and '.join(starting)} to answer (starts still)"] if starting else []
            raise ControlError(
                f"without {status.name} only {answering} of {len(brokers)} brokers would run, which is no majority, and"
                f" Kafka would stand still: {', and '.join(to_do)}"
            )

    async def _drain(self, each: _Supervised) -> None:
        name = each.status.name
        self._become(each, ProcessState.STOPPING)
        code = await asyncio.to_thread(each.of.stop_one, name)
        each.of.forget(name)
        if code:
            self._say(f"{name}: did not drain: {self._words(each, code)}. Its log: {each.status.log}")

    def _start(self, each: _Supervised) -> bool:
        """Start a worker; tell whether it runs."""
        name = each.status.name
        each.log_from = each.status.log.stat().st_size if each.status.log.exists() else 0
        each.started_at = monotonic()
        try:
            pid = each.of.start_one(name, each.more)
        except (OSError, LocalStackError) as error:  # no memory, no room, no more processes: it may pass
            reason = error.strerror if isinstance(error, OSError) else None
            self._back_off(each, f"it could not be started: {reason or error}")
            return False
        self._become(each, ProcessState.RUNNING, pid=pid)
        each.is_awaited = isinstance(each.of, ServerProcesses)
        return True

    def _note_answer(self, each: _Supervised) -> None:
        name = each.status.name
        if isinstance(each.of, ServerProcesses) and each.of.answers(name, each.log_from):
            each.is_awaited = False
            self._say(f"{name}: answers again, {monotonic() - each.started_at:.0f} s after its start")

    def _note_end(self, each: _Supervised, code: int) -> None:
        words = self._words(each, code)
        each.of.forget(each.status.name)
        if code == Exit.UNDECIDABLE and each.of is self._workers:
            self._become(each, ProcessState.TRIPPED, error=words)
            status = each.status
            self._say(f"{status.name}: {status.text}. Its log: {status.log}. To do: {status.advice}")
            return
        self._back_off(each, words)

    def _back_off(self, each: _Supervised, error: str) -> None:
        seconds = min(_MOST_SECONDS, self._least_seconds * 2.0 ** min(each.status.restarts, 10))
        each.start_at = monotonic() + seconds
        self._become(each, ProcessState.BACKING_OFF, error=error, restarts=each.status.restarts + 1)
        self._say(f"{each.status.name}: {error}; it is started again in {seconds:.0f} s. Its log: {each.status.log}")

    def _words(self, each: _Supervised, code: int) -> str:
        return each.of.last_words(each.status.name, each.log_from, code)

    @staticmethod
    def _become(
        each: _Supervised, state: ProcessState, *, pid: int | None = None, error: str = "", restarts: int | None = None
    ) -> None:
        now: datetime = utc_now()
        count = each.status.restarts if restarts is None else restarts
        error = error or each.status.error
        each.status = replace(each.status, state=state, since=now, pid=pid, error=error, restarts=count)


def _group_of(name: str) -> tuple[str, int | None]:
    """Return which worker a member is, and of which server: those of one take over from each other."""
    return worker_of(name), server_of(name)
