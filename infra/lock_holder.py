"""A session that keeps others waiting in Postgres, in words: who, what it holds, since when, and how to end it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

__all__ = ["LockHolder"]


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A session that keeps sessions of the ledger waiting, or that will keep whoever needs its rows."""

    pid: int  # 0: a prepared transaction, which has no session
    user: str | None = None
    application: str = ""
    client: str | None = None
    state: str | None = None  # as pg_stat_activity calls it; None: not visible to who asks
    since: datetime | None = None  # when its transaction began; None: not visible
    seconds: float | None = None  # and for how long it lasts
    tables: tuple[str, ...] = ()  # of the ledger, which it has locked as a whole
    rows_of: tuple[str, ...] = ()  # of which it has locked rows
    waiting: int = 0  # sessions of the ledger that wait for it now
    waiting_seconds: float = 0.0  # for which the longest of them waits, its tries that gave up included where seen
    missing: str = ""  # what would have to be granted to see the rest
    server: str = ""  # on which Postgres server, where several hold the books

    @property
    def blocks(self) -> bool:
        """Whether work waits for it for certain; otherwise only what needs the same rows does."""
        return bool(self.waiting or self.tables)

    @property
    def text(self) -> str:
        """Who it is, what it holds and since when, in a sentence."""
        if not self.pid:
            return f"a prepared transaction (see pg_prepared_xacts){self._on()} {self._effect()}"
        client = f" from {self.client}" if self.client else ""
        who = f"pid {self.pid} (user {self.user or '?'}, {self.application or 'no application name'}{client})"
        hidden = f"; its state is hidden: {self.missing}" if self.state is None and self.missing else ""
        return f"{who}{self._on()}, {self._lasts()}, {self._effect()}{hidden}"

    @property
    def do(self) -> str:
        """What an operator can do."""
        if not self.pid:
            return "find it in pg_prepared_xacts, then `commit prepared` or `rollback prepared`"
        return f"end its transaction where it runs, or as a superuser `select pg_terminate_backend({self.pid})`"

    @property
    def session(self) -> str:
        """Its number, what it does and since when: what may be told to whoever has no part in the database.

        No name of a user, of a host or of an application, and nothing of what it holds.
        """
        return f"pid {self.pid}, {self._lasts()}" if self.pid else "a prepared transaction"

    def _on(self) -> str:
        return f" on {self.server}" if self.server else ""

    def _lasts(self) -> str:
        if self.state is None:
            return "in a state that is not visible"
        if self.since is None:
            return self.state
        return f"{self.state} since {self.since:%Y-%m-%d %H:%M:%S} UTC ({self.seconds or 0:.0f} s)"

    def _effect(self) -> str:
        held = f"a lock on {', '.join(self.tables)}" if self.tables else "a lock"
        if not self.tables and self.rows_of:
            held = f"rows of {', '.join(self.rows_of)}"
        if not self.waiting:
            return f"holds {held}" if self.tables else f"holds {held}: what needs them waits"
        who = "1 session of the ledger waits" if self.waiting == 1 else f"{self.waiting} sessions of the ledger wait"
        return f"holds {held}: {who}, for {self.waiting_seconds:.0f} s"

    def summary(self) -> dict[str, Any]:
        """Return it for JSON."""
        names = ("pid", "user", "application", "client", "state", "since", "seconds", "tables", "rows_of", "waiting")
        told = {name: getattr(self, name) for name in names}
        return {
            **told,
            "waiting_seconds": self.waiting_seconds,
            "blocks": self.blocks,
            "text": self.text,
            "do": self.do,
            **({"server": self.server} if self.server else {}),
        }
