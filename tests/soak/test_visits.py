"""What a soak's visits note of pages that are not answered as they should be, and its load of its own waits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from infra.settings import load_settings
from tests.soak import load as load_module
from tests.soak.answers import Answers
from tests.soak.load import Load
from tests.soak.visits import Visits
from tests.workers.processes import free_port


@asynccontextmanager
async def _served() -> AsyncIterator[Visits]:
    """Serve pages whose statuses are their paths."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    app = web.Application()
    app.add_routes([web.get(r"/{status:\d+}", page)])
    runner, port = web.AppRunner(app, shutdown_timeout=0.1), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield Visits({"api": port, "console": port, "send-2": free_port(), "lag": free_port()}, [])
    finally:
        await runner.cleanup()


async def test_a_page_counts_as_answered_with_its_own_status_only() -> None:
    """An account of which nothing is booked yet is the one exception; a process that is restarted may be away."""
    async with _served() as visits, ClientSession() as client:
        for status in (200, 404, 503):
            await visits._get(client, "api", f"/{status}")
        await visits._get(client, "api", "/404", may_be_missing=True)
        await visits._get(client, "send-2", "/metrics")
        await visits._get(client, "lag", "/metrics")

    assert 6 == visits.asked
    assert ["api/503: 503"] == visits.server_errors
    assert ["api/404: 404", "lag/metrics"] == [each.partition(": Client")[0] for each in visits.failures]


def test_what_is_overdue_by_more_than_the_load_catches_up_is_counted_as_skipped() -> None:
    """A stall of 5 s at 100 records a second: those of 1 s are sent late, those of the rest never."""
    load = Load(load_settings(), Answers(), seed=1)
    late = load._next_due(due=10.0, clock=15.0, pace=100)

    assert 15.0 - load_module._CATCH_UP_SECONDS == late
    assert 399 == round(load.skipped)
    assert 15.5 == load._next_due(due=15.49, clock=15.4, pace=100)
    assert 399 == round(load.skipped)
