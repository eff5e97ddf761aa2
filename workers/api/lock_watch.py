"""Whether somebody's lock in Postgres is what the API's reads wait for, and whose it is.

A client is told the session's number, its state and since when: enough to tell the operator which one it is. The
names of users, hosts and applications, the tables, and how to end the session describe the inside of the database: a
client can do nothing with them, and whoever got hold of a token could. They are in the log and in /readyz, which
operators read.
"""

import asyncio
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, NoReturn

import structlog

from infra.lock_holder import LockHolder
from infra.postgres_locks import ask_lock_holders
from infra.settings import Settings

__all__ = ["ReadLockWatch"]

_ASK_AFTER_SECONDS: Final = 1.0  # of a read: it needs no row lock, so that no other read or worker keeps it for long
_LOOK_SECONDS: Final = 0.25
_PAUSES_AT_MOST: Final = 5  # times the first pause: 5 s
_KNOWN_SECONDS: Final = 8.0  # after somebody was seen: for longer than until the next answer
_OURS: Final = "inmail api"  # application_name of the API's sessions (infra/postgres.py)


@dataclass(slots=True)
class ReadLockWatch:
    """Asks who holds what reads wait for, while one waits.

    Over a connection of its own: those of the pool may all be waiting. And before the read's time is up: afterwards
    nobody waits any more, and who was waited for cannot be told from who merely holds a lock.
    """

    settings: Settings
    _began: dict[object, float] = field(default_factory=dict, init=False)  # of the reads under way, the oldest first
    _seen: tuple[float, LockHolder] | None = field(default=None, init=False)
    _told: int | None = field(default=None, init=False)  # pid of the holder that the log has
    _answer: int | None = field(default=None, init=False)  # the last one: a holder's pid, None: nobody

    def begin(self) -> object:
        """Note that a read begins; `end` takes what this returns."""
        token = object()
        self._began[token] = monotonic()
        return token

    def end(self, token: object) -> None:
        """Note that a read has ended, however."""
        del self._began[token]

    @property
    def holder(self) -> LockHolder | None:
        """Who keeps reads waiting, or did a moment ago."""
        if self._seen is None or monotonic() - self._seen[0] > _KNOWN_SECONDS:
            return None
        return self._seen[1]

    async def watch(self) -> NoReturn:
        """Look for reads that wait, and ask who keeps them.

        Each question is a connection, to a server that may be slow for want of them: while the answer stays the same,
        the pause before the next one doubles, from one second to five.
        """
        ask_after = min(_ASK_AFTER_SECONDS, self.settings.api_timeout_seconds / 2)
        pause, next_at = ask_after, 0.0
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, ask_after / 4))
            oldest = next(iter(self._began.values()), None)
            if oldest is not None and monotonic() - oldest > ask_after and monotonic() >= next_at:
                if not await self._has_same_answer(ask_after / 2):
                    pause = ask_after
                next_at = monotonic() + pause
                pause = min(2 * pause, _PAUSES_AT_MOST * ask_after)
            self._tell(self.holder)

    async def _has_same_answer(self, wait_seconds: float) -> bool:
        """Ask who keeps sessions waiting for so long; tell whether it is the same as at the last time."""
        holders = await ask_lock_holders(self.settings, _OURS, wait_seconds)
        # The first is the one that most wait for; one that nobody waits for is no cause.
        holder = holders[0] if holders and holders[0].waiting else None
        if holder is not None:
            self._seen = monotonic(), holder
        before, self._answer = self._answer, None if holder is None else holder.pid
        return before == self._answer

    def _tell(self, holder: LockHolder | None) -> None:
        """Log a holder once, and once that it is gone."""
        pid = None if holder is None else holder.pid
        if pid == self._told:
            return
        log = structlog.get_logger("inmail.api")
        if holder is None:
            log.info("lock_gone", pid=self._told)
        else:
            log.warning("lock_in_the_way", holder=holder.text, hint=holder.do)
        self._told = pid
