"""A page that stays open: while the console starts again, while its reader selects text, or while a server refuses."""

import asyncio
from typing import Final

import pytest
from playwright.async_api import Browser, Route
from pydantic import SecretStr

from schemas.catalogue import SEND_REQUESTS
from tests.conftest import Connect
from tests.console.browser import Tab, open_tab
from tests.console.scene import OPERATOR, READER, Scene, serve_test_console
from tests.workers.wire import eventually, publish, send
from workers.console.lag_source import LagSource
from workers.ops.books import balance_history

pytestmark = pytest.mark.timeout(90)


@pytest.mark.whole
async def test_a_page_asks_for_the_token_again_after_the_console_started_again(browser: Browser, scene: Scene) -> None:
    """Sessions end with the console: the page shows the sign-in without a reload, and is live again after it."""
    changes = {"console_reader_token": SecretStr(READER)}
    async with serve_test_console(scene.settings, **changes) as address:
        port = int(address.rpartition(":")[2])
        opened = open_tab(browser, address)
        tab = await opened.__aenter__()
        await tab.open_view("#/")
        await tab.sign_in(READER)
        await tab.wait_for_text("Live", "#connection")
    try:
        await tab.wait_for_text("Connection lost", "#connection")
        async with serve_test_console(scene.settings, port, **changes):
            await tab.wait_for_text("Sign in with a token to read this console")
            assert "Not signed in" == await tab.read_text("#connection")
            assert "Sign in" == await tab.read_text("#identity")
            await tab.sign_in(READER)
            await tab.wait_for_text("Live", "#connection")
            await tab.wait_for_text("Flow in")
    finally:
        await opened.__aexit__(None, None, None)


_SELECT = "document.getSelection().selectAllChildren(document.querySelector('main table'))"


@pytest.mark.whole
async def test_data_that_came_while_text_was_selected_is_shown_afterwards(tab: Tab, scene: Scene) -> None:
    """The selection stays as long as its reader wants, and costs no data."""
    account = f"{scene.account}-selected"
    await publish(scene.settings, SEND_REQUESTS, [send(account, relationship="connection")])

    async def is_known() -> bool:
        await tab.open_view(f"#/account?id={account}")
        await tab.page.locator("main", has_text="Next expiry").or_(tab.page.get_by_role("alert")).first.wait_for()
        return "1 line, newest first." in await tab.read_text()

    await eventually(is_known, "the account")
    await tab.page.evaluate(_SELECT)
    await publish(scene.settings, SEND_REQUESTS, [send(account, relationship="connection")])

    async def has_come() -> bool:
        async with tab.page.expect_response(lambda answer: "/api/account?" in answer.url) as answered:
            pass
        return bool(2 == (await (await answered.value).json())["line_count"])

    await eventually(has_come, "the new line")
    async with tab.page.expect_response(lambda answer: "/api/account?" in answer.url):  # the page has had it for 5 s
        pass
    assert "1 line, newest first." in await tab.read_text()
    assert "" != await tab.page.evaluate("document.getSelection().toString()")
    await tab.page.evaluate("document.getSelection().removeAllRanges()")

    await tab.wait_for_text("2 lines, newest first.")


