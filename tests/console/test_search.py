"""The search field and the counts of the navigation, in a real browser, and what a narrow screen shows."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import Browser

from infra.postgres import Connection
from tests.console.browser import NARROW, Tab, open_tab
from tests.console.scene import EVIL, Scene
from tests.console.test_health import lag
from tests.console.views import views
from workers.console.navigation_counts import navigation_counts
from workers.console.search_json import search_json
from workers.console.time_series import Bucket, Family
from workers.ops.books.account_search import find_accounts
from workers.ops.lag import Status

pytestmark = pytest.mark.timeout(60)

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.whole
async def test_the_search_field_opens_what_a_text_names(tab: Tab, scene: Scene) -> None:
    """In every view, by the key `/` too: an account, a request, a dead letter; a part of an id lists accounts."""
    place = scene.letter.place
    for view, text, shown in (
        ("#/topics", scene.account, f"Account {scene.account}"),
        ("#/lag", str(scene.request), f"Request {scene.request}"),
        ("#/operations", place, f"Dead letter {place}"),
    ):
        await tab.open_view(view)
        await tab.page.locator("h1", has_not_text="nowhere").first.wait_for()
        await tab.page.locator("main").press("/")
        await tab.page.keyboard.type(text)
        await tab.page.keyboard.press("Enter")
        await tab.page.locator("h1", has_text=shown).wait_for()
    await tab.page.get_by_label("Account, request or event ID").fill(scene.account[:6])
    await tab.page.keyboard.press("Enter")
    await tab.page.locator("main").get_by_role("link", name=scene.account).wait_for()
    assert [] == await tab.accessibility_violations()
    await tab.page.get_by_label("Account, request or event ID").fill(EVIL)
    await tab.page.keyboard.press("Enter")
    await tab.wait_for_text(scene.evil)
    assert 0 == await tab.page.locator("main img").count()


@pytest.mark.whole
async def test_the_navigation_counts_what_needs_a_look(tab: Tab) -> None:
    """Nobody reads the scene's ticks; the count has a text for screen readers."""
    await tab.open_view("#/topics")
    badge = tab.page.locator("nav .badge.lag")
    await badge.wait_for()

    # At once: the count may be another a moment later.
    title, texts = await badge.evaluate(
        "each => [each.title, [...each.querySelectorAll('span')].map((span) => span.textContent)]"
    )
    assert re.fullmatch(r"1 group not OK|[2-9] groups not OK", title)
    assert [title.split(maxsplit=1)[0], f", {title}"] == texts
    assert await tab.page.locator("nav .badge.operations").is_hidden()


@pytest.fixture
async def far_tab(browser: Browser, address: str) -> AsyncIterator[Tab]:
    """A tab in a zone where the day is another than in UTC at this hour: instants are then told at full length."""
    zone = "Pacific/Kiritimati" if datetime.now(UTC).hour >= 12 else "Pacific/Pago_Pago"
    async with open_tab(browser, address, timezone_id=zone) as opened:
        yield opened


@pytest.mark.whole
async def test_a_narrow_screen_cuts_nothing_off(far_tab: Tab, scene: Scene) -> None:
    """At 390 pixels no table scrolls sideways, no text leaves its box, and every view of the navigation is in sight."""
    tab = far_tab
    await tab.set_window(NARROW, "light")
    for path, expected in views(scene).values():
        await tab.open_view(path)
        for text in expected[:1]:
            await tab.wait_for_text(text)
        found = await tab.page.evaluate(
            """() => [...document.querySelectorAll('main *, nav a')].filter((each) => {
                const box = each.getBoundingClientRect();
                const seen = box.width > 1 && !each.closest('.hidden, thead, svg, pre, .over');
                const inline = getComputedStyle(each).display === 'inline';
                const cut = each.matches('.scroll, td, th, td > div, dd') && each.scrollWidth > each.clientWidth + 1;
                return seen && (box.right > innerWidth + 1 || box.left < -1 || (cut && !inline));
            }).map((each) => `${each.tagName}.${each.className}: ${each.textContent.slice(0, 40)}`)"""
        )
        assert [] == found, path


def test_counts_are_of_the_last_hour() -> None:
    """Dead letters of before do not count, nor groups that are OK."""
    seconds = int(NOW.timestamp())
    buckets = [
        Bucket(seconds - age, {Family.DEAD_LETTERS: 60.0}, {Family.DEAD_LETTERS: {"not_json": 2, "no_value": 1}})
        for age in (4000, 3000, 60)
    ]
    groups = [*lag(10, 10), *lag(10, 4, status=Status.STOPPED)]

    assert {"lag": 1, "dead_letters": 6, "operations": 2} == navigation_counts(groups, buckets, NOW, 2)
    assert {"lag": 0, "dead_letters": 0, "operations": 0} == navigation_counts([], buckets, NOW + timedelta(days=1), 0)


def test_a_text_is_read_as_each_thing_that_it_may_name() -> None:
    """A UUID may also be an account; accounts that only begin with the text come beside it."""
    uuid = "0191e0c4-0000-7000-8000-000000000001"

    assert (uuid, uuid, []) == tuple(search_json(uuid, [uuid], 20)[name] for name in ("account", "id", "accounts"))
    assert ("3/17", None) == tuple(search_json("3/17", [], 20)[name] for name in ("dead_letter", "id"))
    found = search_json("a", ["a1", "a2", "a3"], 2)
    assert (None, ["a1", "a2"], True) == (found["account"], found["accounts"], found["more"])


async def test_accounts_are_found_by_how_they_begin(shared: Connection) -> None:
    """By the characters themselves: a pattern's wildcards and case have no meaning."""
    names = ["Anna", "anna", "anna-1", "anna_2", "annb", "~x", "100%"]
    async with shared.transaction():
        await shared.execute("truncate accounts cascade")
        rows = [(each,) for each in names]
        await shared.executemany("insert into accounts (account_id, partition) values ($1, 0)", rows)
        texts = ("anna", "anna_", "a", "100%", "%", "~", "\udcff", "\0", "é")
        found = {each: await find_accounts(shared, each, 3) for each in texts}
        await shared.execute("truncate accounts cascade")

    assert {
        "anna": ["anna", "anna-1", "anna_2"],
        "anna_": ["anna_2"],
        "a": ["anna", "anna-1", "anna_2"],
        "100%": ["100%"],
        "%": [],
        "~": ["~x"],
        "\udcff": [],
        "\0": [],
        "é": [],
    } == found
