"""Several Postgres servers of `inmail up`: their numbers, their workers, and how one that ends comes back."""

import json
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from pydantic import SecretStr

from infra.local.directories import PORTS, claim_data, kept_databases
from infra.local.errors import DataDirectoryError
from infra.local.stack import LocalStack
from infra.local.stack_setup import Options, _reserve
from infra.local.supervisor_client import Child, Program
from infra.settings import Settings
from infra.shards import Shard, number_ranges, read_shard, settings_of_shards
from tests.conftest import Connect
from tests.workers.local.test_brokers import _OPTIONS
from tests.workers.wire import eventually
from workers.console.local_workers import WorkerAction, with_processes
from workers.local.processes import WorkerProcesses, member_names, server_title
from workers.local.servers import database_processes
from workers.local.shards import prepare_shards
from workers.local.supervision import WorkerSupervisor
from workers.local.up import stack_settings

_VERSIONS = {"kafka": "4", "postgres": "18"}
_URLS = ["postgresql://127.0.0.1:1/inmail", "postgresql://127.0.0.1:2/inmail"]


class _Stack:
    """Two Postgres servers that are no processes."""

    brokers = 1
    databases = 2
    kafka_bootstrap_servers = "127.0.0.1:1"
    database_url = _URLS[0]
    database_urls = _URLS

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children = {number: self._child(number, 100 + number) for number in (1, 2)}

    def _child(self, number: int, pid: int) -> Child:
        return Child(Program(f"Postgres {number}", [], {}, self.database_log(number), stop=2, death=3), pid)

    def database(self, number: int) -> Child:
        return self._children[number]

    def database_log(self, number: int) -> Path:
        return self._logs / f"postgres-{number}.log"

    def spawn_database(self, number: int) -> None:
        self._children[number] = self._child(number, self._children[number].pid + 100)

    def stop_database(self, number: int) -> int:
        self._children[number].update(code=0)
        return 0


@pytest.fixture
def pair(tmp_path: Path) -> _Stack:
    """A stack that starts nothing."""
    return _Stack(tmp_path)


async def _two_servers(settings: Settings, other_books: Callable[[], Awaitable[Settings]]) -> Settings:
    """Return settings of two migrated and empty databases, of which nothing was prepared."""
    urls = [each.database_url.get_secret_value() for each in (settings, await other_books())]
    return settings.model_copy(update={"database_shards": SecretStr(" ".join(urls))})


async def _shards(settings: Settings, connect: Connect) -> list[Shard]:
    return [await read_shard(await connect(each)) for each in settings_of_shards(settings)]


def _held(shards: list[Shard]) -> list[list[int]]:
    return [[number for number in range(4) if shard.holds(number)] for shard in shards]


