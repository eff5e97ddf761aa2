"""What a scenario table runs on: the protocol, and the oracle behind it. The SQL ledger's is in `scenario_sql.py`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from tests.ledger.oracle import Oracle, Request, Terms, UnknownPlanError
from tests.ledger.oracle_sends import RULES as SENDS
from tests.ledger.oracle_state import Account
from tests.ledger.scenario_events import Input
from tests.ledger.stated_balances import check_stated_balances

__all__ = ["DEAD_LETTER", "Books", "OracleBooks", "check_conservation", "plain", "waited_for"]

INSTANTS = ("period_start", "granted_at", "effective_at", "retry_at")
TAKEN = {"charged", "expired", "voided", "adjusted", "forfeited", "cap_forfeited"}
GIVEN = {"granted", "reversed"}


# Stands for the rows of an event that was not decided: its plan is not in the catalogue.
DEAD_LETTER = {"account": None, "code": "dead_letter", "amount": 0, "repeat": False, "details": None}


class Books(Protocol):
    """A ledger of one partition.

    A row is a dict of the journal's columns by name, with the account's text id as `account`, with `repeat` added,
    and with the instants and ids inside `details` as `plain` has them.
    """

    async def use(self, catalogue: dict[str, Any]) -> None:
        """Take a catalogue (the document of its file) from now on."""

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Decide records of one topic as one batch.

        For each of them, in order: the rows it booked, by sequence; or its first answer alone, with repeat=True; or
        DEAD_LETTER alone, if it is neither a repeat nor a conflict and its plan is not in the catalogue.
        """

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick, where the neighbours have read all (None) or up to an instant.

        Returns the rows that it booked, by account (its text id) and sequence, and last its answer:
        {account: None, code: "booked" | "key_conflict", lots, credits, repeat}.
        """

    async def balance(self, account: str, instant: datetime) -> int:
        """Return what an account can spend at an instant; 0 for one that was never seen."""

    async def account(self, account: str) -> dict[str, Any]:
        """Return `level`, `sequence` and `erased` (whether it is) of an account."""

    async def lots(self, account: str) -> list[dict[str, Any]]:
        """Return an account's lots in opening order, by column."""

    async def journal(self, account: str) -> list[dict[str, Any]]:
        """Return an account's rows by sequence."""


