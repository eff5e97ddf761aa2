"""What the console asks the servers when they refuse it."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiokafka.errors import TopicAuthorizationFailedError

from infra.settings import Settings
from workers.console import problems
from workers.console.query_limiter import QueryLimiter


async def test_a_refusal_is_explained_within_the_limit_and_only_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages are refused, the servers are asked for the reason once, and no more than three at a time."""
    limiter = QueryLimiter(settings)
    free: list[int] = []

    async def explain_refusal(*_: object) -> None:
        free.append(limiter._slots._value)

    async def refuse(_: web.Request) -> web.Response:
        raise TopicAuthorizationFailedError("send-requests")

    monkeypatch.setattr(problems, "explain_refusal", explain_refusal)
    application = web.Application(middlewares=[problems.error_middleware(limiter)])
    application.add_routes([web.get("/api/topics", refuse)])
    async with asyncio.timeout(5), TestClient(TestServer(application)) as client:
        for _ in range(5):
            assert 500 <= (await client.get("/api/topics")).status

    assert [2] == free
