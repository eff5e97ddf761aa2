"""One request being decided by the oracle: how a row is booked, and when a balance is worth a notice."""

from datetime import datetime
from typing import Any

from tests.ledger.oracle_state import Account, Lot, Request, Row, Terms

__all__ = ["Case"]

NOTICE = {1: "low", 2: "exhausted"}


class Case:
    """A request, the account it is about, and the rows that it has booked so far."""

    def __init__(self, terms: Terms, account: Account, request: Request, worker: str) -> None:
        self.terms = terms
        self.account = account
        self.request = request
        self.worker = worker
        self.rows: list[Row] = []
        self.before = self.balance  # what could be spent before this request

    @property
    def now(self) -> datetime:
        """Rule 16: the only clock is the record's own."""
        return self.request.as_of

    @property
    def balance(self) -> int:
        """What the account can spend now."""
        return self.account.balance(self.now)

    def data(self, name: str) -> Any:
        """Return a member of the event's body, or None where it was left out."""
        return self.request.data.get(name)

    def book(self, code: str, amount: int = 0, lot: Lot | None = None, **columns: Any) -> Row:
        """Rules 17 and 19: append one row with the account's next sequence, and move its amount on its lot.

        The balances are what can be spent now before and after the move, unless the caller knows better.
        """
        before = self.balance
        if lot:
            lot.remaining += amount
        standard = {
            "is_answer": False,
            "balance_before": before,
            "balance_after": self.balance,
            "lot": lot and lot.lot,
            "lot_expires_at": lot and lot.expires_at,
        }
        row = Row(
            account=self.account.account,
            sequence=len(self.account.journal) + 1,
            request_id=self.request.request_id,
            fingerprint=self.request.fingerprint,
            worker=self.worker,
            code=code,
            amount=amount,
            as_of=self.now,
            source_partition=self.request.partition,
            source_offset=self.request.offset,
            **standard | columns,
        )
        self.account.journal.append(row)
        self.rows.append(row)
        return row

    def answer(self, code: str, amount: int = 0, lot: Lot | None = None, **columns: Any) -> Row:
        """Rule 19: book the one row that answers the request. A send's names whom it was for and who sends."""
        if self.request.type == "inmail.send.requested.v1":
            columns |= {name: self.data(name) for name in ("recipient_id", "relationship", "sender_id")}
        row = self.book(code, amount, lot, is_answer=True, **columns)
        self.account.answers.append((self.request, row))
        return row

    def refuse_for_want(self, code: str, **columns: Any) -> bool:
        """Rule 21: refuse for want of credit, or not for good where what may give credits was not read.

        Returns whether it was for good: else the request id stays free.
        """
        if not self.request.waited_for:
            self.answer(code, **columns)
            return True
        told = {"waited_for": self.request.waited_for, "retry_after_seconds": 60}
        self.answer("balance_not_current", details=(columns.get("details") or {}) | told)
        self.account.answers.pop()
        return False

    def close(self, lot: Lot, code: str, details: dict[str, Any] | None = None) -> None:
        """Close a lot, with a row for what was left in it; an empty one has nothing to tell."""
        if lot.remaining:
            self.book(code, -lot.remaining, lot, details=details)
        lot.close(withdrawn=code != "expired")

    def level(self, balance: int) -> int:
        """Return 2 for an empty account, 1 for a low one, 0 above."""
        if balance == 0:
            return 2
        return 1 if balance <= self.terms.low_balance else 0

    def notice_after_all(self) -> None:
        """One notice for each crossing, whatever makes it, looked at once, when everything of a request is booked.

        A balance that had risen by date, while nothing ran, counts as seen: who falls from it is told. Of an erased
        account nobody is left to tell.
        """
        self.account.level = min(self.account.level, self.level(self.before))
        if not self.account.erased_at:
            self._notice_if_worse()
        self.before = self.balance
        self.account.level = self.level(self.before)

    def _notice_if_worse(self) -> None:
        level = self.level(self.balance)
        if level > self.account.level:
            details = {"threshold": self.terms.low_balance} if level == 1 else None
            self.book(NOTICE[level], details=details)
            self.account.level = level
