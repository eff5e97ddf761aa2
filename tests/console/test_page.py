"""The console's page in a real browser: every view and every action."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser
from pydantic import SecretStr

from infra.clock import utc_now
from infra.local.ports import reserve_port
from infra.settings import load_settings
from schemas.catalogue import SEND_REQUESTS
from tests.conftest import Connect
from tests.console.browser import Tab, open_tab
from tests.console.scene import EVIL, LETTERS, OPERATOR, READER, Scene, serve_test_console
from tests.console.views import WINDOWS, find_shortcomings, views
from tests.whole import ALL
from tests.workers.noted_operations import list_operations
from tests.workers.wire import eventually, publish, send
from workers.ops.operations import Intent, Operation, recorded_operation
from workers.ops.replay.rebuild_plan import RebuildRequest
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

pytestmark = pytest.mark.timeout(60)


@pytest.mark.timeout(120)  # all views, after the scene's events are decided
async def test_every_view_shows_its_data_on_wide_and_narrow_screens(
    browser: Browser, scene: Scene, address: str
) -> None:
    """No view overflows, violates accessibility rules or reports errors, in light and dark.

    `make test` looks at every other view in each.
    """
    left = list(views(scene).items())
    found: dict[str, list[str]] = {}

    async def look() -> None:
        async with open_tab(browser, address) as tab:
            while left:
                name, (path, expected) = left.pop()
                windows = WINDOWS if ALL else WINDOWS[len(left) % 2 :][:1]
                found[name] = await find_shortcomings(tab, path, expected, windows)

    await asyncio.gather(look(), look(), look())  # one tab is checked while others load

    assert {name: [] for name in views(scene)} == found


async def test_the_overview_updates_without_a_reload(tab: Tab, scene: Scene) -> None:
    """New outcomes are counted in the open page."""
    await tab.open_view("#/")
    row = tab.page.locator("tr", has=tab.page.get_by_text("insufficient_credits", exact=True))
    before = int(await row.locator("td.number").first.inner_text()) if await row.count() else 0
    await publish(scene.settings, SEND_REQUESTS, [send(f"{scene.account}-poor") for _ in range(7)])

    await eventually(lambda: _counts(row, before + 7), "seven more")
    assert "Live" == await tab.read_text("#connection")


async def _counts(row: Any, number: int) -> bool:
    return (
        await row.count() == 1 and int((await row.locator("td.number").first.inner_text()).replace(",", "")) >= number
    )


async def test_text_of_messages_is_never_markup(tab: Tab, scene: Scene) -> None:
    """Text of messages, keys, headers, account ids and recipients stays text."""
    seen = ""
    for path in (
        f"#/letters/{scene.letter.place}",
        f"#/letters?event_type={EVIL}",
        f"#/account?id={scene.evil}",
        f"#/request?account={scene.evil}",
        f"#/account?id={EVIL}",
    ):
        await tab.open_view(path.replace("<", "%3C").replace(">", "%3E"))
        await tab.wait_for_text(EVIL)
        seen += await tab.read_text()
        assert 0 == await tab.page.locator("main img, main script, main b").count()

    assert seen.count(EVIL) > 8


async def test_a_redrive_from_the_page_is_confirmed_and_recorded(tab: Tab, scene: Scene) -> None:
    """The operation has the operator and the reason, and the page shows the outcome."""
    path = f"#/letters?account={scene.refused}"
    await tab.open_view(path)
    await tab.click("Redrive 4 messages …")
    await tab.page.get_by_label("Token").fill("a-wrong-token-altogether")
    await tab.press("Sign in")
    await tab.wait_for_text("this token is not valid for this console", "dialog")
    await tab.page.get_by_label("Token").fill(OPERATOR)
    await tab.press("Sign in")
    await tab.wait_for_text("name: required", "dialog")
    await tab.page.get_by_label("Your name").fill("maria")
    await tab.press("Sign in")
    await tab.wait_for_text("This redrives the messages of 4 dead letters", "dialog")
    await tab.press("Show the plan")
    await tab.wait_for_text("Nothing to send", "dialog")  # this catalogue would dead-letter them again
    await tab.press("Close")
    await tab.click("Redrive 4 messages …")
    await tab.page.get_by_label("include messages that would be dead-lettered again").check()
    await tab.press("Show the plan")
    await tab.page.locator("dialog").get_by_label("Reason").fill("to see what happens")
    assert [] == await tab.accessibility_violations()
    await tab.press("Redrive 4 messages")

    await tab.wait_for_text("to see what happens")
    await eventually(lambda: _newest(scene, "done"), "a redrive that is done")
    done = (await list_operations(scene.settings, 1))[0]
    assert ("redrive", "maria (console)", "to see what happens") == (done.verb, done.actor, done.reason)
    assert LETTERS == done.result["sent"]
    await tab.wait_for_text("4 of 4 messages")
    await tab.open_view(path)
    await tab.wait_for_text("dead-lettered again")


async def _newest(scene: Scene, status: str) -> Operation | None:
    newest = (await list_operations(scene.settings, 1))[0]
    return newest if newest.status == status else None


async def test_an_operation_is_stopped_and_continued(tab: Tab, scene: Scene) -> None:
    """A slow redrive ends between two messages, and another redrive does the rest."""
    await tab.open_view(f"#/letters?account={scene.refused}")
    await tab.sign_in(OPERATOR, "maria")
    await tab.page.get_by_role("button", name="messages …").click()
    await tab.page.get_by_label("Rate").fill("1")
    await tab.page.get_by_label("include messages that would be dead-lettered again").check()
    await tab.press("Show the plan")
    await tab.page.locator("dialog").get_by_label("Reason").fill("slowly")
    await tab.press("Redrive")
    await tab.wait_for_text("running")
    await tab.page.locator("tbody a").first.click()
    await tab.click("Stop …")
    await tab.press("Stop operation")
    await tab.wait_for_text("stopped")
    stopped = await _newest(scene, "stopped")
    await tab.click("Continue …")
    await tab.page.locator("dialog").get_by_label("Reason").fill("after all")
    assert [] == await tab.accessibility_violations()
    await tab.press("Continue")
    await tab.page.locator("dialog").wait_for(state="detached")
    await eventually(lambda: _begun_after(scene, stopped), "another operation")

    newest = (await list_operations(scene.settings, 1))[0]
    assert ("redrive", "maria (console)", "after all") == (newest.verb, newest.actor, newest.reason)
    await tab.open_view(f"#/operations/{newest.operation}")
    await tab.click("Stop …")
    await tab.press("Stop operation")
    await eventually(lambda: _newest(scene, "stopped"), "the end")


async def _begun_after(scene: Scene, before: Operation | None) -> bool:
    return before is not None and (await list_operations(scene.settings, 1))[0].operation > before.operation


async def test_a_replay_is_continued_or_has_a_command_line(tab: Tab, scene: Scene) -> None:
    """A run into a schema continues; a rewind is refused while its group has members; other runs show a command."""
    shadow = RebuildRequest("replay shadow", schema="beside", start=utc_now())
    there = load_settings(database_url="postgresql://me:secret@there:5432/other").database_url
    rewind = {
        "worker": "send",
        "publish_again": True,
        "drain": False,
        **RewindTarget(TargetKind.REQUEST, scene.request).summary(),
    }
    kept = [
        await _record_stopped(scene, asked.verb, asked.arguments(scene.settings))
        for asked in (shadow, replace(shadow, url=there))
    ]
    kept.append(await _record_stopped(scene, "rewind", rewind))
    await tab.open_view(f"#/operations/{kept[1]}")
    await tab.wait_for_text("inmail replay shadow --database postgresql://...@there:5432/other --schema beside --from")
    assert 0 == await tab.page.get_by_role("button", name="Continue").count()
    assert [] == await tab.accessibility_violations()
    await tab.sign_in(OPERATOR, "maria")
    await tab.open_view(f"#/operations/{kept[2]}")
    await tab.click("Continue …")
    await tab.page.locator("dialog").get_by_label("Reason").fill("again")
    await tab.press("Continue")
    assert "the group has members" in await tab.read_problem()
    await tab.press("Cancel")
    await tab.open_view(f"#/operations/{kept[0]}")
    await tab.click("Continue …")
    await tab.page.locator("dialog").get_by_label("Reason").fill("to the end")
    await tab.press("Continue")
    await eventually(lambda: _newest(scene, "done"), "a shadow run that is done")

    done = (await list_operations(scene.settings, 1))[0]
    assert ("replay shadow", "maria (console)", "to the end") == (done.verb, done.actor, done.reason)
    assert {"read", "differences"} <= done.result.keys()


async def _record_stopped(scene: Scene, verb: str, arguments: dict[str, Any]) -> int:
    """Record an operation that was stopped before it did anything."""
    async with recorded_operation(
        scene.settings, Intent(verb, "otto", "so", arguments, {"lost_to_retention": 0})
    ) as operation:
        operation.stopped = True
    return operation.number


async def test_a_page_of_another_origin_cannot_act(tab: Tab, scene: Scene, address: str) -> None:
    """A form that browsers send across origins is refused, even with the cookie of a signed-in operator."""
    await tab.open_view("#/")
    await tab.sign_in(OPERATOR, "maria")
    await tab.wait_for_text("maria", "header")
    before = await list_operations(scene.settings, 100)
    body = '{"selection": {}, "options": {"anyway": true}, "x": "'
    page = (
        f"<form id=f method=post enctype=text/plain action='{address}/api/redrives/plan'>"
        f"<input name='{body}' value='\"}}'></form><script>document.getElementById('f').submit()</script>"
    )

    async def serve(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    application = web.Application()
    application.router.add_get("/", serve)
    runner = web.AppRunner(application)
    await runner.setup()
    other = reserve_port(None, "a test's other page")
    await web.SockSite(runner, other).start()
    async with tab.page.expect_response(lambda answer: "/api/redrives/plan" in answer.url) as answered:
        await tab.page.goto(f"http://localhost:{other.getsockname()[1]}/")
    answer = await answered.value
    await runner.cleanup()

    assert (403, "other_origin") == (answer.status, (await answer.json())["error"]["code"])
    assert before == await list_operations(scene.settings, 100)


# How many headlines tell of the lost connection, and how many colours all statuses of the page have.
_STALE = """() => ({
    lost: document.querySelectorAll(".headline[data-kind=lost] .summary").length,
    stale: document.documentElement.hasAttribute("data-stale"),
    colours: new Set(
        [...document.querySelectorAll("main .status, main .figure")].map((each) => getComputedStyle(each).color)
    ).size,
})"""


async def test_a_lost_connection_is_shown_and_restored(browser: Browser, scene: Scene) -> None:
    """The page shows the age of its data meanwhile, names no part as well, and has no green."""
    async with serve_test_console(scene.settings) as address:
        port = int(address.rpartition(":")[2])
        opened = open_tab(browser, address)
        tab = await opened.__aenter__()
        await tab.open_view("#/")
        await tab.wait_for_text("Live", "#connection")
        await tab.wait_for_text("Flow in")
    try:
        await tab.wait_for_text("Connection lost · data of", "#connection")
        assert "Flow in" in await tab.read_text()
        assert (await tab.read_text(".summary")).startswith("Connection lost: data of ")
        assert {"lost": 1, "stale": True, "colours": 1} == await tab.page.evaluate(_STALE)
        async with serve_test_console(scene.settings, port):
            await tab.wait_for_text("Live", "#connection")
            await tab.wait_for_text("The expiry worker is stopped", ".summary")
            assert not (await tab.page.evaluate(_STALE))["stale"]
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_lock_in_the_database_is_named_with_its_holder_and_a_retry(
    browser: Browser, scene: Scene, connect: Connect
) -> None:
    """The headline and the view that needs the table name who holds it; a retry succeeds once it is let go."""
    async with serve_test_console(scene.settings) as address, open_tab(browser, address) as tab:
        connection = await connect(scene.settings)
        await connection.execute("set idle_in_transaction_session_timeout = 0")  # ours have one, others need not
        pid = connection.get_server_pid()
        async with connection.transaction():
            await connection.execute("lock table accounts in access exclusive mode")
            await tab.open_view("#/")
            await tab.wait_for_text(f"Session {pid} in Postgres holds a lock that the workers need", ".summary")
            await tab.wait_for_text(f"pid {pid} (user ", ".headline")
            await tab.open_view(f"#/account?id={scene.account}")
            await tab.wait_for_text("a lock in Postgres at ")
            await tab.wait_for_text(f"pid {pid} (user ")
        await tab.click("Try again")
        await tab.wait_for_text("2 credits")


async def test_an_unreachable_kafka_is_shown_beside_the_ledgers_data(browser: Browser, scene: Scene) -> None:
    """The connection line, health and topics name Kafka; the account is still shown."""
    closed = reserve_port(None, "nobody")
    nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    async with (
        serve_test_console(scene.settings, kafka_bootstrap_servers=nowhere, console_timeout_seconds=2) as address,
        open_tab(browser, address) as tab,
    ):
        await tab.open_view("#/")
        await tab.wait_for_text("Kafka does not answer", "#connection")
        await tab.wait_for_text("unknown while Kafka does not answer")
        await tab.open_view("#/topics")
        await tab.wait_for_text("Kafka cannot be reached")
        await tab.open_view(f"#/account?id={scene.account}")
        await tab.wait_for_text("2 credits")
    closed.close()


async def test_a_readers_token_is_required_to_read_and_allows_no_action(browser: Browser, scene: Scene) -> None:
    """Without the token only the sign-in is shown; with it all views, but an action gets 401."""
    changes = {"console_reader_token": SecretStr(READER)}
    async with serve_test_console(scene.settings, **changes) as address, open_tab(browser, address) as tab:
        await tab.open_view("#/")
        await tab.wait_for_text("Sign in with a token to read this console")
        assert [] == await tab.accessibility_violations()
        await tab.sign_in(READER)
        await tab.wait_for_text("Flow in")
        status = await tab.page.evaluate(
            "fetch('/api/session').then(a => a.json()).then(s => fetch('/api/redrives/plan', {method: 'POST',"
            " headers: {'Content-Type': 'application/json', 'X-Csrf-Token': s.csrf}, body: '{}'})).then(a => a.status)"
        )
        assert 401 == status
        cookie = next(each for each in await tab.page.context.cookies() if each["name"].startswith("inmail_console"))
        assert (True, "Strict") == (cookie["httpOnly"], cookie["sameSite"])
        await tab.click("Sign out")
        await tab.wait_for_text("Sign in with a token to read this console")


async def test_an_account_links_to_its_dead_letters_and_requests(tab: Tab, scene: Scene) -> None:
    """Each statement line links to its request, with the whole id: it is there to be copied."""
    await tab.open_view(f"#/account?id={scene.refused}")
    await tab.page.locator("main").get_by_role("link", name="dead letters").click()
    await tab.wait_for_text("unknown plan", "main table")
    await tab.open_view(f"#/account?id={scene.account}")
    await tab.page.get_by_role("link", name=str(scene.request)).first.wait_for()

    ends = await tab.page.locator("main td a").all_inner_texts()
    assert str(scene.request) in ends
    assert (5, {36}) == (len(set(ends)), {len(each) for each in ends})


async def test_the_page_works_with_the_keyboard_alone(tab: Tab) -> None:
    """The skip link, the views, and a dialog that keeps the focus and returns it."""
    page = tab.page
    await tab.open_view("#/operations")
    await tab.wait_for_text("Recorded operations")
    await page.keyboard.press("Tab")
    assert "Skip to content" == await page.evaluate("document.activeElement.textContent")
    await page.keyboard.press("Enter")
    assert "main" == await page.evaluate("document.activeElement.id")
    await page.get_by_role("link", name="Account", exact=True).focus()
    await page.keyboard.press("Enter")
    await tab.wait_for_text("Enter an account ID")
    assert "H1" == await page.evaluate("document.activeElement.tagName")
    await page.get_by_role("button", name="Sign in").focus()
    await page.keyboard.press("Enter")
    assert "Token" == await page.evaluate("document.activeElement.labels[0].textContent")
    await page.keyboard.press("Escape")
    assert "Sign in" == await page.evaluate("document.activeElement.textContent")


async def test_the_theme_follows_the_system_until_chosen(browser: Browser, address: str) -> None:
    """The choice is kept across reloads."""
    ground = "getComputedStyle(document.body).backgroundColor"
    async with open_tab(browser, address, color_scheme="dark") as tab:
        await tab.open_view("#/nowhere")
        await tab.wait_for_text("There is no such view")
        dark = await tab.page.evaluate(ground)
        await tab.page.get_by_label("Colours").select_option("light")
        light = await tab.page.evaluate(ground)
        await tab.page.reload()

        assert ("rgb(18, 21, 25)", "rgb(246, 246, 244)") == (dark, light)
        assert light == await tab.page.evaluate(ground)


async def test_missing_data_is_named(tab: Tab) -> None:
    """The view shows a sentence in place of the missing data."""
    for path, text in (
        ("#/account?id=nobody-of-that-name", "the ledger has no account nobody-of-that-name"),
        ("#/request?id=no-uuid", "is no UUID and no id of a decided request"),
        ("#/letters/0/999999999", "there is no dead letter at 0/999999999"),
        ("#/operations/999999", "there is no operation 999999"),
        ("#/letters?account=nobody", "No dead letter matches"),
        ("#/nowhere", "There is no such view"),
    ):
        await tab.open_view(path)
        await tab.wait_for_text(text)
        assert 1 == await tab.page.locator("h1").count()


async def test_selected_dead_letters_are_redriven_alone(tab: Tab, scene: Scene) -> None:
    """The operation's record has their places; what is selected stays selected when the list is read again.

    Of however many the tests before have left: each redrive made new dead letters of what it sent.
    """
    path = f"#/letters?account={scene.refused}"
    await tab.open_view(path)
    await tab.sign_in(OPERATOR, "maria")
    boxes = tab.page.locator("tbody input")
    await boxes.nth(LETTERS - 1).wait_for()
    count = await boxes.count()
    assert await tab.page.get_by_role("button", name="Redrive selected").is_disabled()
    await tab.page.get_by_label("Select all on this page").check()
    await tab.page.get_by_role("button", name=f"Redrive {count} selected …").wait_for()
    for number in range(2, count):  # the newest stay, which no test before has redriven
        await boxes.nth(number).uncheck()
    assert await tab.page.get_by_label("Select all on this page").evaluate("each => each.indeterminate")
    places = (await tab.page.locator("tbody th a").all_inner_texts())[:2]
    await tab.open_view("#/operations")
    await tab.wait_for_text("Recorded operations")
    await tab.open_view(path)
    await tab.click("Redrive 2 selected …")
    await tab.page.get_by_label("include messages that would be dead-lettered again").check()
    await tab.press("Show the plan")
    await tab.page.locator("dialog").get_by_label("Reason").fill("only these")
    await tab.press("Redrive 2 messages")
    await tab.wait_for_text("only these")

    (done,) = await list_operations(scene.settings, 1)
    in_order = sorted(places, key=lambda place: [int(number) for number in place.split("/")])
    assert ({"places": in_order}, 2) == (done.arguments["selection"], done.plan["messages"])
