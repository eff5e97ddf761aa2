"""The console's page in a real browser: every view and every action, as somebody sees and does it."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser
from pydantic import SecretStr

from infra.clock import utc_now
from infra.local.ports import reserve
from infra.postgres import connect_database
from infra.settings import load_settings
from schemas.catalogue import SEND_REQUESTS
from tests.console.browser import Tab, a_tab
from tests.console.scene import EVIL, LETTERS, OPERATOR, READER, Scene, a_console
from tests.console.views import shortcomings, views
from tests.workers.wire import eventually, publish, send
from workers.ops.operations import Intent, Operation, list_operations, recorded_operation
from workers.ops.replay.rebuild_plan import RebuildRequest
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

pytestmark = pytest.mark.timeout(60)


@pytest.mark.timeout(120)  # all views, after all that there is to be seen was decided
async def test_every_view_shows_what_is_there_on_a_wide_and_on_a_narrow_screen(
    browser: Browser, scene: Scene, address: str
) -> None:
    """Nothing is cut off at the side, nothing keeps anybody out, light or dark, and the page complains of nothing."""
    left = list(views(scene).items())
    found: dict[str, list[str]] = {}

    async def look() -> None:
        async with a_tab(browser, address) as tab:
            while left:
                name, (path, expected) = left.pop()
                found[name] = await shortcomings(tab, path, expected)

    await asyncio.gather(look(), look(), look())  # one looks while others wait for their views

    assert {name: [] for name in views(scene)} == found


async def test_the_overview_goes_on_without_being_loaded_again(tab: Tab, scene: Scene) -> None:
    """What is decided meanwhile is counted where it stands."""
    await tab.go("#/")
    row = tab.page.locator("tr", has=tab.page.get_by_text("insufficient_credits", exact=True))
    before = int(await row.locator("td.number").first.inner_text()) if await row.count() else 0
    await publish(scene.settings, SEND_REQUESTS, [send(f"{scene.account}-poor") for _ in range(7)])

    await eventually(lambda: _counts(row, before + 7), "seven more")
    assert "Live" == await tab.text("#connection")


async def _counts(row: Any, number: int) -> bool:
    return (
        await row.count() == 1 and int((await row.locator("td.number").first.inner_text()).replace(",", "")) >= number
    )


async def test_text_of_messages_is_never_markup(tab: Tab, scene: Scene) -> None:
    """Be it in a message, its key, its headers, an account's id or whom it sent to."""
    seen = ""
    for path in (
        f"#/letters/{scene.letter.place}",
        f"#/letters?event_type={EVIL}",
        f"#/account?id={scene.evil}",
        f"#/request?account={scene.evil}",
        f"#/account?id={EVIL}",
    ):
        await tab.go(path.replace("<", "%3C").replace(">", "%3E"))
        await tab.see(EVIL)
        seen += await tab.text()
        assert 0 == await tab.page.locator("main img, main script, main b").count()

    assert seen.count(EVIL) > 8


async def test_a_message_is_sent_back_once_asked_and_on_record(tab: Tab, scene: Scene) -> None:
    """Who and why are kept; what became of it is shown."""
    path = f"#/letters?account={scene.refused}"
    await tab.go(path)
    await tab.click("Send 4 messages back …")
    await tab.page.get_by_label("Token").fill("a-wrong-token-altogether")
    await tab.press("Sign in")
    await tab.see("that is no token of this console", "dialog")
    await tab.page.get_by_label("Token").fill(OPERATOR)
    await tab.press("Sign in")
    await tab.see("say who you are", "dialog")
    await tab.page.get_by_label("Your name").fill("maria")
    await tab.press("Sign in")
    await tab.see("would be sent back", "dialog")
    await tab.press("Show the plan")
    await tab.see("Nothing to send", "dialog")  # this catalogue would set them aside again
    await tab.press("Close")
    await tab.click("Send 4 messages back …")
    await tab.page.get_by_label("include messages that would be dead-lettered again").check()
    await tab.press("Show the plan")
    await tab.page.get_by_label("Why").fill("to see what happens")
    assert [] == await tab.barriers()
    await tab.press("Send 4 messages back")

    await tab.see("to see what happens")
    await eventually(lambda: _newest(scene, "done"), "a redrive that is done")
    done = (await list_operations(scene.settings, 1))[0]
    assert ("redrive", "maria (console)", "to see what happens") == (done.verb, done.actor, done.reason)
    assert LETTERS == done.result["sent"]
    await tab.see("4 of 4 messages")
    await tab.go(path)
    await tab.see("dead-lettered again")


