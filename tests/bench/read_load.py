"""Reads of the read API at a steady rate, from a process of its own until its standard input ends.

    python -m tests.bench.read_load PORT RATE

It prints, as JSON, of each read in the order in which they were due: its kind, how long it took in milliseconds, and
whether its answer was 304. A read is timed from when it was due: a client or server that falls behind hides nothing.
The connections are kept, and each asks one thing at a time. The client parses no more than it has to, so that its own
CPU time is small; it is a process of its own, so that its time is nobody else's.

The reads, by share of all: balances, some of them with the tag of the account's last answer (`If-None-Match`), and
some for a sequence that the reader knows (`wait_for`); pages of statements; outcomes of requests. A read with a tag or
for a sequence is of an account whose balance was read before: a reader knows neither of any other one.
"""

import asyncio
import json
import random
import sys
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import NamedTuple, cast

import asyncpg
import uvloop

from infra.settings import Settings
from tests.bench.books import ACCOUNTS, account

__all__ = ["MIX", "TOKEN", "Waited"]

TOKEN = "a-token-of-the-bench-with-enough-characters"  # noqa: S105
MIX = {"balance": 0.4, "balance, if changed": 0.3, "balance, wait_for": 0.1, "statement": 0.1, "outcome": 0.1}
_OF_KNOWN = frozenset({"balance, if changed", "balance, wait_for"})
CONNECTIONS = 32
LATE_SECONDS = 60.0
_OUTCOMES = 5_000
_NOT_MODIFIED = b"HTTP/1.1 304"
_GOOD = (b"HTTP/1.1 200", _NOT_MODIFIED)


class Waited(NamedTuple):
    """A read that was answered."""

    kind: str  # of MIX
    milliseconds: float  # -1 until then
    not_modified: bool


class _Request(NamedTuple):
    """A request of the mix: its first line and headers, but for those that all have."""

    kind: str
    account: int
    head: str


class _Read(NamedTuple):
    """A read that is due."""

    number: int
    due: float
    request: _Request