class OracleBooks:
    """The oracle as books."""

    def __init__(self, fingerprint: Callable[[Input], int] = lambda _: 0, oracle: type[Oracle] = Oracle) -> None:
        self._fingerprint = fingerprint
        self._class = oracle
        self.oracle: Oracle
        self._offset = -1

    async def use(self, catalogue: dict[str, Any]) -> None:
        """Take a catalogue from now on."""
        self.set_document(catalogue)

    def set_document(self, catalogue: dict[str, Any]) -> None:
        """Take a catalogue from now on."""
        terms = Terms.read(catalogue)
        if hasattr(self, "oracle"):
            self.oracle.terms = terms
        else:
            self.oracle = self._class(terms)

    async def decide(self, inputs: Sequence[Input]) -> list[list[dict[str, Any]]]:
        """Decide one after the other: to the oracle a batch is nothing."""
        return [self.decide_one(input_) for input_ in inputs]

    def decide_one(self, input_: Input) -> list[dict[str, Any]]:
        """Decide one record."""
        request = self._request(input_)
        try:
            rows = self.oracle.decide(request)
        except UnknownPlanError:
            return [DEAD_LETTER]
        if rows:
            return [as_dict(row) for row in rows]
        first = self.oracle.answer_to(request)
        assert first
        return [as_dict(first) | {"repeat": True}]

    async def tick(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick."""
        return self.tick_one(tick, read_to)

    def tick_one(self, tick: Input, read_to: datetime | None) -> list[dict[str, Any]]:
        """Decide a tick."""
        horizon = min(tick.data["as_of"], tick.as_of, read_to or tick.as_of)
        answer = self.oracle.tick(self._request(tick), horizon)
        summary = {"account": None, "code": answer.code, "lots": answer.lots, "credits": answer.credits}
        rows = sorted(answer.rows, key=lambda row: (row.account, row.sequence))
        return [*(as_dict(row) for row in rows), summary | {"repeat": answer.repeat}]

    async def balance(self, account: str, instant: datetime) -> int:
        """Return what an account can spend at an instant."""
        return self._account(account).balance(instant)

    async def account(self, account: str) -> dict[str, Any]:
        """Return level, sequence and erasure."""
        known = self._account(account)
        return {"level": known.level, "sequence": len(known.journal), "erased": known.erased_at is not None}

    async def lots(self, account: str) -> list[dict[str, Any]]:
        """Return the lots in opening order."""
        return [dict(vars(lot)) for lot in self._account(account).lots]

    async def journal(self, account: str) -> list[dict[str, Any]]:
        """Return the rows by sequence."""
        return [as_dict(row) for row in self._account(account).journal]

    def _account(self, account: str) -> Account:
        return self.oracle.accounts.get(account, Account(account))

    def _request(self, input_: Input) -> Request:
        self._offset += 1
        return Request(
            input_.type,
            input_.account,
            input_.request_id,
            input_.data,
            input_.as_of,
            offset=self._offset,
            waited_for=waited_for(input_),
            fingerprint=self._fingerprint(input_),
        )


def waited_for(input_: Input) -> str | None:
    """Rule 21: whom a record that is behind waited for: sends for billing, billing for what sends give back."""
    if not input_.behind:
        return None
    return "inmail-billing" if input_.type in SENDS else "inmail-send"


def as_dict(row: Any) -> dict[str, Any]:
    """Return the oracle's row as the protocol has rows."""
    # Only the details can change later, and a deep copy of all columns was a fifth of what histories cost.
    return vars(row) | {"details": plain(deepcopy(row.details)), "repeat": False}


def plain(details: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a row's details with ids as text and instants as instants, whatever JSON made of them."""
    if details is None:
        return None
    return {name: _plain(name, value) for name, value in details.items()}


def _plain(name: str, value: Any) -> Any:
    if name == "lot_ends":
        return [{"lot": each["lot"], "expires_at": _instant(each["expires_at"])} for each in value]
    if name in INSTANTS:
        return _instant(value)
    return str(value) if isinstance(value, UUID) else value


def _instant(value: Any) -> Any:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


async def check_conservation(books: Books, account: str) -> None:
    """Rules 18 and 19: per lot, granted = remaining + taken - given back; no gap in the sequence; true balances."""
    journal, lots = await books.journal(account), await books.lots(account)
    assert [row["sequence"] for row in journal] == list(range(1, len(journal) + 1)), "a gap in the sequence"
    for lot in lots:
        amounts = [(row["code"], row["amount"]) for row in journal if row["lot"] == lot["lot"]]
        granted = sum(amount for code, amount in amounts if code == "granted")
        moved = sum(amount for code, amount in amounts if code != "granted")
        assert lot["granted"] == granted, f"lot {lot['lot']}: granted {lot['granted']}, booked {granted}"
        assert lot["remaining"] == granted + moved, (
            f"lot {lot['lot']}: has {lot['remaining']}, booked {granted + moved}"
        )
        assert 0 <= lot["remaining"] <= lot["granted"], f"lot {lot['lot']}: has {lot['remaining']} of {granted}"
        assert lot["open"] or not lot["remaining"], f"lot {lot['lot']}: closed with {lot['remaining']} in it"
    for row in journal:
        codes = GIVEN if row["amount"] > 0 else TAKEN
        assert not row["amount"] or row["code"] in codes, f"row {row['sequence']}: {row['code']} {row['amount']:+}"
    check_stated_balances(lots, journal)
