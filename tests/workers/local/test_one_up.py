"""The life of one `inmail up`, test after test: what it prints, the README's block, a killed worker, its end."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple
from urllib.request import urlopen

import psutil
import pytest

from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.workers.local.readme_blocks import ANSWERS, BESIDE_UP, read_answers, run_block
from tests.workers.local.running_up import READY, SECONDS, ask, outside_variables, read_to, start_up, wait_for_end
from workers.commands.running import Exit
from workers.console.local_workers import ProcessState, WorkerAction
from workers.local.control import LIST
from workers.local.processes import WORKERS
from workers.ops.topics.record_lines import parse_line


class _Up(NamedTuple):
    """The process, where its data is, and what it said as it began."""

    process: "subprocess.Popen[str]"
    data: Path
    said: str


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Up]:
    """One `inmail up` for the tests of this file, which come in their order."""
    data = tmp_path_factory.mktemp("up") / "data"
    with start_up(data) as process:
        try:
            yield _Up(process, data, read_to(process, READY))
        finally:
            process.kill()


def _scrape(addresses: dict[str, str]) -> dict[str, bool]:
    """Return, for each worker, whether it serves its metrics within a minute."""

    def serves(address: str) -> bool:
        deadline = monotonic() + SECONDS
        while monotonic() < deadline:
            with suppress(OSError), urlopen(address, timeout=5) as answer:  # noqa: S310 - on the loopback
                return b"# TYPE inmail_" in answer.read()
            sleep(0.1)
        return False

    return {name: serves(address) for name, address in addresses.items()}


def _servers(process: "subprocess.Popen[str]") -> set[int]:
    """Return the process ids of the broker and of the database server."""
    children = psutil.Process(process.pid).children(recursive=True)
    found = {each.pid for each in children if "kafka.Kafka" in each.cmdline() or each.name() == "postgres"}
    return {pid for pid in found if psutil.Process(pid).ppid() not in found}


def test_up_prints_how_to_use_it(up: _Up) -> None:
    """The output has addresses to export, lines to publish, the command to call and where each worker is scraped."""
    found = re.findall(r"(http://127\.0\.0\.1:\d+/metrics) \((\w+)\)", up.said)

    assert dict.fromkeys(WORKERS, True) == _scrape(dict(reversed(each) for each in found))
    lines = re.findall(r"^  (echo .*) \| \S.* publish -$", up.said, re.MULTILINE)
    assert [BILLING_EVENTS, SEND_REQUESTS] == [parse_line(shlex.split(line)[1].encode()).topic for line in lines]
    (servers,) = re.findall(r"^Kafka +(\S+)$", up.said, re.MULTILINE)
    assert re.search(r"^  source \S+/data/env$", up.said, re.MULTILINE)
    assert re.search(r"^  inmail results --account alice$|-m workers.cli results", up.said, re.MULTILINE)
    assert f"kcat -P -b {servers} -t inmail.send-requests -K: -X partitioner=murmur2_random\n" in up.said


def test_the_readme_s_block_beside_up_leads_to_the_first_charged_send(up: _Up, tmp_path: Path) -> None:
    """What a newcomer pastes into a second terminal: ten credits, one message, nine left."""
    (tmp_path / ".inmail").symlink_to(up.data)  # where `make up` has it
    with run_block(BESIDE_UP, tmp_path, outside_variables()) as process:
        said = read_answers(process)

    assert [] == [each for each in ANSWERS if each not in said], said


def test_a_killed_worker_is_started_again_beside_servers_that_stay(up: _Up) -> None:
    """By `kill -9`: one sentence and its log are told, another process takes its place, the console still serves."""
    (console,) = re.findall(r"^Console +(\S+)", up.said, re.MULTILINE)
    before = ask(up.data, LIST)
    servers = _servers(up.process)
    os.kill(int(str(before["send"]["pid"])), signal.SIGKILL)

    told = read_to(up.process, "send: started again")
    after = ask(up.data, LIST)

    log = up.data / "logs" / "send.log"
    assert told.startswith(f"send: it was ended by SIGKILL; it is started again in 1 s. Its log: {log}\n")
    assert ProcessState.RUNNING == after["send"]["state"]
    assert before["send"]["pid"] != after["send"]["pid"]
    assert [before[name]["pid"] for name in WORKERS[1:]] == [after[name]["pid"] for name in WORKERS[1:]]
    assert 2 == len(servers)
    assert servers == _servers(up.process)
    with urlopen(f"{console}/api/overview", timeout=10) as answer:  # noqa: S310 - on the loopback
        assert answer.status == 200


def test_a_worker_is_stopped_by_a_verb_that_says_how_to_start_it(up: _Up) -> None:
    """With the data directory that leads to this `inmail up`."""
    stopped = ask(up.data, WorkerAction.STOP, "ticker")["ticker"]

    assert f"`inmail workers start ticker --data {up.data}`" == stopped["do"]
    assert ProcessState.STOPPED == ask(up.data, LIST)["ticker"]["state"]


def test_ctrl_c_drains_the_workers_and_ends_all(up: _Up) -> None:
    """Nothing is left of it but its data: no process, and no file that names addresses."""
    children = psutil.Process(up.process.pid).children(recursive=True)
    up.process.send_signal(signal.SIGINT)
    code, rest, _ = wait_for_end(up.process)

    assert (Exit.DONE, "\ndraining the workers ...\nall drained\nstopped\n") == (code, rest)
    assert not (up.data / "env").exists()
    assert not any(child.is_running() for child in children)
