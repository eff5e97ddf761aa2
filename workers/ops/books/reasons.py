"""The reason for a journal row, as a sentence for the account's holder or the support staff.

A code without a sentence here is shown with spaces for underscores.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

__all__ = ["RowFacts", "reason_of"]

RowDetails = Mapping[str, Any]


class RowFacts(Protocol):
    """The fields of a journal row that a reason may depend on."""

    @property
    def code(self) -> str: ...  # noqa: D102
    @property
    def as_of(self) -> datetime: ...  # noqa: D102
    @property
    def lot(self) -> int | None: ...  # noqa: D102
    @property
    def lot_expires_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def recipient_id(self) -> str | None: ...  # noqa: D102
    @property
    def relationship(self) -> str | None: ...  # noqa: D102
    @property
    def sender_id(self) -> str | None: ...  # noqa: D102
    @property
    def next_allotment_at(self) -> datetime | None: ...  # noqa: D102
    @property
    def reverses(self) -> int | None: ...  # noqa: D102
    @property
    def details(self) -> RowDetails | None: ...  # noqa: D102


def reason_of(row: RowFacts) -> str:
    """Return the reason for a row."""
    phrase = _REASONS.get(row.code)
    return row.code.replace("_", " ") if phrase is None else phrase(row, row.details or {})


def _time_text(time: datetime | str | None) -> str:
    if time is None:
        return "an unknown time"
    if isinstance(time, str):
        time = datetime.fromisoformat(time)
    text = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}".rstrip("0").rstrip(".")
    return text.removesuffix(" 00:00:00") if text.endswith(" 00:00:00") else f"{text}Z"


# -- sends and reports on them ----------------------------------------------------------------------------------------


def _send(row: RowFacts) -> str:
    seat = f" from seat {row.sender_id}" if row.sender_id else ""
    return f"send to {row.recipient_id}{seat}"


def _free(row: RowFacts, _: RowDetails) -> str:
    return f"{_send(row)}, free: {(row.relationship or 'none').replace('_', ' ')}"


def _rate_limited(row: RowFacts, details: RowDetails) -> str:
    limits = {
        "account": "the account's paid sends in 24 hours are used up",
        "seat": "the seat's paid sends in 24 hours are used up",
        "recipient": "the last paid one to the same recipient is too recent",
    }
    limit = details.get("limit")
    why = limits.get(str(limit), f"over a limit ({limit})")
    return f"refused: {_send(row)}: {why}; possible again from {_time_text(details.get('retry_at'))}"


def _insufficient_credits(row: RowFacts, _: RowDetails) -> str:
    coming = f"; the next are due {_time_text(row.next_allotment_at)}" if row.next_allotment_at else ""
    return f"refused: {_send(row)}: no credits{coming}"


def _balance_not_current(row: RowFacts, details: RowDetails) -> str:
    what = f"{_send(row)}: no credits" if row.recipient_id else "more than the balance"
    return (
        f"refused, not for good: {what}, and {details.get('waited_for')} had not read what came before; may be asked"
        f" again after {details.get('retry_after_seconds')} s"
    )


_CAUSES = {"undeliverable": "could not be delivered", "responded": "was answered by its recipient"}


def _cause(details: RowDetails) -> str:
    cause = str(details.get("cause"))
    return _CAUSES.get(cause, cause)


def _reversed(row: RowFacts, details: RowDetails) -> str:
    return f"credit back for the send of line {row.reverses}: it {_cause(details)}"


def _lot_ended(row: RowFacts, details: RowDetails) -> str:
    return f"no credit back for the send of line {row.reverses}, which {_cause(details)}: lot {row.lot} has ended"


def _report_refused(why: str) -> "Phrase":
    return lambda _, details: (
        f"refused: no credit back for send {details.get('send_id')}, which {_cause(details)}: {why}"
    )


# -- grants, and the ends of lots ------------------------------------------------------------------------------------


def _period(details: RowDetails) -> str:
    return f"{details.get('plan')} of subscription {details.get('subscription_id')}"


def _granted(row: RowFacts, details: RowDetails) -> str:
    origin = details.get("origin")
    if origin == "subscription":
        why = f"{_period(details)}, period from {_time_text(details.get('period_start'))}"
    elif origin == "adjustment":
        why = f"added by {details.get('actor')}: {details.get('reason')}"
    else:
        why = f"{origin} {details.get('source_id')}"
    if "tops_up" in details:
        why = f"{why}: the difference to lot {details['tops_up']}"
    starts = details.get("granted_at")
    later = starts is not None and datetime.fromisoformat(starts) > row.as_of
    return f"{why}; can be spent from {_time_text(starts)}" if later else why


def _subscription_ended(_: RowFacts, details: RowDetails) -> str:
    subscription = details.get("subscription_id")
    if "period_start" not in details:
        return f"refused: too late to take the cancel of subscription {subscription} back: it has ended"
    return f"refused: {_period(details)}: it ends before the period from {_time_text(details['period_start'])}"


def _period_already_granted(_: RowFacts, details: RowDetails) -> str:
    by = f", by grant {details['grant_id']}" if "grant_id" in details else ""
    return f"refused: {_period(details)}: the period from {_time_text(details.get('period_start'))} has its credits{by}"


def _plan_changed(_: RowFacts, details: RowDetails) -> str:
    start = _time_text(details.get("period_start"))
    return f"changed to {_period(details)} from {start}: lot {details.get('kept_lot')} had started and stays"


def _no_credits_in_plan(_: RowFacts, details: RowDetails) -> str:
    return f"{_period(details)}: this plan gives no credits"


def _cancelled(_: RowFacts, details: RowDetails) -> str:
    end = _time_text(details.get("effective_at"))
    return f"subscription {details.get('subscription_id')} was cancelled: it ends {end}"


def _voided(_: RowFacts, details: RowDetails) -> str:
    if "grant_id" not in details and details.get("reason") == "account_erased":
        return "withdrawn: the account was erased"
    return f"withdrawn with grant {details.get('grant_id')}: {details.get('reason')}"


def _exceeds_balance(_: RowFacts, details: RowDetails) -> str:
    return (
        f"refused: {details.get('actor')} wanted to take {details.get('credits')}, more than there is:"
        f" {details.get('reason')}"
    )


def _forfeited(_: RowFacts, details: RowDetails) -> str:
    return f"lost to a change of plan: what was left of {_period(details)}"


def _cap_forfeited(_: RowFacts, details: RowDetails) -> str:
    return f"over the cap: subscription {details.get('subscription_id')} may hold {details.get('cap')}"


def _low(_: RowFacts, details: RowDetails) -> str:
    return f"notice: {details.get('threshold')} credits or fewer are left"


def _expiring_soon(row: RowFacts, details: RowDetails) -> str:
    return f"notice: {details.get('credits')} credits of lot {row.lot} expire {_time_text(row.lot_expires_at)}"


def _template(text: str) -> "Phrase":
    """Return a phrase from a template with members of the row's details."""
    return lambda _, details: text.format_map(_Members(details))


