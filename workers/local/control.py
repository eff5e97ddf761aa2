"""How another terminal tells a running `inmail up` to stop and start workers: a socket in its data directory.

A line of JSON asks, a line of JSON answers. Whoever may write to the data directory may ask; nobody else may.
"""

import asyncio
import json
import os
import shlex
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from infra.local.errors import LocalStackError
from workers.console.local_workers import ControlError, WorkerAction, WorkerControl, WorkerStatus

__all__ = ["DATA", "LIST", "NotUpError", "ask_control", "data_option", "serve_control"]

DATA: Final = Path(".inmail")  # where `inmail up` keeps its data by default
LIST: Final = "list"
_SOCKET: Final = "control.sock"
_PATH_BYTES: Final = 100  # a socket's path has room for 107 on Linux, for 103 on macOS
_LINE_BYTES: Final = 64 * 1024


class NotUpError(LocalStackError):
    """No `inmail up` runs on that data directory."""


def data_option(data_dir: Path) -> str:
    """Return what a line with `inmail workers` needs at its end to reach an `inmail up`: nothing by default.

    Otherwise it is ` --data` with the whole path, since the line may be pasted in another folder.
    """
    return "" if data_dir.resolve() == DATA.resolve() else f" --data {shlex.quote(str(data_dir.resolve()))}"


@asynccontextmanager
async def serve_control(control: WorkerControl, data_dir: Path) -> AsyncIterator[None]:
    """Answer other terminals until left.

    Raises:
        OSError: when the socket cannot be made.

    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):  # whoever asked has gone
                writer.write(json.dumps(await _answer(control, await reader.readline()), default=str).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    with _listening(data_dir) as listener:
        server = await asyncio.start_unix_server(answer, sock=listener, limit=_LINE_BYTES)
        try:
            yield
        finally:
            server.close()
            (data_dir / _SOCKET).unlink(missing_ok=True)


async def _answer(control: WorkerControl, line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        if asked["do"] == LIST:
            return {"workers": [_json(each) for each in control.statuses()]}
        action = WorkerAction(asked["do"])
        done = await control.act(asked["name"], action, let_through=bool(asked.get("let_through")))
    except ControlError as error:
        return {"error": str(error)}
    except (ValueError, KeyError, TypeError):
        return {"error": "expected an object with `do` and `name`"}
    return {"workers": [_json(done)]}


def _json(status: WorkerStatus) -> dict[str, Any]:
    return {**status.summary(), "text": status.text}


async def ask_control(data_dir: Path, do: str, name: str = "", *, let_through: bool = False) -> list[dict[str, Any]]:
    """Ask a running `inmail up`, and return the workers that it tells of.

    Raises:
        NotUpError: when none runs on that data directory.
        ControlError: when it refuses; the message says why.

    """
    try:
        with _short(data_dir) as folder:
            reader, writer = await asyncio.open_unix_connection(str(folder / _SOCKET), limit=_LINE_BYTES)
    except OSError as error:
        raise NotUpError(
            f"no `inmail up` runs on {data_dir}: start one, or name the data directory of one with --data"
        ) from error
    try:
        writer.write(json.dumps({"do": do, "name": name, "let_through": let_through}).encode() + b"\n")
        await writer.drain()
        line = await reader.readline()
    finally:
        writer.close()
    if not line:
        raise NotUpError(f"the `inmail up` on {data_dir} ended before it answered")
    answer = json.loads(line)
    if "error" in answer:
        raise ControlError(answer["error"])
    found: list[dict[str, Any]] = answer["workers"]
    return found


@contextmanager
def _listening(data_dir: Path) -> Iterator[socket.socket]:
    (data_dir / _SOCKET).unlink(missing_ok=True)  # of an `up` that was killed: the data directory's lock is ours
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, _short(data_dir) as folder:
        before = os.umask(0o177)
        try:
            listener.bind(str(folder / _SOCKET))
        finally:
            os.umask(before)
        yield listener


@contextmanager
def _short(folder: Path) -> Iterator[Path]:
    """Give a name of a folder that leaves room for a socket's name."""
    if len(os.fsencode(folder / _SOCKET)) <= _PATH_BYTES or not Path("/proc/self/fd").is_dir():
        yield folder
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{opened}")
    finally:
        os.close(opened)
