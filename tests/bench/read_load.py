"""Reads of the read API at a steady rate, from a process of its own: prints how long each took, as JSON.

    python -m tests.bench.read_load PORT RATE SECONDS

The client is a few lines, so that its own CPU time is small beside the server's. A read is timed from when it was due:
a client or server that falls behind hides nothing.
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from time import perf_counter

from tests.bench.books import ACCOUNTS, account

__all__ = ["TOKEN"]

TOKEN = "a-token-of-the-bench-with-enough-characters"  # noqa: S105
CONNECTIONS = 32
STATEMENTS = 0.1  # of all reads; the others are balances
LATE_SECONDS = 20.0


def _paths(seed: int) -> Iterator[str]:
    dice = random.Random(seed)  # noqa: S311 - a workload
    while True:
        of = f"/v1/accounts/{account(dice.randrange(ACCOUNTS))}"
        yield f"{of}/statement?limit=20" if dice.random() < STATEMENTS else f"{of}/balance"


class _Connection:
    """One connection that is kept, and asks one thing at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        self._reader, self._writer = reader, writer
        self._rest = f" HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()

    async def get(self, path: str) -> bytes:
        """Return the body; raise where the status is not 200."""
        self._writer.write(b"GET " + path.encode() + self._rest)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head!r} {body!r}")
        return body


async def _run(port: int, rate: int, seconds: int) -> list[float]:
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(_Connection(*await asyncio.open_connection("127.0.0.1", port), port))
    waits: list[float] = []

    async def read(path: str, due: float) -> None:
        connection = await free.get()
        await connection.get(path)
        waits.append((perf_counter() - due) * 1000)
        free.put_nowait(connection)

    began, paths = perf_counter(), _paths(rate)
    async with asyncio.timeout(seconds + LATE_SECONDS), asyncio.TaskGroup() as reads:
        for number in range(rate * seconds):
            due = began + number / rate
            if (ahead := due - perf_counter()) > 0:
                await asyncio.sleep(ahead)
            reads.create_task(read(next(paths), due))
    return waits


def main() -> None:
    """Run the load that the arguments name."""
    port, rate, seconds = map(int, sys.argv[1:])
    print(json.dumps(asyncio.run(_run(port, rate, seconds))))


if __name__ == "__main__":
    main()
