"""`make console-shots`: the README's pictures of the console, of a population that was simulated up to now."""

import asyncio
import random
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
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
from tests.console.browser import WIDE, Tab, open_browser, open_tab
from workers.local.local_console import serve_local_console
from workers.local.processes import WorkerProcesses
from workers.local.up import prepare_stack, stack_settings
from workers.simulate.history import simulate_records
from workers.simulate.population import Population

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES: Final = 150_000
DAYS: Final = 80
MEMBERS: Final = 40
LOOKED_SECONDS: Final = 75.0  # the pictures show a minute of flow
DECIDED_SECONDS: Final = 120.0
SHOTS: Final[list[tuple[str, str, str, int]]] = [
    # file, view, scheme, height
    ("console-overview.png", "#/", "light", 900),
    ("console-account.png", "#/account?id={account}", "dark", 900),
]


class Load:
    """A population: its past, and what it goes on to do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = random.Random(1)  # noqa: S311 - a workload

    async def past(self) -> None:
        """Publish 80 days, each event with its own time."""
        start = (utc_now() - timedelta(days=DAYS)).replace(microsecond=0)
        async with create_producer(self._settings, "shots") as producer:
            for topic, key, value, time in simulate_records(Population(accounts=60, days=DAYS - 1, start=start)):
                await producer.send(topic, value, key, timestamp_ms=time)
            for number in range(MEMBERS):
                body = {"credits": 400, "promotion_id": "autumn"}
                await self._send(producer, BILLING_EVENTS, PromotionGranted, f"member-{number:03}", body)
            for number in range(5):
                now = utc_now()
                body = {
                    "subscription_id": "s",
                    "plan": "platinum",
                    "period_start": now,
                    "period_end": now + timedelta(31),
                }
                await self._send(producer, BILLING_EVENTS, SubscriptionActivated, f"member-{number:03}", body)

    async def go_on(self) -> None:
        """Send for as long as it is let."""
        async with create_producer(self._settings, "shots") as producer:
            while True:
                for _ in range(self._random.randint(20, 90)):
                    body = {
                        "recipient_id": f"member-{self._random.randint(100, 999)}",
                        "relationship": self._random.choice(["none", "none", "none", "connection", "open_profile"]),
                    }
                    who = f"member-{self._random.randrange(MEMBERS):03}"
                    await self._send(producer, SEND_REQUESTS, SendRequested, who, body)
                await asyncio.sleep(0.5)

    @staticmethod
    async def _send(producer: Any, topic: str, kind: Any, account: str, body: dict[str, Any]) -> None:
        now = datetime.now(UTC)
        event: Event = kind.create(id=uuid4(), source="/shots", subject=account, time=now, data=body)
        await producer.send(topic, encode(event), account.encode(), timestamp_ms=to_milliseconds(now))


async def an_account(settings: Settings) -> str:
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


async def take(tab: Tab, file: str, path: str, scheme: Any, height: int) -> None:
    """Take one picture, once it shows something."""
    await tab.set_window(WIDE, scheme)
    await tab.page.set_viewport_size({"width": WIDE, "height": height})
    if path != "#/":
        await tab.open_view(path)
        await tab.wait_for_text("Statement")
    picture = await tab.page.screenshot(path=IMAGES / file, scale="css")
    print(f"{file}: {len(picture):,} bytes")
    if len(picture) > MOST_BYTES:
        raise RuntimeError(f"{file} has more than {MOST_BYTES:,} bytes")


async def run() -> None:
    """Run a stack of its own, and take the pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with LocalStack() as stack, tempfile.TemporaryDirectory() as logs:
        settings = stack_settings(stack, topic_partitions=4, topic_record_time=RecordTime.CREATE, log_format="json")
        await prepare_stack(settings)
        load = Load(settings)
        async with serve_local_console(settings) as served, open_browser() as browser:
            workers = WorkerProcesses(settings, Path(logs), probes=served.probes)
            workers.start()
            try:
                await load.past()
                going_on = asyncio.create_task(load.go_on())
                async with open_tab(browser, served.address) as tab:
                    await tab.open_view("#/")
                    await asyncio.sleep(LOOKED_SECONDS)
                    account = await an_account(settings)
                    for file, path, scheme, height in SHOTS:
                        await take(tab, file, path.format(account=account), scheme, height)
                going_on.cancel()
            finally:
                await asyncio.to_thread(workers.stop)


if __name__ == "__main__":
    asyncio.run(run())
