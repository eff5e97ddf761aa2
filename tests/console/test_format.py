"""The page's numbers and times, told by its own modules in a real browser, without a console."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, Route

from tests.console.browser import open_tab
from workers.console.server import STATIC

_ORIGIN: Final = "http://console.test"  # nobody's: the browser's requests are answered here


@asynccontextmanager
async def _open_modules(browser: Browser, zone: str) -> AsyncIterator[Page]:
    """Open an empty page in a zone, which can import the console's modules."""
    async with open_tab(browser, _ORIGIN, timezone_id=zone) as tab:
        await tab.page.route(f"{_ORIGIN}/**", _answer)
        await tab.page.goto(f"{_ORIGIN}/empty")
        yield tab.page


async def _answer(route: Route) -> None:
    path = urlsplit(route.request.url).path
    if path == "/empty":
        await route.fulfill(body="<!doctype html>", content_type="text/html")
    else:
        await route.fulfill(path=STATIC / path.removeprefix("/static/"))


_TIME: Final = "(at) => import('/static/format.js').then((format) => format.time(at).textContent)"


async def test_a_local_time_is_called_utc_only_where_it_is(browser: Browser) -> None:
    """London has UTC in winter; whether the viewer looks in winter or in summer makes no difference."""
    async with _open_modules(browser, "Europe/London") as page:
        for today in ("2026-01-10", "2026-07-10"):
            await page.clock.set_fixed_time(f"{today}T12:00:00Z")
            told = [await page.evaluate(_TIME, at) for at in ("2026-07-01T12:00:00Z", "2026-01-01T12:00:00Z")]
            assert ["01 Jul 2026 13:00:00 12:00:00 UTC", "01 Jan 2026 12:00:00 UTC"] == told


_RATE: Final = "(value) => import('/static/format.js').then((format) => format.rate(value, '/s'))"


async def test_a_small_rate_is_not_none(browser: Browser) -> None:
    """100 dead letters an hour are one every 36 s; a rate of nothing is 0."""
    async with _open_modules(browser, "UTC") as page:
        told = [await page.evaluate(_RATE, value) for value in (0, 1 / 86_400, 100 / 3_600, 0.96, 1.25, 12, 1234.5)]

    assert ["0 /s", "0.000012 /s", "0.028 /s", "0.96 /s", "1.3 /s", "12 /s", "1,235 /s"] == told
