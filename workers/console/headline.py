"""What an operator should know first: of all parts of the system the one whose trouble is worst, by one table.

A trouble stands above what it causes: a server that is away above the workers that wait for it, a lock above the lanes
that it holds, a lane that cannot go on above lag.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from workers.console.health import FAILED, OK, UNKNOWN, SystemPart

__all__ = ["CAUSES", "headline", "rank"]

# The causes of all parts, the worst first. What a page alone can see, a lost connection, stands above all of them.
CAUSES: Final[Sequence[str]] = (
    "no answer",  # of a server
    "not set up",
    "locked",  # somebody's transaction keeps what the ledger needs
    "recreated",
    "beyond end",
    "beyond books",
    "halted",  # a lane that an operator has to decide about
    "ended by the breaker",
    "paused",
    "expired",
    "never committed",
    "books do not balance",
    "ended",
    "stopped",
    "unknown",  # nobody leads a partition
    "stalled",
    "not ready",
    "many dead letters",
    "dead letters",
    "held",
    "waiting",
    "slow",
    "behind",
    "rewound",
    "rows locked",
    "draining",
    "not known",
    "not checked",  # the books
)
_KINDS: Final[Mapping[str, int]] = {FAILED: 0, "warning": 1, UNKNOWN: 2}


def rank(parts: Sequence[SystemPart]) -> list[SystemPart]:
    """Return the parts that are not well, the worst first: what failed, then by cause, servers before workers.

    What merely warns never stands above what failed, whatever the cause.
    """
    unwell = [(place, part) for place, part in enumerate(parts) if part.status != OK]
    unwell.sort(key=lambda each: (_KINDS[each[1].status], _place_of(each[1].cause), each[0]))
    return [part for _, part in unwell]


def _place_of(cause: str) -> int:
    return CAUSES.index(cause) if cause in CAUSES else len(CAUSES)


def headline(parts: Sequence[SystemPart]) -> dict[str, Any]:
    """Return the worst trouble with what to do, and the others in a few words, for JSON."""
    ranked = rank(parts)
    if not ranked:
        kind, title = (OK, "All parts work.") if parts else (UNKNOWN, "Nothing is known yet.")
        return {"kind": kind, "title": title, "text": "", "do": "", "since": None, "also": []}
    worst, others = ranked[0], ranked[1:]
    return {
        "kind": worst.status,
        "title": f"{worst.name}: {worst.cause}",
        "text": worst.text,
        "do": worst.do,
        "since": worst.since,
        "also": [f"{part.name}: {part.cause}" for part in others],
    }
