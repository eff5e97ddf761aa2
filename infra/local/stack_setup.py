"""Assembles a stack: claims folders, ports and locks, hands them to the supervisor that keeps them, starts servers."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from infra.local.artifacts import Lock
from infra.local.bundled_binaries import POSTGRES_MAJOR, java_version
from infra.local.directories import PORTS, claim_data, create_run, is_reachable
from infra.local.errors import ServerEndedError
from infra.local.kafka_server import KafkaServer
from infra.local.kafka_storage import kept_cluster_id
from infra.local.ports import read_ports, release_where_needed, reserve_port_again
from infra.local.postgres_server import PostgresServer, readable_install, server_user
from infra.local.progress import Report
from infra.local.supervisor_client import Child, SupervisorClient

__all__ = ["Assembly", "Options", "assemble_stack", "start_server"]

_MORE_STARTS = 2  # of one server of several


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a stack; see `LocalStack`."""

    data_dir: Path | None
    kafka: bool
    postgres: bool
    kafka_port: int | None
    postgres_port: int | None
    usual_ports: Mapping[str, int]
    kafka_heap: str
    jvm_options: Sequence[str]
    broker_settings: Mapping[str, str]
    postgres_settings: Mapping[str, str]
    kafka_lock: Lock
    postgres_folder: Path | None  # None: the wheel's
    brokers: int = 1
    databases: int = 1


@dataclass(frozen=True, slots=True)
class Assembly:
    """A stack whose servers can be started."""

    run: Path  # temporary; the supervisor removes it
    logs: Path
    supervisor: SupervisorClient
    kafka: tuple[KafkaServer, ...]  # by node, from node 1 on
    postgres: tuple[PostgresServer, ...]  # by number, from 1 on

    @property
    def servers(self) -> tuple[KafkaServer | PostgresServer, ...]:
        """All servers."""
        return (*self.kafka, *self.postgres)


def assemble_stack(options: Options, class_path: Sequence[Path], report: Report) -> Assembly:
    """Claim folders and ports, and start the supervisor; return the stack. Raises `LocalStackError`, `OSError`."""
    home = None if options.data_dir is None else options.data_dir / "postgres"
    user = server_user(home) if options.postgres else None
    with ExitStack() as on_failure, ExitStack() as handed_over:
        run, lock = create_run(user)
        on_failure.callback(shutil.rmtree, run, ignore_errors=True)
        handed_over.callback(os.close, lock)
        inherit = [lock]
        if options.data_dir is not None:
            versions = {"kafka": options.kafka_lock.kafka, "postgres": POSTGRES_MAJOR}
            data_lock = claim_data(options.data_dir, versions, options.brokers, options.databases)
            handed_over.callback(os.close, data_lock)
            inherit.append(data_lock)
        base = options.data_dir or run
        logs = _fresh_logs(base / "logs")
        reserved = {name: handed_over.enter_context(each) for name, each in _reserve(options, base, report).items()}
        ports = {name: int(each.getsockname()[1]) for name, each in reserved.items()}
        kafka = _kafka(options, class_path, base, run, ports) if options.kafka else ()
        postgres: tuple[PostgresServer, ...] = ()
        if options.postgres:
            seen = {folder: _seen(folder, user, handed_over, inherit) for folder in _homes(options, base)}
            postgres = _postgres(
                options, seen, options.postgres_folder or readable_install(run, user), logs, ports, user
            )
        for each in reserved.values():
            release_where_needed(each)
        hold = [each.fileno() for each in reserved.values() if each.fileno() >= 0]
        supervisor = SupervisorClient(inherit, hold, run, logs / "supervisor.log")
        on_failure.pop_all()
        return Assembly(run, logs, supervisor, kafka, postgres)


def _reserve(options: Options, base: Path, report: Report) -> dict[str, socket]:
    """Reserve a port for each server. A data directory keeps the ports of its first run, so that addresses stay."""
    asked = {"kafka": options.kafka_port, "postgres": options.postgres_port}
    more = range(2, options.brokers + 1)
    databases = range(2, options.databases + 1)
    asked |= {_nth("kafka", node): None for node in more} | {_nth("postgres", number): None for number in databases}
    usual = dict(options.usual_ports)
    for name, given, others in (("kafka", options.kafka_port, more), ("postgres", options.postgres_port, databases)):
        if (first := given or options.usual_ports.get(name)) is not None:  # the others' ports follow that of the first
            usual |= {_nth(name, number): first + number - 1 for number in others}
    if options.data_dir is None:
        before: dict[str, int] = {}
    else:
        before = read_ports(base / PORTS, asked)
    with ExitStack() as on_failure:
        reserved: dict[str, socket] = {}
        for name, port in {**asked, "controller": None, **{_nth("controller", node): None for node in more}}.items():
            ours = before.get(name)
            if ours in {each.getsockname()[1] for each in reserved.values()}:  # now given to the other server
                ours = None
            reserved[name] = on_failure.enter_context(reserve_port_again(port, ours, name, report, usual.get(name)))
        on_failure.pop_all()
    if options.data_dir is not None:
        kept = {name: before.get(name, int(reserved[name].getsockname()[1])) for name in asked}
        (base / PORTS).write_text(json.dumps(kept) + "\n", encoding="utf-8")
    return reserved


