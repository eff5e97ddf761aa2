"""`inmail api` as a process: it starts, says that it is ready, counts, and ends in order; or says what is missing."""

import asyncio
import signal
import socket
from typing import Any

from aiohttp import ClientSession
from pydantic import SecretStr

from infra.clock import utc_now
from infra.postgres import Connection
from infra.settings import Settings
from tests.ledger.book import Book
from tests.workers.api.served import TOKEN
from tests.workers.command import run, start
from tests.workers.processes import ask, free_port
from tests.workers.scraping import scrape
from tests.workers.wire import eventually
from workers.api.tokens import hash_token


async def _balance(port: int) -> Any:
    async with (
        ClientSession(f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {TOKEN}"}) as client,
        client.get("/v1/accounts/alice/balance") as answer,
    ):
        return await answer.json()


async def test_the_command_serves_until_it_is_told_to_stop(settings: Settings, database: Connection) -> None:
    """Ready once the database answers; each request is counted under its token's name; SIGTERM ends it with code 0.

    It is not ready from the signal on, and answers all the same until load balancers have seen that.
    """
    book = Book(database)
    book.now = utc_now()
    await book.one(book.promotion(5))
    port, health = free_port(), free_port()
    tokens = SecretStr(f"crm:{hash_token(TOKEN)}")
    own = settings.model_copy(update={"api_port": port, "health_port": health, "api_tokens": tokens})
    process = await start(own, "api")
    try:

        async def ready() -> bool:
            assert process.returncode is None
            return (await ask(health, "/readyz"))[0] == 200

        await eventually(ready, "an API that is ready")
        body = await _balance(port)
        seen = await scrape(health)
    finally:
        process.send_signal(signal.SIGTERM)

    async def unready() -> bool:
        return (await ask(health, "/readyz"))[0] == 503

    await eventually(unready, "an API that is not ready any more")
    _, told = await ask(health, "/readyz")
    last = await _balance(port)
    await asyncio.wait_for(process.communicate(), 30)

    assert (5, 5, 0) == (body["spendable"], last["spendable"], process.returncode)
    assert "the process is being stopped" in told["reasons"]
    assert 1 == seen.value("inmail_api_requests_total", operation="balance", client="crm", status="200")
    assert 1 == seen.value("inmail_api_request_seconds_count", operation="balance")
    assert 4 == seen.value("inmail_pool_connections_max", worker="api")


async def test_a_new_token_fits_its_line(settings: Settings) -> None:
    """What is printed for the client is what the line's hash is of."""
    said = await run(settings, "api", "--new-token", "--name", "crm")
    token, line = (each.rpartition(" ")[2] for each in said.out.splitlines())

    assert f"crm:{hash_token(token)}" == line
    assert len(token) >= 43


async def test_it_says_what_it_lacks_and_ends(settings: Settings) -> None:
    """Code 2, and the setting's name: no token, or a port that somebody has."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = {"INMAIL_API_WITHOUT_TOKENS": "true", "INMAIL_API_PORT": str(taken.getsockname()[1])}
        ended = [await run(settings, "api"), await run(settings, "api", **port)]

    assert [2, 2] == [each.code for each in ended]
    assert "INMAIL_API_TOKENS_FILE, INMAIL_API_TOKENS: one of them is needed" in ended[0].err
    assert "INMAIL_API_PORT, INMAIL_API_ADDRESS: cannot listen" in ended[1].err
