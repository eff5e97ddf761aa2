"""What a cluster's topics tell after kills: whether each request was answered once, and how long sends paused."""

import json
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from aiokafka.structs import ConsumerRecord

from infra.kafka.clients import partitions_of, reader
from infra.settings import Settings
from infra.shards import settings_of_shards
from schemas.catalogue import CREDIT_EVENTS, SEND_REQUESTS, SEND_RESULTS
from tests.cluster.load import Published
from workers.ops.books.audit import audit

__all__ = ["ALLOWED_SECONDS", "POSTGRES", "Answers", "Kill", "Result", "count_answers", "judge", "longest_pause"]

POSTGRES = 0  # in the place of a broker's node
ALLOWED_SECONDS = 2.0  # that sends may pause beyond the brokers' session timeout


@dataclass(frozen=True, slots=True)
class Kill:
    """One server that was killed with -9 under load, and started again."""

    node: int  # of a broker; POSTGRES
    at: float  # Unix time
    led: int = 0  # partitions of the topic of sends that it led
    was_controller: bool = False
    pause: float = 0.0  # seconds, the longest without an answer to a send in a partition
    kafka_pause: float = 0.0  # the same of the sends themselves: what the load's own producer had to wait


@dataclass(slots=True, kw_only=True)
class Answers:
    """What topics and books tell of all that was asked."""

    sends: int = 0
    answers: int = 0
    unanswered: int = 0
    doubled: int = 0
    unbilled: int = 0  # billing events without exactly one answer
    audit: list[str] = field(default_factory=list)  # failed checks

    @property
    def exact(self) -> bool:
        """Whether each send and each billing event has exactly one answer, and the books are sound."""
        return not (self.unanswered or self.doubled or self.unbilled or self.audit)


@dataclass(slots=True)
class Result(Answers):
    """What came of some kills."""

    session_seconds: float
    kills: list[Kill] = field(default_factory=list)

    @property
    def longest(self) -> float:
        """The longest pause of sends by the kill of a broker, in seconds."""
        return max((kill.pause for kill in self.kills if kill.node != POSTGRES), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether all that holds, and no kill of a broker let sends pause for longer than allowed."""
        return self.exact and self.longest <= self.session_seconds + ALLOWED_SECONDS

    def summary(self) -> dict[str, Any]:
        """Return the result for JSON."""
        return {"passed": self.passed, "exact": self.exact, "longest": self.longest, **asdict(self)}


async def judge(settings: Settings, published: Published, result: Result) -> None:
    """Read all topics of a cluster that rests, audit its books, and note in a result what they tell.

    Raises:
        KafkaError, OSError, PostgresError: when a server does not answer.

    """
    given = await count_answers(settings, published, result)
    asked = _times(await _read(settings, SEND_REQUESTS))
    ends = [kill.at for kill in result.kills[1:]] + [time.time()]
    result.kills = [
        Kill(
            kill.node,
            kill.at,
            kill.led,
            kill.was_controller,
            longest_pause(given, kill.at, end),
            longest_pause(asked, kill.at, end),
        )
        for kill, end in zip(result.kills, ends, strict=True)
    ]


async def count_answers(settings: Settings, published: Published, answers: Answers) -> dict[int, list[float]]:
    """Count what was answered, audit the books of every server, and return when each answer came, by partition.

    Raises:
        KafkaError, OSError, PostgresError: when a server does not answer.

    """
    results = await _read(settings, SEND_RESULTS)
    answered = _ids(results)
    answers.sends, answers.answers = len(published.sends), answered.total()
    answers.unanswered = sum(1 for id_ in published.sends if not answered[id_])
    answers.doubled = sum(1 for count in answered.values() if count > 1)
    billed = _ids(await _read(settings, CREDIT_EVENTS), "granted")
    answers.unbilled = sum(1 for id_ in published.billing if billed[id_] != 1)
    charged = sum(json.loads(record.value)["data"]["credits_charged"] for record in results)
    answers.audit += await _check_books(settings, published, charged)
    return _times(results)


async def _check_books(settings: Settings, published: Published, charged: int) -> list[str]:
    """Return what is wrong with the books of each server, and of all servers together."""
    servers = settings_of_shards(settings)
    found = [await audit(server) for server in servers]
    wrong = []
    for number, of_one in enumerate(found, 1):
        names = [finding.name for finding in of_one.failures()] + ["totals"] * (not of_one.totals.balanced)
        wrong += [f"{name} on Postgres {number}" if len(servers) > 1 else name for name in names]
    totals = [of_one.totals for of_one in found]
    spent = sum(each.spent - each.reversed for each in totals)
    sums = {
        "accounts": (sum(each.accounts for each in totals), published.accounts),
        "credits granted": (sum(each.granted for each in totals), published.credits),
        "credits spent": (spent, charged),
        "credits left": (sum(each.remaining for each in totals), published.credits - charged),
    }
    return wrong + [f"{counted} {name}, and not {due}" for name, (counted, due) in sums.items() if counted != due]


async def _read(settings: Settings, topic: str) -> list[ConsumerRecord]:
    found: list[ConsumerRecord] = []
    async with reader(settings) as consumer:
        places = partitions_of(topic, settings.topic_partitions)
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += records
    return found


def _ids(records: Sequence[ConsumerRecord], code: str | None = None) -> "Counter[str]":
    """Return how often each request is answered: by events of one code, where others are no answers."""
    events = (json.loads(record.value)["data"] for record in records)
    return Counter(data["request_id"] for data in events if code in (None, data["code"]))


def _times(records: Sequence[ConsumerRecord]) -> dict[int, list[float]]:
    """Return when a topic's records came to the broker, by partition, in order."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for record in records:
        found[record.partition].append(record.timestamp / 1000)
    return {number: sorted(times) for number, times in found.items()}


def longest_pause(times: Mapping[int, Sequence[float]], start: float, end: float) -> float:
    """Return the longest time between two records of a partition, of which the second came between start and end."""
    longest = 0.0
    for of_one in times.values():
        first = bisect_right(of_one, start)
        between = of_one[max(0, first - 1) : bisect_right(of_one, end)]
        longest = max([longest, *(after - before for before, after in pairwise(between))])
    return longest
