"""The sample of the system that all open pages share: taken every 2 s while a page is open, every 15 s otherwise."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Final, NamedTuple, TypeVar

from infra.clock import utc_now
from infra.first_of import wait_for_event
from infra.postgres import database_address
from infra.settings import Settings
from workers.console import health
from workers.console.advice import ADVICE
from workers.console.books_check import BooksCheck
from workers.console.flow import Flow
from workers.console.headline import headline, rank, title_of
from workers.console.lag_json import group_json, hidden_json, overview_json, partitions_json
from workers.console.lag_source import LagSource
from workers.console.ledger_sample import OUTCOME_RECORDS, LedgerSample
from workers.console.local_workers import WorkerControl, by_process, with_processes
from workers.console.navigation_counts import navigation_counts
from workers.console.problems import KNOWN, Refusals, explain, is_silence
from workers.console.query_limiter import QueryLimiter
from workers.console.recorder import Recorder
from workers.console.time_series import TimeRange
from workers.topology import TOPIC_OF_GROUP

__all__ = ["SystemMonitor"]

VIEWED_SECONDS: Final = 2.0
UNVIEWED_SECONDS: Final = 15.0
_ASKING_SECONDS: Final = 5.0  # an open page asks every 2 s
_LETTER_MINUTES: Final = 5  # for which dead letters count as news

_NAMES: Final = {"kafka": "Kafka", "postgres": "Postgres"}

Seen = TypeVar("Seen")


class _Failure(NamedTuple):
    """Why a server was not read."""

    cause: str  # of the headline's table: silence, or a refusal
    text: str


class SystemMonitor:
    """Samples the system for all open pages, and keeps the last sample."""

    def __init__(self, limiter: QueryLimiter, probes: dict[str, str], control: WorkerControl | None = None) -> None:
        self._limiter = limiter
        self._control = control
        self._probes = probes
        self._ledger = LedgerSample(limiter.settings)
        self.lag = LagSource(limiter.settings, self._ledger.lock_memories)
        self.flow = Flow()
        self.recorder = Recorder(limiter)
        self._books = BooksCheck(limiter)
        self._asked_at: float | None = None  # monotonic: when a page last asked for the sample
        self._failures: dict[str, _Failure] = {}  # by server
        self._refusals = Refusals(limiter)
        self._health: dict[str, health.SystemPart] = {}
        self._troubles: dict[str, dict[str, Any]] = {}  # by server
        self._at: datetime | None = None
        self._requested = asyncio.Event()

    async def run(self) -> None:
        """Take samples until cancelled."""
        while True:
            await self.take_sample()
            self._requested.clear()
            await wait_for_event(self._requested, VIEWED_SECONDS if self._is_viewed() else UNVIEWED_SECONDS)

    def note_view(self) -> None:
        """Take samples often, as long as pages ask for them, and the next one now for the first page that does."""
        if not self._is_viewed():
            self._requested.set()
        self._asked_at = monotonic()

    def _is_viewed(self) -> bool:
        return self._asked_at is not None and monotonic() - self._asked_at < _ASKING_SECONDS

    async def take_sample(self) -> None:
        """Take one sample. The data of a server that does not answer stays as it was, with the error."""
        lanes, lag_read, probes, results = await asyncio.gather(
            self._query("postgres", lambda _: self._ledger.read()),
            self._query("kafka", lambda _: self.lag.refresh()),
            health.query_probes(self._probes),
            self.recorder.read_results(),
        )
        self._at = utc_now()
        if lanes:
            self.recorder.marks.add_sample(self._at, self._ledger.lanes)
        growth, groups = None, self.lag.worker_groups if lag_read else None
        if groups is not None and self.lag.refreshed_at is not None:
            growth = self.flow.add_sample(self.lag.refreshed_at, groups, self._ledger.lanes if lanes else None)
        self.recorder.record(self._at, growth, groups, results)
        await self.recorder.save(if_due=True)
        processes = self._control.statuses() if self._control is not None else ()
        workers = with_processes(self._worker_parts(by_process(probes, processes)), processes)
        since = self._at - timedelta(minutes=_LETTER_MINUTES)
        letters = health.dead_letters_part(
            self.recorder.dead_letters(since),
            self.recorder.first_dead_letter_at(since),
            _LETTER_MINUTES,
            self.recorder.results_problem,
        )
        others = [part for part in (letters, self._books.part()) if part is not None]
        found = [*self._server_parts(), *workers, *others]
        parts = health.add_since(found, self._health, self._at)
        self._health = {part.name: part for part in parts}
        self._troubles = {server: self._trouble(server) for server in _NAMES if server in self._failures}

    async def close(self) -> None:
        """Close the clients, and keep the time series."""
        await self.recorder.close()  # first: a client may hang on closing when its broker is gone
        await self._books.close()
        await self.lag.close()

    async def _query(self, server: str, read: Callable[[Settings], Awaitable[None]]) -> bool:
        try:
            async with self._limiter.sample_slot() as settings:
                await read(settings)
        except TimeoutError:  # the error itself does not know which server was asked
            text = f"{self._address(server)} gives no answer in time: it is slow, hangs, or is out of reach"
            self._failures[server] = _Failure("no answer", text)
            return False
        except KNOWN as error:
            told = await self._refusals.explain(error, "console") or error
            cause = "no answer" if is_silence(told) else "refused"
            self._failures[server] = _Failure(cause, explain(told, self._limiter.settings)[2])
            return False
        self._failures.pop(server, None)
        return True

    def _address(self, server: str) -> str:
        settings = self._limiter.settings
        kafka = f"Kafka at {settings.kafka_bootstrap_servers}"
        return kafka if server == "kafka" else f"Postgres at {database_address(settings)}"

    def _server_parts(self) -> list[health.SystemPart]:
        servers = self._ledger.parts(lambda error: explain(error, self._limiter.settings)[2])
        parts = []
        locked = health.lock_part(self._ledger.locks, self.lag.worker_groups)
        for key, name in _NAMES.items():
            if key == "postgres" and locked is not None:
                parts.append(locked)
            elif key == "postgres" and servers:
                continue
            elif (failure := self._failures.get(key)) is not None:
                parts.append(health.SystemPart(name, health.FAILED, failure.cause, failure.text))
            elif key == "kafka" and (refusal := self.lag.refusal) is not None:
                do = "see docs/operate.md#rights"
                parts.append(health.SystemPart(name, health.WARNING, "not allowed", str(refusal), do))
            else:
                parts.append(health.SystemPart(name, health.OK, "reachable", "queries succeed"))
        return parts + servers

    def _trouble(self, server: str) -> dict[str, Any]:
        """Return what is wrong with a server that was not read, in a short sentence, and its data's time, for JSON."""
        unwell = rank([part for part in self._health.values() if part.name.startswith(_NAMES[server])])
        failed = health.SystemPart(_NAMES[server], health.FAILED, *self._failures[server])
        read_at = self.lag.refreshed_at if server == "kafka" else self._ledger.at
        return {"title": title_of(unwell[0] if unwell else failed), "at": read_at}

    def _worker_parts(self, probes: dict[str, health.Probe]) -> list[health.SystemPart]:
        if (failure := self._failures.get("kafka")) is None:
            return health.worker_health(self.lag.worker_groups, probes, self.lag.hidden_groups)
        kafka = health.SystemPart(_NAMES["kafka"], health.FAILED, *failure)
        text = f"unknown while {title_of(kafka)}"
        return [health.SystemPart(name, health.UNKNOWN, "not known", text) for name in health.WORKER_NAMES.values()]

    def overview_json(self) -> dict[str, Any]:
        """Return the last sample as the overview shows it, for JSON."""
        places = (each for group in self.lag.worker_groups for each in group.partitions)
        oldest = max(places, key=lambda each: each.seconds, default=None)
        return {
            "at": self._at,
            "errors": {server: failure.text for server, failure in self._failures.items()},
            "troubles": self._troubles,
            "flow": self.flow.summary(),
            "headline": headline(list(self._health.values())),
            "outcomes": {"records": OUTCOME_RECORDS, "rows": self._ledger.outcomes, "at": self._ledger.at},
            "oldest": oldest if oldest is not None and oldest.records else None,
            "health": list(self._health.values()),
            "lag": overview_json(self.lag, is_stale="kafka" in self._failures),
            "counts": navigation_counts(
                self.lag.groups, self.recorder.buckets(TimeRange.HOURS_6), utc_now(), self._ledger.running
            ),
            "changes": {"dead_letters": self.lag.dead_letters_end, "operations": self._ledger.operations},
        }

    def lag_json(self, chosen: Collection[str] = ()) -> dict[str, Any]:
        """Return the lag of all groups, and of chosen groups the partitions with their history, for JSON.

        Args:
            chosen: names of groups; where it is empty, our groups.

        """
        failure, refusal = self._failures.get("kafka"), self.lag.refusal
        is_stale = failure is not None
        return {
            "at": self.lag.refreshed_at,
            "error": failure.text if failure is not None else str(refusal) if refusal is not None else None,
            "is_stale": is_stale,
            "groups": [*(group_json(group, is_stale=is_stale) for group in self.lag.groups), *hidden_json(self.lag)],
            "shown": partitions_json(self.lag, chosen or TOPIC_OF_GROUP, is_stale=is_stale),
            "statuses": [{"status": status, **advice._asdict()} for status, advice in ADVICE.items()],
        }
