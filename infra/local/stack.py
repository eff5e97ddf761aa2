"""Real Kafka and real Postgres, started together on the loopback interface and gone with their parent."""

import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local.artifacts import install, read_lock
from infra.local.directories import claim_data, create_run, keep_logs, sweep
from infra.local.errors import LocalStackError, explained
from infra.local.kafka_server import KafkaServer
from infra.local.leash import Leash, Running
from infra.local.ports import LOOPBACK, release_where_needed, reserve
from infra.local.postgres_server import DATABASE, INSTALL, MAJOR, SUPERUSER, PostgresServer, readable_install, server_user

__all__ = ["LocalStack"]

STOP_SECONDS = 60.0


def _silent(line: str) -> None:
    """Report nowhere."""


class LocalStack:
    """One broker and one database server of this process's own.

    Without `data_dir` everything is temporary; with it, data stays there between runs, and a second stack or another
    version is refused. Ports are free ones unless given. `kafka=False` or `postgres=False` leaves one out. `report`
    is told, in whole sentences, whatever takes longer than a moment. The servers end with `stop`, with this process,
    however it ends, and never with a terminal's Ctrl-C. All methods raise `LocalStackError`.
    """

    def __init__(  # noqa: PLR0913 - every one has a default that suits
        self,
        data_dir: Path | None = None,
        kafka_port: int | None = None,
        postgres_port: int | None = None,
        report: Callable[[str], None] = _silent,
        *,
        kafka: bool = True,
        postgres: bool = True,
        kafka_heap: str = "512m",
        jvm_options: Sequence[str] = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
        broker_settings: Mapping[str, str] | None = None,
        postgres_settings: Mapping[str, str] | None = None,
    ) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._ports = {"kafka": kafka_port, "postgres": postgres_port}
        self._report = report
        self._wanted = {"kafka": kafka, "postgres": postgres}
        self._kafka_options = (kafka_heap, tuple(jvm_options), dict(broker_settings or {}))
        self._postgres_settings = dict(postgres_settings or {})
        self._leash: Leash | None = None
        self._run: Path | None = None
        self._kafka: tuple[KafkaServer, Running | None] | None = None
        self._postgres: tuple[PostgresServer, Running | None] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start the servers and wait until both serve. On failure nothing stays behind but the logs it names."""
        if self._leash is not None:
            raise LocalStackError("This local stack is already running.")
        sweep()
        class_path = install(self._report) if self._wanted["kafka"] else []
        with explained("preparing the local stack", self._data_dir or Path(tempfile.gettempdir())):
            self._open(class_path)
        names = [name for name, wanted in self._wanted.items() if wanted]
        self._report(f"Starting {' and '.join(_titles()[name] for name in names)}")
        starts = [self._prepare_and_start(name) for name in names]
        pool = ThreadPoolExecutor(len(starts) or 1, "inmail-stack")
        try:
            for done in as_completed([pool.submit(each) for each in starts]):
                done.result()
        except BaseException as error:
            raise self._abandoned(error) from error
        finally:
            pool.shutdown()

    def stop(self) -> None:
        """Stop the servers, and remove what is temporary. Does nothing when the stack is not running."""
        leash, self._leash = self._leash, None
        if leash is None:
            return
        if self._data_dir is None and (dead := [r.program.name for r in self._servers() if r.code is not None]):
            self._report(f"{' and '.join(dead)} ended by itself. Logs: {self._keep_logs()}")
        leash.stop(STOP_SECONDS)
