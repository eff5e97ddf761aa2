"""Random histories: small moves that hypothesis draws and shrinks, made into events by looking at the oracle's books.

A move is a few small numbers. What they mean depends on where the oracle stands when it is played: the third open lot,
the next instant at which something ends, the request before the last. So edges are met often and not by luck.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from hypothesis import strategies as st

from tests.ledger.history_events import EventMaker, lane_of
from tests.ledger.oracle_state import Account
from tests.ledger.scenario import BASE_CATALOGUE, START, edited
from tests.ledger.scenario_books import OracleBooks
from tests.ledger.scenario_events import SYNTAX, TICK, Input, Names

__all__ = ["ACCOUNTS", "CATALOGUES", "Entry", "History", "Move", "batches", "drafts", "play"]

ACCOUNTS = ("alice", "bob")
MOMENT = timedelta(microseconds=1)
STEPS = (MOMENT, timedelta(hours=1), timedelta(days=1), timedelta(days=10), timedelta(days=31))
LANES = ("send", "billing", "expiry")

_SMALL = ("plans.premium_career.credits = 3", "plans.premium_business.credits = 6", "plans.recruiter.credits = 9")
_CAPS = ("apply_balance_caps = true", "plans.premium_career.balance_cap = 4", "plans.premium_business.balance_cap = 7")
_NOTICES = ("notices = { low_balance = 2, expiring_days = 7 }",)
_FORFEIT = (
    'plans.premium_career.on_change = "forfeit"',
    "plans.premium_business.rollover = false",
    'plans.recruiter.on_change = "forfeit"',
)
_GENEROUS = (
    "plans.premium_career.credit_back_on_response = true",
    "plans.recruiter.credit_back_on_response = true",
    "plans.premium_business.separate_purchase = true",
)
_LIMITS = ("limits = { paid_sends_per_day = 3, seat_sends_per_day = 1, recipient_cooldown_hours = 36 }",)
_COOLDOWN = ("limits = { paid_sends_per_day = 0, seat_sends_per_day = 0, recipient_cooldown_hours = 12 }",)
_PRIORITIES = ("origins.promotion = 1", "origins.subscription = 2", "validity_hours = 480")


def _catalogue(*settings: str) -> dict[str, Any]:
    document = BASE_CATALOGUE
    for setting in (*_SMALL, *settings):
        document = edited(document, setting)
    return document


CATALOGUES = (
    _catalogue(),
    _catalogue(*_NOTICES, *_CAPS),
    _catalogue(*_NOTICES, *_FORFEIT),
    _catalogue(*_NOTICES, *_LIMITS),
    _catalogue(*_NOTICES, *_GENEROUS),
    _catalogue(*_NOTICES, *_CAPS, *_FORFEIT, *_GENEROUS),
    _catalogue(*_NOTICES, *_CAPS, *_GENEROUS, *_LIMITS, "limits.recipient_cooldown_hours = 12"),
    _catalogue(*_NOTICES, *_CAPS, *_FORFEIT, *_GENEROUS, *_LIMITS, *_PRIORITIES),
    _catalogue(*_NOTICES, *_COOLDOWN, "plans.premium_business.credits = 1"),
    _catalogue(*_NOTICES, "plans.gone = { credits = 4, rollover = true }"),
)

# What can happen, as often as it stands here.
KINDS = (
    *("send",) * 14,
    *("activate", "renew", "renew", "change", "change", "twin", "twin", "late-change", "late-change"),
    *("promotion", "survey", "promotion", "purchase", "adjust", "adjust", "void", "void-early"),
    *("cancel", "cancel", "take-back", "take-back"),
    *("undeliverable", "undeliverable", "undeliverable", "responded", "responded"),
    *("tick", "tick", "tick", "again", "catalogue", "erase"),
)


# What happens instead in a lot's last days.
IN_LAST_DAYS = {
    **dict.fromkeys(("renew", "activate", "responded", "promotion"), "tick"),
    **dict.fromkeys(("survey", "purchase"), "cancel"),
    **dict.fromkeys(("void", "adjust"), "take-back"),
}
LOOKED_AT_BY_A_TICK = {SYNTAX[kind][0] for kind in ("cancel", "take-back", "undeliverable")}


@dataclass(frozen=True)
class Move:
    """What hypothesis draws for one record: small numbers, the smaller the plainer."""

    kind: str
    account: int  # of ACCOUNTS
    clock: int  # 0: stays; then STEPS; then an edge, a moment before it, a moment after it
    edge: int  # which of the coming edges
    lags: bool  # whether the lane keeps its own clock where others are ahead
    behind: bool  # whether the other topic has records unread that come before it
    joins: bool  # whether it is decided in one batch with the record before it
    reuses_id: int  # 18: the id of an earlier request; 19: of another account's; else a new one
    a: int
    b: int
    c: int
    d: int


def _moves() -> st.SearchStrategy[Move]:
    small = st.integers(0, 7)
    return st.builds(
        Move,
        kind=st.sampled_from(KINDS),
        account=st.sampled_from((0, 0, 0, 1)),
        clock=st.sampled_from((0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 7, 8)),
        edge=st.integers(0, 5),
        lags=st.sampled_from((False, False, False, True)),
        behind=st.sampled_from((False, False, False, False, True)),
        joins=st.booleans(),
        reuses_id=st.integers(0, 19),
        a=small,
        b=small,
        c=small,
        d=small,
    )


@dataclass(frozen=True)
class Draft:
    """What hypothesis draws for one history."""

    catalogue: int
    generic_plans: (
        bool  # whether the database plans for any arguments, as it comes to on a connection that has been used
    )
    moves: tuple[Move, ...]

    def __repr__(self) -> str:
        return f"Draft({self.catalogue}, {self.generic_plans}, {len(self.moves)} moves)"


def drafts() -> st.SearchStrategy[Draft]:
    """Draw histories of fifty moves on average; each of the lists is shrunk by itself."""
    parts = st.tuples(*[st.lists(_moves(), max_size=12) for _ in range(10)])
    moves = parts.map(lambda lists: tuple(move for part in lists for move in part))
    catalogues = st.integers(0, len(CATALOGUES) - 1)
    return st.tuples(catalogues, st.booleans(), moves).map(lambda drawn: Draft(*drawn))


@dataclass
class Entry:
    """One record of a history, or a change of catalogue; and what the oracle booked for it."""

    input: Input | None = None
    read_to: datetime | None = None
    catalogue: dict[str, Any] | None = None
    joins: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class History:
    """What happened, in order, and the oracle's books after it."""

    books: OracleBooks
    names: Names
    entries: list[Entry] = field(default_factory=list)

    @property
    def inputs(self) -> list[Input]:
        """All records so far."""
        return [entry.input for entry in self.entries if entry.input]