async def _newest(scene: Scene, status: str) -> Operation | None:
    newest = (await list_operations(scene.settings, 1))[0]
    return newest if newest.status == status else None


async def test_an_operation_is_stopped_and_gone_on_with(tab: Tab, scene: Scene) -> None:
    """A slow one ends between two messages, and another does what is left."""
    await tab.go(f"#/letters?account={scene.refused}")
    await tab.sign_in(OPERATOR, "maria")
    await tab.page.get_by_role("button", name="messages back").click()
    await tab.page.get_by_label("Rate").fill("1")
    for box in (
        "include messages that would be dead-lettered again",
        "include messages sent back before or already answered",
    ):
        await tab.page.get_by_label(box).check()
    await tab.press("Show the plan")
    await tab.page.get_by_label("Why").fill("slowly")
    await tab.press("back")
    await tab.see("running")
    await tab.page.locator("tbody a").first.click()
    await tab.click("Stop …")
    await tab.press("Stop it")
    await tab.see("stopped")
    stopped = await _newest(scene, "stopped")
    await tab.click("Go on …")
    await tab.page.get_by_label("Why").fill("after all")
    assert [] == await tab.barriers()
    await tab.press("Go on")
    await tab.page.locator("dialog").wait_for(state="detached")
    await eventually(lambda: _begun_after(scene, stopped), "another operation")

    newest = (await list_operations(scene.settings, 1))[0]
    assert ("redrive", "maria (console)", "after all") == (newest.verb, newest.actor, newest.reason)
    await tab.go(f"#/operations/{newest.operation}")
    await tab.click("Stop …")
    await tab.press("Stop it")
    await eventually(lambda: _newest(scene, "stopped"), "the end")


async def _begun_after(scene: Scene, before: Operation | None) -> bool:
    return before is not None and (await list_operations(scene.settings, 1))[0].operation > before.operation


async def test_replays_are_gone_on_with_or_told_how(tab: Tab, scene: Scene) -> None:
    """A run into a schema goes on here; a rewind is refused while its group has members; the rest is a command line."""
    shadow = RebuildRequest("replay shadow", schema="beside", start=utc_now())
    there = load_settings(database_url="postgresql://me:secret@there:5432/other").database_url
    rewind = {"worker": "send", "publish_again": True, "drain": False, **RewindTarget(TargetKind.OFFSET, 0).summary()}
    kept = [
        await _stopped(scene, asked.verb, asked.arguments(scene.settings))
        for asked in (shadow, replace(shadow, url=there))
    ]
    kept.append(await _stopped(scene, "rewind", rewind))
    await tab.go(f"#/operations/{kept[1]}")
    await tab.see("inmail replay shadow --database postgresql://...@there:5432/other --schema beside --from")
    assert 0 == await tab.page.get_by_role("button", name="Go on").count()
    assert [] == await tab.barriers()
    await tab.sign_in(OPERATOR, "maria")
    await tab.go(f"#/operations/{kept[2]}")
    await tab.click("Go on …")
    await tab.page.get_by_label("Why").fill("again")
    await tab.press("Go on")
    await tab.see("the group has members", "dialog")
    await tab.press("Cancel")
    await tab.go(f"#/operations/{kept[0]}")
    await tab.click("Go on …")
    await tab.page.get_by_label("Why").fill("to the end")
    await tab.press("Go on")
    await eventually(lambda: _newest(scene, "done"), "a shadow run that is done")

    done = (await list_operations(scene.settings, 1))[0]
    assert ("replay shadow", "maria (console)", "to the end") == (done.verb, done.actor, done.reason)
    assert {"read", "differences"} <= done.result.keys()


