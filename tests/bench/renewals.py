"""`renewals`: what the first day of a month costs, on which all subscriptions renew at once while sends go on.

As a user runs it: the default number of partitions, all three workers and the ticker up. Billing publishes its
renewals as fast as Kafka takes them. Told is how many a second are answered and at what CPU, beside as many gifts, the
least that a billing event can be; and how long sends take meanwhile, beside the same sends with nothing else. A send is
decided after all billing events of its partition that came before it, and so may wait for most of the renewals.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from time import perf_counter
from typing import NamedTuple
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from infra.clock import utc_now
from infra.kafka.clients import create_producer, partitions_of, reader
from infra.local.stack import LocalStack
from infra.settings import Settings
from schemas.billing import SubscriptionActivated, SubscriptionPeriod, SubscriptionRenewed
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, SEND_RESULTS
from schemas.envelope import AccountEvent, encode
from schemas.sends import SendRequested
from tests.bench.books import ACCOUNTS, PARTITIONS, Databases, account, gift, sends, stack_settings
from tests.bench.cpu import CpuMeter
from tests.bench.figures import Figure, of_rounds, order_of
from tests.bench.latency import START_REQUESTS, all_workers, pass_over, receive, send_evenly, share, wait_for_answers
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
SENDS_A_SECOND = 100
SENDS = 1_000
LIMIT_SECONDS = 120.0  # for a burst

_OUTPUT = [*partitions_of(SEND_RESULTS, PARTITIONS), *partitions_of(CREDIT_EVENTS, PARTITIONS)]
_MONTH = timedelta(days=31)


class _Burst(NamedTuple):
    """What billing events took that were all published at once, and sends beside them."""

    rate: float  # events answered a second, from the first one's publishing to the last answer's receipt
    cpu: float  # microseconds an event, of all processes
    waits: list[float]  # of the sends meanwhile, in milliseconds


class _Round(NamedTuple):
    gifts: _Burst
    renewals: _Burst
    renewals_beside_sends: _Burst
    sends: list[float]  # waits of as many sends beside nothing, in milliseconds


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return renewals a second, their CPU, and the waits of sends beside them."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    rounds = []
    for number in range(1, ROUNDS + 1):
        report(f"renewals: round {number} of {ROUNDS}, {ACCOUNTS:,} at once, twice")
        async with databases.one() as books:
            rounds.append(await _measure(stack, books, number))
    details: dict[str, object] = {"events": ACCOUNTS, "sends_a_second": SENDS_A_SECOND, "partitions": PARTITIONS}
    return [
        of_rounds(
            "renewals (gifts)",
            "events/s",
            [each.renewals.rate for each in rounds],
            [each.gifts.rate for each in rounds],
            details,
        ),
        of_rounds(
            "renewals, CPU (gifts)",
            "us/event",
            [each.renewals.cpu for each in rounds],
            [each.gifts.cpu for each in rounds],
            {},
        ),
        *(
            of_rounds(
                f"renewals, {name} of a send (without)",
                "ms",
                [share(each.renewals_beside_sends.waits, at) for each in rounds],
                [share(each.sends, at) for each in rounds],
                {"renewals_a_second": [round(each.renewals_beside_sends.rate) for each in rounds]},
            )
            for name, at in (("p50", 0.5), ("p99", 0.99))
        ),
    ]


async def _measure(stack: LocalStack, books: Settings, number: int) -> _Round:
    await pass_over(books)
    async with (
        reader(books) as consumer,
        create_producer(books, "bench") as producer,
        all_workers(books) as processes,
    ):
        consumer.assign(_OUTPUT)
        await consumer.seek_to_end(*_OUTPUT)
        await wait_for_answers(producer, consumer, sends(START_REQUESTS, seed=1))
        load = _Load(producer, consumer, {**processes, "postgres": stack.postgres_pid, "kafka": stack.kafka_pid})
        now = utc_now()
        for subscription in "ab":
            await load.burst(_periods(SubscriptionActivated, subscription, now - _MONTH))
        alone = await load.send_alone(sends(SENDS, seed=number))
        forms = {
            "gifts": [gift(account(number)) for number in range(ACCOUNTS)],
            "renewals": _periods(SubscriptionRenewed, "a", now),
        }
        bursts = {name: await load.burst(forms[name]) for name in order_of(number, list(forms))}
        beside = await load.burst(_periods(SubscriptionRenewed, "b", now), sends(SENDS, seed=ROUNDS + number))
    return _Round(bursts["gifts"], bursts["renewals"], beside, alone)


class _Load(NamedTuple):
    """A producer, a reader of all answers, and the processes between them."""

    producer: AIOKafkaProducer
    consumer: AIOKafkaConsumer
    processes: dict[str, int]

    async def send_alone(self, requests: Sequence[SendRequested]) -> list[float]:
        """Return the waits of sends beside nothing, in milliseconds."""
        return list((await self._answers({}, (), requests)).values())

    async def burst(self, events: Sequence[AccountEvent], requests: Sequence[SendRequested] = ()) -> _Burst:
        """Publish billing events at once, and sends beside them, until all are answered."""
        meter, began = CpuMeter(self.processes), perf_counter()
        sent = {str(event.id): began for event in events}
        waits = await self._answers(sent, events, requests)
        seconds = max(waits[str(event.id)] for event in events) / 1e3
        of_sends = [waits[key] for request in requests if sent[key := str(request.id)] < began + seconds]
        return _Burst(len(events) / seconds, sum(meter.microseconds_each(len(events)).values()), of_sends)

    async def _answers(
        self, sent: dict[str, float], events: Sequence[AccountEvent], requests: Sequence[SendRequested]
    ) -> dict[str, float]:
        """Publish billing events at once, and sends evenly, noted in `sent`; return what each waited, by its id."""
        waits: dict[str, float] = {}
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(send_evenly(self.producer, requests, sent, SENDS_A_SECOND))
            for event in events:
                await self.producer.send(BILLING_EVENTS, encode(event), event.subject.encode())
            await receive(self.consumer, sent, waits, len(events) + len(requests))
        return waits


def _periods(kind: type[SubscriptionPeriod], subscription: str, start: datetime) -> list[AccountEvent]:
    """Return a month from a time on of each account's subscription of a name."""
    return [
        kind.create(
            id=uuid4(),
            source="/bench",
            subject=account(number),
            time=utc_now(),
            data={
                "subscription_id": f"{account(number)}-{subscription}",
                "plan": "premium_business",
                "period_start": start,
                "period_end": start + _MONTH,
            },
        )
        for number in range(ACCOUNTS)
    ]
