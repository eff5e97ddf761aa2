"""What the console asks of the processes beside it, where it is served by the program that runs the workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Protocol

from workers.console.health import FAILED, OK, WARNING, Probe, SystemPart

__all__ = [
    "LET_THROUGH",
    "ControlError",
    "ProcessState",
    "WorkerAction",
    "WorkerControl",
    "WorkerStatus",
    "by_process",
    "with_processes",
]


class ProcessState(StrEnum):
    """How a worker's process stands."""

    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing off"  # it ended by itself, and is started again soon
    STOPPED = "stopped"  # by an operator, until an operator starts it
    TRIPPED = "tripped"  # the circuit breaker ended it: starting it again is an operator's decision


class WorkerAction(StrEnum):
    """What can be done with a worker's process."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"


class ControlError(Exception):
    """A worker's process cannot be told so. The message says why."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's process as it stands."""

    name: str
    state: ProcessState
    since: datetime
    log: Path
    pid: int | None = None
    error: str = ""  # what it ended of, in a sentence; empty where it never did
    restarts: int = 0  # in a row, by itself; 0 again once it has run for a minute
    starts_in_seconds: float | None = None  # while it backs off
    is_broker: bool = False  # of Kafka, where a cluster's are run here
    is_one_of_several: bool = False  # members of one worker: the others take over what it has
    is_database: bool = False  # of Postgres, where several servers are run here
    server: str = ""  # the Postgres server that it works with, where there are several
    data_option: str = ""  # at the end of `inmail workers`, where it needs one to reach who runs the process

    @property
    def is_own_part(self) -> bool:
        """Whether it is a part of the system beside its group: its process says nothing of the others."""
        return self.is_one_of_several or bool(self.server)

    @property
    def advice(self) -> str:
        """What to do, where somebody has to do something."""
        if self.state is ProcessState.TRIPPED:
            return (
                "see `inmail dead-letters list`, mend the producer or the plan catalogue, then `inmail workers start"
                f" {self.name}{self.data_option}`; to let the records through as dead letters, add `--let-through`"
            )
        if self.state is ProcessState.STOPPED:
            return f"`inmail workers start {self.name}{self.data_option}`"
        return ""

    @property
    def text(self) -> str:
        """How it stands, in a sentence."""
        match self.state:
            case ProcessState.TRIPPED:
                return f"its circuit breaker ended it, and it stays ended: {self.error}"
            case ProcessState.BACKING_OFF:
                return f"{self.error}; it is started again in {self.starts_in_seconds or 0:.0f} s"
            case ProcessState.STOPPED:
                return f"an operator stopped it; {self._meanwhile}"
            case ProcessState.STOPPING:
                if self.is_database:
                    return "it ends its sessions"
                return "it hands its partitions over" if self.is_broker else "it drains"
            case _:
                return f"it runs as process {self.pid}" + (f"; the one before: {self.error}" if self.error else "")

    @property
    def _meanwhile(self) -> str:
        if self.is_broker:
            return "the other brokers have its partitions"
        if self.is_database:
            return "what comes for its accounts waits, and the other servers go on"
        return "other members that run take its partitions" if self.is_one_of_several else "what comes waits"

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "name": self.name,
            "state": self.state,
            "since": self.since,
            "pid": self.pid,
            "error": self.error,
            "restarts": self.restarts,
            "starts_in_seconds": self.starts_in_seconds,
            "log": str(self.log),
            "do": self.advice,
            **({"server": self.server} if self.server else {}),
        }


class WorkerControl(Protocol):
    """Whoever runs the workers."""

    def statuses(self) -> Sequence[WorkerStatus]:
        """Return how each worker's process stands."""

    async def act(self, name: str, action: WorkerAction, *, let_through: bool = False) -> WorkerStatus:
        """Start, stop or restart a worker, and return how it stands then.

        Raises:
            ControlError: when there is no such worker, it stands so already, or the brokers would lose their majority.

        """


_CAUSES: Final[Mapping[ProcessState, tuple[str, str]]] = {
    ProcessState.STOPPING: (WARNING, "draining"),
    ProcessState.BACKING_OFF: (FAILED, "ended"),
    ProcessState.STOPPED: (WARNING, "stopped"),
    ProcessState.TRIPPED: (FAILED, "ended by the breaker"),
}
LET_THROUGH: Final = "let-through"  # a start that makes dead letters of all that cannot be decided
_ACTIONS: Final[Mapping[ProcessState, tuple[str, ...]]] = {
    ProcessState.RUNNING: (WorkerAction.STOP, WorkerAction.RESTART),
    ProcessState.STOPPING: (),
    ProcessState.BACKING_OFF: (WorkerAction.START, WorkerAction.STOP),
    ProcessState.STOPPED: (WorkerAction.START,),
    ProcessState.TRIPPED: (WorkerAction.START, LET_THROUGH),
}


def with_processes(parts: Sequence[SystemPart], statuses: Sequence[WorkerStatus]) -> list[SystemPart]:
    """Return parts of the system with what can be done with their processes, and a part for each server's process.

    So has each member of a worker that has several: how one of them stands says nothing of their group. A part whose
    process does not run has the reason of that as its cause.
    """
    found = {
        name: status
        for status in statuses
        for name in ((_process_name(status.name),) if status.is_own_part else (status.name, f"{status.name} worker"))
    }
    servers = [
        SystemPart(each.name, OK, "running", each.text) for each in statuses if each.is_broker or each.is_database
    ]
    there = {part.name for part in parts}
    members = [
        SystemPart(name, OK, "running", status.text)
        for name, status in found.items()
        if status.is_own_part and name not in there
    ]
    return [
        _with_process(part, found[part.name]) if part.name in found else part for part in (*servers, *parts, *members)
    ]


def by_process(probes: Mapping[str, Probe], statuses: Sequence[WorkerStatus]) -> dict[str, Probe]:
    """Return probes by the names of the parts that they judge: that of one of several processes is not its group's."""
    members = {status.name for status in statuses if status.is_own_part}
    return {_process_name(name) if name in members else name: probe for name, probe in probes.items()}


def _process_name(member: str) -> str:
    return f"{member} process"


def _with_process(part: SystemPart, status: WorkerStatus) -> SystemPart:
    actions = _ACTIONS[status.state]
    if status.state not in _CAUSES:
        return replace(part, actions=actions)
    kind, cause = _CAUSES[status.state]
    again_and_again = status.state is ProcessState.BACKING_OFF
    do = f"look at {status.log} where it ends again and again" if again_and_again else status.advice
    return SystemPart(part.name, kind, cause, f"{status.text}; its log: {status.log}", do, actions=actions)
