"""Which statement of the ledger takes Postgres long, among the sessions that the question about locks returns.

Only statements that write: a lane's batch is one. What waits for a lock is told by who holds that, and not here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["slow_statement"]

_SECONDS: Final = 3.0  # a batch takes a fraction of a second
_OURS: Final = "inmail"  # how names of our applications begin (infra/postgres.py)


def slow_statement(sessions: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the ledger's longest running statement in words; None where none has run for more than 3 s.

    Args:
        sessions: rows of the question about locks (infra/postgres_locks.py).

    """
    running = [(_age(row), row) for row in sessions if _is_running(row)]
    if not running:
        return None
    seconds, row = max(running, key=lambda each: each[0])
    if seconds < _SECONDS:
        return None
    waits = f", waits for {row['wait_event_type']} {row['wait_event']}" if row["wait_event"] else ""
    return f"a statement of the ledger has run in Postgres for {seconds:.0f} s (pid {row['pid']}{waits})"


def _is_running(row: Mapping[str, Any]) -> bool:
    return row["application"].startswith(_OURS) and row["state"] == "active" and not row["blocked_by"]


def _age(row: Mapping[str, Any]) -> float:
    """Return for how long a session is active, in seconds."""
    since = row["state_change"]
    return 0.0 if since is None else float((row["now"] - since).total_seconds())