async def _stopped(scene: Scene, verb: str, arguments: dict[str, Any]) -> int:
    """Put an operation on record that was stopped before it did anything."""
    async with recorded_operation(
        scene.settings, Intent(verb, "otto", "so", arguments, {"lost_to_retention": 0})
    ) as operation:
        operation.stopped = True
    return operation.number


async def test_a_page_of_another_origin_can_do_nothing(tab: Tab, scene: Scene, address: str) -> None:
    """Not even with the cookie of who is signed in, by the one form that a browser sends anywhere without asking."""
    await tab.go("#/")
    await tab.sign_in(OPERATOR, "maria")
    await tab.see("maria", "header")
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
    other = reserve(None, "a test's other page")
    await web.SockSite(runner, other).start()
    async with tab.page.expect_response(lambda answer: "/api/redrives/plan" in answer.url) as answered:
        await tab.page.goto(f"http://localhost:{other.getsockname()[1]}/")
    answer = await answered.value
    await runner.cleanup()

    assert (403, "other_origin") == (answer.status, (await answer.json())["error"]["code"])
    assert before == await list_operations(scene.settings, 100)


async def test_a_lost_connection_is_said_and_comes_back_by_itself(browser: Browser, scene: Scene) -> None:
    """With the time of what is still shown."""
    async with a_console(scene.settings) as address:
        port = int(address.rpartition(":")[2])
        opened = a_tab(browser, address)
        tab = await opened.__aenter__()
        await tab.go("#/")
        await tab.see("Live", "#connection")
        await tab.see("Flow in")
    try:
        await tab.see("Connection lost · data of", "#connection")
        assert "Flow in" in await tab.text()
        async with a_console(scene.settings, port):
            await tab.see("Live", "#connection")
    finally:
        await opened.__aexit__(None, None, None)


async def test_a_database_that_does_not_answer_is_an_error_with_a_way_on(browser: Browser, scene: Scene) -> None:
    """Within the console's patience, and once it answers again, so does the page."""
    async with a_console(scene.settings, console_timeout_seconds=1.5) as address, a_tab(browser, address) as tab:
        connection = await connect_database(scene.settings)
        async with connection.transaction():
            await connection.execute("lock table accounts in access exclusive mode")
            await tab.go(f"#/account?id={scene.account}")
            await tab.see("no answer in time")
        await connection.close()
        await tab.click("Try again")
        await tab.see("2 credits")


async def test_kafka_that_is_away_is_said_beside_what_the_books_know(browser: Browser, scene: Scene) -> None:
    """The connection's line, the health and the lag name it; the account is shown all the same."""
    closed = reserve(None, "nobody")
    nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
    async with (
        a_console(scene.settings, kafka_bootstrap_servers=nowhere, console_timeout_seconds=2) as address,
        a_tab(browser, address) as tab,
    ):
        await tab.go("#/")
        await tab.see("Kafka does not answer", "#connection")
        await tab.see("cannot be told while Kafka does not answer")
        await tab.go("#/topics")
        await tab.see("Kafka cannot be reached")
        await tab.go(f"#/account?id={scene.account}")
        await tab.see("2 credits")
    closed.close()


