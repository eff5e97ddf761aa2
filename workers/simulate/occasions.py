"""What happens to an account now and then: gifts, purchases, changes of heart, corrections, and its end."""

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
from workers.simulate.billing import Billing
from workers.simulate.population import Population
from workers.simulate.wire import DAY, Record, event, instant, request_id

__all__ = ["Occasions"]

_YEAR = 365 * DAY
_MOST_SURVEY = 3
_PACK = 10  # credits are given away and sold by the ten
_MOST_PACKS = 3
_MOST_ADJUSTED = 20


class Occasions:
    """All occasions of all accounts, as one Poisson process; each is of a kind by its rate, and any account's."""

    def __init__(self, population: Population, accounts: Sequence[Account], billing: Billing, dice: Random) -> None:
        kinds: dict[Callable[[int, Account], Iterable[Record]], float] = {
            self._promotion: population.promotions_yearly,
            self._survey: population.surveys_yearly,
            self._purchase: population.purchases_yearly,
            billing.cancel: population.cancels_yearly,
            billing.change_plan: population.plan_changes_yearly,
            self._void: population.voids_yearly,
            self._adjustment: population.adjustments_yearly,
            self._erasure: population.erasures_yearly,
        }
        self._kinds = list(kinds)
        self._weights = list(accumulate(kinds.values()))
        self._rate = self._weights[-1] * population.turbulence * len(accounts) / _YEAR
        self._accounts = accounts
        self._dice = dice

    def begin(self, start: int, agenda: Agenda) -> None:
        """Note the first occasion; each notes the next."""
        if self._rate:
            agenda.add(start + int(self._dice.expovariate(self._rate)), self._occur, agenda)

    def _occur(self, time: int, agenda: Agenda) -> Iterable[Record]:
        self.begin(time, agenda)
        account = self._accounts[int(self._dice.random() * len(self._accounts))]
        (happen,) = self._dice.choices(self._kinds, cum_weights=self._weights)
        return () if account.erased else happen(time, account)

    def _promotion(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = _PACK * (1 + int(self._dice.random() * _MOST_PACKS))
        data = {"credits": credits_, "promotion_id": f"promotion-{instant(time)[:7]}"}
        return (self._granted(time, PromotionGranted, account, data),)

    def _survey(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = 1 + int(self._dice.random() * _MOST_SURVEY)
        data = {"credits": credits_, "survey_id": f"survey-{instant(time)[:7]}"}
        return (self._granted(time, SurveyGranted, account, data),)

    def _purchase(self, time: int, account: Account) -> Iterable[Record]:
        id_ = request_id(time, self._dice)
        credits_ = _PACK * (1 + int(self._dice.random() * _MOST_PACKS))
        data = {"credits": credits_, "purchase_id": f"purchase-{id_[-12:]}"}
        return (event(time, id_, CreditsPurchased, account.name, data),)

    def _void(self, time: int, account: Account) -> Iterable[Record]:
        data = {"grant_id": account.grant or request_id(time, self._dice), "reason": "payment refunded"}
        account.grant = None
        return (self._event(time, GrantVoided, account, data),)

    def _adjustment(self, time: int, account: Account) -> Iterable[Record]:
        credits_ = 1 + int(self._dice.random() * _MOST_ADJUSTED)
        if self._dice.random() < 0.5:
            data = {"credits": credits_, "actor": "support-1", "reason": "goodwill after an outage"}
            return (self._granted(time, CreditsAdjusted, account, data),)
        data = {"credits": -credits_, "actor": "support-2", "reason": "granted twice by mistake"}
        return (self._event(time, CreditsAdjusted, account, data),)

    def _erasure(self, time: int, account: Account) -> Iterable[Record]:
        account.erased = True
        return (self._event(time, AccountErased, account, {}),)

    def _event(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        return event(time, request_id(time, self._dice), model, account.name, data)

    def _granted(self, time: int, model: type[Event], account: Account, data: Mapping[str, object]) -> Record:
        account.grant = request_id(time, self._dice)
        return event(time, account.grant, model, account.name, data)
