"""The read API in this process, over a story of a few weeks, and a line to Postgres that can be cut."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiohttp import ClientSession
from pydantic import SecretStr

from infra.settings import Settings
from workers.api.server import serve_api
from workers.api.tokens import hash_token

TOKEN = "a-token-of-a-test-of-forty-three-characters"  # noqa: S105
OLD_TOKEN = "the-token-before-it-of-the-same-client-of-it"  # noqa: S105


class Answer(NamedTuple):
    """What came of a request."""

    status: int
    body: Any
    headers: Any

    @property
    def problem(self) -> tuple[int, str]:
        """Status and kind of an error, which has the right media type and says something."""
        assert "application/problem+json" == self.headers["Content-Type"], self
        assert self.status == self.body["status"]
        assert len(self.body["detail"]) > 20
        return self.status, self.body["type"].removeprefix("urn:inmail:problem:")


class Client:
    """A client with a token."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        """Ask; with `Authorization` unless headers say otherwise, in which `_` stands for `-`."""
        sent = {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._session.request(method, path, headers=sent) as answer:
            text = await answer.text()
            return Answer(answer.status, json.loads(text) if text else None, answer.headers)


@asynccontextmanager
async def serving(settings: Settings, stop: asyncio.Event | None = None, **changes: Any) -> AsyncIterator[Client]:
    """Serve the API with these settings on a free port, and give a client of it."""
    tokens = SecretStr(f"test:{hash_token(TOKEN)}, test-old:{hash_token(OLD_TOKEN)}")
    own = settings.model_copy(update={"api_port": 0, "api_tokens": tokens} | changes)
    async with serve_api(own, stop) as address, ClientSession(address) as session:
        yield Client(session)


class Line:
    """A line to a server, through a port of its own, that can be cut and mended."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._target = (place.hostname, place.port)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def mend(self) -> None:
        """Listen, at the same port as before."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and break those there are."""
        assert self._server is not None
        self._server.close()
        for end in self._ends:
            end.transport.abort()
        await self._server.wait_closed()
        await asyncio.gather(*self._tasks)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._target)
        self._ends |= {writer, back}
        for source, target in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._copy(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.transport.abort()
