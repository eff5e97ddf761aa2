"""What a scrape of a process finds."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from prometheus_client.parser import text_string_to_metric_families

from infra.settings import Settings
from tests.workers.processes import free_port
from tests.workers.wire import working
from workers.jobs.billing import BillingJob
from workers.jobs.expiry import ExpiryJob
from workers.jobs.send import SendJob
from workers.jobs.ticker import run_ticker
from workers.ledger.plans import load_catalogue
from workers.ops.books.metrics_exporter import Periods, run_observer
from workers.ops.lag import observer
from workers.ops.lag.server import ServedLag, serve_lag


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __getitem__(self, key: str) -> float:
        return self.value(key)

    def value(self, name: str, labels: Mapping[str, str] | None = None, **more: str) -> float:
        """Return the sum of all samples of a name that have these labels; KeyError where there is none."""
        wanted = ((labels or {}) | more).items()
        found = [value for (each, has), value in self._samples.items() if each == name and wanted <= dict(has).items()]
        if not found:
            raise KeyError(name, dict(wanted))
        return sum(found)

    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {name for name, _ in self._samples}


async def scrape(port: int) -> Scrape:
    """Ask a process for its metrics."""

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
            return str(answer.read().decode())

    return Scrape(await asyncio.to_thread(get))


@asynccontextmanager
async def observing(settings: Settings) -> AsyncIterator[int]:
    """Run the observer of the books; yield its port."""
    own, stop = settings.model_copy(update={"health_port": free_port()}), asyncio.Event()
    task = asyncio.create_task(run_observer(own, stop, Periods(0.2, 0.2)))
    try:
        yield own.health_port
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _lag(settings: Settings) -> AsyncIterator[int]:
    """Run the observer of lag; yield its port."""
    async with observer(settings) as looking, serve_lag(ServedLag(looking), "127.0.0.1:0", 1.0) as place:
        task = asyncio.create_task(looking.run(0.5))
        try:
            yield int(place.rpartition(":")[2])
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()


@asynccontextmanager
async def everyone(settings: Settings) -> AsyncIterator[dict[str, int]]:
    """Run all workers, the ticker and the observer; yield their ports by the names they have in compose.

    There is one tick for each partition, however long the test takes.
    """
    ports = {name: free_port() for name in ("send", "billing", "expiry", "ticker")}
    own = {name: settings.model_copy(update={"health_port": port}) for name, port in ports.items()}
    catalogue, stop = load_catalogue(), asyncio.Event()
    async with (
        working(own["send"], SendJob(catalogue)),
        working(own["billing"], BillingJob(catalogue)),
        working(own["expiry"], ExpiryJob(catalogue, settings)),
        observing(settings) as books,
        _lag(settings) as lag,
    ):
        ticking = asyncio.create_task(run_ticker(own["ticker"].model_copy(update={"tick_seconds": 3600.0}), stop))
        try:
            yield {**ports, "metrics": books, "lag": lag}
        finally:
            stop.set()
            await ticking
