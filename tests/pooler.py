"""PgBouncer before a test's database."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from pydantic import PostgresDsn, SecretStr

from infra.postgres_session import CLIENT_SETTINGS
from infra.settings import Settings
from tests.tools import tool
from tests.workers.processes import free_port
from tests.workers.wire import eventually

__all__ = ["OPENED_WITH", "pooler"]

_MORE = [
    *("idle_in_transaction_session_timeout", "client_connection_check_interval", "tcp_user_timeout"),
    *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "jit", "role"),
]
OPENED_WITH = ",".join([*CLIENT_SETTINGS, *_MORE])  # the parameters that sessions are opened with


def _start(url: PostgresDsn, port: int, folder: Path, more: str) -> "subprocess.Popen[bytes]":
    program = tool("pgbouncer")
    (host,) = url.hosts()
    (folder / "users").write_text(f'"{host["username"]}" ""\n')
    file = folder / "pgbouncer.ini"
    file.write_text(
        f"[databases]\n* = host={host['host']} port={host['port']}\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {folder / 'users'}\n{more}\n"
    )
    as_user = ["-u", "nobody"] if os.getuid() == 0 else []  # it does not run as root
    return subprocess.Popen([program, "-q", *as_user, str(file)], stderr=subprocess.DEVNULL)


@asynccontextmanager
async def pooler(settings: Settings, folder: Path, more: str = "") -> AsyncIterator[Settings]:
    """Run PgBouncer before the test's database; yield settings that lead to it."""
    url = PostgresDsn(settings.database_url.get_secret_value())
    port = free_port()
    process = _start(url, port, folder, more)

    async def listens() -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually(listens, "PgBouncer")
        address = f"postgresql://{url.hosts()[0]['username']}@127.0.0.1:{port}{url.path}"
        yield settings.model_copy(update={"database_url": SecretStr(address)})
    finally:
        process.kill()
        process.wait()
