"""Occasional events of simulated accounts: gifts, purchases, cancels, plan changes, corrections and erasure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from random import Random

from schemas.billing import (
    AccountErased,
    CreditsAdjusted,
    CreditsPurchased,
    GrantVoided,
    PromotionGranted,
    SurveyGranted,
)
from schemas.envelope import Event
from workers.simulate.accounts import Account
from workers.simulate.agenda import Agenda
from workers.simulate.billing import BillingEvents
from workers.simulate.population import Population
from workers.simulate.records import DAY, Record, create_request_id, encode_event, format_instant

__all__ = ["AccountEvents"]

_YEAR = 365 * DAY
_MAX_SURVEY_CREDITS = 3
_PACK_CREDITS = 10  # promotions and purchases are multiples of 10 credits
_MAX_PACKS = 3
_MAX_ADJUSTMENT = 20


class AccountEvents:
    """Creates the occasional events of all accounts: one Poisson process, with kinds weighted by rate."""

    def __init__(
        self, population: Population, accounts: Sequence[Account], billing: BillingEvents, dice: Random
    ) -> None:
        kinds: dict[Callable[[int, Account], Iterable[Record]], float] = {
            self._grant_promotion: population.promotions_yearly,
            self._grant_survey: population.surveys_yearly,
            self._purchase_credits: population.purchases_yearly,
            billing.cancel: population.cancels_yearly,
            billing.change_plan: population.plan_changes_yearly,
            self._void_grant: population.voids_yearly,
            self._adjust_credits: population.adjustments_yearly,
            self._erase_account: population.erasures_yearly,
        }
        self._kinds = list(kinds)
        self._weights = list(accumulate(kinds.values()))
        self._rate = self._weights[-1] * population.turbulence * len(accounts) / _YEAR
        self._accounts = accounts
        self._dice = dice

    def schedule(self, start: int, agenda: Agenda) -> None:
        """Schedule the next event; each event schedules its successor."""
        if self._rate:
            agenda.add(start + int(self._dice.expovariate(self._rate)), self._publish_next, agenda)

    def _publish_next(self, time: int, agenda: Agenda) -> Iterable[Record]:
        self.schedule(time, agenda)
        account = self._accounts[int(self._dice.random() * len(self._accounts))]
        (create,) = self._dice.choices(self._kinds, cum_weights=self._weights)
        return () if account.erased else create(time, account)

    def _grant_promotion(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = _PACK_CREDITS * (1 + int(self._dice.random() * _MAX_PACKS))
        data = {"credits": credits_, "promotion_id": f"promotion-{format_instant(time)[:7]}"}
        return (self._grant_event(time, PromotionGranted, account, data),)

    def _grant_survey(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = 1 + int(self._dice.random() * _MAX_SURVEY_CREDITS)
        data = {"credits": credits_, "survey_id": f"survey-{format_instant(time)[:7]}"}
        return (self._grant_event(time, SurveyGranted, account, data),)

    def _purchase_credits(self, time: int, account: Account) -> Iterable[Record]:
        id_ = create_request_id(time, self._dice)
        credits_ = _PACK_CREDITS * (1 + int(self._dice.random() * _MAX_PACKS))
        data = {"credits": credits_, "purchase_id": f"purchase-{id_[-12:]}"}
        return (encode_event(time, id_, CreditsPurchased, account.name, data),)

    def _void_grant(self, time: int, account: Account) -> Iterable[Record]:
        data = {"grant_id": account.grant or create_request_id(time, self._dice), "reason": "payment refunded"}
        account.grant = None
        return (self._create_event(time, GrantVoided, account, data),)

    def _adjust_credits(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = 1 + int(self._dice.random() * _MAX_ADJUSTMENT)
        if self._dice.random() < 0.5:
            data = {"credits": credits_, "actor": "support-1", "reason": "goodwill after an outage"}
            return (self._grant_event(time, CreditsAdjusted, account, data),)
        data = {"credits": -credits_, "actor": "support-2", "reason": "granted twice by mistake"}
        return (self._create_event(time, CreditsAdjusted, account, data),)

    def _erase_account(self, time: int, account: Account) -> Iterable[Record]:
        account.erased = True
        return (self._create_event(time, AccountErased, account, {}),)

    def _create_event(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        return encode_event(time, create_request_id(time, self._dice), model, account.name, data)

    def _grant_event(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        account.grant = create_request_id(time, self._dice)
        return encode_event(time, account.grant, model, account.name, data)
