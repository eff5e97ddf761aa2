"""Real Kafka and real Postgres, started together on the loopback interface and gone with their parent."""

import signal
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from infra.local.artifacts import install
from infra.local.bundled_binaries import java, postgres_install
from infra.local.directories import keep_logs, sweep
from infra.local.errors import LocalStackError, StartInterruptedError, explained
from infra.local.kafka_server import KafkaServer
from infra.local.ports import LOOPBACK
from infra.local.postgres_server import DATABASE, SUPERUSER, PostgresServer
from infra.local.progress import Report
from infra.local.server_process import failure
from infra.local.stack_setup import Assembly, Options, assemble
from infra.local.supervisor_client import Child

__all__ = ["LocalStack"]

STOP_SECONDS = 60.0


def _silent(line: str) -> None:
    """Report nowhere."""


class LocalStack:
    """One broker and one database server of this process's own.

    Without `data_dir` everything is temporary; with it, data stays there between runs, and a second stack or another
    version is refused. Ports are free ones unless given; a data directory's are those of its first run, while they are
    free. `usual_ports`, of `kafka` and `postgres`, are tried first where no other is given, and then the next free
    ones after them. `kafka=False` or `postgres=False` leaves one out. `report` is told, in whole sentences, whatever
    takes longer than a moment. The servers end with `stop`, with this process, however it ends, and never with a
    terminal's Ctrl-C. Methods and attributes raise `LocalStackError`.
    """

    def __init__(  # noqa: PLR0913 - every one has a default that suits
        self,
        data_dir: Path | None = None,
        kafka_port: int | None = None,
        postgres_port: int | None = None,
        report: Report = _silent,
        *,
        kafka: bool = True,
        postgres: bool = True,
        kafka_heap: str = "512m",
        jvm_options: Sequence[str] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        broker_settings: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
        usual_ports: Mapping[str, int] | None = None,
    ) -> None:
        self._options = Options(
            data_dir=None if data_dir is None else Path(data_dir).absolute(),
            kafka=kafka,
            postgres=postgres,
            kafka_port=kafka_port,
            postgres_port=postgres_port,
            usual_ports=dict(usual_ports or {}),
            kafka_heap=kafka_heap,
            jvm_options=tuple(jvm_options),
            broker_settings=dict(broker_settings or {}),
            postgres_settings=dict(postgres_settings or {}),
        )
        self._report = report
        self._assembly: Assembly | None = None
        self._interrupted = Event()
        self._running: dict[str, Child] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and wait until both serve. On failure nothing stays behind but the logs it names."""
        if self._assembly is not None:
            raise LocalStackError("This local stack is already running.")
        if self._options.kafka:
            java()
        if self._options.postgres:
            postgres_install()
        sweep()
        class_path = install(self._report, interrupted=self._interrupted) if self._options.kafka else []
        place = self._options.data_dir or Path(tempfile.gettempdir())
        with explained("preparing the local stack", place):
            self._assembly = assembly = assemble(self._options, class_path, self._report)
        if assembly.kafka is not None and assembly.kafka.to_archive:
            self._report("Preparing Kafka's classes for its later starts too: this once, its start takes 10 s longer")
        pool = ThreadPoolExecutor(2, "inmail-stack")
        try:
            self._heed()
            starts = [pool.submit(self._start, each) for each in (assembly.kafka, assembly.postgres) if each]
            for done in as_completed(starts):
                done.result()
            self._heed()
        except BaseException as error:
            logs = self._end(keep=not self._interrupted.is_set())
            self._heed()
            if isinstance(error, LocalStackError):
                raise type(error)(str(error).replace(str(assembly.logs), str(logs))) from error
            raise
        finally:
            pool.shutdown()

    def interrupt(self) -> None:
        """Let a `start` that runs in another thread, or any later one, end soon with `StartInterruptedError`."""
        self._interrupted.set()
        assembly = self._assembly
        if assembly is not None:
            assembly.leash.let_go()

    def _heed(self) -> None:
        if self._interrupted.is_set():
            raise StartInterruptedError("The start of the local stack was called off.")

    def stop(self) -> None:
        """Stop the servers, and remove what is temporary. Does nothing when the stack is not running."""
        ended = [each.program.name for each in self._running.values() if each.code is not None]
        if self._assembly is not None:
            logs = self._end(keep=bool(ended))
            if ended:
                self._report(f"{' and '.join(ended)} had ended before. Logs: {logs}")

    def check(self) -> None:
        """Raise `ServerError` with the log's last lines when a server has ended by itself."""
        for running in self._running.values():
            if running.code is not None:
                raise failure(running, f"{running.program.name} ended with code {running.code}")

    def kill_kafka(self) -> None:
        """Kill the broker as a crash would; its data and port stay."""
        self._kill(self._kafka, signal.SIGKILL)

    def start_kafka(self) -> None:
        """Start the broker again after `kill_kafka`, on the same data and port."""
        self._start(self._kafka)

    def kill_postgres(self) -> None:
        """End the database server as a crash would, without a checkpoint; its data and port stay.

        By SIGQUIT, not SIGKILL: what is committed is as safe, and no shared memory stays behind.
        """
        self._kill(self._postgres, signal.SIGQUIT)

    def start_postgres(self) -> None:
        """Start the database server again after `kill_postgres`, on the same data and port."""
        self._start(self._postgres)

    @property
    def kafka_bootstrap_servers(self) -> str:
        """host:port of the broker."""
        return f"{LOOPBACK}:{self._kafka.port}"

    @property
    def database_url(self) -> str:
        """URL of the database `inmail`, as its superuser; no password is asked."""
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self._postgres.port}/{DATABASE}"

    @property
    def kafka_pid(self) -> int:
        """Process id of the broker."""
        return self._running[self._kafka.name].pid

    @property
    def postgres_pid(self) -> int:
        """Process id of the database server's first process."""
        return self._running[self._postgres.name].pid

    @property
    def kafka_log(self) -> Path:
        """The broker's log file."""
        return self._kafka.log

    @property
    def postgres_log(self) -> Path:
        """The database server's log file."""
        return self._postgres.log

    @property
    def bin_dir(self) -> Path:
        """The folder of `psql`, `pgbench` and the other Postgres commands."""
        return postgres_install() / "bin"

    @property
    def keeper_pid(self) -> int:
        """Process id of the keeper that owns the servers."""
        return self._open.leash.pid

    @property
    def run_dir(self) -> Path:
        """The temporary folder of this run, gone after it."""
        return self._open.run

    @property
    def _open(self) -> Assembly:
        if self._assembly is None:
            raise LocalStackError("The local stack is not running: call start().")
        return self._assembly

    @property
    def _kafka(self) -> KafkaServer:
        if self._open.kafka is None:
            raise LocalStackError("This local stack was made without Kafka.")
        return self._open.kafka

    @property
    def _postgres(self) -> PostgresServer:
        if self._open.postgres is None:
            raise LocalStackError("This local stack was made without Postgres.")
        return self._open.postgres

    def _start(self, server: KafkaServer | PostgresServer) -> None:
        self._report(f"Starting {server.title}")
        with explained(f"starting {server.name}", server.log.parent):
            server.prepare(self._open.leash)
            self._running[server.name] = server.start(self._open.leash)

    def _kill(self, server: KafkaServer | PostgresServer, number: signal.Signals) -> None:
        running = self._running.pop(server.name)
        self._open.leash.signal(running, number)
        if running.wait(STOP_SECONDS) is None:
            raise LocalStackError(f"{server.name} did not end.")

    def _end(self, *, keep: bool) -> Path:
        """End everything and return the folder of the logs; temporary ones are kept only when asked."""
        assembly, self._assembly = self._open, None
        self._running.clear()
        try:
            if keep and self._options.data_dir is None:
                return keep_logs(assembly.logs, assembly.run.name)
        except OSError as error:  # the disk may be what is full
            self._report(f"The logs could not be kept: {error}")
        finally:
            assembly.leash.stop(STOP_SECONDS)
            sweep({assembly.run.parent})  # the keeper has done it, unless it was killed
        return assembly.logs
