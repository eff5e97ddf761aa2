"""Forms of the ledger's SQL that are known to be broken, as what they have instead. Races must be lost on them."""

import re
from typing import NamedTuple

from tests.conftest import FUNCTIONS

__all__ = ["BROKEN", "DEADLOCKING", "NEWCOMERS_DEADLOCK", "Form", "sql_of"]


class Edit(NamedTuple):
    """A text of a function's file, which is there once, and what the broken form has instead. White space is free."""

    file: str
    text: str
    instead: str = ""

    def __str__(self) -> str:
        pattern = r"\s+".join(map(re.escape, self.text.split()))
        changed, times = re.subn(pattern, lambda _: self.instead, (FUNCTIONS / self.file).read_text())
        assert times == 1, f"{self.file} has {self.text!r} {times} times: write the form anew"
        return changed


Form = tuple[Edit | str, ...]


def sql_of(form: Form) -> str:
    """Return what turns a ledger into a broken form of itself."""
    return "\n".join(map(str, form))


BATCH_UNLOCKED = Edit("lock_accounts.sql", "for no key update")
TICK_UNLOCKED = Edit("expire.sql", "for no key update")

# The lock as a statement of the debit's own.
LOCK = "perform from accounts as x where x.account = any(p_accounts) order by x.account for no key update;"

BROKEN: dict[str, Form] = {
    "nothing is locked": (BATCH_UNLOCKED, TICK_UNLOCKED),
    "a tick does not lock": (TICK_UNLOCKED,),
    "accounts are locked once their lots were read": (
        BATCH_UNLOCKED,
        Edit("debit.sql", "lot_remaining_before := lot_remaining;", f"lot_remaining_before := lot_remaining; {LOCK}"),
    ),
    "accounts are locked once earlier answers were looked for": (
        BATCH_UNLOCKED,
        Edit(
            "debit.sql",
            "begin select array_agg(x.account)",
            f"begin {LOCK} select array_agg(x.account)",
        ),
        "drop index journal_outcomes;",
    ),
    "ended lots are not read again once they are locked": (
        Edit("expire.sql", "where l.open and l.expires_at <= p_horizon )", ")"),
    ),
    "lots to announce are not read again once they are locked": (
        Edit("expire.sql", "l.open and not l.warned and l.granted_at <= p_horizon", "l.granted_at <= p_horizon"),
    ),
    # What a period writes first excludes others by itself, so this one reads before it.
    "room is made below a cap before anything is written, and nothing is locked": (
        BATCH_UNLOCKED,
        Edit(
            "grant_period.sql",
            "perform note_period(",
            """return query select * from cut_to_cap(
                r, p.subscription_id, p.balance_cap - p.credits, r.as_of, r.as_of
            );
            perform note_period(""",
        ),
    ),
    # Where only the lock is missing, the key refuses what would be done twice: the race ends in an error.
    "nothing is locked and a period is no key": (BATCH_UNLOCKED, "drop index lots_one_per_period;"),
    "nothing is locked and a reversal is no key": (BATCH_UNLOCKED, "drop index journal_one_reversal;"),
}

DEADLOCKING: dict[str, Form] = {
    "accounts are locked in any order": (Edit("lock_accounts.sql", "order by a.account for", "order by random() for"),),
    "a tick locks the last account first": (
        Edit("expire.sql", "order by a.account for", "order by a.account desc for"),
    ),
}
NEWCOMERS_DEADLOCK: Form = (Edit("lock_accounts.sql", "order by unknown.account_id", "order by random()"),)
