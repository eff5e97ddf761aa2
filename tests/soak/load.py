"""The load of a soak: sends at a pace that changes with the minutes, and all that befalls them.

One account makes 5 % of all sends. A part of the records comes twice, some minutes later; some under a used id with
another body, some undecodable; billing gives credits, opens subscriptions and cancels them, so that lots end.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import UUID

from aiokafka import AIOKafkaProducer

from infra.clock import utc_now
from infra.kafka.clients import create_producer
from infra.settings import Settings
from schemas.billing import PromotionGranted, SubscriptionActivated, SubscriptionCancelled
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS, fingerprint
from schemas.envelope import AccountEvent, encode
from schemas.ids import answer_id, conflict_id, dead_letter_id
from schemas.sends import SendRequested, SendUndeliverable
from tests.soak.answers import Answers

__all__ = ["HOT_SHARE", "PACES", "Load"]

PACES: Final = (300, 200, 400, 250, 350, 300, 220, 380)  # records a second, a minute each, over and over
HOT_SHARE: Final = 0.05
_HOT: Final = "member-hot"
_ACCOUNTS: Final = 2_000
_RICH, _POOR = 100_000, 50  # credits; an account in twenty is poor and will be refused
_HOT_CREDITS: Final = 1_000_000
_UNACKNOWLEDGED: Final = 1_000
_MOST_UNANSWERED: Final = 3_000  # a machine that others use too is not buried: the load waits
_REMEMBERED: Final = 50_000  # records from which those are taken that come twice: some minutes of them
_CATCH_UP_SECONDS: Final = 1.0
_CANCEL_AHEAD: Final = timedelta(seconds=30)


class _Record(NamedTuple):
    topic: str
    event: AccountEvent


class Load:
    """Publishes until stopped, and tells the answers what to expect."""

    def __init__(self, settings: Settings, answers: Answers, seed: int, pace: float = 1.0) -> None:
        self.published = 0
        self.skipped = 0.0  # records that were due and never sent, since the load or what it waits for was too slow
        self._settings = settings
        self._pace = pace
        self._answers = answers
        self._dice = Random(seed)  # noqa: S311 - a workload
        self._stopped = asyncio.Event()
        self._past: deque[_Record] = deque(maxlen=_REMEMBERED)
        self._subscriptions: deque[tuple[str, str]] = deque(maxlen=500)
        self._deliveries: deque[tuple[asyncio.Future[Any], bool]] = deque()

    def stop(self) -> None:
        """Publish nothing more."""
        self._stopped.set()

    async def run(self) -> None:
        """Publish until stopped, and until all is acknowledged."""
        async with create_producer(self._settings, "soak-load") as producer:
            await self._give_credits(producer)
            clock = due = began = monotonic()
            while not self._stopped.is_set():
                pace = self._pace * PACES[int((clock - began) // 60) % len(PACES)]
                if self._answers.outstanding < _MOST_UNANSWERED:
                    await self._publish_next(producer, due)
                else:
                    self.skipped += 1
                clock = monotonic()
                due = self._next_due(due, clock, pace)
                await asyncio.sleep(max(0.0, due - clock))
            await self._acknowledged(producer, 0)

    def _next_due(self, due: float, clock: float, pace: float) -> float:
        """Return when the next record is due; what is overdue by more than the load catches up is skipped."""
        following, earliest = due + 1 / pace, clock - _CATCH_UP_SECONDS
        self.skipped += max(0.0, earliest - following) * pace
        return max(following, earliest)

    async def _give_credits(self, producer: AIOKafkaProducer) -> None:
        for number in range(_ACCOUNTS):
            await self._first(producer, self._promotion(_name(number), _POOR if number % 20 == 0 else _RICH))
        await self._first(producer, self._promotion(_HOT, _HOT_CREDITS))
        await producer.flush()

    async def _publish_next(self, producer: AIOKafkaProducer, due: float) -> None:
        """Publish one record: of which kind, the dice say."""
        chance = self._dice.random()
        if chance < 0.002:
            await self._send(producer, SEND_REQUESTS, b"nobody", b"not json", undecodable=True)
        elif chance < 0.004 and self._past:
            await self._again_with_another_body(producer)
        elif chance < 0.05 and self._past:
            again = self._dice.choice(self._past)
            self._answers.expect(_answer(again.event), repeat=True)
            await self._send(producer, again.topic, _key(again.event), encode(again.event))
        elif chance < 0.07 and self._past:
            await self._report(producer)
        elif chance < 0.12:
            await self._first(producer, next(self._billing()))
        else:
            request = self._request()
            self._answers.time(str(request.id), due)
            await self._first(producer, _Record(SEND_REQUESTS, request))

    async def _first(self, producer: AIOKafkaProducer, record: _Record) -> None:
        self._answers.expect(_answer(record.event))
        self._past.append(record)
        await self._send(producer, record.topic, _key(record.event), encode(record.event))

    async def _again_with_another_body(self, producer: AIOKafkaProducer) -> None:
        used = self._dice.choice(self._past).event
        other = self._request(used.subject, used.id)
        if isinstance(used, SendRequested):  # an id serves one account and one conflict: each has another recipient
            self._answers.expect(conflict_id(used.subject, used.id, fingerprint(other)))
            await self._send(producer, SEND_REQUESTS, _key(other), encode(other))

    async def _report(self, producer: AIOKafkaProducer) -> None:
        sent = self._dice.choice(self._past).event
        if isinstance(sent, SendRequested):
            report = self._event(SendUndeliverable, sent.subject, {"send_id": sent.id})
            await self._first(producer, _Record(SEND_REQUESTS, report))

    async def _send(
        self, producer: AIOKafkaProducer, topic: str, key: bytes, value: bytes, *, undecodable: bool = False
    ) -> None:
        self.published += 1
        self._deliveries.append((await producer.send(topic, value, key), undecodable))
        await self._acknowledged(producer, _UNACKNOWLEDGED)

    async def _acknowledged(self, producer: AIOKafkaProducer, left: int) -> None:
        """Await deliveries until so many are left: where a record lies is the name of its dead letter."""
        if not left:
            await producer.flush()
        while len(self._deliveries) > left:
            delivery, undecodable = self._deliveries.popleft()
            place = await delivery
            if undecodable:
                self._answers.expect(dead_letter_id(place.topic, place.partition, place.offset))

    def _billing(self) -> Iterator[_Record]:
        """Yield an event of billing: gifts, and subscriptions that end soon."""
        chance, account = self._dice.random(), _name(self._dice.randrange(_ACCOUNTS))
        if chance < 0.7:
            yield self._promotion(account, self._dice.randint(1, 5))
        elif chance < 0.85 or not self._subscriptions:
            name, start = f"subscription-{self._dice.getrandbits(48):x}", utc_now()
            self._subscriptions.append((account, name))
            data = {"subscription_id": name, "plan": "premium_career", "period_start": start,
                    "period_end": start + timedelta(days=30)}  # fmt: skip
            yield _Record(BILLING_EVENTS, self._event(SubscriptionActivated, account, data))
        else:
            account, name = self._subscriptions.popleft()
            data = {"subscription_id": name, "effective_at": utc_now() + _CANCEL_AHEAD}
            yield _Record(BILLING_EVENTS, self._event(SubscriptionCancelled, account, data))

    def _promotion(self, account: str, credits_: int) -> _Record:
        data = {"promotion_id": "soak", "credits": credits_}
        return _Record(BILLING_EVENTS, self._event(PromotionGranted, account, data))

    def _request(self, account: str = "", id_: UUID | None = None) -> SendRequested:
        if not account:
            hot = self._dice.random() < HOT_SHARE
            account = _HOT if hot else _name(self._dice.randrange(_ACCOUNTS))
        recipient = f"recipient-{self._dice.getrandbits(40):x}"
        relationship = "connection" if self._dice.random() < 0.1 else "none"
        return self._event(SendRequested, account, {"recipient_id": recipient, "relationship": relationship}, id_)

    def _event(self, model: Any, account: str, data: dict[str, Any], id_: UUID | None = None) -> Any:
        """Return an event whose id grows with time, as a UUIDv7 does."""
        now = datetime.now(UTC)
        bits = (int(now.timestamp() * 1000) << 80) | (self._dice.getrandbits(80) & ~(0xF << 76)) | 0x7 << 76
        return model.create(id=id_ or UUID(int=bits), source="/soak", subject=account, time=now, data=data)


def _name(number: int) -> str:
    return f"member-{number:06}"


def _key(event: AccountEvent) -> bytes:
    return event.subject.encode()


def _answer(event: AccountEvent) -> str:
    return answer_id(event.subject, event.id)
