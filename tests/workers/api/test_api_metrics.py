"""The read API's own metrics: each answered request once, whatever came of it."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from workers.api.metrics import ApiMetrics
from workers.api.tokens import ANYBODY


async def _ask(metrics: ApiMetrics, error: BaseException | None) -> int:
    """Return the status of a request whose handler raises an error."""

    async def handle(_: web.Request) -> web.Response:
        if error is not None:
            raise error
        return web.Response()

    application = web.Application(middlewares=[metrics.middleware()])
    application.add_routes([web.get("/balance", handle, name="balance")])
    async with TestClient(TestServer(application)) as client, client.get("/balance") as answer:
        return answer.status


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, 200), (ValueError("planted"), 500), (web.HTTPForbidden(), 403)],
)
async def test_a_request_is_counted_whatever_came_of_it(error: Exception | None, status: int) -> None:
    """With the status that its client sees: an error that nobody foresaw is what an alert waits for."""
    metrics = ApiMetrics([], lambda: True)

    answered = await _ask(metrics, error)

    assert status == answered
    assert 1 == _value(metrics, "inmail_api_requests_total", status=str(status))
    assert 1 == _value(metrics, "inmail_api_request_seconds_count")


async def test_a_client_that_left_got_no_answer() -> None:
    """Nothing is counted as an error of the API for that."""
    metrics = ApiMetrics([], lambda: True)
    handler = metrics.middleware()

    async def leave(_: web.Request) -> web.StreamResponse:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await handler(make_mocked_request("GET", "/balance"), leave)

    assert b"inmail_api_requests_total{" not in metrics.page()[0]


def test_whether_the_api_is_ready_is_told_by_the_name_that_workers_tell_it_by() -> None:
    """At each scrape anew: while it is not ready it gets no request, and an alert on errors sees none."""
    said = [True, False, True]
    metrics = ApiMetrics([], lambda: said.pop(0))

    told = [metrics.registry.get_sample_value("inmail_ready", {"worker": "api"}) for _ in range(3)]

    assert [1, 0, 1] == told


def _value(metrics: ApiMetrics, name: str, **more: str) -> float | None:
    labels = {"operation": "balance"} | ({"client": ANYBODY} | more if more else {})
    return metrics.registry.get_sample_value(name, labels)
