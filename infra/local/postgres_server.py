"""PostgreSQL from the wheel's binaries, as durable as in production, also when this process is root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.local.bundled_binaries import postgres_install, postgres_package
from infra.local.directories import is_reachable
from infra.local.errors import ServerError
from infra.local.ports import LOOPBACK
from infra.local.server_process import clean_environment, run_once, wait_ready
from infra.local.supervisor_client import Child, Program, SupervisorClient

__all__ = ["DATABASE", "SUPERUSER", "TUNING", "PostgresServer", "readable_install", "server_user"]

DATABASE = "inmail"
SUPERUSER = "postgres"
START_SECONDS = 60
NOBODY = 65534
_FIRST_WITH_BUILTIN_LOCALE = 17
_BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")

# Fewer and smoother writes, for the tail of the sends' latency: with Postgres's default of 1 GB of WAL, a tick of a
# million lots causes a checkpoint every 8 s, and every commit waits for its fsyncs (`make bench`, `expiry`).
TUNING = {
    "max_wal_size": "4GB",
    "min_wal_size": "1GB",
    "wal_compression": "on",
    "backend_flush_after": "256kB",
}

SETTINGS = TUNING | {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}


def server_user(home: Path | None) -> int | None:
    """Return the user that Postgres has to run as, because it refuses root. None: the user of this process.

    Existing data keeps its owner.
    """
    if os.geteuid() != 0:
        return None
    cluster = None if home is None else home / "cluster"
    owner = cluster.stat().st_uid if cluster is not None and cluster.exists() else 0
    return owner or NOBODY


def readable_install(run: Path, user: int | None) -> Path:
    """Return an installation of Postgres that `user` can read: the wheel's, or a copy of it below `run`.

    Only the owner may be able to reach the wheel, for example in /root; this program does not change permissions there.
    """
    package, original = postgres_package(), postgres_install()
    if is_reachable(original / "bin" / "postgres", user) and is_reachable(original / "share", user):
        return original
    # The binaries search for their libraries beside the package.
    site = run / "site"
    copy = site / package.name / original.name
    for part in ("bin/postgres", "bin/initdb", "lib/postgresql", "share"):
        _copy(original / part, copy / part)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        _copy(libraries, site / libraries.name)
    for each in [site, *site.rglob("*")]:
        each.chmod(0o755)
    return copy


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """One server: its files, its port and its settings.

    `home` is the folder of the cluster; `seen` is the path by which the server's user reaches `home`.
    """

    install: Path
    home: Path
    seen: Path
    log: Path
    port: int
    user: int | None
    temporary: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None  # from 1 on, where there are several servers

    @property
    def has_peers(self) -> bool:
        """Whether it is one of several servers: the others go on without it."""
        return self.number is not None

    @property
    def name(self) -> str:
        """The server's name, in messages and for its supervisor."""
        return "Postgres" if self.number is None else f"Postgres {self.number}"

    @property
    def url(self) -> str:
        """The URL of its database, as its superuser, without a password."""
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def title(self) -> str:
        """The server's full name with its version."""
        return f"PostgreSQL {self._major}" + ("" if self.number is None else f" as {self.name}")

    @property
    def _major(self) -> int:
        program = self.install / "bin" / "postgres"
        said = subprocess.run([program, "--version"], capture_output=True, check=True)  # noqa: S603 - the installation's
        return int(said.stdout.split()[-1].split(b".")[0])

    def prepare(self, supervisor: SupervisorClient) -> None:
        """Create the cluster, unless it exists. Raises `ServerError`."""
        cluster, fresh = self.home / "cluster", self.home / "unfinished"
        if cluster.exists():
            return
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(fresh, self.user, self.user)
        command = [
            str(self.install / "bin" / "initdb"),
            f"--pgdata={self.seen / fresh.name}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            # Text sorts the same on every machine, whatever locales are installed.
            "--locale=C",
            *(_BUILTIN_LOCALE if self._major >= _FIRST_WITH_BUILTIN_LOCALE else ()),
            "--no-instructions",
        ]
        if self.temporary:
            command.append("--no-sync")
        run_once(
            supervisor,
            self._program(
                f"Creating the cluster of {self.name}" if self.has_peers else "Creating the Postgres cluster", command
            ),
            START_SECONDS,
        )
        fresh.rename(cluster)

    def start(self, supervisor: SupervisorClient) -> Child:
        """Start the server, wait until it answers, and create its database if missing. Raises `ServerError`."""
        child = self.spawn(supervisor)
        found = f"select count(*) from pg_database where datname = '{DATABASE}'"  # noqa: S608 - a constant
        wait_ready(child, lambda: self._query(found).returncode == 0, START_SECONDS)
        if self._query(found).stdout.strip() == "0":
            created = self._query(f"create database {DATABASE}")
            if created.returncode != 0:
                raise ServerError(f"{self.name} did not create its database: {created.stderr.strip()}. Log: {self.log}")
        return child

    def spawn(self, supervisor: SupervisorClient) -> Child:
        """Start the server, and do not wait until it answers. Raises `ServerError`."""
        command = [str(self.install / "bin" / "postgres"), "-D", str(self.seen / "cluster"), "-p", str(self.port)]
        for name, value in (SETTINGS | dict(self.settings)).items():
            command += ["-c", f"{name}={value}"]
        return supervisor.spawn(self._program(self.name, command))

    def _query(self, sql: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the wheel's own psql
            [
                postgres_install() / "bin" / "psql",
                "-XAtqc",
                sql,
                f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/postgres",
            ],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )

    def _program(self, name: str, argv: list[str]) -> Program:
        return Program(
            name=name,
            argv=argv,
            env=clean_environment(LC_ALL="C"),
            log=self.log,
            # SIGQUIT ends without a checkpoint, SIGINT cleanly. Never SIGKILL: shared memory would remain.
            stop=signal.SIGQUIT if self.temporary else signal.SIGINT,
            death=signal.SIGQUIT,
            user=self.user,
        )
