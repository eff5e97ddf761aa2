"""The answers of a soak: which are expected, which have come, and how long they took. Its memory does not grow.

The load expects an answer with each record, a read_committed reader takes it off again when it comes. What is left at
the end was lost, or has come more often than it was asked for.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from statistics import quantiles
from time import monotonic
from typing import Any, NamedTuple

import orjson

from infra.kafka.clients import partitions_of, reader
from infra.settings import Settings
from schemas.catalogue import CREDIT_EVENTS, DEAD_LETTERS, SEND_RESULTS

__all__ = ["Answers", "Minute"]

_RESULTS = (SEND_RESULTS, CREDIT_EVENTS, DEAD_LETTERS)


class Minute(NamedTuple):
    """The answers to sends in a span of time."""

    answered: int
    p50: float | None  # milliseconds
    p99: float | None


class Answers:
    """Counts expected and received answers by event id, apart for first answers and repeats."""

    def __init__(self) -> None:
        self.received = 0
        self.codes: Counter[str] = Counter()
        self._balance: Counter[tuple[str, bool]] = Counter()
        self._sequences: Counter[str] = Counter()  # of each account: how many numbers were seen,
        self._highest: Counter[str] = Counter()  # and the highest of them
        self._due: dict[str, float] = {}
        self._waits: list[float] = []
        self._came = asyncio.Event()

    def expect(self, id_: str, *, repeat: bool = False) -> None:
        """Expect an answer once more."""
        self._change((id_, repeat), 1)

    def time(self, request_id: str, due: float) -> None:
        """Measure the wait of a request from a moment on (monotonic seconds)."""
        self._due[request_id] = due

    def receive(self, event: dict[str, Any], now: float) -> None:
        """Take an answer that a reader sees off what is expected."""
        data = event["data"]
        repeat = bool(data.get("repeat"))
        self.received += 1
        self._change((event["id"], repeat), -1)
        if repeat:
            return
        self.codes[data.get("outcome") or data.get("code") or event["type"]] += 1
        if (number := data.get("sequence")) is not None:
            self._sequences[event["subject"]] += 1
            self._highest[event["subject"]] = max(number, self._highest[event["subject"]])
        if (due := self._due.pop(str(data.get("request_id")), None)) is not None:
            self._waits.append((now - due) * 1000)

    def _change(self, key: tuple[str, bool], by: int) -> None:
        self._balance[key] += by
        if not self._balance[key]:
            del self._balance[key]

    @property
    def outstanding(self) -> int:
        """The number of sends whose first answer has not come yet."""
        return len(self._due)

    @property
    def lost(self) -> list[str]:
        """The ids of answers that have not come, each as often as it is missed."""
        return [id_ for (id_, _), count in self._balance.items() for _ in range(count)]

    @property
    def unasked(self) -> list[str]:
        """The ids of answers that came more often than asked for, each as often as it is too many."""
        return [id_ for (id_, _), count in self._balance.items() for _ in range(-count)]

    @property
    def gaps(self) -> list[str]:
        """The accounts whose sequence has a gap, or a number twice, over all topics."""
        return [account for account, count in self._sequences.items() if self._highest[account] != count]

    async def complete(self, seconds: float) -> None:
        """Wait until no answer is missed any more, or for so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.lost:
                    self._came.clear()
                    await self._came.wait()

    def take_minute(self) -> Minute:
        """Return what came since the last call."""
        waits, self._waits = self._waits, []
        if len(waits) < 2:
            return Minute(len(waits), None, None)
        shares = quantiles(waits, n=100)
        return Minute(len(waits), round(shares[49], 1), round(shares[98], 1))

    async def run(self, settings: Settings) -> None:
        """Read the results and dead letters from their beginning, until cancelled."""
        async with reader(settings) as consumer:
            places = [place for topic in _RESULTS for place in partitions_of(topic, settings.topic_partitions)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            while True:
                fetched = await consumer.getmany(timeout_ms=1_000)
                now = monotonic()
                for records in fetched.values():
                    for record in records:
                        self.receive(orjson.loads(record.value), now)
                self._came.set()
