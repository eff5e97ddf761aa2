"""Starts Kafka and Postgres together on the loopback interface; they end with their parent process."""

import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from infra.local.artifacts import Lock, install_kafka, read_lock
from infra.local.bundled_binaries import java_command, postgres_install
from infra.local.directories import keep_logs, remove_leftovers
from infra.local.errors import LocalStackError, StartInterruptedError, as_local_stack_error
from infra.local.kafka_server import KafkaServer
from infra.local.ports import LOOPBACK
from infra.local.postgres_server import PostgresServer
from infra.local.progress import Report
from infra.local.server_process import describe_failure
from infra.local.stack_setup import Assembly, Options, assemble_stack, start_server
from infra.local.supervisor_client import Child

__all__ = ["LocalStack"]

STOP_SECONDS = 60.0
HEAP, HEAP_OF_SEVERAL = "512m", "320m"  # of a broker


def _silent(line: str) -> None:
    """Discard a line of progress."""


class LocalStack:
    """Kafka and Postgres servers that belong to this process.

    Without `data_dir` all files are temporary. With `data_dir` the data stays there between runs; a second stack or
    another version on the same directory is refused. Ports are free ones unless given; a data directory keeps the ports
    of its first run while they are free. `usual_ports`, of `kafka` and `postgres`, are tried first where no other is
    given, and then the next free ones after them. `kafka_lock` and `postgres_folder` (with `bin`, `lib` and `share`,
    readable by anybody) are of other versions than the project's own. `kafka=False` or `postgres=False` leaves out a
    server. With several `brokers` (an odd number) each is a broker and a controller of one cluster, which replicates
    three times; several `databases` are Postgres servers, of which a data directory may get more and not fewer; `check`
    passes over one of several that ended, as the others go on. `report` receives a sentence about each step that takes
    longer than a moment. The servers end with `stop` and with this process, however the process ends, and never with a
    terminal's Ctrl-C. Methods and attributes raise `LocalStackError`.
    """

    def __init__(  # noqa: PLR0913 - every parameter has a default
        self,
        data_dir: Path | None = None,
        kafka_port: int | None = None,
        postgres_port: int | None = None,
        report: Report = _silent,
        *,
        brokers: int = 1,
        databases: int = 1,
        kafka: bool = True,
        postgres: bool = True,
        kafka_heap: str | None = None,
        jvm_options: Sequence[str] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        broker_settings: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        usual_ports: Mapping[str, int] | None = None,
        kafka_lock: Lock | None = None,
        postgres_folder: Path | None = None,
    ) -> None:
        self._options = Options(
            data_dir=None if data_dir is None else Path(data_dir).absolute(),
            kafka=kafka,
            postgres=postgres,
            kafka_port=kafka_port,
            postgres_port=postgres_port,
            usual_ports=dict(usual_ports or {}),
            kafka_heap=kafka_heap or (HEAP if brokers == 1 else HEAP_OF_SEVERAL),
            jvm_options=tuple(jvm_options),
            broker_settings=dict(broker_settings or {}),
            postgres_settings=dict(postgres_settings or {}),
            kafka_lock=kafka_lock or read_lock(),
            postgres_folder=postgres_folder,
            brokers=brokers,
            databases=databases,
        )
        self._report = report
        self._assembly: Assembly | None = None
        self._interrupted = Event()
        self._children: dict[str, Child] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and wait until both serve. After a failure only the logs that the error names remain."""
        if self._assembly is not None:
            raise LocalStackError("This local stack is already running.")
        options, class_path = self._options, list[Path]()
        if options.kafka:
            java_command()
        if options.postgres:
            postgres_install()
        remove_leftovers()
        if options.kafka:
            class_path = install_kafka(self._report, lock=options.kafka_lock, interrupted=self._interrupted)
        with as_local_stack_error("preparing the local stack", options.data_dir or Path(tempfile.gettempdir())):
            self._assembly = assembly = assemble_stack(options, class_path, self._report)
        if assembly.kafka and assembly.kafka[0].to_archive:
            self._report("Archiving Kafka's classes for faster later starts: this start takes 10 s longer")
        pool = ThreadPoolExecutor(len(assembly.servers), "inmail-stack")
        try:
            self._raise_if_interrupted()
            starts = [pool.submit(self._start, each) for each in assembly.servers]
            for done in as_completed(starts):
                done.result()
            self._raise_if_interrupted()
        except BaseException as error:
            logs = self._end(keep=not self._interrupted.is_set())
            self._raise_if_interrupted()
            if isinstance(error, LocalStackError):
                raise type(error)(str(error).replace(str(assembly.logs), str(logs))) from error
            raise
        finally:
            pool.shutdown()

    def interrupt(self) -> None:
        """Make a running `start` in another thread, and every later `start`, raise `StartInterruptedError` soon."""
        self._interrupted.set()
        assembly = self._assembly
        if assembly is not None:
            assembly.supervisor.disconnect()

    def _raise_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise StartInterruptedError("The start of the local stack was cancelled.")

    def stop(self) -> None:
        """Stop the servers and remove temporary files. Does nothing when the stack is not running."""
        ended = [each.program.name for each in self._children.values() if each.code is not None]
        if self._assembly is not None:
            logs = self._end(keep=bool(ended))
            if ended:
                self._report(f"{' and '.join(ended)} had already ended. Logs: {logs}")

    def check(self) -> None:
        """Raise `ServerError` with the last lines of the log when a server has ended without which nothing goes on."""
        replaceable = {each.name for each in self._open.servers if each.has_peers}
        for child in list(self._children.values()):
            if child.code is not None and child.program.name not in replaceable:
                raise describe_failure(child, f"{child.program.name} ended with code {child.code}")

    def kill_kafka(self, node: int = 1) -> None:
        """Kill a broker as a crash would; keep its data and port."""
        self._kill(self._node(node), signal.SIGKILL)

    def start_kafka(self, node: int = 1) -> None:
        """Start a broker again after `kill_kafka`, on the same data and port."""
        self._start(self._node(node))

    def spawn_broker(self, node: int) -> None:
        """Start a broker that has ended, and do not wait until it serves."""
        server = self._node(node)
        with as_local_stack_error(f"starting {server.name}", server.log.parent):
            self._children[server.name] = server.respawn(self._open.supervisor)

    def stop_broker(self, node: int) -> int:
        """Ask a broker to hand its partitions over and to end, or kill it after a minute; return its exit code."""
        return self._open.supervisor.end(self.broker(node), signal.SIGTERM, signal.SIGKILL, STOP_SECONDS)

    def broker(self, node: int) -> Child:
        """The process of a broker: the last, where it has ended."""
        return self._children[self._node(node).name]

    def broker_log(self, node: int) -> Path:
        """The log file of a broker."""
        return self._node(node).log

    @property
    def brokers(self) -> int:
        """How many brokers there are; their nodes are numbered from 1 on."""
        return self._options.brokers

    def kill_postgres(self, number: int = 1) -> None:
        """End a database server as a crash would, without a checkpoint; keep its data and port.

        SIGQUIT leaves committed data as safe as SIGKILL, and leaves no shared memory behind.
        """
        self._kill(self._postgres(number), signal.SIGQUIT)

    def start_postgres(self, number: int = 1) -> None:
        """Start a database server again after `kill_postgres`, on the same data and port."""
        self._start(self._postgres(number))

    def spawn_database(self, number: int) -> None:
        """Start a database server that has ended, and do not wait until it serves."""
        server = self._postgres(number)
        with as_local_stack_error(f"starting {server.name}", server.log.parent):
            self._children[server.name] = server.spawn(self._open.supervisor)

    def stop_database(self, number: int) -> int:
        """Ask a database server to end its sessions and to end, or kill it after a minute; return its exit code."""
        return self._open.supervisor.end(self.database(number), signal.SIGINT, signal.SIGQUIT, STOP_SECONDS)

    def database(self, number: int) -> Child:
        """The first process of a database server: the last, where it has ended."""
        return self._children[self._postgres(number).name]

    def database_log(self, number: int) -> Path:
        """The log file of a database server."""
        return self._postgres(number).log

    @property
    def databases(self) -> int:
        """How many database servers there are, numbered from 1 on."""
        return self._options.databases

    @property
    def kafka_bootstrap_servers(self) -> str:
        """The brokers' addresses: host:port, comma separated."""
        self._node(1)
        return ",".join(f"{LOOPBACK}:{each.port}" for each in self._open.kafka)

    @property
    def database_url(self) -> str:
        """The URL of the first server's database `inmail`, as its superuser, without a password."""
        return self._postgres(1).url

    @property
    def database_urls(self) -> list[str]:
        """The URLs of all servers' databases, by number."""
        return [self._postgres(number).url for number in range(1, self.databases + 1)]

    @property
    def kafka_pid(self) -> int:
        """The process id of the first broker."""
        return self.broker(1).pid

    @property
    def postgres_pid(self) -> int:
        """The process id of the first database server's first process."""
        return self.database(1).pid

    @property
    def bin_dir(self) -> Path:
        """The folder of `psql`, `pgbench` and the other Postgres commands."""
        return postgres_install() / "bin"

    @property
    def supervisor_pid(self) -> int:
        """The process id of the supervisor that owns the servers."""
        return self._open.supervisor.pid

    @property
    def run_dir(self) -> Path:
        """The temporary folder of this run, removed at its end."""
        return self._open.run

    @property
    def _open(self) -> Assembly:
        if self._assembly is None:
            raise LocalStackError("The local stack is not running: call start().")
        return self._assembly

    def _node(self, node: int) -> KafkaServer:
        if not self._open.kafka:
            raise LocalStackError("This local stack was made without Kafka.")
        return self._open.kafka[node - 1]

    def _postgres(self, number: int) -> PostgresServer:
        if not self._open.postgres:
            raise LocalStackError("This local stack was made without Postgres.")
        return self._open.postgres[number - 1]

    def _start(self, server: KafkaServer | PostgresServer) -> None:
        self._report(f"Starting {server.title}")
        with as_local_stack_error(f"starting {server.name}", server.log.parent):
            server.prepare(self._open.supervisor)
            self._children[server.name] = start_server(server, self._open.supervisor, self._report)

    def _kill(self, server: KafkaServer | PostgresServer, number: signal.Signals) -> None:
        child = self._children.pop(server.name)
        self._open.supervisor.signal(child, number)
        if child.wait(STOP_SECONDS) is None:
            raise LocalStackError(f"{server.name} did not end.")

    def _end(self, *, keep: bool) -> Path:
        """Stop the servers and return the folder of the logs; keep temporary logs only if `keep`."""
        assembly, self._assembly = self._open, None
        self._children.clear()
        try:
            if keep and self._options.data_dir is None:
                return keep_logs(assembly.logs, assembly.run.name)
        except OSError as error:  # the disk may be full
            self._report(f"The logs could not be kept: {error}")
        finally:
            assembly.supervisor.stop(STOP_SECONDS)
            remove_leftovers({assembly.run.parent})  # already done by the supervisor, unless it was killed
        return assembly.logs