def batches(history: History) -> list[list[Entry]]:
    """Return the entries as they are decided: together where one joins the one before it."""
    starts = [not entry.joins for entry in history.entries]
    numbers = [sum(starts[: index + 1]) for index in range(len(starts))]
    numbered = zip(numbers, history.entries, strict=True)
    return [[entry for _, entry in group] for _, group in groupby(numbered, key=lambda pair: pair[0])]


def play(draft: Draft, books: OracleBooks) -> History:
    """Turn moves into records, deciding each by the oracle before the next is made."""
    return _Player(draft, books).play()


class _Player:
    """Plays a draft: keeps the lanes' clocks, names requests, and looks at the books to find edges."""

    def __init__(self, draft: Draft, books: OracleBooks) -> None:
        self._draft = draft
        self._books = books
        self._history = History(books, Names())
        self._clocks = dict.fromkeys(LANES, START)
        self._number = 0

    def play(self) -> History:
        """Play all moves."""
        self._use(CATALOGUES[self._draft.catalogue])
        for move in self._draft.moves:
            if move.kind == "catalogue":
                self._use(CATALOGUES[move.a % len(CATALOGUES)])
            elif move.kind == "erase" and move.a + move.b < 10:
                continue  # most accounts live on
            elif move.kind == "again":
                self._again(move)
            else:
                self._event(move)
        return self._history

    def _use(self, catalogue: dict[str, Any]) -> None:
        self._books.set_document(catalogue)
        self._history.entries.append(Entry(catalogue=catalogue))

    def _again(self, move: Move) -> None:
        """Repeat an earlier record."""
        inputs = self._history.inputs
        if inputs:
            earlier = inputs[-1 - (move.a * 8 + move.b) % len(inputs)]
            self._decide(move, earlier.at(self._now(move, lane_of(earlier.type))))

    def _event(self, move: Move) -> None:
        if self._lingers(move, max(self._clocks.values())):
            move = replace(move, kind=self._kind_in_last_days(move.kind))
        account = ACCOUNTS[move.account]
        state = self._books.oracle.accounts.get(account, Account(account))
        edges = self._edges(state)
        lane = "expiry" if move.kind == "tick" else lane_of(move.kind)
        history = self._history
        now = self._now(move, lane)
        maker = EventMaker(move, state, now=now, edges=edges, inputs=history.inputs, names=history.names)
        type_, data = maker.make()
        owner = "" if type_ == TICK else account
        self._decide(move, Input(type_, owner, self._request_id(move, owner), data, maker.now), maker.read_to)

    def _kind_in_last_days(self, kind: str) -> str:
        """Return what happens instead: a tick after what moves an end or fills a lot, more cancels, fewer grants."""
        inputs = self._history.inputs
        follows = bool(inputs) and inputs[-1].type in LOOKED_AT_BY_A_TICK
        return "tick" if follows and kind != "send" else IN_LAST_DAYS.get(kind, kind)

    def _request_id(self, move: Move, owner: str) -> Any:
        """Return a new request id, or one that was used."""
        mine = [input_ for input_ in self._history.inputs if (input_.account == owner) == (move.reuses_id != 19)]
        if move.reuses_id >= 18 and mine:
            return mine[-1 - move.d % len(mine)].request_id
        self._number += 1
        return self._history.names.id_of(f"r{self._number}")

    def _decide(self, move: Move, input_: Input, read_to: datetime | None = None) -> None:
        entries = self._history.entries
        before = entries[-1].input
        joins = bool(move.joins and before and lane_of(before.type) == lane_of(input_.type) and input_.type != TICK)
        # What is decided in one batch has one answer to that.
        input_ = input_.at(input_.as_of, behind=before.behind if joins and before else move.behind)
        entry = Entry(input=input_, read_to=read_to)
        if input_.type == TICK:
            entry.rows = self._books.tick_one(input_, read_to)
            horizon = min(input_.data["as_of"], input_.as_of, read_to or input_.as_of)
            self._clocks = {lane: max(clock, horizon) for lane, clock in self._clocks.items()}
        else:
            entry.rows = self._books.decide_one(input_)
            entry.joins = joins
        entries.append(entry)

    def _now(self, move: Move, lane: str) -> datetime:
        """Move a lane's clock, which never runs back (rule 16), and return it."""
        now = self._clocks[lane] if move.lags else max(self._clocks.values())
        if move.kind == "send" and move.clock <= 3:
            now += move.clock // 2 * STEPS[1]  # sends come in bursts
        elif self._lingers(move, now):
            now += move.clock // 4 * STEPS[1]
        elif 1 <= move.clock <= len(STEPS):
            now += STEPS[move.clock - 1]
        elif move.clock > len(STEPS):
            now = self._edge_after(move, now) + (move.clock - len(STEPS) - 1) % 3 * MOMENT - MOMENT
        self._clocks[lane] = max(now, self._clocks[lane])
        return self._clocks[lane]

    def _lingers(self, move: Move, now: datetime) -> bool:
        """Whether a move stays in the days in which a lot's end is announced: much can happen to what is told there."""
        account = self._books.oracle.accounts.get(ACCOUNTS[move.account])
        soon = now + self._books.oracle.terms.expiring
        return (
            move.edge > 0
            and account is not None
            and any(lot.spendable(now) and lot.expires_at <= soon for lot in account.lots)
        )

    def _edge_after(self, move: Move, now: datetime) -> datetime:
        account = ACCOUNTS[move.account]
        edges = self._edges(self._books.oracle.accounts.get(account, Account(account)))
        coming = [edge for edge in edges if edge >= now] or [now]
        return coming[move.edge % len(coming)]

    def _edges(self, state: Account) -> list[datetime]:
        """Return the instants at which something about an account changes by itself, in order."""
        terms = self._books.oracle.terms
        edges = {instant for lot in state.lots for instant in (lot.granted_at, lot.expires_at, lot.full_expires_at)}
        edges |= {lot.expires_at - terms.expiring for lot in state.lots}
        edges |= {subscription.ends_at for subscription in state.subscriptions.values() if subscription.ends_at}
        sends = [row.as_of for row in state.journal if row.code == "charged"]
        spans = (timedelta(hours=24), terms.recipient_cooldown, timedelta(days=90))
        edges |= {send + span for send in sends[-4:] for span in spans}
        return sorted(edges)
