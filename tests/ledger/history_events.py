"""What the numbers of a move mean: for each kind of event, its body, from where the account stands."""

from calendar import monthrange
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.ledger.oracle_calendar import anchored, shift_of
from tests.ledger.oracle_state import Account, Lot, Subscription
from tests.ledger.scenario_events import SYNTAX, TICK, Input, Names

if TYPE_CHECKING:
    from tests.ledger.histories import Move

__all__ = ["EventMaker", "lane_of"]

MOMENT = timedelta(microseconds=1)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
RECIPIENTS = ("carol", "dave", "bob", "alice")
SEATS = (None, None, None, "seat-1", "seat-1", "seat-2", "carol", None)
PLANS = ("premium_career", "premium_business", "recruiter", "premium_career", "premium_business", "basic", "gone")
RELATIONSHIPS = ("none", "none", "none", "none", "none", "none", "connection", "open_profile")
SENDS = ("send", "undeliverable", "responded")
PERIODS = tuple(SYNTAX[verb][0] for verb in ("activate", "renew", "change"))
VERBS = {"twin": "renew", "late-change": "change", "void-early": "void"}  # of moves that aim at something in the books
HOUR = timedelta(hours=1)
# Between two tellings of one period; half of its length and a moment beside that come besides.
APART = (timedelta(milliseconds=250), timedelta(seconds=1), HOUR, -HOUR, timedelta(), -timedelta(seconds=1))

# Before a lot's start: its month is the change's own still, or no longer.
LATE = (timedelta(), timedelta(), 3 * DAY, 18 * DAY)


def lane_of(kind: str) -> str:
    """Return which lane reads an event, named by its word in tables or by its type."""
    if kind == TICK:
        return "expiry"
    return "send" if kind in SENDS or kind in {SYNTAX[verb][0] for verb in SENDS} else "billing"