def _fresh_logs(logs: Path) -> Path:
    """Return the folder of the logs, after renaming the logs of the last run to `.log.previous`."""
    logs.mkdir(exist_ok=True)
    for log in logs.glob("*.log"):
        log.replace(log.with_suffix(".log.previous"))
    return logs


def _nth(name: str, node: int) -> str:
    """Return the name of a port, a folder or a log of a server. Those of a single one are named as ever."""
    return name if node == 1 else f"{name}-{node}"


def _homes(options: Options, base: Path) -> list[Path]:
    return [base / _nth("postgres", number) for number in range(1, options.databases + 1)]


def _seen(home: Path, user: int | None, handed_over: ExitStack, inherit: list[int]) -> Path:
    """Make a Postgres server's folder, and return the path by which the server's user reaches it."""
    home.mkdir(exist_ok=True)
    home.chmod(0o711)
    if is_reachable(home, user):
        return home
    # A process can enter a folder that it has open even if it cannot pass the folders above, such as /root.
    opened = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    handed_over.callback(os.close, opened)
    inherit.append(opened)
    return Path(f"/proc/self/fd/{opened}")


def _postgres(  # noqa: PLR0913, PLR0917 - the parts of a stack
    options: Options,
    seen: Mapping[Path, Path],
    install: Path,
    logs: Path,
    ports: Mapping[str, int],
    user: int | None,
) -> tuple[PostgresServer, ...]:
    return tuple(
        PostgresServer(
            install=install,
            home=home,
            seen=reached,
            log=logs / f"{_nth('postgres', number)}.log",
            port=ports[_nth("postgres", number)],
            user=user,
            temporary=options.data_dir is None,
            settings=options.postgres_settings,
            number=number if options.databases > 1 else None,
        )
        for number, (home, reached) in enumerate(seen.items(), 1)
    )


def _kafka(
    options: Options,
    class_path: Sequence[Path],
    base: Path,
    run: Path,
    ports: Mapping[str, int],
) -> tuple[KafkaServer, ...]:
    nodes = range(1, options.brokers + 1)
    controllers = {node: ports[_nth("controller", node)] for node in nodes}
    names = {node: f"broker-{node}" if options.brokers > 1 else "kafka" for node in nodes}
    data = {node: base / names[node] for node in nodes}
    cluster = kept_cluster_id(data.values()) if options.brokers > 1 else None
    return tuple(
        KafkaServer(
            version=options.kafka_lock.kafka,
            class_path=class_path,
            data=data[node],
            config=run / (f"config-{node}" if options.brokers > 1 else "config"),
            log=base / "logs" / f"{names[node]}.log",
            archive=class_path[0].parent / f"classes-{java_version()}.aot",
            scratch=run / (f"scratch-{node}" if options.brokers > 1 else "scratch"),
            port=ports[_nth("kafka", node)],
            controllers=controllers,
            temporary=options.data_dir is None,
            node=node,
            cluster=cluster,
            heap=options.kafka_heap,
            jvm_options=options.jvm_options,
            broker=options.broker_settings,
        )
        for node in nodes
    )


def start_server(server: KafkaServer | PostgresServer, supervisor: SupervisorClient, report: Report) -> Child:
    """Start a server; one of several that ends meanwhile is started again, as one that ends later is.

    Of three brokers that start together on a busy machine, one of 4.2.1 may be told of a leader before it has read its
    own vote, and end: "inconsistent with current leader" (KafkaRaftClient).

    Raises:
        ServerError: when it ends each time, or for any other cause.

    """
    for _ in range(_MORE_STARTS if server.has_peers else 0):
        try:
            return server.start(supervisor)
        except ServerEndedError:
            report(f"{server.title} ended while it started: starting it again")
    return server.start(supervisor)
