"""Which movement decides which event, and in what order a batch is decided."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

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
from workers.ledger.grants import apply_caps, cancel, erase, give, grant_period, refuse, take, take_back, void
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


async def decide(
    connection: Connection, opened: Opened, catalogue: Catalogue, waited_for: str | None = None
) -> list[Entry]:
    """Decide what is fresh in a batch and return the journal rows; each account's requests in input order.

    Args:
        connection: in the transaction that locked the batch's accounts.
        opened: the batch.
        catalogue: of plans.
        waited_for: the consumer group that has records unread which come before the batch, if any: what would be
            refused for want of credit is then `balance_not_current`.

    """
    made = Call(connection, opened, catalogue, waited_for)
    entries = []
    for turn in _turns(_with_caps(opened)):
        for movement, requests in turn.items():
            entries += await movement(made, requests)
    return entries


def _with_caps(opened: Opened) -> Iterator[tuple[Fresh, Movement]]:
    """Return each fresh request with its movement; before the first one at a date of `caps_due` or later, the caps.

    After a period was granted in the batch itself, its lots may come to their dates too.
    """
    due = dict(opened.caps_due)
    granted: set[str] = set()
    for item in opened.fresh:
        request, conflict = item
        dates = due.get(request.account_id, [])
        if request.account_id in granted or (dates and dates[0] <= request.as_of):
            due[request.account_id] = [date for date in dates if date > request.as_of]
            yield item, apply_caps
        movement = _movement(request.event, conflict=conflict)
        if movement is grant_period:
            granted.add(request.account_id)
        yield item, movement


def _turns(fresh: Iterable[tuple[Fresh, Movement]]) -> list[dict[Movement, list[Fresh]]]:
    """Split a batch so that in one turn an account has requests for one movement only, and its order is kept."""
    turns: list[dict[Movement, list[Fresh]]] = []
    last: dict[str, tuple[int, Movement]] = {}
    for item, movement in fresh:
        account_id = item[0].account_id
        turn, before = last.get(account_id, (0, movement))
        if movement is not before:
            turn += 1
        last[account_id] = (turn, movement)
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