class _Members(dict[str, Any]):
    def __missing__(self, name: str) -> str:
        return f"an unknown {name}"


Phrase = Callable[[RowFacts, RowDetails], str]

_REASONS: Final[dict[str, Phrase]] = {
    "key_conflict": _template("refused: its request id was used before, for something else"),
    "account_erased": _template("refused: the account was erased"),
    "recipient_is_sender": lambda row, _: f"refused: {_send(row)}: that is the sender",
    "free": _free,
    "rate_limited": _rate_limited,
    "charged": lambda row, _: _send(row),
    "balance_not_current": _balance_not_current,
    "insufficient_credits": _insufficient_credits,
    "unknown_send": _report_refused("there is no such send"),
    "not_charged": _report_refused("it cost nothing"),
    "already_reversed": _report_refused("it was given back before"),
    "no_credit_back": _report_refused("its plan gives none back for an answer"),
    "response_too_late": _report_refused("the answer came too late"),
    "reversed": _reversed,
    "lot_ended": _lot_ended,
    "subscription_ended": _subscription_ended,
    "plan_unchanged": _template("refused: subscription {subscription_id} has the plan {plan} already"),
    "period_already_granted": _period_already_granted,
    "plan_changed": _plan_changed,
    "no_credits_in_plan": _no_credits_in_plan,
    "cancelled": _cancelled,
    "not_cancelled": _template("refused: subscription {subscription_id} has no cancel to take back"),
    "cancellation_taken_back": _template("the cancel of subscription {subscription_id} was taken back"),
    "not_sold_separately": _template("refused: purchase {source_id}: no plan of the account sells credits"),
    "granted": _granted,
    "unknown_grant": _template("refused: no grant {grant_id} to withdraw: {reason}"),
    "grant_ended": _template("refused: nothing is left of grant {grant_id} to withdraw: {reason}"),
    "voided": _voided,
    "exceeds_balance": _exceeds_balance,
    "adjusted": _template("taken by {actor}: {reason}"),
    "erased": _template("the account was erased"),
    "forfeited": _forfeited,
    "cap_forfeited": _cap_forfeited,
    "expired": lambda row, _: f"not used before {_time_text(row.lot_expires_at)}",
    "low": _low,
    "exhausted": _template("notice: no credits are left"),
    "expiring_soon": _expiring_soon,
}
