"""The stated meaning of every field of a balance, held against what the account's results up to its sequence say.

`BALANCE_MEANINGS` has a check for each member of its data. As in `contract.py`, nothing here asks the ledger.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from schemas.balances import AccountBalance
from tests.workers.account_reader import AccountReader, instant

__all__ = ["BALANCE", "BALANCE_MEANINGS", "broken_order", "broken_words_of_balance"]

BALANCE: Final = AccountBalance.type_name()

Check = Callable[[Any, datetime, AccountReader], bool]  # of a member; the balance's as_of; the reader at its sequence
_Lots = list[tuple[int, int, datetime, datetime]]


def _lots(reader: AccountReader, as_of: datetime) -> _Lots:
    """Return the lots with credits that can be spent at some time from an instant on."""
    return [
        (number, lot.remaining, lot.granted_at, lot.ends)
        for number, lot in sorted(reader.lots.items())
        if lot.remaining and max(lot.granted_at, as_of) < lot.ends
    ]


def _told_lots(value: list[Mapping[str, Any]]) -> _Lots:
    return sorted(
        (each["lot"], each["remaining"], instant(each["granted_at"]), instant(each["expires_at"])) for each in value
    )


def _first_change(reader: AccountReader, as_of: datetime) -> datetime | None:
    """Return the first later instant at which other lots can be spent."""

    def spendable(at: datetime) -> list[int]:
        return [number for number, lot in reader.lots.items() if lot.spendable(at)]

    moments = sorted(at for lot in reader.lots.values() for at in (lot.granted_at, lot.ends) if as_of < at)
    return next((at for at in moments if spendable(at) != spendable(as_of)), None)


def _erased_at(reader: AccountReader) -> str | None:
    return next((event["data"]["as_of"] for event in reader.events if event["data"]["code"] == "erased"), None)


BALANCE_MEANINGS: Final[dict[str, Check]] = {
    "sequence": lambda value, _, reader: value == len(reader.events),
    "as_of": lambda value, _, reader: value == reader.events[-1]["data"]["as_of"],
    "spendable": lambda value, as_of, reader: value == reader.balance(as_of),
    "changes_at": lambda value, as_of, reader: (value and instant(value)) == _first_change(reader, as_of),
    "erased_at": lambda value, _, reader: value == _erased_at(reader),
    "lot_count": lambda value, as_of, reader: value == len(_lots(reader, as_of)),
    "lots": lambda value, as_of, reader: _told_lots(value) == _lots(reader, as_of),  # no table has more than 200
}


def broken_words_of_balance(event: Mapping[str, Any], reader: AccountReader) -> Iterator[str]:
    """Yield each member of a balance that does not mean what the contract says.

    Args:
        event: the balance.
        reader: who has taken the account's results up to the balance's sequence.

    """
    data = event["data"]
    for name, check in BALANCE_MEANINGS.items():
        if not check(data[name], instant(data["as_of"]), reader):
            yield f"{event['type']}: {name} = {data[name]!r}; {dict(data)}"
    if event["time"] != data["as_of"]:
        yield f"{event['type']}: time is not as_of"


def broken_order(event: Mapping[str, Any], reader: AccountReader) -> Iterator[str]:
    """Yield that no result has a balance's sequence, or that the send after it took another lot than its first.

    Args:
        event: the balance.
        reader: who has taken all results of the account.

    """
    data = event["data"]
    if data["sequence"] > len(reader.events):
        yield f"{event['type']}: no result has sequence {data['sequence']}"
        return
    for following in reader.events[data["sequence"] : data["sequence"] + 1]:
        after, at = following["data"], instant(following["data"]["as_of"])
        if after["code"] == "charged" and instant(data["as_of"]) <= at:
            lots = [lot["lot"] for lot in data["lots"] if instant(lot["granted_at"]) <= at < instant(lot["expires_at"])]
            if lots[:1] != [after["lot"]]:
                yield f"{event['type']}: of the lots {lots} the next send took {after['lot']}"
