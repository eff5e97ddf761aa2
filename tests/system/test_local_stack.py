"""The local stack: real servers that come up by themselves, keep to themselves and never stay behind."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from hashlib import sha256
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local import artifacts, directories, kafka_server, postgres_server, server_process, stack_setup
from infra.local.artifacts import Jar, Lock, install_kafka, sha256_of
from infra.local.errors import (
    ArtifactError,
    DataDirectoryError,
    DiskFullError,
    LocalStackError,
    PortTakenError,
    ServerEndedError,
    ServerError,
    StartInterruptedError,
)
from infra.local.server_process import describe_failure, wait_ready
from infra.local.stack import LocalStack
from infra.local.supervisor_client import Child, Program
from tests.workers.processes import free_port

ROOT = Path(__file__).parents[2]
BYTES = b"a jar"
LOCK = Lock("0.0", tuple(Jar(f"group:name{n}:1", f"name{n}-1.jar", sha256(BYTES).hexdigest()) for n in range(5)))

PARENT = """
import json, os, signal, sys
from infra.local.stack import LocalStack
stack = LocalStack()
stack.start()
pids = [stack.supervisor_pid, stack.kafka_pid, stack.postgres_pid]
forked = os.fork()
if forked == 0:
    signal.pause()
print(json.dumps({"pids": pids, "run_dir": str(stack.run_dir), "forked": forked}), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def jars() -> list[Path]:
    """Kafka's jars, fetched."""
    return install_kafka(lambda _: None)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache; returns the folder of the jars."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "inmail-ledger" / "kafka-0.0"


def until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait, at most `seconds`, until the condition holds; say whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether a process still runs; a zombie whose parent has not asked for it does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[int]:
    """Return a process and all below it."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def listening(pid: int) -> set[str]:
    """Return the addresses that a process listens on."""
    found = psutil.Process(pid).net_connections(kind="inet")
    return {each.laddr.ip.removeprefix("::ffff:") for each in found if each.status == psutil.CONN_LISTEN}


def fake(_artifact: str, folder: Path) -> Path:
    """Fetch the file that the lock expects."""
    path = folder / _artifact.replace(":", "-")
    path.write_bytes(BYTES)
    return path


async def query(stack: LocalStack, sql: str) -> object:
    """Return one value from the stack's database."""
    connection = await asyncpg.connect(stack.database_url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def publish(stack: LocalStack, topic: str, value: bytes) -> None:
    """Create a topic with one record."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka_bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka_bootstrap_servers, acks="all") as producer:
        await producer.send_and_wait(topic, value)


async def first(stack: LocalStack, topic: str) -> bytes | None:
    """Return the first record of a topic."""
    servers = stack.kafka_bootstrap_servers
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        return (await consumer.getone()).value


async def test_both_servers_serve(stack: LocalStack) -> None:
    """A query is answered by the database, and a record comes back from the broker."""
    await publish(stack, "served", b"here")

    assert b"here" == await first(stack, "served")
    assert "inmail UTC" == await query(stack, "select concat_ws(' ', current_database(), current_setting('timezone'))")
    assert "Kafka Server started" in stack.broker_log(1).read_text()
    assert (stack.bin_dir / "pgbench").is_file()


async def test_nobody_but_this_machine_can_connect(stack: LocalStack) -> None:
    """Both servers listen on the loopback address alone."""
    assert {"127.0.0.1"} == listening(stack.kafka_pid) | listening(stack.postgres_pid)


@pytest.mark.whole
async def test_a_second_stack_runs_beside_the_first(stack: LocalStack) -> None:
    """Ports, data and life of two stacks are their own."""
    with LocalStack() as second:
        await publish(second, "beside", b"second")
        await query(second, "create table beside ()")

        assert await query(stack, "select to_regclass('beside')") is None
        assert stack.kafka_bootstrap_servers != second.kafka_bootstrap_servers
        assert stack.run_dir != second.run_dir

    assert 1 == await query(stack, "select 1")


async def test_a_stopped_stack_leaves_nothing_behind() -> None:
    """After stop there is no process, no temporary data and no port to connect to; until then a commit is kept."""
    with LocalStack(kafka=False) as stack:
        pids, run_dir = family(stack.supervisor_pid), stack.run_dir
        durable = await query(stack, "select current_setting('fsync') || current_setting('synchronous_commit')")

    assert "onon" == durable
    assert not any(alive(pid) for pid in pids)
    assert not run_dir.exists()


def test_a_parent_killed_by_force_leaves_nothing_behind() -> None:
    """A parent that gets SIGKILL can clean up nothing: the supervisor does, though a fork of the parent lives on."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    ) as parent:
        assert parent.stdout is not None
        told = json.loads(parent.stdout.readline())
        pids = family(told["pids"][0])
        parent.kill()

    assert set(told["pids"]) <= set(pids)
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert until(lambda: not Path(told["run_dir"]).exists())
    os.kill(told["forked"], signal.SIGKILL)


@pytest.mark.whole
async def test_servers_die_with_a_supervisor_killed_by_force_and_the_next_start_sweeps(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A supervisor that gets SIGKILL takes its servers along; its folder goes when a stack starts next."""
    monkeypatch.setattr(directories, "cache_directory", lambda: tmp_path)  # where the logs are kept
    stack = LocalStack()
    stack.start()
    pids, run_dir = family(stack.supervisor_pid), stack.run_dir
    os.kill(stack.supervisor_pid, signal.SIGKILL)

    assert until(lambda: not any(alive(pid) for pid in pids))
    assert run_dir.exists()
    assert until(lambda: directories._is_leftover(run_dir))  # the last thread of a process outlives its first
    assert until(lambda: _ended(stack))

    with LocalStack(kafka=False):
        assert not run_dir.exists()
    stack.stop()


def _ended(stack: LocalStack) -> bool:
    try:
        stack.check()
    except ServerError:
        return True
    return False


async def test_a_living_stack_is_not_swept(stack: LocalStack) -> None:
    """Sweeping takes only folders whose processes are all gone."""
    assert stack.run_dir not in directories.remove_leftovers()
    assert stack.run_dir.exists()


async def test_the_terminals_interrupt_does_not_reach_the_servers(stack: LocalStack) -> None:
    """Supervisor and servers are of another session than their parent."""
    sessions = {os.getsid(pid) for pid in (stack.supervisor_pid, stack.kafka_pid, stack.postgres_pid)}

    assert {stack.supervisor_pid} == sessions


@pytest.mark.parametrize("server", ["kafka", "postgres"])
async def test_a_taken_port_is_named(server: str) -> None:
    """A fixed port that somebody listens on is refused before anything starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stack = LocalStack(**{f"{server}_port": port})

        with pytest.raises(PortTakenError, match=f"Port {port} .* {server}.*choose another port"):
            stack.start()


@pytest.mark.whole
async def test_data_is_kept_in_its_directory_and_fixed_ports_are_used(tmp_path: Path) -> None:
    """What was stored before an orderly stop is there at the next start, and at a fixed port."""
    with LocalStack(data_dir=tmp_path / "data") as stack:
        await publish(stack, "kept", b"still here")
        await query(stack, "create table kept as select 7 as number")
        port = int(stack.kafka_bootstrap_servers.rpartition(":")[2])
        run_dir = stack.run_dir
    with LocalStack(data_dir=tmp_path / "data", kafka_port=port) as stack:
        assert f"127.0.0.1:{port}" == stack.kafka_bootstrap_servers
        assert b"still here" == await first(stack, "kept")
        assert 7 == await query(stack, "select number from kept")
    assert not run_dir.exists()


async def test_a_data_directory_serves_one_stack_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stack on a directory is refused, and the first goes on."""
    monkeypatch.setattr(directories, "IN_USE_SECONDS", 0.1)
    with LocalStack(data_dir=tmp_path, kafka=False) as stack:
        with pytest.raises(DataDirectoryError, match="in use by another local stack"):
            LocalStack(data_dir=tmp_path, kafka=False).start()

        assert 1 == await query(stack, "select 1")


def test_a_data_directory_keeps_the_ports_of_its_first_run(tmp_path: Path) -> None:
    """What was told of them stays true, unless another process has one: then it is said, and it is tried again."""
    told: list[str] = []

    def run(asked: int | None = None) -> int:
        options = LocalStack(data_dir=tmp_path, kafka=False, postgres_port=asked)._options
        with ExitStack() as held:
            reserved = stack_setup._reserve(options, tmp_path, told.append)
            return {name: held.enter_context(each).getsockname()[1] for name, each in reserved.items()}["postgres"]

    first = port = run()
    with socket.create_server(("127.0.0.1", port)):
        other = run()
    (tmp_path / directories.PORTS).write_text(json.dumps({"postgres": port, "kafka": "junk"}) + "}")
    damaged = run()
    (tmp_path / directories.PORTS).write_text(json.dumps({"postgres": port}))

    assert first == run()
    assert first not in (other, damaged)
    taken = f"Port {port}, used by postgres before, is taken: using another port"
    assert [taken] == told
    assert run(asked := free_port()) == run() == asked  # the last that somebody chose is the one to come back to


@pytest.mark.whole
def test_a_port_that_is_asked_for_is_kept_too(tmp_path: Path) -> None:
    """With the data: addresses that were told stay true."""
    port = free_port()
    with LocalStack(data_dir=tmp_path, kafka=False, postgres_port=port) as asked:
        chosen = asked.database_url

    with LocalStack(data_dir=tmp_path, kafka=False) as stack:
        assert chosen == stack.database_url
    assert f":{port}/" in chosen


@pytest.mark.parametrize("marker", ['{"layout": "1", "kafka": "1.0.0", "postgres": "9"}', "not json"])
async def test_data_of_another_version_is_refused(tmp_path: Path, marker: str) -> None:
    """Nothing tries to read data of other servers; the message says what to do."""
    (tmp_path / directories.MARKER).write_text(marker)

    with pytest.raises(DataDirectoryError, match="remove the directory to start with no data"):
        LocalStack(data_dir=tmp_path, kafka=False).start()


async def test_a_directory_of_other_things_is_refused(tmp_path: Path) -> None:
    """A stack does not settle among somebody's files."""
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(DataDirectoryError, match="Choose an empty"):
        LocalStack(data_dir=tmp_path, kafka=False).start()


async def test_a_server_that_does_not_come_up_tells_why_and_keeps_its_log(cache: Path) -> None:
    """The error holds the log's last lines and a path that outlives the temporary data."""
    stack = LocalStack(kafka=False, postgres_settings={"max_connections": "nonsense"})

    with pytest.raises(ServerError, match=r"(?s)Postgres ended with code 1.*max_connections") as caught:
        stack.start()

    (log,) = cache.parent.glob("logs/*/postgres.log")
    assert str(log) in str(caught.value)
    assert "max_connections" in log.read_text()
    with pytest.raises(LocalStackError, match="not running"):
        _ = stack.database_url


def test_a_disk_that_is_full_is_named(tmp_path: Path) -> None:
    """By the folder of the data and the logs, since the server's own words may name neither."""
    log = tmp_path / "data" / "logs" / "kafka.log"
    log.parent.mkdir(parents=True)
    log.write_text("java.io.IOException: No space left on device\n")

    failed = describe_failure(Child(Program("Kafka", [], {}, log, stop=15, death=9)), "Kafka ended with code 1")

    assert isinstance(failed, DiskFullError)
    assert str(failed).startswith(f"No room left on the disk of {tmp_path / 'data'}. Free some space and start again.")


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        pytest.param(4, None, id="as long as it tells what it does"),
        pytest.param(1, r"^Kafka was not ready after 150 s", id="not when it falls silent"),
        pytest.param(1_000, r"^Kafka was not ready after 650 s", id="not for ever"),
    ],
)
def test_a_server_that_recovers_much_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: int, failure: str | None
) -> None:
    """A broker on a busy machine took longer than a minute to read its logs after a crash, and was given up."""
    log, clock, left = tmp_path / "kafka.log", [0.0], iter(range(lines))
    monkeypatch.setattr(server_process, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def ready() -> bool:
        clock[0] += 50
        if (line := next(left, None)) is None:
            return failure is None
        with log.open("a", encoding="utf-8") as file:
            file.write(f"recovered segment {line}\n")
        return False

    child = Child(Program("Kafka", [], {}, log, stop=15, death=9))
    with pytest.raises(ServerError, match=failure) if failure else nullcontext():
        wait_ready(child, ready, 60)


@pytest.mark.parametrize(
    ("servers", "ends", "starts"), [(3, 2, 3), (3, 3, 3), (1, 1, 1)], ids=["again", "not for ever", "alone"]
)
def test_one_of_several_servers_that_ends_while_it_starts_is_started_again(
    tmp_path: Path, servers: int, ends: int, starts: int
) -> None:
    """One of three brokers ended in the first second of a cluster, and with it the whole stack."""
    begun: list[int] = []
    child = Child(Program("broker-1", [], {}, tmp_path / "broker-1.log", stop=15, death=9))

    def start(_: object) -> Child:
        begun.append(len(begun))
        if len(begun) <= ends:
            raise ServerEndedError("broker-1 ended with code 1 instead of starting")
        return child

    server = SimpleNamespace(
        name="broker-1",
        title="broker 1",
        has_peers=servers > 1,
        log=child.program.log,
        prepare=lambda _: None,
        start=start,
    )
    stack = LocalStack()
    stack._assembly = SimpleNamespace(supervisor=None)

    with nullcontext() if ends < starts else pytest.raises(ServerEndedError):
        stack._start(server)

    assert starts == len(begun)
    assert (ends < starts) == (stack._children == {"broker-1": child})


async def test_a_broker_that_does_not_come_up_tells_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for Kafka: here the virtual machine refuses an option."""
    stack = LocalStack(postgres=False, jvm_options=["-XX:+NoSuchOption"])
    install_kafka(lambda _: None)
    monkeypatch.setattr(directories, "cache_directory", lambda: tmp_path)

    with pytest.raises(ServerError, match=r"(?s)Kafka.*NoSuchOption"):
        stack.start()


@pytest.mark.whole
async def test_a_broker_starts_whatever_its_clusters_id_begins_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id may begin with a dash, which the formatting tool must not take for an option."""
    monkeypatch.setattr(kafka_server, "new_id", lambda: "-Zyx1sXvQqOZ8Zz4dG3tGg")

    with LocalStack(postgres=False) as stack:
        assert stack.kafka_pid


@pytest.mark.whole
def test_a_broker_maps_the_archive_of_its_classes_and_does_without_a_damaged_one(jars: list[Path], cache: Path) -> None:
    """The first start on a machine makes the archive; each later one is faster by it, and none depends on it."""
    ours = cache.with_name(f"kafka-{artifacts.read_lock().kafka}")
    ours.mkdir(parents=True)
    for jar in jars:
        (ours / jar.name).symlink_to(jar)
    told: list[str] = []

    with LocalStack(postgres=False, report=told.append) as stack:
        (archive,) = ours.glob("*.aot")
        assert "this start takes 10 s longer" in told[-2]
        assert str(archive) in Path(f"/proc/{stack.kafka_pid}/maps").read_text()
        assert not list(ours.glob(".*aot*"))
    with archive.open("r+b") as file:
        file.seek(archive.stat().st_size // 2)
        file.write(bytes(1_000_000))
    with LocalStack(postgres=False, report=told.append) as stack:
        assert "longer" not in told[-2]
        assert str(archive) not in Path(f"/proc/{stack.kafka_pid}/maps").read_text()
        assert "Unable to map shared spaces" in stack.broker_log(1).read_text()


@pytest.mark.whole
async def test_killed_servers_start_again_on_their_data_and_ports() -> None:
    """Broker and database come back as after a crash: same addresses, nothing committed is lost."""
    with LocalStack() as stack:
        addresses = stack.kafka_bootstrap_servers, stack.database_url
        await publish(stack, "crash", b"safe")
        await query(stack, "create table crash as select 7 as number")
        stack.kill_kafka()
        stack.kill_postgres()
        stack.start_kafka()
        stack.start_postgres()

        assert addresses == (stack.kafka_bootstrap_servers, stack.database_url)
        assert b"safe" == await first(stack, "crash")
        assert 7 == await query(stack, "select number from crash")


@pytest.mark.whole
async def test_postgres_runs_from_a_place_that_its_user_cannot_reach(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As root the server is another user: it gets a copy of the binaries, and its data through an open folder."""
    unreachable = postgres_server.postgres_package()
    monkeypatch.setattr(postgres_server, "is_reachable", lambda path, _: unreachable not in path.parents)

    with LocalStack(data_dir=tmp_path / "data", kafka=False) as stack:
        executable = Path(psutil.Process(stack.postgres_pid).exe())
        assert stack.run_dir in executable.parents
        assert 1 == await query(stack, "select 1")
        if os.geteuid() == 0:  # pytest's folder is its user's alone
            data = psutil.Process(stack.postgres_pid).cmdline()[2]
            assert data.startswith("/proc/self/fd/")


def test_what_is_missing_is_fetched_once_by_several_at_once(cache: Path) -> None:
    """Installs that run together fetch each file once, and all get the whole class path."""
    fetched = []

    def counting(artifact: str, folder: Path) -> Path:
        fetched.append(artifact)
        return fake(artifact, folder)

    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: install_kafka(lambda _: None, counting, LOCK), range(4)))

    assert [[cache / jar.file for jar in LOCK.jars]] * 4 == paths
    assert sorted(jar.artifact for jar in LOCK.jars) == sorted(fetched)


def test_a_damaged_file_is_noticed_and_fetched_again(cache: Path) -> None:
    """A cached file that is no longer what the lock says is replaced, and that is told; the rest is left alone."""
    install_kafka(lambda _: None, fake, LOCK)
    damaged = cache / LOCK.jars[2].file
    damaged.write_bytes(b"a ja")
    told: list[str] = []

    install_kafka(told.append, fake, LOCK)

    assert [f"{damaged} is damaged: downloading it again", "Downloading Apache Kafka: 1 of 1 files"] == told
    assert LOCK.jars[2].sha256 == sha256_of(damaged)


def test_a_file_that_is_not_the_pinned_one_is_refused(cache: Path) -> None:
    """A repository that serves other bytes gets nothing into the cache."""

    def other(artifact: str, folder: Path) -> Path:
        path = fake(artifact, folder)
        path.write_bytes(b"something else")
        return path

    with pytest.raises(ArtifactError, match="was refused: its SHA-256 is"):
        install_kafka(lambda _: None, other, LOCK)

    assert [] == list(cache.glob("*.jar"))


def test_a_download_that_fails_says_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error names the file and what to look at; what came before it is kept."""

    def broken(artifact: str, folder: Path) -> Path:
        return fake(artifact, folder) if artifact != LOCK.jars[-1].artifact else artifacts.download(artifact, folder)

    monkeypatch.setattr(artifacts, "DOWNLOADS_AT_ONCE", 1)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ArtifactError, match=r"Could not download group:name4:1: .* Is this machine online\?"):
        install_kafka(lambda _: None, broken, LOCK)

    assert len(LOCK.jars) - 1 == len(list(cache.glob("*.jar")))


def test_a_start_that_is_called_off_waits_for_no_download(cache: Path) -> None:
    """Not even for one that hangs; what came before is kept, and the next install goes on from there."""
    called_off, hanging = Event(), Event()

    def slow(artifact: str, folder: Path) -> Path:
        if artifact == LOCK.jars[0].artifact:
            hanging.wait()
        return fake(artifact, folder)

    def note(line: str) -> None:
        if line == "Downloading Apache Kafka: 4 of 5 files":
            called_off.set()

    with pytest.raises(StartInterruptedError):
        install_kafka(note, slow, LOCK, called_off)

    assert [jar.file for jar in LOCK.jars[1:]] == sorted(path.name for path in cache.glob("*.jar"))
    hanging.set()
    assert 5 == len(install_kafka(lambda _: None, fake, LOCK))


def test_a_start_that_is_called_off_does_not_wait_for_another_process(cache: Path) -> None:
    """Which downloads what this one needs, and may take long."""
    cache.mkdir(parents=True)
    called_off = Event()
    told: list[str] = []

    def note(line: str) -> None:
        told.append(line)
        called_off.set()

    with (cache / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StartInterruptedError):
            install_kafka(note, fake, LOCK, called_off)

    assert ["Another process is downloading Apache Kafka: waiting for it"] == told


def test_a_start_that_is_called_off_ends_the_servers_that_come_up() -> None:
    """From another thread, at any time; nothing of them stays."""
    seen: list[list[int]] = []

    def call_off(line: str) -> None:
        if line.startswith("Starting"):
            seen.append(family(stack.supervisor_pid))
            stack.interrupt()

    stack = LocalStack(kafka=False, report=call_off)

    with pytest.raises(StartInterruptedError):
        stack.start()
    with pytest.raises(LocalStackError, match="not running"):
        _ = stack.run_dir
    assert not any(alive(pid) for pid in seen[0])


@pytest.mark.usefixtures("cache")
def test_once_cached_no_network_is_needed() -> None:
    """A second install asks nobody."""
    install_kafka(lambda _: None, fake, LOCK)

    def unwanted(artifact: str, _folder: Path) -> Path:
        raise AssertionError(artifact)

    assert len(LOCK.jars) == len(install_kafka(lambda _: None, unwanted, LOCK))


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder and how to choose another."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(LocalStackError, match="XDG_CACHE_HOME chooses another place"):
        install_kafka(lambda _: None, fake, LOCK)


def test_the_lock_pins_every_file_by_digest() -> None:
    """Kafka, its native libraries and the log binding are in the lock, each with a SHA-256, none twice."""
    lock = artifacts.read_lock()

    assert {64} == {len(jar.sha256) for jar in lock.jars}
    assert len(lock.jars) == len({jar.file for jar in lock.jars})
    names = {jar.artifact.split(":")[1] for jar in lock.jars}
    assert {"kafka_2.13", "kafka-clients", "log4j-core", "log4j-slf4j-impl", "lz4-java", "zstd-jni"} <= names
