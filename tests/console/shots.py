"""`make console-shots`: the README's pictures of the console, of two runs of its own.

The overview is of a run with the broker's times: only there are latency and lag what they say. An account is of a run
with its producers' times, which can have a past. `--all` takes every view, in two widths and both schemes, too.
"""

import asyncio
import random
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from math import sin
from pathlib import Path
from time import monotonic
from typing import Any, Final
from uuid import uuid4

import asyncpg

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import create_producer
from infra.local.stack import LocalStack
from infra.postgres import connect_database
from infra.settings import RecordTime, Settings
from schemas.billing import PromotionGranted, SubscriptionActivated
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from schemas.envelope import Event, encode
from schemas.sends import SendRequested
from tests.console.browser import NARROW, WIDE, Tab, open_browser, open_tab
from workers.local.local_console import serve_local_console
from workers.local.processes import WorkerProcesses
from workers.local.up import prepare_stack, stack_settings
from workers.ops.operations import Intent, recorded_operation
from workers.simulate.history import simulate_records
from workers.simulate.population import Population

ROOT: Final = Path(__file__).parents[2]
IMAGES: Final = ROOT / "docs" / "images"
LOOKED_AT: Final = ROOT / "build" / "shots"
MOST_BYTES: Final = 200_000
DAYS: Final = 80
MEMBERS: Final = 40
LOOKED_SECONDS: Final = 160.0  # of flow: charts of 15 minutes show 3 at least, of a console that is new
DECIDED_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class View:
    """A view, and the element that is there once it shows what its picture is of."""

    name: str
    path: str
    shown: str


OVERVIEW: Final = View("overview", "#/", ".charts polyline")
ACCOUNT: Final = View("account", "#/account?id={account}", "main:has(.lots li) .balance svg")
LIVE: Final = [
    View("lag", "#/lag", "main table"),
    View("lag-of-one", "#/lag?group=inmail-send", "main table .spark"),
    View("dead-letters", "#/letters", "main tbody a"),
    View("dead-letter", "{letter}", "main pre"),
    View("operations", "#/operations", "main tbody a"),
    View("topics", "#/topics", "main table"),
    View("topic", f"#/topics/{SEND_REQUESTS}", "main table"),
    View("search", "#/search?q=member-0", "main .links a"),
]
PAST: Final = [ACCOUNT, View("requests", "#/request?account={account}", "main .steps")]


@asynccontextmanager
async def open_console(record_time: RecordTime) -> AsyncIterator[tuple[Settings, Tab]]:
    """Run a stack with its workers and a console, and open a tab."""
    with LocalStack() as stack, tempfile.TemporaryDirectory() as logs:
        settings = stack_settings(stack, topic_partitions=4, topic_record_time=record_time, log_format="json")
        await prepare_stack(settings)
        async with serve_local_console(settings) as served, open_browser() as browser:
            workers = WorkerProcesses(settings, Path(logs), probes=served.probes)
            workers.start()
            try:
                async with open_tab(browser, served.address) as tab:
                    yield settings, tab
            finally:
                await asyncio.to_thread(workers.stop)


async def publish_past(settings: Settings) -> None:
    """Publish 80 days, each event with its own time."""
    start = (utc_now() - timedelta(days=DAYS)).replace(microsecond=0)
    async with create_producer(settings, "shots") as producer:
        for topic, key, value, time in simulate_records(Population(accounts=60, days=DAYS - 1, start=start)):
            await producer.send(topic, value, key, timestamp_ms=time)


async def publish_load(settings: Settings) -> None:
    """Give members credits, and send until cancelled, more and less in turns. A few subscribe to an unknown plan."""
    dice = random.Random(1)  # noqa: S311 - a workload
    async with create_producer(settings, "shots") as producer:
        for number in range(MEMBERS):
            gift = {"credits": 2000 if number % 8 else 40, "promotion_id": "autumn"}
            await _publish(producer, BILLING_EVENTS, PromotionGranted, _member(number), gift)
        for turn in count():
            for _ in range(int(22 + 12 * sin(monotonic() / 12) + dice.random() * 10)):
                body: dict[str, Any] = {
                    "recipient_id": f"member-{dice.randint(100, 999)}",
                    "relationship": dice.choice(["none", "none", "none", "connection", "open_profile"]),
                }
                await _publish(producer, SEND_REQUESTS, SendRequested, _member(dice.randrange(MEMBERS)), body)
            if turn % 90 == 5:
                body = {"subscription_id": "s", "plan": "platinum", "period_start": utc_now()}
                body |= {"period_end": utc_now() + timedelta(days=31)}
                await _publish(producer, BILLING_EVENTS, SubscriptionActivated, _member(dice.randrange(MEMBERS)), body)
            await asyncio.sleep(0.5)


