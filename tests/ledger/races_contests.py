"""Contests: batches for one account that arrive at the same time, and the broken forms that each one is lost on."""

from dataclasses import dataclass

from tests.ledger.scenario import BASE_CATALOGUE, edited
from tests.ledger.scenario_sql import catalogue_of

__all__ = ["CATALOGUE", "CONTESTS", "CROWDS", "Contest", "Crowd"]

_DOCUMENT = BASE_CATALOGUE
for _setting in (
    "apply_balance_caps = true",
    "notices.low_balance = 2",
    "notices.expiring_days = 7",
    "plans.premium_career.balance_cap = 7",
    'plans.premium_career.on_change = "forfeit"',
    "plans.premium_career.credit_back_on_response = true",
    "plans.premium_career.separate_purchase = true",
):
    _DOCUMENT = edited(_DOCUMENT, _setting)
CATALOGUE = catalogue_of(_DOCUMENT)


@dataclass(frozen=True)
class Contest:
    """What both find, and what they do. Afterwards the books are as after one of the two orders, to the last row."""

    name: str
    before: tuple[str, ...]
    one: str
    other: str
    lost_if: tuple[str, ...] = ("nothing is locked",)


# A lot of 5 credits that ends on 2030-04-01; of the second one, 1 credit is left.
FIVE = ("2030-01-01 activate s-1 premium_career 2030-01-01..2030-02-01 as first",)
SENT = (*FIVE, "2030-01-10 send bob as sent; send eve")
CANCELLED = (*SENT, "2030-01-15 cancel s-1 at 2030-02-01")

CONTESTS = (
    Contest(
        "a cancel and a send",
        FIVE,
        "2030-01-20 cancel s-1 at 2030-01-20",
        "2030-01-20 send zoe",
        ("nothing is locked", "accounts are locked once their lots were read"),
    ),
    Contest(
        "the last credit wanted twice",
        (*FIVE, "2030-01-02 adjust -4 by ann because test"),
        "2030-01-20 send zoe",
        "2030-01-20 send max",
        ("nothing is locked", "accounts are locked once their lots were read"),
    ),
    Contest(
        "one request read by two",
        FIVE,
        "2030-01-20 send zoe as same",
        "2030-01-20 send zoe as same",
        ("nothing is locked", "accounts are locked once earlier answers were looked for"),
    ),
    Contest(
        "one request id with two bodies",
        FIVE,
        "2030-01-20 send zoe as same",
        "2030-01-20 send max as same",
        ("nothing is locked", "accounts are locked once earlier answers were looked for"),
    ),
    Contest(
        "expiry and a send that could not be delivered",
        SENT,
        "2030-04-01 tick",
        "2030-03-31T23:59 undeliverable sent",
        ("nothing is locked", "a tick does not lock"),
    ),
    Contest("expiry and an answer that comes after the end", SENT, "2030-04-01 tick", "2030-04-01 undeliverable sent"),
    Contest(
        "expiry and a cancellation that is taken back",
        CANCELLED,
        "2030-02-01 tick",
        "2030-01-31T23:59 take-back s-1",
        ("nothing is locked", "a tick does not lock", "ended lots are not read again once they are locked"),
    ),
    Contest(
        "two ticks about one lot",
        SENT,
        "2030-04-01 tick as here",
        "2030-04-01 tick as there",
        ("a tick does not lock", "ended lots are not read again once they are locked"),
    ),
    Contest("one tick read by two", SENT, "2030-04-01 tick as same", "2030-04-01 tick as same", ()),
    Contest(
        "two ticks that announce one lot",
        SENT,
        "2030-03-28 tick as here",
        "2030-03-28 tick as there",
        ("lots to announce are not read again once they are locked",),
    ),
    Contest(
        "a send undeliverable and answered",
        SENT,
        "2030-01-20 undeliverable sent",
        "2030-01-20 responded sent",
        ("nothing is locked", "nothing is locked and a reversal is no key"),
    ),
    Contest(
        "two allotments under one cap",
        FIVE,
        "2030-03-02 renew s-1 premium_career 2030-02-01..2030-03-01",
        "2030-03-02 renew s-1 premium_career 2030-03-01..2030-04-01",
        ("room is made below a cap before anything is written, and nothing is locked",),
    ),
    Contest(
        "an allotment and a tick that applies the cap",
        (*FIVE, "2030-01-20 renew s-1 premium_career 2030-02-01..2030-03-01"),
        "2030-03-02 renew s-1 premium_career 2030-03-01..2030-04-01",
        "2030-03-02 tick",
        ("nothing is locked", "a tick does not lock"),
    ),
    Contest(
        "one renewal under two ids",
        FIVE,
        "2030-02-02 renew s-1 premium_career 2030-02-01..2030-03-01 as here",
        "2030-02-02 renew s-1 premium_career 2030-02-01..2030-03-01 as there",
        ("nothing is locked", "nothing is locked and a period is no key"),
    ),
    Contest(
        "one renewal that two systems tell an hour apart",
        FIVE,
        "2030-02-02 renew s-1 premium_career 2030-02-01..2030-03-01 as here",
        "2030-02-02 renew s-1 premium_career 2030-02-01T01:00Z..2030-03-01T01:00Z as there",
    ),
    Contest(
        "a late plan change under two ids",
        FIVE,
        "2030-01-02 change s-1 premium_business 2030-01-01..2030-02-01 as here",
        "2030-01-02 change s-1 premium_business 2030-01-01..2030-02-01 as there",
    ),
    Contest(
        "a cancel and the renewal that it forbids",
        FIVE,
        "2030-02-02 cancel s-1 at 2030-02-01",
        "2030-02-02 renew s-1 premium_career 2030-02-01..2030-03-01",
    ),
    Contest(
        "a plan change and a send",
        FIVE,
        "2030-01-20 change s-1 premium_business 2030-01-20..2030-02-20",
        "2030-01-20 send zoe",
        ("nothing is locked", "accounts are locked once their lots were read"),
    ),
    Contest(
        "an erasure and a send",
        FIVE,
        "2030-01-20 erase",
        "2030-01-20 send zoe",
    ),
    Contest("an erasure and a gift", FIVE, "2030-01-20 erase", "2030-01-20 promotion 5 of welcome"),
    Contest(
        "a void and a send",
        FIVE,
        "2030-01-20 void first because refund",
        "2030-01-20 send zoe",
        ("nothing is locked", "accounts are locked once their lots were read"),
    ),
    Contest(
        "a void and a send that could not be delivered",
        SENT,
        "2030-01-20 void first because refund",
        "2030-01-20 undeliverable sent",
    ),
    Contest(
        "an adjustment and a send",
        FIVE,
        "2030-01-20 adjust -5 by ann because fraud",
        "2030-01-20 send zoe",
        ("nothing is locked", "accounts are locked once their lots were read"),
    ),
    Contest(
        "a purchase and the cancel that forbids it",
        FIVE,
        "2030-01-20 purchase 10 of p-1",
        "2030-01-20 cancel s-1 at 2030-01-20",
    ),
)