class _Connection(asyncio.Protocol):
    """A connection that is kept, and asks one thing at a time."""

    def __init__(self, load: "_Load") -> None:
        self._load, self._got, self._read = load, b"", _Read(0, 0.0, _Request("", 0, ""))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def ask(self, read: _Read) -> None:
        """Send a request; its answer goes to the load."""
        self._read = read
        self._transport.write(read.request.head.encode() + self._load.rest)

    def data_received(self, data: bytes) -> None:
        """Take a part of the answer."""
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._got[:end]
        length = head.find(b"Content-Length: ")
        body = int(head[length + 16 :].partition(b"\r\n")[0]) if length >= 0 else 0
        if len(self._got) < end + 4 + body:
            return
        if not head.startswith(_GOOD):
            self._load.fail(RuntimeError(f"{self._read.request.head!r}: {self._got!r}"))
        self._got = b""
        self._load.done(self, self._read, head)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the load: no server may end a connection that it was to keep."""
        self._load.fail(error or ConnectionResetError("the server closed a connection"))


class _Load:
    """Reads that are due, and connections that are free."""

    def __init__(self, port: int, outcomes: list[tuple[str, str]]) -> None:
        self.rest = f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        self.waits: list[Waited] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._outcomes = outcomes
        self._free: deque[_Connection] = deque()
        self._due: deque[_Read] = deque()
        self._tags: dict[int, str] = {}
        self._tagged: list[int] = []  # the accounts that have one, to pick from

    def fail(self, error: Exception) -> None:
        """End the load."""
        if not self.failed.done():
            self.failed.set_exception(error)

    def done(self, connection: _Connection, read: _Read, head: bytes) -> None:
        """Note an answer; give its connection the next read."""
        milliseconds = (perf_counter() - read.due) * 1000
        self.waits[read.number] = Waited(read.request.kind, milliseconds, head.startswith(_NOT_MODIFIED))
        tag = head.find(b"ETag: ")
        if tag >= 0 and "/balance" in read.request.head:
            self.note_tag(read.request.account, head[tag + 6 :].partition(b"\r\n")[0].decode())
        if self._due:
            connection.ask(self._due.popleft())
        else:
            self._free.append(connection)

    def add(self, read: _Read) -> None:
        """Make a read as soon as a connection is free."""
        self.waits.append(Waited(read.request.kind, -1.0, not_modified=False))
        if self._free:
            self._free.popleft().ask(read)
        else:
            self._due.append(read)

    def note_tag(self, account_number: int, tag: str) -> None:
        """Keep the tag of an account's balance."""
        if account_number not in self._tags:
            self._tagged.append(account_number)
        self._tags[account_number] = tag

    def requests(self, seed: int) -> Iterator[_Request]:
        """Yield the requests of the mix, each of a random account; plain balances until a first one has a tag."""
        dice = random.Random(seed)  # noqa: S311 - a workload
        kinds, shares = list(MIX), list(MIX.values())
        while True:
            (kind,) = dice.choices(kinds, shares)
            if kind == "outcome":
                account_id, request_id = dice.choice(self._outcomes)
                yield _Request(kind, -1, f"GET /v1/accounts/{account_id}/requests/{request_id} HTTP/1.1\r\n")
            elif kind in _OF_KNOWN and self._tagged:
                number = dice.choice(self._tagged)
                yield _Request(kind, number, _of_known(kind, _path(number), self._tags[number]))
            elif kind == "statement":
                number = dice.randrange(ACCOUNTS)
                yield _Request(kind, number, f"GET {_path(number)}/statement?limit=20 HTTP/1.1\r\n")
            else:
                number = dice.randrange(ACCOUNTS)
                yield _Request("balance", number, f"GET {_path(number)}/balance HTTP/1.1\r\n")

    async def run(self, port: int, rate: int, until: "asyncio.Future[bytes]") -> None:
        """Open the connections and read at a rate until told to end; wait for what is asked."""
        loop = asyncio.get_running_loop()
        self._free.extend(
            [
                (await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port))[1]
                for _ in range(CONNECTIONS)
            ]
        )
        began, requests, number = perf_counter(), self.requests(rate), 0
        while not until.done() and not self.failed.done():
            due = began + number / rate
            if (ahead := due - perf_counter()) > 0:
                await asyncio.sleep(ahead)
            self.add(_Read(number, due, next(requests)))
            number += 1
        async with asyncio.timeout(LATE_SECONDS):
            while len(self._free) < CONNECTIONS and not self.failed.done():  # noqa: ASYNC110 - at the end only
                await asyncio.sleep(0.01)
        if self.failed.done():
            self.failed.result()


def _path(number: int) -> str:
    return f"/v1/accounts/{account(number)}"


def _of_known(kind: str, path: str, tag: str) -> str:
    """Return the head of a read of an account whose tag the reader has: its form, a sequence, an instant."""
    if kind == "balance, if changed":
        return f"GET {path}/balance HTTP/1.1\r\nIf-None-Match: {tag}\r\n"
    sequence = tag.split(".")[1]
    return f"GET {path}/balance?wait_for={sequence} HTTP/1.1\r\n"


async def _outcomes() -> list[tuple[str, str]]:
    """Return accounts and ids of requests that have an answer."""
    connection = await asyncpg.connect(Settings().database_url.get_secret_value())
    rows = await connection.fetch(
        "select a.account_id, j.request_id::text from journal as j join accounts as a using (account)"
        " where j.is_answer limit $1",
        _OUTCOMES,
    )
    await connection.close()
    return [(account_id, request_id) for account_id, request_id in rows]


async def _run(port: int, rate: int) -> list[Waited]:
    load = _Load(port, await _outcomes())
    told = asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await load.run(port, rate, told)
    return load.waits


def main() -> None:
    """Run the load that the arguments name."""
    port, rate = map(int, sys.argv[1:])
    print(json.dumps(uvloop.run(_run(port, rate))))


if __name__ == "__main__":
    main()