def _member(number: int) -> str:
    return f"member-{number:03}"


async def _publish(producer: Any, topic: str, kind: Any, account: str, body: dict[str, Any]) -> None:
    now = datetime.now(UTC)
    event: Event = kind.create(id=uuid4(), source="/shots", subject=account, time=now, data=body)
    await producer.send(topic, encode(event), account.encode(), timestamp_ms=to_milliseconds(now))


async def find_account(settings: Settings) -> str:
    """Return an account whose lots make a picture, once the past was decided."""
    connection = await connect_database(settings)
    deadline = monotonic() + DECIDED_SECONDS
    try:
        while monotonic() < deadline:
            with suppress(asyncpg.PostgresError):
                found = await connection.fetchval(
                    "select a.account_id from accounts as a join lots as l using (account)"
                    " where l.remaining > 0 and l.expires_at > $1 group by 1"
                    " having count(*) between 3 and 9 and count(distinct l.origin) > 1"
                    " order by count(*) desc, 1 limit 1",
                    utc_now(),
                )
                if found is not None:
                    return str(found)
            await asyncio.sleep(2)
    finally:
        await connection.close()
    raise RuntimeError("no account has lots to show")


async def show(tab: Tab, view: View, size: tuple[int, int], scheme: Any, **known: str) -> None:
    """Open a view, and wait until it shows what its picture is of, and loads nothing more."""
    await tab.set_window(size[0], scheme)
    await tab.page.set_viewport_size({"width": size[0], "height": size[1]})
    await tab.open_view(view.path.format(**known))
    await tab.page.locator(view.shown).first.wait_for(state="attached")
    await tab.page.locator("main .loading").first.wait_for(state="detached")


async def take(tab: Tab, view: View, scheme: str, height: int, **known: str) -> None:
    """Take the README's picture of a view."""
    await show(tab, view, (WIDE, height), scheme, **known)
    picture = await tab.page.screenshot(path=IMAGES / f"console-{view.name}.png", scale="css")
    print(f"{view.name}: {len(picture):,} bytes")
    if len(picture) > MOST_BYTES:
        raise RuntimeError(f"the picture of {view.name} has more than {MOST_BYTES:,} bytes")


async def take_all(tab: Tab, views: list[View], **known: str) -> None:
    """Take whole views in each window and scheme, and tell what of their charts is cut."""
    LOOKED_AT.mkdir(parents=True, exist_ok=True)
    for view in views:
        for width in (NARROW, 1440):
            for scheme in ("light", "dark"):
                await show(tab, view, (width, 900), scheme, **known)
                await tab.page.screenshot(path=LOOKED_AT / f"{view.name}-{width}-{scheme}.png", full_page=True)
            print(f"{view.name} at {width}: {await tab.cut_texts() or 'no text of a chart is cut'}")


async def run_live(*, every_view: bool) -> None:
    """Take the pictures of a running system."""
    async with open_console(RecordTime.APPEND) as (settings, tab):
        await tab.open_view(OVERVIEW.path)
        await tab.wait_for_text("All parts work.")
        load, end = asyncio.create_task(publish_load(settings)), monotonic() + LOOKED_SECONDS
        if every_view:
            async with recorded_operation(settings, Intent("redrive", "maria", "the plan is there now", {}, {})):
                pass
            await tab.open_view("#/letters")
            letter = tab.page.locator("main a[href^='#/letters/']").first
            await take_all(tab, LIVE, letter=str(await letter.get_attribute("href")))
            await tab.open_view(OVERVIEW.path)
        await asyncio.sleep(end - monotonic())
        await take(tab, OVERVIEW, "light", 1130)
        if every_view:
            await take_all(tab, [OVERVIEW])
        load.cancel()


async def run_past(*, every_view: bool) -> None:
    """Take the pictures of a system with a past."""
    async with open_console(RecordTime.CREATE) as (settings, tab):
        await publish_past(settings)
        await tab.open_view(OVERVIEW.path)
        await asyncio.sleep(5)  # until a sample is of after the past came
        await tab.page.locator(".tile", has_text="no unread records").wait_for(timeout=DECIDED_SECONDS * 1000)
        account = await find_account(settings)
        await take(tab, ACCOUNT, "dark", 1280, account=account)
        if every_view:
            await take_all(tab, PAST, account=account)


if __name__ == "__main__":
    for run in (run_live, run_past):
        asyncio.run(run(every_view="--all" in sys.argv))
