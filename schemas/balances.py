"""What an account has, as a record of its own: for readers who keep a view of all balances."""

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field
from typing_extensions import TypedDict

from schemas.envelope import AccountResult, AnyInstant
from schemas.outgoing import Count, Lot, write_result

__all__ = ["BALANCE_LOTS_AT_MOST", "AccountBalance", "AccountBalanceData", "BalanceLot", "account_balance"]

BALANCE_LOTS_AT_MOST: Final = 200  # in a record; the sums count all of them


class BalanceLot(TypedDict):
    """A lot with credits that can be spent at some time from as_of on."""

    lot: Lot
    remaining: Annotated[int, Field(ge=1, description="Credits that are left on it.")]
    granted_at: Annotated[AnyInstant, Field(description="First instant they can be spent; may be to come.")]
    expires_at: Annotated[AnyInstant, Field(description="First instant they no longer can.")]


class AccountBalanceData(TypedDict):
    """What an account can spend after its journal row `sequence`."""

    sequence: Annotated[
        int,
        Field(
            ge=1,
            description="The account's newest row that this includes: the sequence of results, and of the read API."
            " Of two records of an account the one with the higher sequence is right, whichever comes later.",
        ),
    ]
    as_of: Annotated[AnyInstant, Field(description="The broker's time at which that row was decided.")]
    spendable: Annotated[Count, Field(description="Credits the account can spend at as_of.")]
    changes_at: Annotated[
        AnyInstant | None,
        Field(
            description="First instant after as_of at which spendable is another if no row comes: a lot starts or ends."
            " No record is published for that instant: from then on sum the lots with granted_at <= now < expires_at."
        ),
    ]
    erased_at: Annotated[AnyInstant | None, Field(description="When the account was erased, if it was.")]
    lot_count: Annotated[Count, Field(description="Lots with credits, also those left out of lots.")]
    lots: Annotated[
        list[BalanceLot],
        Field(
            max_length=BALANCE_LOTS_AT_MOST, description="The first 200 of them, in the order in which they are spent."
        ),
    ]


class AccountBalance(AccountResult):
    """What an account can spend, lot by lot. The same sequence has the same event id and says the same."""

    type: Literal["inmail.balance.v1"]
    data: AccountBalanceData


def account_balance(event_id: str, account_id: str, time: datetime, data: AccountBalanceData) -> bytes:
    """Return an account's balance as the value of a record."""
    return write_result("inmail.balance.v1", event_id, account_id, time, data)