class EventMaker:
    """Makes one event out of a move."""

    def __init__(
        self,
        move: "Move",
        state: Account,
        *,
        now: datetime,
        edges: Sequence[datetime],
        inputs: Sequence[Input],
        names: Names,
    ) -> None:
        self.now = now
        self.read_to: datetime | None = None
        self._move = move
        self._state = state
        self._edges = edges
        self._inputs = inputs
        self._names = names

    def make(self) -> tuple[str, dict[str, Any]]:
        """Return the event's type and data, without what is at its default."""
        move = self._move
        body: Callable[[], dict[str, Any]] = {
            "send": self._send,
            "activate": self._period,
            "renew": self._period,
            "change": self._period,
            "twin": self._twin,
            "late-change": self._late_change,
            "void-early": lambda: {"grant_id": self._early_grant_id(), "reason": "a mistake"},
            "cancel": self._cancel,
            "take-back": lambda: {"subscription_id": self._cancelled_subscription_id()},
            "promotion": lambda: {"credits": 2 + move.a, "promotion_id": f"p-{move.b}"},
            "survey": lambda: {"credits": 1 + move.a % 4, "survey_id": f"q-{move.b}"},
            "purchase": lambda: {"credits": 1 + move.a % 4, "purchase_id": f"o-{move.b}"},
            "void": lambda: {"grant_id": self._grant_id(), "reason": "a mistake"},
            "adjust": self._adjust,
            "erase": dict,
            "undeliverable": lambda: {"send_id": self._send_id()},
            "responded": lambda: {"send_id": self._send_id()},
            "tick": self._tick,
        }[move.kind]
        return SYNTAX[VERBS.get(move.kind, move.kind)][0], body()

    @property
    def _subscription_id(self) -> str:
        return f"s-{1 + self._move.a % 2}"

    @property
    def _subscription(self) -> Subscription:
        return self._state.subscriptions.get(self._subscription_id, Subscription())

    def _cancelled_subscription_id(self) -> str:
        """Return one whose end is still to come, or any."""
        known = self._state.subscriptions.items()
        cancelled = [name for name, subscription in known if subscription.ends_at and subscription.ends_at > self.now]
        return cancelled[0] if cancelled and self._move.b < 7 else self._subscription_id

    def _edge(self, which: int) -> datetime:
        """Return one of the edges around now, past ones too."""
        edges = self._edges or [self.now]
        near = sorted(edges, key=lambda edge: abs(edge - self.now))
        return near[which % len(near)]

    def _send(self) -> dict[str, Any]:
        move = self._move
        data = {"recipient_id": RECIPIENTS[(0, 0, 0, 1, 1, 2, 2, 3)[move.a]], "relationship": RELATIONSHIPS[move.b]}
        seat = SEATS[move.c]
        return data | ({"sender_id": seat} if seat else {})

    def _send_id(self) -> Any:
        """Return the id of one of the charged sends, rather one that emptied its lot; sometimes another's, or none."""
        rows = [row for row in self._state.journal if row.code == "charged"]
        emptied = [row for row in rows if row.lot and self._is_empty(self._state.lots[row.lot - 1])]
        charged = {row.request_id for row in (emptied if emptied and self._move.c % 2 else rows)}
        return self._one_of([input_ for input_ in self._inputs if input_.request_id in charged])

    def _is_empty(self, lot: Lot) -> bool:
        """Whether a credit that comes back would be all that a lot has."""
        return lot.spendable(self.now) and not lot.remaining

    def _grant_id(self) -> Any:
        """Return the id of one of the events that opened lots, rather one that waits; sometimes another's, or none."""
        waiting = [lot for lot in self._state.lots if lot.open and not lot.started(self.now)]
        granting = {lot.request_id for lot in (waiting if waiting and self._move.c % 2 else self._state.lots)}
        return self._one_of([input_ for input_ in self._inputs if input_.request_id in granting])

    def _one_of(self, inputs: Sequence[Input]) -> Any:
        move = self._move
        if move.b == 7 or not inputs:
            inputs = self._inputs
        if not inputs or move.b == 6:
            return self._names.id_of("nobody")
        return inputs[-1 - move.a % len(inputs)].request_id

    def _adjust(self) -> dict[str, Any]:
        balance = self._state.balance(self.now)
        credits_ = (1, -1, -2, 3, -balance, -balance - 1, -balance + 1, -4)[self._move.a]
        return {"credits": credits_ or -1, "actor": "ops-1", "reason": "a correction"}

    def _cancel(self) -> dict[str, Any]:
        move = self._move
        options = (
            self.now,
            self.now + DAY,
            self._following(1),
            self.now + 20 * DAY,
            self._edge(move.c) + MOMENT,
            self.now - 5 * DAY,
            self.now + 50 * DAY,
            self._edge(move.c),
        )
        announced = [lot for lot in self._state.lots if lot.subscription_id and self._is_announced(lot)]
        if announced and move.d % 4:
            # Before an end that was announced already: another one, or after it one that changes nothing.
            lot = announced[move.c % len(announced)]
            steps = (-1, -2, 1, -9)
            return {
                "subscription_id": lot.subscription_id,
                "effective_at": lot.expires_at + steps[move.b % len(steps)] * HOUR,
            }
        return {"subscription_id": self._subscription_id, "effective_at": options[move.b]}

    def _is_announced(self, lot: Lot) -> bool:
        """Whether a lot with credits lives that was told to end soon."""
        return bool(lot.announced_ends and lot.remaining and not lot.ended(self.now))

    def _following(self, months: int) -> datetime:
        """Return a date of the subscription so many months after its latest period start."""
        start = self._subscription.period_start or self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        return anchored(start, self._subscription.anchor_day or start.day, months)

    def _period(self) -> dict[str, Any]:
        """Return a period: now, next, again, before, ahead, on a month's end, at the subscription's end, long past."""
        move = self._move
        midnight = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        month_end = midnight.replace(day=monthrange(self.now.year, self.now.month)[1])
        options = (
            self.now,
            self._following(1),
            self._following(0),
            self._following(-1),
            self._following(2),
            month_end - move.d % 2 * HOUR,
            (self._subscription.ends_at or self._edge(move.d)) - move.d % 2 * MOMENT,
            self.now - 85 * DAY,
        )
        start = options[move.b]
        data = {"subscription_id": self._subscription_id, "plan": (*PLANS, "recruiter")[move.c], "period_start": start}
        return data | self._term(start)

    def _term(self, start: datetime) -> dict[str, Any]:
        """Return how long a period is: mostly a month, or an annual term, in full or cut short."""
        anchor = {"anchor_day": 31 if shift_of(start, 31) is not None else start.day}
        month = {"period_end": anchored(start, start.day, 1)}
        year = {"period_end": anchored(start, start.day, 12), "term": "annual"}
        short = {"period_end": anchored(start, start.day, 3) + DAY, "term": "annual"}
        return (month, month, month, month | anchor, {"period_end": start + 20 * DAY}, short, short | anchor, year)[
            self._move.d
        ]

    def _twin(self) -> dict[str, Any]:
        """Return a period that was told before, moved a little or by half of its length; or one that was not."""
        move = self._move
        told = [each for each in self._inputs if each.account == self._state.account and each.type in PERIODS]
        if not told:
            return self._period()
        data = dict(told[-1 - move.a % len(told)].data)
        half = (data["period_end"] - data["period_start"]) / 2
        apart = (*APART, half, half - MOMENT)[move.b]
        data |= {name: data[name] + apart for name in ("period_start", "period_end")}
        if "anchor_day" in data and shift_of(data["period_start"], data["anchor_day"]) is None:
            del data["anchor_day"]
        return data if move.c else data | {"plan": PLANS[move.d % len(PLANS)]}

    def _late_change(self) -> dict[str, Any]:
        """Return a change for a period that has a lot, one that has started or that waits, or before it.

        Sometimes for one whose lot a later change has forfeited, or before a change that was refused.
        """
        move = self._move
        lots = self._state.lots_of(self._subscription_id)
        if not lots:
            return self._period()
        near = sorted(lots, key=lambda lot: abs(lot.granted_at - self.now))
        forfeited = [lot for lot in near if lot.on_change == "forfeit" and lot.withdrawn and self.now < lot.expires_at]
        if forfeited and move.b % 2:
            near = forfeited
        start = near[move.b % 4 % len(near)].period_start
        if self._subscription.refused and move.b > 3:
            start = max(self._subscription.refused)
        assert start
        start -= (timedelta(), HOUR)[move.b // 7] + LATE[move.a // 2 % len(LATE)]
        data = {"subscription_id": self._subscription_id, "plan": PLANS[move.c % 6], "period_start": start}
        return data | self._term(start)

    def _early_grant_id(self) -> Any:
        """Return the event of a lot that waits, if one does."""
        early = [lot.request_id for lot in self._state.lots if lot.open and not lot.started(self.now)]
        return early[-1 - self._move.a % len(early)] if early else self._grant_id()

    def _tick(self) -> dict[str, Any]:
        """Ask for now, for an edge, for too much; where the others have read all, or up to an edge, or little."""
        move = self._move
        asked = (
            self.now,
            self.now,
            self.now,
            self._edge(move.c),
            self._edge(move.c),
            self.now + DAY,
            self.now,
            self.now,
        )
        read_to = (None, None, None, None, self._edge(move.d), self._edge(move.d) - MOMENT, self.now - DAY, None)
        self.read_to = read_to[move.b]
        return {"as_of": asked[move.a]}
