"""Which movement decides which event, and in what order a batch is decided."""

from collections.abc import Awaitable, Callable, Sequence

from infra.postgres import Connection
from schemas.billing import (
    AccountErased,
    CancellationTakenBack,
    CreditsAdjusted,
    CreditsPurchased,
    GrantVoided,
    PromotionGranted,
    SubscriptionActivated,
    SubscriptionCancelled,
    SubscriptionPlanChanged,
    SubscriptionRenewed,
    SurveyGranted,
)
from schemas.envelope import AccountEvent
from schemas.sends import RecipientResponded, SendRequested, SendUndeliverable
from workers.ledger.debits import debit, reverse
from workers.ledger.grants import cancel, erase, give, grant_period, refuse, take, take_back, void
from workers.ledger.model import Entry
from workers.ledger.plans import Catalogue
from workers.ledger.store import Call, Fresh, Opened

__all__ = ["decide"]

Movement = Callable[[Call, Sequence[Fresh]], Awaitable[list[Entry]]]

# Event -> movement: where a new event is decided.
_MOVEMENTS: dict[type[AccountEvent], Movement] = {
    SendRequested: debit,
    SendUndeliverable: reverse,
    RecipientResponded: reverse,
    SubscriptionActivated: grant_period,
    SubscriptionRenewed: grant_period,
    SubscriptionPlanChanged: grant_period,
    SubscriptionCancelled: cancel,
    CancellationTakenBack: take_back,
    PromotionGranted: give,
    SurveyGranted: give,
    CreditsPurchased: give,
    CreditsAdjusted: give,  # upward; downward: take
    GrantVoided: void,
    AccountErased: erase,
}
_ANSWER_CONFLICTS = frozenset({debit, reverse})  # their rows tell the send they are about; the others' do not


async def decide(connection: Connection, opened: Opened, catalogue: Catalogue) -> list[Entry]:
    """Decide what is fresh in a batch and return the journal rows; each account's requests in input order."""
    made = Call(connection, opened, catalogue)
    entries = []
    for turn in _turns(opened.fresh):
        for movement, requests in turn.items():
            entries += await movement(made, requests)
    return entries


def _turns(fresh: Sequence[Fresh]) -> list[dict[Movement, list[Fresh]]]:
    """Split a batch so that in one turn an account has requests for one movement only, and its order is kept."""
    turns: list[dict[Movement, list[Fresh]]] = []
    last: dict[str, tuple[int, Movement]] = {}
    for item in fresh:
        request, conflict = item
        movement = _movement(request.event, conflict=conflict)
        turn, before = last.get(request.account_id, (0, movement))
        if movement is not before:
            turn += 1
        last[request.account_id] = (turn, movement)
        if turn == len(turns):
            turns.append({})
        turns[turn].setdefault(movement, []).append(item)
    return turns


def _movement(event: AccountEvent, *, conflict: bool) -> Movement:
    movement = _MOVEMENTS[type(event)]
    if conflict and movement not in _ANSWER_CONFLICTS:
        return refuse
    if isinstance(event, CreditsAdjusted) and event.data.credits < 0:
        return take
    return movement
