"""The console's charts in a real browser, and the data of an account's balance over time."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from playwright.async_api import Route

from schemas.catalogue import SEND_REQUESTS
from tests.console.browser import NARROW, Tab
from tests.console.scene import Scene
from tests.workers.wire import publish, send
from workers.console.balance_json import balance_history_json
from workers.ops.books.balance_history import BalanceChange, BalanceHistory, BalancePoint, ChangeKind

pytestmark = pytest.mark.timeout(60)

NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.whole
async def test_charts_show_the_values_at_the_cursor_in_each_range(tab: Tab, scene: Scene) -> None:
    """Pointer and keyboard move one cursor through all charts; the chosen range is kept over a reload."""
    page = tab.page
    await tab.open_view("#/")
    await publish(scene.settings, SEND_REQUESTS, [send(scene.account, relationship="connection")])
    outcomes = page.get_by_role("slider", name="Outcomes")
    chart = page.locator("figure", has=outcomes)
    await chart.get_by_text("free").wait_for(timeout=20_000)
    await outcomes.press("End")
    at = await outcomes.get_attribute("aria-valuetext")
    assert at is not None
    assert re.match(r"\d\d:\d\d:\d\d: .*free [0-9.]+ /s", at)
    moments = await page.locator("figure .moment").all_inner_texts()
    assert (6, {at[:8]}) == (len(moments), set(moments))
    assert 6 == await page.locator("line.cursor[visibility=visible]").count()
    box = await outcomes.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + 60, box["y"] + 40)  # the oldest quarter of an hour: this console did not run yet
    assert {"no data at this time"} == set(await page.locator("figure .moment").all_inner_texts())
    assert [] == await tab.accessibility_violations()
    await page.mouse.move(0, 0)
    for text, wanted in (("6 h", "6h"), ("24 h", "24h")):
        async with page.expect_response(lambda answer, wanted=wanted: answer.url.endswith(f"range={wanted}")):
            await page.get_by_role("radio", name=text, exact=True).check()
    async with page.expect_response(lambda answer: "/api/history?range=24h" in answer.url):
        await page.reload()
    assert await page.get_by_role("radio", name="24 h").is_checked()
    await page.evaluate("localStorage.clear()")


@pytest.mark.whole
async def test_an_accounts_balance_is_read_at_each_change(tab: Tab, scene: Scene) -> None:
    """Arrows go from change to change; after the balance's time it is what remains if nothing happens."""
    await tab.open_view(f"#/account?id={scene.account}")
    chart = tab.page.get_by_role("slider", name="Balance over time")
    await chart.wait_for()
    async with tab.page.expect_response(lambda answer: "/balance" in answer.url and "days" not in answer.url):
        await tab.page.get_by_role("radio", name="all").check()
    await chart.and_(tab.page.locator("[aria-valuemax]")).wait_for()

    async def read(key: str) -> str:
        await chart.press(key)
        return str(await chart.get_attribute("aria-valuetext"))

    first, last = await read("Home"), await read("End")
    assert "Granted 5 credits" in first
    assert "0 credits, if nothing is sent or granted" in last
    assert "2 credits" in await read("ArrowLeft")
    await tab.page.mouse.move(0, 0)
    await tab.set_window(NARROW, "dark")
    assert [] == await tab.accessibility_violations()
    assert 0 == await tab.overflow()


async def _hold(route: Route, until: asyncio.Event) -> None:
    """Let an answer wait."""
    await until.wait()
    await route.continue_()


@pytest.mark.whole
async def test_a_range_that_is_chosen_while_another_is_loaded_is_shown_next(tab: Tab) -> None:
    """The answer about the range of before is nothing that anybody still wants."""
    page, release = tab.page, asyncio.Event()
    await page.route(re.compile(r"/api/history\?range=15m"), lambda route: _hold(route, release))
    async with page.expect_request(lambda asked: "range=15m" in asked.url):
        await tab.open_view("#/")
    await page.get_by_role("radio", name="6 h", exact=True).check()
    async with page.expect_response(lambda answer: "range=6h" in answer.url, timeout=5_000):
        release.set()
    await page.unroute_all()
    await page.evaluate("localStorage.clear()")


_BALANCE: Final = re.compile(r"/api/account/balance")


async def _answer_balance(route: Route, credits_: int) -> None:
    """Answer with a chart of one balance."""
    answer = await (await route.fetch()).json()
    points = [point | {"balance": credits_} for point in answer["points"]]
    await route.fulfill(json=answer | {"points": points})


