"""The ledger as a plain model, written from the rules and from nothing else; it judges the SQL in the tests.

Read design.md section 2 beside it. `Oracle.decide` takes one request and returns the journal rows that it books; the
rules themselves are one short function each, here (requests, sends) and in `oracle_billing.py` (grants and what ends
them) and `oracle_expiry.py` (ticks).
"""

from datetime import datetime

from tests.ledger import oracle_billing, oracle_expiry, oracle_sends
from tests.ledger.oracle_case import Case
from tests.ledger.oracle_expiry import Tick
from tests.ledger.oracle_state import Account, Request, Row, Terms

__all__ = ["Oracle", "Request", "Row", "Terms", "Tick", "UnknownPlanError"]

DECIDED_BY = oracle_sends.RULES | oracle_billing.RULES
REPORTS = ("inmail.send.undeliverable.v1", "inmail.recipient.responded.v1")


class UnknownPlanError(Exception):
    """An event names a plan that the catalogue does not have: it becomes a dead letter and is not decided."""


class Oracle:
    """The accounts of one partition, and the catalogue as it is now."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.accounts: dict[str, Account] = {}
        self.ticks: list[tuple[Request, Tick]] = []

    def decide(self, request: Request) -> list[Row]:
        """Decide one request and return what it booked, in order: nothing, if it was answered before (rule 14).

        Raises:
            UnknownPlanError: when it was not, and names a plan that is not in the catalogue.

        """
        account = self.accounts.setdefault(request.account, Account(request.account))
        if self.answer_to(request):
            return []
        case = Case(self.terms, account, request, "send" if request.type in oracle_sends.RULES else "billing")
        is_conflict = any(known.request_id == request.request_id for known, _ in account.answers)
        if not is_conflict and case.data("plan") and case.data("plan") not in self.terms.plans:
            raise UnknownPlanError(case.data("plan"))
        oracle_expiry.apply_pending_caps(case, case.now)
        if is_conflict:
            self._conflict(case)
        elif account.erased_at and request.type not in REPORTS:
            self._erased(case)
        else:
            DECIDED_BY[request.type](case)
        return case.rows

    def answer_to(self, request: Request) -> Row | None:
        """Rule 14: the answer that this body got under this request id, if it was seen before."""
        for known, row in self.accounts[request.account].answers:
            if known.request_id == request.request_id and known.body == request.body:
                return row
        return None

    def tick(self, request: Request, horizon: datetime) -> Tick:
        """Book what has ended up to the horizon, account by account in the order they were first seen.

        A tick seen before (rule 14) answers as it did, without the lines that it booked then.
        """
        same_id = [(known, answer) for known, answer in self.ticks if known.request_id == request.request_id]
        for known, answer in same_id:
            if known.body == request.body:
                return Tick(answer.code, answer.lots, answer.credits, repeat=True)
        if same_id:
            answer = Tick("key_conflict")
        else:
            answer = oracle_expiry.tick(self.terms, list(self.accounts.values()), request, horizon)
        self.ticks.append((request, answer))
        return answer

    def _conflict(self, case: Case) -> None:
        """Rule 14: the same id with another body is refused, under an answer of its own."""
        case.answer("key_conflict", details=oracle_sends.report_details(case))

    def _erased(self, case: Case) -> None:
        """Rule 20: an erased account refuses everything but reports, and expiry goes on."""
        case.answer("account_erased", details=oracle_billing.told_of(case))
