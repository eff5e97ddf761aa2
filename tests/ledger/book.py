"""A ledger to write tests against: events in, decoded answers out, through the workers' own code, without Kafka."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from infra.postgres import Connection
from schemas.billing import (
    GrantVoided,
    PromotionGranted,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
    SurveyGranted,
)
from schemas.catalogue import fingerprint
from schemas.envelope import Event
from schemas.ids import answer_id
from schemas.sends import SendReport, SendRequested
from schemas.ticks import ExpiryTick
from workers.jobs.billing import BillingJob
from workers.jobs.job import Batch, Message
from workers.jobs.result_events import tick_messages
from workers.jobs.send import SendJob
from workers.ledger.model import Request
from workers.ledger.plans import Catalogue, load_catalogue
from workers.ledger.ticks import expire_step, tick_movements, tick_terms

NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    """Return an instant of a test: a date, or a date and a time, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Book:
    """One partition's ledger with a clock that the test moves."""

    def __init__(self, connection: Connection, catalogue: Catalogue | None = None) -> None:
        self.connection = connection
        self.catalogue = catalogue or load_catalogue()
        self.now = NEW_YEAR
        self.offset = 0

    # -- events ---------------------------------------------------------------------------------------------------

    def send(self, account: str = "alice", *, id: UUID | None = None, **data: Any) -> Event:  # noqa: A002
        """Return a request to send."""
        body = {"recipient_id": "zoe", "relationship": "none"} | data
        return SendRequested.create(**self._envelope(account, id), data=body)

    def activated(self, account: str = "alice", *, id: UUID | None = None, **data: Any) -> Event:  # noqa: A002
        """Return a subscription's first period: premium_career from now, unless told otherwise."""
        return SubscriptionActivated.create(**self._envelope(account, id), data=self._period(data))

    def renewed(self, account: str = "alice", *, id: UUID | None = None, **data: Any) -> Event:  # noqa: A002
        """Return a subscription's next period."""
        return SubscriptionRenewed.create(**self._envelope(account, id), data=self._period(data))

    def changed(self, account: str = "alice", *, id: UUID | None = None, **data: Any) -> Event:  # noqa: A002
        """Return a plan change: to premium_career from now, unless told otherwise."""
        return SubscriptionPlanChanged.create(**self._envelope(account, id), data=self._period(data))

    def cancelled(
        self,
        account: str = "alice",
        *,
        effective_at: datetime,
        subscription_id: str = "s-1",
        id: UUID | None = None,  # noqa: A002
    ) -> Event:
        """Return a cancel."""
        body = {"subscription_id": subscription_id, "effective_at": effective_at}
        return SubscriptionCancelled.create(**self._envelope(account, id), data=body)

    def voided(self, grant_id: UUID, account: str = "alice") -> Event:
        """Return that billing withdraws a grant."""
        return GrantVoided.create(**self._envelope(account, None), data={"grant_id": grant_id, "reason": "a mistake"})

    def promotion(self, credits_: int, account: str = "alice", *, id: UUID | None = None) -> Event:  # noqa: A002
        """Return credits given by a promotion."""
        body = {"credits": credits_, "promotion_id": "welcome"}
        return PromotionGranted.create(**self._envelope(account, id), data=body)

    def survey(self, credits_: int, account: str = "alice", *, id: UUID | None = None) -> Event:  # noqa: A002
        """Return credits given for a survey."""
        return SurveyGranted.create(**self._envelope(account, id), data={"credits": credits_, "survey_id": "q1"})

    def _envelope(self, account: str, id_: UUID | None) -> dict[str, Any]:
        return {"id": id_ or uuid4(), "source": "/test", "subject": account, "time": self.now}

    def _period(self, data: dict[str, Any]) -> dict[str, Any]:
        start = data.pop("period_start", self.now)
        body = {"subscription_id": "s-1", "plan": "premium_career", "period_start": start}
        return body | {"period_end": start + 31 * DAY} | data

    # -- deciding -------------------------------------------------------------------------------------------------

    async def decide(self, *events: Event, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Decide events of one topic as one batch; return the answers' bodies, in order."""
        bodies = await self.decide_all(*events, connection=connection)
        ours = {str(answer_id(event.subject or "", event.id)) for event in events}
        return [each for each in bodies if each["id"] in ours or each["code"] == "key_conflict"]

    async def decide_all(self, *events: Event, connection: Connection | None = None) -> list[dict[str, Any]]:
        """Decide events of one topic as one batch; return all that is published: answers, movements and notices."""
        sends = (SendRequested, SendReport)
        job = SendJob(self.catalogue) if isinstance(events[0], sends) else BillingJob(self.catalogue)
        requests = [self._request(event) for event in events]
        connection = connection or self.connection
        async with connection.transaction():
            messages, _, _ = await job.decide(connection, Batch(requests))
        return [body(message) for message in messages]

    async def one(self, event: Event) -> dict[str, Any]:
        """Decide one event; return its answer's body."""
        (answer,) = await self.decide(event)
        return answer

    async def tick(
        self,
        horizon: datetime | None = None,
        *,
        id: UUID | None = None,  # noqa: A002
        step_lots: int = 1_000,
        steps: int = 100,
    ) -> list[dict[str, Any]]:
        """Book expiry up to now, or to what the neighbours have read; return the lines and the tick's answer."""
        event = ExpiryTick.create(id=id or uuid4(), source="/test", time=self.now, data={"as_of": self.now})
        request = self._request(event)
        terms = tick_terms(self.catalogue, step_lots, steps)
        tick = None
        while tick is None or tick.code == "booking":
            async with self.connection.transaction():
                tick = await expire_step(self.connection, request, min(self.now, horizon or self.now), terms)
        movements = (await tick_movements(self.connection, [tick])).get(request.place, [])
        return [body(message) for message in tick_messages(tick, movements, request.offset)]

    def _request(self, event: Event) -> Request[Any]:
        self.offset += 1
        return Request(event, event.subject or "", event.id, fingerprint(event), self.now, 0, self.offset - 1)

    # -- looking --------------------------------------------------------------------------------------------------

    async def balance(self, account: str = "alice") -> int:
        """Return what the account can spend now."""
        return await self.connection.fetchval(
            "select available(account, $2) from accounts where account_id = $1", account, self.now
        )

    async def remaining(self, account: str = "alice") -> list[int]:
        """Return what is left of each lot, in opening order."""
        rows = await self.connection.fetch(
            "select remaining from lots join accounts using (account) where account_id = $1 order by lot", account
        )
        return [row[0] for row in rows]


def body(message: Message) -> dict[str, Any]:
    """Return the data of a published event, with its id and type."""
    event = json.loads(message.value)
    return {"id": event["id"], "type": event["type"], **event["data"]}


def pick(answer: dict[str, Any], *names: str) -> tuple[Any, ...]:
    """Return some fields of an answer, to compare."""
    return tuple(answer[name] for name in names)