@pytest.mark.whole
async def test_a_balance_chart_that_is_cut_says_when_it_ends(
    tab: Tab, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is a time, in the viewer's zone and in UTC."""
    monkeypatch.setattr(balance_history, "_MAX_ROWS", 2)
    await tab.open_view(f"#/account?id={scene.account}")
    await tab.wait_for_text("This account has more lines than the chart reads")

    told = tab.page.locator("main p", has_text="more lines than the chart reads")
    assert 1 == await told.locator("time").count()
    assert "object" not in await told.inner_text()


@pytest.mark.whole
async def test_more_tabs_than_a_browser_has_connections_are_all_live(
    browser: Browser, scene: Scene, address: str
) -> None:
    """A browser opens six to a host, for all its tabs together: none of them may keep one."""
    async with open_tab(browser, address) as first:
        tabs = [first, *[Tab(await first.page.context.new_page(), address) for _ in range(7)]]
        for tab in tabs:
            await tab.open_view(f"#/account?id={scene.account}")
            await tab.wait_for_text("2 credits")
        for tab in tabs:
            await tab.wait_for_text("Live", "#connection")
        await tabs[0].open_view("#/topics")
        await tabs[0].wait_for_text("inmail.send-requests")


_HIDE = """(hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


@pytest.mark.whole
async def test_a_hidden_page_asks_nothing_and_is_of_now_when_it_is_shown_again(tab: Tab) -> None:
    """Tabs that somebody left open in the background keep no console busy."""
    asked: list[str] = []
    await tab.open_view("#/topics")
    await tab.wait_for_text("Live", "#connection")
    await tab.page.evaluate(_HIDE, arg=True)
    await tab.page.wait_for_load_state("networkidle")
    tab.page.on("request", lambda request: asked.append(request.url))
    await tab.page.wait_for_timeout(5_000)
    assert [] == [url for url in asked if "/api/overview" in url]
    async with tab.page.expect_response(lambda answer: "/api/overview" in answer.url, timeout=1_500):
        await tab.page.evaluate(_HIDE, arg=False)


@pytest.mark.whole
async def test_a_tab_acts_after_another_one_has_signed_in_again(browser: Browser, scene: Scene, address: str) -> None:
    """The first press does nothing and says as whom the next one acts."""
    async with open_tab(browser, address) as first:
        await first.open_view("#/operations")
        await first.sign_in(OPERATOR, "maria")
        second = Tab(await first.page.context.new_page(), address)
        await second.open_view(f"#/letters/{scene.letter.place}")
        await second.wait_for_text("maria", "#identity")
        await first.click("Sign out")
        await first.sign_in(OPERATOR, "otto")
        await second.click("Redrive this message …")
        await second.press("Show the plan")
        await second.wait_for_text("Press again to act as otto", "dialog")
        assert "otto" in await second.read_text("#identity")
        await second.press("Show the plan")
        await second.page.get_by_role("heading", name="Nothing to send").wait_for()


_PLAN: Final = {
    "plan": "a-plan",
    "messages": 3,
    "by_topic_and_reason": [{"topic": SEND_REQUESTS, "reason": "unknown_type", "messages": 3}],
    "not_sent": {},
    "refusals": {},
    "silent_servers": [],
    "in_doubt": 0,
    "seconds": 1,
}


@pytest.mark.whole
async def test_a_dialog_whose_action_runs_stays_until_it_is_done(tab: Tab, scene: Scene) -> None:
    """Neither Cancel nor Escape, pressed as often as one likes, looks like the end of what goes on."""
    page, release = tab.page, asyncio.Event()

    async def start(route: Route) -> None:
        await release.wait()
        await route.fulfill(status=202, json={"verb": "redrive", "operation": None, "running": True})

    await page.route("**/api/redrives/plan", lambda route: route.fulfill(json=_PLAN))
    await page.route("**/api/redrives", start)
    await tab.open_view(f"#/letters/{scene.letter.place}")
    await tab.sign_in(OPERATOR, "maria")
    await tab.click("Redrive this message …")
    await tab.press("Show the plan")
    await page.locator("dialog").get_by_label("Reason").fill("to see what happens")
    async with page.expect_request("**/api/redrives"):
        await tab.press("Redrive 3 messages")
    for _ in range(3):
        await page.keyboard.press("Escape")
    assert await page.locator("dialog").is_visible()
    assert await page.locator("dialog").get_by_role("button", name="Cancel").is_disabled()
    release.set()
    await page.locator("dialog").wait_for(state="detached")
    await tab.wait_for_text("Recorded operations")
    await page.unroute_all()


@pytest.mark.whole
async def test_the_view_of_lag_says_as_of_when_it_is_while_kafka_is_silent(
    browser: Browser, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No group on it is green or red then; once Kafka answers, the colours are back."""

    async def hang(_: LagSource) -> None:
        raise TimeoutError

    async with serve_test_console(scene.settings) as address, open_tab(browser, address) as tab:
        await tab.open_view("#/lag")
        await tab.wait_for_text("STOPPED")
        groups = tab.page.locator("section", has=tab.page.get_by_role("heading", name="Groups of the cluster"))
        coloured = groups.locator(".status:not(.unknown)")
        assert 0 != await coloured.count()
        with monkeypatch.context() as patched:
            patched.setattr(LagSource, "refresh", hang)
            await tab.wait_for_text("how the groups stand now is not known")
            assert 0 == await coloured.count()
        await coloured.first.wait_for()


_ALERTS: Final = """() => {
    window.alerts = 0;
    new MutationObserver((changes) => {
        window.alerts += changes.flatMap((each) => [...each.addedNodes]).filter((node) => node.role === "alert").length;
    }).observe(document.querySelector("main"), { childList: true, subtree: true });
}"""


@pytest.mark.whole
async def test_a_view_that_loads_again_keeps_the_focus_and_says_an_error_once(tab: Tab) -> None:
    """Details that somebody opens with the keyboard, and an alert that a screen reader would repeat every 2 s."""
    page = tab.page
    await tab.open_view("#/lag")
    summary = page.locator("summary", has_text="What each status means")
    await summary.focus()
    await page.evaluate("document.activeElement.isOfBefore = true")
    for _ in range(2):  # at the second, what came with the first is drawn
        async with page.expect_response("**/api/lag"):
            pass
    assert not await page.evaluate("document.activeElement.isOfBefore === true")
    assert await summary.evaluate("each => each === document.activeElement")
    await page.evaluate(_ALERTS)
    failed = {"error": {"code": "unavailable", "text": "Kafka cannot be reached"}}
    await page.route("**/api/lag", lambda route: route.fulfill(status=503, json=failed))
    await tab.wait_for_text("Kafka cannot be reached")
    for _ in range(2):
        async with page.expect_response("**/api/lag"):
            pass
    assert 1 == await page.evaluate("window.alerts")
    await page.unroute_all()


# The time of a sample's outcomes as the page writes it, and whether the sample itself was taken later.
_TIMES = """fetch("/api/overview").then((answer) => answer.json()).then(({ at, outcomes }) => [
    new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" })
        .format(new Date(outcomes.at)),
    new Date(at) - new Date(outcomes.at) > 2000,
])"""


@pytest.mark.whole
async def test_the_line_at_the_top_tells_what_a_server_refuses_and_how_old_its_data_is(
    browser: Browser, scene: Scene, connect: Connect
) -> None:
    """A lock is no silence; the data is as old as the last answer, and not as the last attempt."""
    async with serve_test_console(scene.settings) as address, open_tab(browser, address) as tab:
        await tab.open_view("#/")
        await tab.wait_for_text("Live", "#connection")
        connection = await connect(scene.settings)
        await connection.execute("set idle_in_transaction_session_timeout = 0")
        async with connection.transaction():
            await connection.execute("lock table lanes in access exclusive mode")
            told = f"Session {connection.get_server_pid()} in Postgres holds a lock that the workers need · data of "
            await tab.wait_for_text(told, "#connection")

            async def is_later() -> bool:
                return bool((await tab.page.evaluate(_TIMES))[1])

            await eventually(is_later, "a sample that is later than its data")
            assert f"{told}{(await tab.page.evaluate(_TIMES))[0]}" == await tab.read_text("#connection")
            assert f"{told.partition(' · ')[0]}." in await tab.read_text()
        await tab.wait_for_text("Live", "#connection")
