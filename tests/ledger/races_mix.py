"""Batches of everything at random: sends, reports, all that billing says, and ticks, for accounts that come and go."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from tests.ledger.scenario import BASE_CATALOGUE, edited
from tests.ledger.scenario_events import TICK, Input
from tests.ledger.scenario_sql import catalogue_of

__all__ = ["CATALOGUE", "Mix"]

START = datetime(2030, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
A_BATCH = timedelta(minutes=10)
ACCOUNTS = 12  # at a time
BATCHES_OF_AN_ACCOUNT = 600
PLANS = ("premium_career", "premium_business", "basic")

_DOCUMENT = BASE_CATALOGUE
for _setting in (
    "validity_hours = 72",
    "apply_balance_caps = true",
    "limits.paid_sends_per_day = 15",
    "notices.low_balance = 2",
    "notices.expiring_days = 1",
    "plans.premium_career.balance_cap = 7",
    "plans.premium_business.balance_cap = 12",  # less than it gives: what two of its plans hold together is rare
    "plans.premium_career.credit_back_on_response = true",
    'plans.premium_business.on_change = "forfeit"',
    "plans.premium_business.separate_purchase = true",
):
    _DOCUMENT = edited(_DOCUMENT, _setting)
CATALOGUE = catalogue_of(_DOCUMENT)


class Mix:
    """An endless supply of batches; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)  # noqa: S311 - a test's dice
        self._number = 0
        self._sends: deque[Input] = deque(maxlen=60)
        self._grants: deque[Input] = deque(maxlen=60)
        self._bodies: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
            "subscription.activated": (6, self._period),
            "subscription.renewed": (6, self._period),
            "subscription.plan-changed": (4, self._period),
            "subscription.cancelled": (3, lambda: self._subscription() | {"effective_at": self._near(-12, 48)}),
            "subscription.cancellation-taken-back": (2, self._subscription),
            "promotion.granted": (4, lambda: self._credits() | {"promotion_id": "p"}),
            "survey.granted": (2, lambda: self._credits() | {"survey_id": "q"}),
            "credits.purchased": (3, lambda: self._credits() | {"purchase_id": "b"}),
            "credits.adjusted": (3, self._adjustment),
        }

    def take(self) -> list[Input]:
        """Return the next batch."""
        self._number += 1
        dice = self._random.random()
        if dice < 0.1:
            return [self._input(TICK, "", {"as_of": self._near(-3, 0)})]
        if dice < 0.45:
            return [self._billing(account) for account in self._some_accounts(4)]
        return [self._send(account) for account in self._some_accounts(8)]

    @property
    def _now(self) -> datetime:
        return START + self._number * A_BATCH

    def _near(self, earliest: int, latest: int) -> datetime:
        return self._now + self._random.randint(earliest, latest) * HOUR

    def _some_accounts(self, most: int) -> list[str]:
        """Return some of the accounts of the moment, in any order, some twice. New ones come all the time."""
        newest = ACCOUNTS + self._number * ACCOUNTS // BATCHES_OF_AN_ACCOUNT
        return [
            f"account-{self._random.randint(newest - ACCOUNTS, newest)}" for _ in range(self._random.randint(1, most))
        ]

    def _input(self, type_: str, account: str, data: dict[str, Any]) -> Input:
        return Input(type_, account, UUID(int=self._random.getrandbits(128), version=4), data, self._now)

    def _send(self, account: str) -> Input:
        dice = self._random.random()
        if self._sends and dice < 0.25:
            sent = self._random.choice(self._sends)
            type_ = self._random.choice(("inmail.send.undeliverable.v1", "inmail.recipient.responded.v1"))
            return self._input(type_, sent.account, {"send_id": sent.request_id})
        if self._sends and dice < 0.3:
            return self._random.choice(self._sends).at(self._now)
        relationship = self._random.choice(("none",) * 8 + ("connection",))
        body = {
            "recipient_id": self._random.choice(("zoe", "max", "eva", "kim") * 4 + (account,)),
            "relationship": relationship,
        }
        if self._sends and dice < 0.32:
            return replace(self._random.choice(self._sends), data=body, as_of=self._now)
        self._sends.append(self._input("inmail.send.requested.v1", account, body))
        return self._sends[-1]

    def _billing(self, account: str) -> Input:
        dice = self._random.random()
        if self._grants and dice < 0.08:
            known = self._random.choice(self._grants)
            body = {"grant_id": known.request_id, "reason": "refund"}
            return self._input("inmail.grant.voided.v1", known.account, body)
        if self._grants and dice < 0.12:
            return self._random.choice(self._grants).at(self._now)
        if dice < 0.122:
            return self._input("inmail.account.erased.v1", account, {})
        kinds = list(self._bodies)
        (kind,) = self._random.choices(kinds, [self._bodies[each][0] for each in kinds])
        self._grants.append(self._input(f"inmail.{kind}.v1", account, self._bodies[kind][1]()))
        return self._grants[-1]

    def _subscription(self) -> dict[str, Any]:
        return {"subscription_id": self._random.choice(("s-1", "s-2"))}

    def _credits(self) -> dict[str, Any]:
        return {"credits": self._random.randint(1, 8)}

    def _adjustment(self) -> dict[str, Any]:
        return {"credits": self._random.choice((-9, -3, -1, 2, 5)), "actor": "ann", "reason": "test"}

    def _period(self) -> dict[str, Any]:
        # Days, so that two events often mean one period.
        start = self._near(-24, 48).replace(hour=0, minute=0)
        term = self._random.choice(("monthly",) * 9 + ("annual",))
        return self._subscription() | {
            "plan": self._random.choice(PLANS),
            "period_start": start,
            "period_end": start + timedelta(days=365 if term == "annual" else 28),
            "term": term,
        }
