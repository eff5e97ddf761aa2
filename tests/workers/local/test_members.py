"""Several members of one worker under `inmail up`: each has a part of its own in the console, beside their group's."""

from pathlib import Path

import pytest

from infra.clock import utc_now
from infra.settings import Settings
from workers.console.health import Probe, worker_health
from workers.console.local_workers import ProcessState, WorkerStatus, by_process, with_processes
from workers.local.processes import WorkerProcesses, member_names
from workers.local.supervision import WorkerSupervisor


def test_a_member_that_is_stopped_says_nothing_of_its_group(tmp_path: Path) -> None:
    """Where a worker has several, each process has a part of its own, with its probe; the group's part stays."""
    statuses = [
        WorkerStatus(name, state, utc_now(), tmp_path / f"{name}.log", pid=1, is_one_of_several=name != "ticker")
        for name, state in (("send", ProcessState.STOPPED), ("ticker", ProcessState.RUNNING))
    ] + [WorkerStatus("send-2", ProcessState.RUNNING, utc_now(), tmp_path / "l", pid=7, is_one_of_several=True)]
    ready, gone = Probe(ready=True, reasons=()), Probe(ready=False, reasons=("away",), answers=False)
    probes = by_process({"send": gone, "ticker": ready, "send-2": ready}, statuses)
    judged = [*worker_health([], probes)[:1], *worker_health([], probes)[3:]]

    group, *others = with_processes(judged, statuses)
    found = {part.name: part for part in others}

    assert judged[0] == group
    assert ("warning", "stopped", ("start",)) == (
        found["send process"].status, found["send process"].cause, found["send process"].actions,
    )  # fmt: skip
    assert "other members that run take its partitions" in found["send process"].text
    assert ("ok", ("stop", "restart")) == (found["send-2 process"].status, found["send-2 process"].actions)
    assert ("ok", ("stop", "restart")) == (found["ticker"].status, found["ticker"].actions)
    alone = with_processes(judged[:1], statuses)
    assert ["send worker", "send process", "send-2 process"] == [part.name for part in alone]


def test_members_are_known_as_such_by_who_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the ticker, of which there is one; none where each worker has one."""
    monkeypatch.setattr(WorkerProcesses, "start_one", lambda *_: 7)
    several = {}
    for count in (1, 2):
        workers = WorkerProcesses(Settings(), tmp_path, names=member_names(count))
        supervisor = WorkerSupervisor(workers, lambda _: None)
        supervisor.start()
        several[count] = {status.name for status in supervisor.statuses() if status.is_one_of_several}

    assert {1: set(), 2: set(member_names(2)) - {"ticker"}} == several
