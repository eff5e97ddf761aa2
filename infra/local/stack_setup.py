"""Assembles a stack: claims folders, ports and locks, and hands them to the supervisor that keeps them."""

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
from infra.local.kafka_server import KafkaServer
from infra.local.ports import read_ports, release_where_needed, reserve_port_again
from infra.local.postgres_server import PostgresServer, readable_install, server_user
from infra.local.progress import Report
from infra.local.supervisor_client import SupervisorClient

__all__ = ["Assembly", "Options", "assemble_stack"]


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


@dataclass(frozen=True, slots=True)
class Assembly:
    """A stack whose servers can be started."""

    run: Path  # temporary; the supervisor removes it
    logs: Path
    supervisor: SupervisorClient
    kafka: KafkaServer | None
    postgres: PostgresServer | None


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
            data_lock = claim_data(options.data_dir, {"kafka": options.kafka_lock.kafka, "postgres": POSTGRES_MAJOR})
            handed_over.callback(os.close, data_lock)
            inherit.append(data_lock)
        base = options.data_dir or run
        logs = _fresh_logs(base / "logs")
        reserved = {name: handed_over.enter_context(each) for name, each in _reserve(options, base, report).items()}
        ports = {name: int(each.getsockname()[1]) for name, each in reserved.items()}
        kafka = _kafka(options, class_path, base, run, ports) if options.kafka else None
        postgres = None
        if options.postgres:
            home = base / "postgres"
            home.mkdir(exist_ok=True)
            home.chmod(0o711)
            seen = home
            if not is_reachable(home, user):
                # A process can enter a folder that it has open even if it cannot pass the folders above, such as /root.
                opened = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
                handed_over.callback(os.close, opened)
                inherit.append(opened)
                seen = Path(f"/proc/self/fd/{opened}")
            postgres = PostgresServer(
                install=options.postgres_folder or readable_install(run, user),
                home=home,
                seen=seen,
                log=logs / "postgres.log",
                port=ports["postgres"],
                user=user,
                temporary=options.data_dir is None,
                settings=options.postgres_settings,
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
    if options.data_dir is None:
        before: dict[str, int] = {}
    else:
        before = read_ports(base / PORTS, asked)
    with ExitStack() as on_failure:
        reserved: dict[str, socket] = {}
        for name, port in {**asked, "controller": None}.items():
            ours = before.get(name)
            if ours in {each.getsockname()[1] for each in reserved.values()}:  # now given to the other server
                ours = None
            reserved[name] = on_failure.enter_context(
                reserve_port_again(port, ours, name, report, options.usual_ports.get(name))
            )
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


def _kafka(
    options: Options,
    class_path: Sequence[Path],
    base: Path,
    run: Path,
    ports: Mapping[str, int],
) -> KafkaServer:
    return KafkaServer(
        version=options.kafka_lock.kafka,
        class_path=class_path,
        data=base / "kafka",
        config=run / "config",
        log=base / "logs" / "kafka.log",
        archive=class_path[0].parent / f"classes-{java_version()}.aot",
        scratch=run / "scratch",
        port=ports["kafka"],
        controller_port=ports["controller"],
        temporary=options.data_dir is None,
        heap=options.kafka_heap,
        jvm_options=options.jvm_options,
        broker=options.broker_settings,
    )
