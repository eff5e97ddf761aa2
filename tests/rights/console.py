"""What a console does for its readers and its operators, each time with a right missing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg
from aiohttp import ClientSession, CookieJar
from pydantic import SecretStr

from infra.kafka.rights import Operation, Resource, Right, user_of
from infra.local.ports import reserve_port
from infra.settings import Settings
from tests.rights.database import DatabaseUser
from tests.rights.site import Site
from workers.console.server import serve_console
from workers.rights import RIGHTS, rights_of

__all__ = ["CONSOLES", "ask_console", "names_in_console"]

CONSOLES: Final = ("console", "console operator")
_TOKEN: Final = "o" * 24
_OVERVIEW: Final = "/api/overview"
_SAMPLE_SECONDS: Final = 60.0
_BECAUSE: Final = {"because": "tests"}
# The verbs of operations that a console goes on with, by the command whose rights they need.
_VERBS: Final = {"dead-letters redrive": "redrive", "replay rewind": "rewind", "replay reemit": "reemit"}


class ConsoleSaid(NamedTuple):
    """What a console answered."""

    status: int
    body: dict[str, Any]

    @property
    def error(self) -> dict[str, str]:
        """Code and text of what is wrong; of what is sampled for all pages, only a text. Empty where nothing is."""
        sampled = self.body.get("errors", {}).get("kafka") or next(
            (part["text"] for part in self.body.get("health", ()) if part["cause"] == "not allowed"), None
        )
        return {"code": "sampled", "text": sampled} if sampled else self.body.get("error") or {}


async def ask_console(site: Site, command: str, right: Right, settings: Settings) -> ConsoleSaid:
    """Ask a console, started for this, for that for which the console or its operator needs a right."""
    async with _console(settings, command) as (client, headers):
        reads = command == "console" or right in rights_of("console", site.administrator)
        path = _page(right) if reads else ""
        if path:
            return await _read(client, path)
        verb = next(_VERBS[each] for each in _VERBS if right in RIGHTS[each])
        operation = await _stopped_operation(site, verb)
        async with client.post(f"/api/operations/{operation}/go-on", json=_BECAUSE, headers=headers) as answer:
            return ConsoleSaid(answer.status, await answer.json())


async def _read(client: ClientSession, path: str) -> ConsoleSaid:
    """Ask a page's question; that of the overview again until there is a sample."""
    async with asyncio.timeout(_SAMPLE_SECONDS):
        while True:
            async with client.get(path) as answer:
                said = ConsoleSaid(answer.status, await answer.json())
            if path != _OVERVIEW or said.body["at"] is not None:
                return said
            await asyncio.sleep(0.1)


def names_in_console(right: Right, settings: Settings, said: ConsoleSaid) -> bool:
    """Tell whether an answer names a right, what it is on and the user who lacks it."""
    text = said.error.get("text", "")
    return str(right) in text and f"does not let {user_of(settings)} do" in text


def _page(right: Right) -> str:
    """Return what a page asks for that needs a right."""
    if right.operation is Operation.DESCRIBE_CONFIGS:
        return "/api/topics"
    return _OVERVIEW if right.resource is Resource.GROUP else f"/api/topics/{right.name}/records?last=1"


async def _stopped_operation(site: Site, verb: str) -> int:
    """Return the number of an operation of a verb that ended, made to look as if its operator had stopped it."""
    owner = site.as_database_user(site.administrator, DatabaseUser.OWNER)
    connection = await asyncpg.connect(owner.database_url.get_secret_value())
    number: int = await connection.fetchval(
        "update operations set status = 'stopped' where operation = (select max(operation) from operations"
        " where verb = $1 and status in ('done', 'stopped')) returning operation",
        verb,
    )
    await connection.close()
    return number


@asynccontextmanager
async def _console(settings: Settings, command: str) -> AsyncIterator[tuple[ClientSession, dict[str, str]]]:
    """Serve a console of its own, which remembers no refusal; yield a client that is signed in."""
    kind = "console_operator_token" if command == "console operator" else "console_reader_token"
    own = settings.model_copy(update={kind: SecretStr(_TOKEN)})
    async with (
        serve_console(own, reserve_port(None, "a test")) as address,
        ClientSession(address, cookie_jar=CookieJar(unsafe=True)) as client,  # unsafe: takes cookies of an address
    ):
        given = {"token": _TOKEN, "name": "maria"}
        async with client.post("/api/session", json=given, headers={"Origin": address}) as answer:
            session = await answer.json()
        yield client, {"Origin": address, "X-Csrf-Token": session["csrf"]}