@dataclass(frozen=True)
class Crowd:
    """What six lanes want of one account at the same time, and what they make of it together, in whatever order.

    `booked` has, for each code, the credits moved by its rows, or the number of them where they move none.
    """

    name: str
    before: tuple[str, ...]
    batches: tuple[str, ...]
    booked: dict[str, int]
    lost_if: str = "nothing is locked"


CROWDS = (
    Crowd(
        "the last two credits",
        (*FIVE, "2030-01-02 adjust -3 by ann because test"),
        tuple(f"2030-01-20 send {name}" for name in ("zoe", "max", "eva", "kim", "joe", "pat")),
        {"charged": -2, "insufficient_credits": 4, "exhausted": 1},
    ),
    Crowd(
        "one request",
        FIVE,
        ("2030-01-20 send zoe as same",) * 6,
        {"charged": -1},
        "accounts are locked once earlier answers were looked for",
    ),
    Crowd(
        "one renewal under six ids",
        FIVE,
        tuple(f"2030-02-02 renew s-1 premium_career 2030-02-01..2030-03-01 as {n}" for n in range(6)),
        {"granted": 5, "cap_forfeited": -3, "period_already_granted": 5},
        "nothing is locked and a period is no key",
    ),
    Crowd(
        "six allotments under one cap",
        FIVE,
        tuple(f"2030-03-02 renew s-1 premium_career 2030-02-0{n}..2030-02-0{n + 1}" for n in range(1, 7)),
        {"granted": 30, "cap_forfeited": -28},
        "room is made below a cap before anything is written, and nothing is locked",
    ),
    Crowd(
        "one lot that ended",
        SENT,
        tuple(f"2030-04-01 tick as {n}" for n in range(6)),
        {"expired": -3, "exhausted": 1},
        "a tick does not lock",
    ),
    Crowd(
        "one credit to give back",
        SENT,
        tuple(f"2030-01-20 {report} sent as {n}" for n, report in enumerate(("undeliverable", "responded") * 3)),
        {"reversed": 1, "already_reversed": 5},
        "nothing is locked and a reversal is no key",
    ),
)