async def test_with_a_readers_token_nothing_is_seen_without_it_and_nothing_done_with_it(
    browser: Browser, scene: Scene
) -> None:
    """A gate; then all views; then the operator's token where something is to be done."""
    changes = {"console_reader_token": SecretStr(READER)}
    async with a_console(scene.settings, **changes) as address, a_tab(browser, address) as tab:
        await tab.go("#/")
        await tab.see("Reading this console needs a token")
        assert [] == await tab.barriers()
        await tab.sign_in(READER)
        await tab.see("Flow in")
        status = await tab.page.evaluate(
            "fetch('/api/session').then(a => a.json()).then(s => fetch('/api/redrives/plan', {method: 'POST',"
            " headers: {'Content-Type': 'application/json', 'X-Csrf-Token': s.csrf}, body: '{}'})).then(a => a.status)"
        )
        assert 401 == status
        cookie = next(each for each in await tab.page.context.cookies() if each["name"].startswith("inmail_console"))
        assert (True, "Strict") == (cookie["httpOnly"], cookie["sameSite"])
        await tab.click("Sign out")
        await tab.see("Reading this console needs a token")


async def test_an_account_leads_to_what_its_statement_does_not_have(tab: Tab, scene: Scene) -> None:
    """Dead letters, of which an account may have nothing else; and each line to its request, told by its id's end."""
    await tab.go(f"#/account?id={scene.refused}")
    await tab.page.locator("main").get_by_role("link", name="dead letters").click()
    await tab.see("unknown plan", "main table")
    await tab.go(f"#/account?id={scene.account}")
    await tab.page.get_by_role("link", name=f"Request {scene.request}").first.wait_for()

    ends = await tab.page.locator("main td a").all_inner_texts()
    assert f"…{str(scene.request)[-8:]}" in ends
    assert 5 == len(set(ends))


async def test_it_is_worked_with_the_keyboard_alone(tab: Tab) -> None:
    """The skip link, the views, a dialog that keeps the focus and gives it back."""
    page = tab.page
    await tab.go("#/operations")
    await tab.see("What operators did")
    await page.keyboard.press("Tab")
    assert "Skip to the content" == await page.evaluate("document.activeElement.textContent")
    await page.keyboard.press("Enter")
    assert "main" == await page.evaluate("document.activeElement.id")
    await page.get_by_role("link", name="Account", exact=True).focus()
    await page.keyboard.press("Enter")
    await tab.see("Whose credits?")
    assert "H1" == await page.evaluate("document.activeElement.tagName")
    await page.get_by_role("button", name="Sign in").focus()
    await page.keyboard.press("Enter")
    assert "Token" == await page.evaluate("document.activeElement.labels[0].textContent")
    await page.keyboard.press("Escape")
    assert "Sign in" == await page.evaluate("document.activeElement.textContent")


async def test_light_and_dark_follow_the_system_until_somebody_chooses(browser: Browser, address: str) -> None:
    """And the choice is kept."""
    ground = "getComputedStyle(document.body).backgroundColor"
    async with a_tab(browser, address, color_scheme="dark") as tab:
        await tab.go("#/nowhere")
        await tab.see("There is no such view")
        dark = await tab.page.evaluate(ground)
        await tab.page.get_by_label("Colours").select_option("light")
        light = await tab.page.evaluate(ground)
        await tab.page.reload()

        assert ("rgb(18, 21, 25)", "rgb(246, 246, 244)") == (dark, light)
        assert light == await tab.page.evaluate(ground)


async def test_what_is_not_there_is_said(tab: Tab) -> None:
    """In a sentence, where it would have been."""
    for path, text in (
        ("#/account?id=nobody-of-that-name", "the ledger has no account nobody-of-that-name"),
        ("#/request?id=no-uuid", "is no UUID and no id of a decided request"),
        ("#/letters/0/999999999", "there is no dead letter at 0/999999999"),
        ("#/operations/999999", "there is no operation 999999"),
        ("#/letters?account=nobody", "No dead letter matches"),
        ("#/nowhere", "There is no such view"),
    ):
        await tab.go(path)
        await tab.see(text)
        assert 1 == await tab.page.locator("h1").count()