async def test_a_new_server_becomes_one_of_the_books_and_gets_its_share(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """The numbers of empty books are spread in ranges, its keys begin at 2^40, and a second start changes nothing."""
    both = await _two_servers(settings, other_books)

    told = await prepare_shards(both)
    shards = await _shards(both, connect)
    again = await prepare_shards(both)

    assert [[0, 1], [2, 3]] == _held(shards) == _held(await _shards(both, connect))
    assert told == again
    assert [True, True] == [
        line.endswith(f" holds partitions {share}") for line, share in zip(told, ("0-1", "2-3"), strict=True)
    ]
    assert ([0, 1], {shards[1].shard_id}) == (
        [shard.ordinal for shard in shards], {shards[0].numbers[number].other_shard for number in (2, 3)},
    )  # fmt: skip
    second = await connect(settings_of_shards(both)[1])
    assert 4 == await second.fetchval("select partitions from partitioning")
    account = "insert into accounts (account_id, partition) values ('a', 0) returning account"
    assert 2**40 == await second.fetchval(account)


async def test_books_that_are_not_empty_stay_where_they_are(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """A server that comes later holds nothing before numbers are moved to it, and the line says how."""
    both = await _two_servers(settings, other_books)
    first = await connect(settings)
    await first.execute("insert into accounts (account_id, partition) values ('a', 0)")

    told = await prepare_shards(both)

    assert [[0, 1, 2, 3], []] == _held(await _shards(both, connect))
    assert "holds nothing: `inmail shards move NUMBERS --to postgresql://" in told[1]


async def test_a_start_that_ended_while_numbers_were_spread_is_made_good(
    settings: Settings, other_books: Callable[[], Awaitable[Settings]], connect: Connect
) -> None:
    """After a crash between the servers a number may have no server, and the next start gives it one."""
    both = await _two_servers(settings, other_books)
    await prepare_shards(both)
    await (await connect(settings_of_shards(both)[1])).execute("delete from shard_numbers")

    await prepare_shards(both)

    assert [[0, 1], [2, 3]] == _held(await _shards(both, connect))


def test_each_server_has_its_own_workers(tmp_path: Path) -> None:
    """As many of each as are asked for, and one ticker; each is given its own server's URL, and its name says which."""
    names = member_names(2, databases=2)
    settings = Settings(database_url=SecretStr(_URLS[0]), database_shards=SecretStr(" ".join(_URLS)))

    workers = WorkerProcesses(settings, tmp_path, names)

    assert 13 == len(set(names))
    assert {"send-pg1", "send-pg1-2", "send-pg2", "send-pg2-2", "ticker"} <= set(names)
    assert _URLS == [workers._databases[name] for name in ("expiry-pg1-2", "billing-pg2")]
    assert ["Postgres 2", "", ""] == [server_title(name) for name in ("send-pg2-2", "ticker", "send-2")]


async def test_a_server_that_ended_is_named_and_started_again(pair: _Stack) -> None:
    """The other stays as it is; an end by itself is told with the last error of its log."""
    told: list[str] = []
    workers = WorkerProcesses(Settings(), pair.database_log(1).parent, names=())
    supervisor = WorkerSupervisor(workers, told.append, 0.01, [database_processes(cast("LocalStack", pair))])
    supervisor.start()
    log = pair.database_log(2)
    log.write_text("2026-11-29 11:06:54 UTC [1] LOG:  ready\n2026-11-29 11:06:55 UTC [1] PANIC:  no room\n")
    pair.database(2).update(code=1)

    async def again() -> bool:
        supervisor.look()
        return len(told) == 2

    await eventually(again, "a server that was started again")

    ended = f"postgres-2: it ended with exit code 1: no room; it is started again in 0 s. Its log: {log}"
    assert [ended, "postgres-2: started again, as process 202"] == told
    supervisor.look()
    assert len(told) == 2  # it does not answer yet
    with log.open("a") as file:
        file.write("LOG:  database system is ready to accept connections\n")
    supervisor.look()
    supervisor.look()
    assert "postgres-2: answers again, 0 s after its start" == told.pop()
    assert len(told) == 2
    pair.database(1).update(code=-signal.SIGKILL)
    supervisor.look()
    assert told[2].startswith("postgres-1: it was ended by SIGKILL; it is started again in ")


async def test_a_server_is_stopped_by_a_verb_and_the_console_shows_it(
    pair: _Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each server and each worker's process is a part of its own; one that an operator stopped stays stopped."""
    monkeypatch.setattr(WorkerProcesses, "start_one", lambda *_: 7)
    settings = Settings(database_url=SecretStr(_URLS[0]), database_shards=SecretStr(" ".join(_URLS)))
    workers = WorkerProcesses(settings, pair.database_log(1).parent, member_names(1, databases=2))
    supervisor = WorkerSupervisor(workers, lambda _: None, 0.01, [database_processes(cast("LocalStack", pair))])
    supervisor.start()

    stopped = await supervisor.act("postgres-2", WorkerAction.STOP)
    parts = [part.name for part in with_processes([], supervisor.statuses())]
    worker = supervisor.statuses()[0]

    assert "an operator stopped it; what comes for its accounts waits, and the other servers go on" == stopped.text
    assert ["postgres-1", "postgres-2"] == parts[:2]
    assert len(parts) == len(set(parts))
    assert {"send-pg1 process", "send-pg2 process"} <= set(parts)
    assert ("Postgres 1", False) == (worker.summary()["server"], worker.is_one_of_several)


def test_settings_name_all_servers_and_one_server_leaves_them_as_they_were(
    pair: _Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another stack's servers in the environment do not count for this one."""
    assert _URLS == stack_settings(cast("LocalStack", pair)).database_shards.get_secret_value().split()
    pair.databases = 1
    assert "database_shards" not in stack_settings(cast("LocalStack", pair)).model_fields_set
    monkeypatch.setenv("INMAIL_DATABASE_URL", "postgresql://elsewhere/inmail")
    monkeypatch.setenv("INMAIL_DATABASE_SHARDS", "postgresql://elsewhere/inmail postgresql://there/inmail")
    assert not stack_settings(cast("LocalStack", pair)).database_shards.get_secret_value()


def test_a_data_directory_may_get_more_servers_and_not_fewer(tmp_path: Path) -> None:
    """Fewer would be without the accounts of the rest: that is refused in words, and nothing in it is touched."""
    assert kept_databases(tmp_path) is None
    os.close(claim_data(tmp_path, _VERSIONS))
    assert 1 == kept_databases(tmp_path)
    os.close(claim_data(tmp_path, _VERSIONS, databases=3))

    for wanted, words in ((2, "2 Postgres servers would be without"), (1, "1 Postgres server would be without")):
        with pytest.raises(DataDirectoryError, match=f"holds the books of 3 Postgres servers, and {words}"):
            claim_data(tmp_path, _VERSIONS, databases=wanted)

    assert 3 == kept_databases(tmp_path)
    os.close(claim_data(tmp_path, _VERSIONS, databases=3))


def test_the_ports_of_the_other_servers_follow_that_of_the_first_and_are_kept(tmp_path: Path) -> None:
    """A data directory's next run has the same, so that what was told of them stays true."""

    def ports(options: Options) -> dict[str, int]:
        with ExitStack() as held:
            reserved = _reserve(options, tmp_path, lambda _: None)
            return {name: held.enter_context(each).getsockname()[1] for name, each in reserved.items()}

    options = replace(_OPTIONS, data_dir=tmp_path, brokers=1, databases=2)
    first, again = ports(options), ports(options)

    clients = ["kafka", "postgres", "postgres-2"]
    assert [*clients, "controller"] == list(first)
    assert {name: first[name] for name in clients} == {name: again[name] for name in clients}
    assert set(clients) == set(json.loads((tmp_path / PORTS).read_text()))


def test_numbers_are_told_in_ranges() -> None:
    """Runs with their ends, and single ones as they are."""
    assert "0-2, 4, 6-7" == number_ranges([0, 1, 2, 4, 6, 7])
    assert not number_ranges([])
