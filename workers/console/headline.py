"""What an operator should know first: of all parts of the system the one whose trouble is worst, by one table.

A trouble stands above what it causes: a server that is away above the workers that wait for it, a lock above the lanes
that it holds, a lane that cannot go on above lag, and any of them above a worker that waits for another.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from workers.console.health import FAILED, OK, UNKNOWN, SystemPart

__all__ = ["CAUSES", "headline", "rank", "title_of"]

# The causes of all parts, the worst first, each with its headline about a {part}. What a page alone can see, a lost
# connection, stands above all of them.
CAUSES: Final[Mapping[str, str]] = {
    "no answer": "{part} does not answer",  # a server
    "refused": "{part} refuses what the console asks",  # a server that answers: a lock, a missing table or right
    "named twice": "{part} is another server's address",
    "named alone": "{part} is one server of several",
    "unheld": "{part} are held by no server, or by two",
    "not set up": "{part} has no topic to read",
    "locked": "{part} waits for a lock in Postgres",  # somebody's transaction keeps what the ledger needs
    "recreated": "{part} reads a topic that was deleted and created again",
    "beyond end": "{part} has an offset beyond the end of its topic",
    "beyond books": "{part} has an offset beyond what the ledger has read",
    "halted": "{part} has a lane that cannot continue by itself",  # an operator has to decide about it
    "ended by the breaker": "{part} was ended by its circuit breaker",
    "paused": "{part} is paused until an operator decides",
    "expired": "{part} has lost its offset in Kafka",
    "never committed": "{part} has no offset in Kafka",
    "out of balance": "{part} do not balance",
    "ended": "{part} ended by itself",
    "stopped": "{part} is stopped",
    "not answering": "{part} does not answer",  # its probe
    "unknown": "{part} has a partition that no broker leads",
    "stalled": "{part} makes no progress",
    "not ready": "{part} is not ready",
    "many arriving": "{part} are arriving",
    "arriving": "{part} are arriving",
    "held": "{part} cannot read on before a producer ends its transaction",
    "slow": "{part} is slower than its records arrive",
    "behind": "{part} is behind, and catches up",
    "rewound": "{part} reads records again",
    "rows locked": "{part} has rows locked",
    "draining": "{part} is finishing what it holds",
    "waiting": "{part} waits for another worker",  # which has a trouble of its own, or will have
    "not allowed": "{part} does not let this console see all groups",
    "not known": "{part} cannot be judged",
    "not checked": "{part} could not be checked",
    "not counted": "{part} are not counted",
}
_RANKS: Final[Mapping[str, int]] = {cause: place for place, cause in enumerate(CAUSES)}
_KINDS: Final[Mapping[str, int]] = {FAILED: 0, "warning": 1, UNKNOWN: 2}
_NAMES: Final = frozenset({"Kafka", "Postgres", "Dead letters", "Partitions"})


def rank(parts: Sequence[SystemPart]) -> list[SystemPart]:
    """Return the parts that are not well, the worst first: what failed, then by cause, servers before workers.

    What merely warns never stands above what failed, whatever the cause.
    """
    unwell = [(place, part) for place, part in enumerate(parts) if part.status != OK]
    unwell.sort(key=lambda each: (_KINDS[each[1].status], _RANKS.get(each[1].cause, len(_RANKS)), each[0]))
    return [part for _, part in unwell]


def title_of(part: SystemPart) -> str:
    """Return what happened, in a short sentence. A worker and the ticker have an article; servers are names."""
    if part.title:
        return part.title
    name = part.name if part.name in _NAMES else f"The {part.name.lower()}"
    return CAUSES.get(part.cause, f"{{part}}: {part.cause}").format(part=name)


def headline(parts: Sequence[SystemPart]) -> dict[str, Any]:
    """Return the worst trouble with what to do, and the others in a few words, for JSON."""
    ranked = rank(parts)
    if not ranked:
        kind, title = (OK, "All parts work.") if parts else (UNKNOWN, "Nothing is known yet.")
        return {"kind": kind, "title": title, "text": "", "do": "", "since": None, "also": []}
    worst, others = ranked[0], ranked[1:]
    return {
        "kind": worst.status,
        "title": title_of(worst),
        "text": worst.text,
        "do": worst.do,
        "since": worst.since,
        "also": [title_of(part) for part in others],
    }
