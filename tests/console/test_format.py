"""The page's numbers, times and charts, made by its own modules in a real browser, without a console."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Route

from tests.console.browser import NARROW, Tab, open_tab
from workers.console.server import STATIC

_ORIGIN: Final = "http://console.test"  # nobody's: the browser's requests are answered here
_EMPTY: Final = (
    '<!doctype html><link rel="stylesheet" href="/static/style.css"><link rel="stylesheet" href="/static/charts.css">'
    '<p id="connection"></p><main></main>'
)


@asynccontextmanager
async def _open_modules(browser: Browser, zone: str) -> AsyncIterator[Tab]:
    """Open an empty page in a zone, which can import the console's modules and has its styles."""
    async with open_tab(browser, _ORIGIN, timezone_id=zone) as tab:
        await tab.page.route(f"{_ORIGIN}/**", _answer)
        await tab.page.goto(f"{_ORIGIN}/empty")
        yield tab


async def _answer(route: Route) -> None:
    path = urlsplit(route.request.url).path
    if path == "/empty":
        await route.fulfill(body=_EMPTY, content_type="text/html")
    else:
        await route.fulfill(path=STATIC / path.removeprefix("/static/"))


_TIME: Final = "(at) => import('/static/format.js').then((format) => format.time(at).textContent)"


async def test_a_local_time_is_called_utc_only_where_it_is(browser: Browser) -> None:
    """London has UTC in winter; whether the viewer looks in winter or in summer makes no difference."""
    async with _open_modules(browser, "Europe/London") as tab:
        for today in ("2026-01-10", "2026-07-10"):
            await tab.page.clock.set_fixed_time(f"{today}T12:00:00Z")
            told = [await tab.page.evaluate(_TIME, at) for at in ("2026-07-01T12:00:00Z", "2026-01-01T12:00:00Z")]
            assert ["01 Jul 2026 13:00:00 12:00:00 UTC", "01 Jan 2026 12:00:00 UTC"] == told


_RATE: Final = "(value) => import('/static/format.js').then((format) => format.rate(value, '/s'))"


async def test_a_small_rate_is_not_none(browser: Browser) -> None:
    """100 dead letters an hour are one every 36 s; a rate of nothing is 0."""
    async with _open_modules(browser, "UTC") as tab:
        told = [await tab.page.evaluate(_RATE, value) for value in (0, 1 / 86_400, 100 / 3_600, 0.96, 1.25, 12, 1234.5)]

    assert ["0 /s", "0.000012 /s", "0.028 /s", "0.96 /s", "1.3 /s", "12 /s", "1,235 /s"] == told


_DRAW: Final = """async (balance) => {
    const { trendsSection } = await import('/static/views/trends.js');
    const { balanceChart } = await import('/static/balance.js');
    document.querySelector('main').append(trendsSection(new AbortController().signal), balanceChart(balance));
}"""
_TICKS: Final = """() => [...document.querySelectorAll('.plot')].map((plot) =>
    [...plot.querySelectorAll('text[text-anchor=end]')].map((each) => each.textContent))"""


def _series(largest: float) -> dict[str, Any]:
    """Return what `/api/history` answers where each chart's largest value is `largest`."""
    values = {"records": [0, largest / 2, largest]}
    names = ("came_in", "decided", "answered", "outcomes")
    return {
        "from": 1_780_000_000,
        "to": 1_780_000_900,
        "bucket_seconds": 5,
        "problems": [],
        "kept": True,
        "times": [1_780_000_000, 1_780_000_450, 1_780_000_900],
        "rates": dict.fromkeys(names, values) | {"dead_letters": {"records": [0, 0, largest / 60]}},
        "lag_seconds": values,
        "unread": values,
        "latency_seconds": {"p50": values["records"]},
    }


@pytest.mark.parametrize(
    ("largest", "numbers", "times"),
    [
        (0.00005, ["0", "0.00002", "0.00004", "0.00006"], ["0 s", "0.02 ms", "0.04 ms", "0.06 ms"]),
        (0.3, ["0", "0.1", "0.2", "0.3"], ["0 s", "100 ms", "200 ms", "300 ms"]),
        (100, ["0", "50", "100"], ["0 s", "1 min", "2 min"]),
        (2_000, ["0", "1K", "2K"], ["0 s", "20 min", "40 min"]),
        (25_000, ["0", "10K", "20K", "30K"], ["0 s", "5 h", "10 h"]),
        (12_000_000, ["0", "5M", "10M", "15M"], ["0 s", "50 d", "100 d", "150 d"]),
    ],
)
async def test_no_number_of_a_chart_is_cut(
    browser: Browser, largest: float, numbers: list[str], times: list[str]
) -> None:
    """A tick has its number in short, without the unit that the chart's title names, and full units of time."""
    start, end = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"
    points = [{"at": start, "balance": max(1, largest)}, {"at": end, "balance": 0}]
    changes = [{"at": start, "kind": kind, "count": 1, "credits": 1} for kind in ("granted", "returned", "refused")]
    balance = {"from": start, "to": end, "as_of": end, "points": points, "changes": changes}
    async with _open_modules(browser, "UTC") as tab:
        await tab.set_window(NARROW)
        await tab.page.route("**/api/history?range=15m", lambda route: route.fulfill(json=_series(largest)))
        await tab.page.evaluate(_DRAW, balance)
        await tab.page.wait_for_function("document.querySelectorAll('.plot svg').length === 7")
        ticks = await tab.page.evaluate(_TICKS)

        assert [] == await tab.cut_texts()
    assert [numbers, times] == [ticks[0], ticks[2]]
    assert numbers == ticks[5]