@pytest.mark.whole
async def test_a_slow_answer_takes_no_newer_ones_place(tab: Tab, scene: Scene) -> None:
    """The chart is of the range that was chosen last, whichever answer came last."""
    page, release, done = tab.page, asyncio.Event(), asyncio.Event()

    async def answer(route: Route) -> None:
        if "days=90" not in route.request.url:
            await _answer_balance(route, 7)
            return
        await release.wait()
        await _answer_balance(route, 9)
        done.set()

    await page.route(_BALANCE, answer)
    async with page.expect_request(_BALANCE):
        await tab.open_view(f"#/account?id={scene.account}")
    await page.get_by_role("radio", name="30 days").check()
    reading = page.locator("figure .reading", has_text="7 credits")
    await reading.wait_for()
    release.set()
    await done.wait()
    async with page.expect_response(re.compile(r"/api/account\?")):  # the next: the page has taken what came before
        pass
    assert await reading.is_visible()
    await page.unroute_all()


@pytest.mark.whole
async def test_a_balance_that_changes_without_a_line_changes_its_chart(tab: Tab, scene: Scene) -> None:
    """A lot that ends by time has no line until a tick books it: figure and chart are of one moment all the same."""
    page = tab.page

    async def answer(route: Route) -> None:
        found = await (await route.fetch()).json()
        await route.fulfill(json=found | {"balance": 1})

    await tab.open_view(f"#/account?id={scene.account}")
    await page.get_by_role("slider", name="Balance over time").wait_for()
    async with page.expect_request(_BALANCE, timeout=15_000):
        await page.route(re.compile(r"/api/account\?"), answer)
    await tab.wait_for_text("1 credit")
    await page.unroute_all()


@pytest.mark.whole
async def test_a_lots_life_and_its_amount_are_two_bars(tab: Tab, scene: Scene) -> None:
    """The life lies on the date axis from end to end; what is left of 5 credits is a share of a bar of its own."""
    await tab.open_view(f"#/account?id={scene.account}")
    lot = tab.page.locator(".lots li")
    await lot.wait_for()

    widths = await lot.evaluate(
        "each => ['.lane', '.life', '.granted', '.remaining'].map(name => each.querySelector(name).clientWidth)"
    )
    assert widths[0] - 4 <= widths[1] <= widths[0]
    assert abs(widths[3] / widths[2] - 2 / 5) < 0.02
    assert "2 of 5" in await lot.inner_text()


def _history(hours: int, ahead: int = 0) -> BalanceHistory:
    """Return a history of one send an hour up to now, and of one expiry in so many hours."""
    start = NOW - timedelta(hours=hours)
    points = [BalancePoint(start + timedelta(hours=each), hours - each) for each in range(hours)]
    points += [BalancePoint(NOW + timedelta(hours=ahead), 0)] if ahead else []
    changes = [BalanceChange(point.at, ChangeKind.SENT, 1) for point in points[:hours]]
    return BalanceHistory("anna", NOW, tuple(points), tuple(changes))


def test_a_balance_of_any_length_has_a_bounded_answer() -> None:
    """Of 20,000 changes the answer keeps the extremes of each stretch, and every send is counted."""
    found = balance_history_json(_history(20_000), None)

    assert len(found["points"]) <= 900
    assert (20_000, 1) == (found["points"][0]["balance"], found["points"][-1]["balance"])
    assert len(found["changes"]) <= 240
    assert 20_000 == sum(each["count"] for each in found["changes"])


def test_a_range_goes_as_far_ahead_as_back() -> None:
    """An account of 10 hours that has a lot for 90 days shows its 10 hours well; `all` shows the lot's end."""
    short, whole = (balance_history_json(_history(10, 90 * 24), days) for days in (30, None))

    assert (NOW - timedelta(hours=10), NOW + timedelta(hours=10)) == (short["from"], short["to"])
    assert whole["to"] > NOW + timedelta(days=90)
    day = balance_history_json(_history(100), 1)
    assert (NOW - timedelta(days=1), 24) == (day["from"], day["points"][0]["balance"])
    empty = balance_history_json(BalanceHistory("anna", NOW, (), ()), 30)
    assert (NOW, timedelta(hours=1), [{"at": NOW, "balance": 0}], []) == (
        empty["from"],
        empty["to"] - empty["from"],
        empty["points"],
        empty["changes"],
    )
