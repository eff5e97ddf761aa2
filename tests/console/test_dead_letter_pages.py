"""The list of dead letters in a real browser: its pages, its accounts and errors, and what is selected of it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from infra.kafka.backwards import ReadBudget
from schemas.catalogue import SEND_REQUESTS
from tests.console.browser import Tab
from tests.console.scene import OPERATOR, Scene
from tests.workers.wire import eventually, publish, send
from workers.console import api, operation_runner
from workers.console.parameters import older_than_text, parse_filter, parse_older
from workers.console.problems import BadRequestError
from workers.ops.books.shards import ServerError
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.pages import list_dead_letters

pytestmark = pytest.mark.timeout(60)

MORE = 57  # a page has 50


@pytest.mark.whole
async def test_a_page_names_accounts_and_errors_and_leads_to_the_next(tab: Tab, scene: Scene) -> None:
    """The pages hold each dead letter once, also while others come; the way back is a link and the browser's own."""
    account = f"many-{scene.account}"
    good = send(account, relationship="connection")  # twice as many: the circuit breaker is not what is tested
    await publish(scene.settings, SEND_REQUESTS, [good, (account.encode(), b"no event"), good] * MORE)

    async def all_there() -> bool:
        found = await list_dead_letters(scene.settings, LetterFilter(account=account))
        return len(found.letters) == MORE

    await eventually(all_there, f"{MORE} dead letters")
    await tab.open_view(f"#/letters?account={account}")
    await tab.wait_for_text("The newest 50 dead letters")
    first = await tab.page.locator("tbody th a").all_inner_texts()
    row = tab.page.locator("tbody tr").first
    assert "not JSON: expected true, false or null" in await row.inner_text()
    assert f"#/account?id={account}" == await row.get_by_role("link", name=account).get_attribute("href")
    await tab.click("Older", "link")
    await tab.wait_for_text(f"{MORE - 50} older dead letters")
    second = await tab.page.locator("tbody th a").all_inner_texts()

    assert (50, MORE - 50, MORE) == (len(first), len(second), len({*first, *second}))
    await tab.click("Newest", "link")
    await tab.wait_for_text("The newest 50")
    await tab.page.go_back()
    await tab.wait_for_text("older dead letters")


@pytest.mark.whole
async def test_a_search_for_what_is_rare_says_how_far_it_came_and_goes_on(
    tab: Tab, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that its budget ended is no end of the list, and no statement of how many match."""
    enough = api._LETTER_BUDGET
    monkeypatch.setattr(api, "_LETTER_BUDGET", ReadBudget(1, 1))
    account = f"rare-{scene.account}"
    bad = (account.encode(), b"no event")
    await publish(scene.settings, SEND_REQUESTS, [*[send(account, relationship="connection")] * 3, bad])

    async def is_there() -> bool:
        return len((await list_dead_letters(scene.settings, LetterFilter(account=account))).letters) == 1

    await eventually(is_there, "the dead letter")
    await tab.open_view("#/letters?account=nobody-has-this-name")
    await tab.wait_for_text("No match: searched back to")
    await tab.wait_for_text("No dead letter matches so far.")
    assert await tab.page.get_by_role("button", name="Redrive all that match …").is_visible()
    older = tab.page.get_by_role("link", name="Search older")
    first = await older.get_attribute("href")
    await older.click()
    await tab.page.locator(f'main a[href="{first}"]', has_text="Search older").wait_for(state="detached")
    monkeypatch.setattr(api, "_LETTER_BUDGET", enough)
    await tab.open_view(f"#/letters?account={account}")
    await tab.wait_for_text("not JSON")


@pytest.mark.whole
async def test_the_overview_does_not_take_what_was_not_counted_for_none(
    tab: Tab, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count that its budget ended before it met a letter says since when there is none."""
    assert scene.account

    async def count_nothing(*_: object) -> tuple[Counter[tuple[str, str]], datetime]:
        return Counter(), datetime(2026, 1, 31, tzinfo=UTC)

    monkeypatch.setattr(api, "count_newest", count_nothing)
    await tab.open_view("#/")
    await tab.wait_for_text("; older ones were not counted.")
    assert 0 == await tab.page.get_by_text("No dead letters.", exact=True).count()


def test_where_a_page_ends_fits_into_a_request_with_a_thousand_partitions() -> None:
    """It is read as it was written, also where partitions in between are done."""
    many = {partition: 1_000_000 + partition for partition in range(1024)}
    some = {1: 0, 7: 2**53, 900: 127, 901: 128}

    text = older_than_text(many)

    assert text is not None
    assert len(text) < 6000
    assert (many, some) == (parse_older({"older_than": text}), parse_older({"older_than": older_than_text(some)}))
    assert (None, None) == (older_than_text(None), parse_older({"older_than": ""}))


@pytest.mark.parametrize("text", ["2030-01-01T09", "gA", "A", "AA", "0/1", "é", 3, "_" * 20 + "AAA", "A" * 8001])
def test_what_no_page_named_as_its_end_is_refused(text: object) -> None:
    """Other characters, half a number, half a pair, a number that is none of Kafka's, or too much of it."""
    with pytest.raises(BadRequestError, match="older_than: expected what the page before"):
        parse_older({"older_than": text})


@pytest.mark.parametrize(
    "places", [[], "0/1", ["0"], ["0/1", 3], ["-1/2"], ["1/2/3"], [f"0/{each}" for each in range(1001)]]
)
def test_a_selection_that_names_no_dead_letters_is_refused(places: object) -> None:
    """An empty selection is no selection of all."""
    with pytest.raises(BadRequestError, match="places: expected"):
        parse_filter({"places": places})
    assert frozenset({(0, 1), (2, 30)}) == parse_filter({"places": ["0/1", "2/30"]}).places


@pytest.mark.whole
async def test_a_server_whose_answers_are_missing_is_named_wherever_they_are(
    tab: Tab, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several servers one may be away: what it would have told is not taken for nothing."""
    gone = (ServerError(scene.settings, OSError("it has gone")),)

    def without(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*given: Any, **more: Any) -> Any:
            return replace(await ask(*given, **more), silent_servers=gone)

        return asked

    plan_redrive, find_operations = operation_runner.plan_redrive, api.find_operations

    async def operations(*given: Any) -> Any:
        return (await find_operations(*given))._replace(silent=list(gone))

    async def plan(*given: Any) -> Any:
        return replace(await plan_redrive(*given), silent=gone)

    for name in ("report_dead_letters", "report_dead_letter", "trace"):
        monkeypatch.setattr(api, name, without(getattr(api, name)))
    monkeypatch.setattr(api, "find_operations", operations)
    monkeypatch.setattr(operation_runner, "plan_redrive", plan)
    refused = f"#/letters?account={scene.refused}"
    for path in (refused, f"#/letters/{scene.letter.place}", f"#/request?id={scene.request}", "#/operations"):
        await tab.open_view(path)
        await tab.wait_for_text("What only these servers know is missing: Postgres at ")
        assert "it has gone" in await tab.read_text()
    await tab.open_view(refused)
    await tab.sign_in(OPERATOR, "maria")
    await tab.click("messages …")
    await tab.press("Show the plan")
    await tab.wait_for_text("it has gone", "dialog")
    assert "it would become a dead letter again with this version and plan catalogue" in await tab.read_text("dialog")
    await tab.press("Close")
