"""The states, in the order in which they are caused, and what counts as right on each surface."""

from typing import Final

from tests.states import causes
from tests.states.surfaces import ALERTS, COMMAND, CONSOLE, ENDPOINT, LOG, METRICS, READYZ
from tests.states.timeline import Right
from tests.states.world import State

__all__ = ["STATES"]

_LAG: Final = (COMMAND, ENDPOINT, METRICS)


def _lag(word: str, subject: str = "inmail-send") -> dict[str, Right]:
    return {surface: Right(subject, word) for surface in _LAG}


_GONE: Final = Right("send", "no answer")
_GROUP: Final = "InmailGroup(Stands|Blocked) inmail-send"
_DOWN: Final = Right(f"InmailProcessDown send:8080|{_GROUP}", "firing")
_NOT_READY: Final = Right(f"InmailWorkerNotReady send:8080|{_GROUP}", "firing")
_NO_LAG: Final = "a worker is well: who wrote is not its trouble"
_DEAD: Final = "a process that is dead or frozen says nothing"
_GETS_ON: Final = "it gets on: slowness is told by lag"


def _headline(kind: str, title: str) -> Right:
    """Return what the console has to say first. Numbers are N."""
    return Right("headline", f"{kind}, {title}")


def _logs(event: str) -> Right:
    return Right(f"send {event}", "logged")


_ABSENT: Final = _headline("failed", "The send worker (is stopped|does not answer|makes no progress)")

STATES: Final = (
    State(
        "idle producers", "nothing is published but ticks", "the load goes on", causes.idle,
        least_seconds=45.0,
        silent=dict.fromkeys((*_LAG, READYZ, LOG, CONSOLE, ALERTS), "every word has to stay calm"),
    ),
    State(
        "worker stopped", "SIGTERM to the send worker", "another is started", causes.stopped,
        {**_lag("STOPPED"), READYZ: _GONE, LOG: _logs("worker_stopped"),
         CONSOLE: _headline("failed", "The send worker (is stopped|does not answer)"), ALERTS: _DOWN},
    ),
    State(
        "worker killed", "`kill -9` of the send worker; its session lasts 30 s", "another is started", causes.killed,
        {**_lag("STALLED|STOPPED"), READYZ: _GONE, CONSOLE: _ABSENT, ALERTS: _DOWN}, silent={LOG: _DEAD},
    ),
    State(
        "worker killed, started again", "`kill -9` of the send worker; another is started at once", "its session ends",
        causes.killed_and_restarted,
        {**_lag("STALLED|STOPPED"), READYZ: Right("send", "not ready"),
         CONSOLE: _headline("(warning|failed)", "The send worker (is not ready|makes no progress|joins its group)")},
        silent={LOG: _DEAD, ALERTS: "it is over sooner than somebody would be called"},
    ),
    State(
        "worker frozen", "SIGSTOP to the send worker", "SIGCONT", causes.frozen,
        {**_lag("STALLED|STOPPED"), READYZ: _GONE, CONSOLE: _ABSENT, ALERTS: _DOWN}, silent={LOG: _DEAD},
    ),
    State(
        "database slow", "a trigger that sleeps 1 s for each row of the journal", "the trigger is dropped", causes.slow,
        {**_lag("SLOW|STALLED"),
         CONSOLE: _headline("(warning|failed)", "The send worker (is slower than its.*|makes no progress)")},
        silent={READYZ: _GETS_ON, LOG: _GETS_ON,
                ALERTS: "a reader that gets on calls somebody once it is a minute behind for five (`InmailBehind`)"},
    ),
    State(
        "database locked", "a session holds a lock on the table `accounts`", "its connection is closed", causes.locked,
        {**_lag("LOCKED"), READYZ: Right("send", "not ready"), LOG: _logs("lock_in_the_way"),
         CONSOLE: _headline("failed", "Session N in Postgres holds a lock that the workers need"), ALERTS: _NOT_READY},
    ),
    State(
        "observer restarted", "`lag --serve` is stopped and started while a lock stalls the workers",
        "the lock's connection is closed", causes.observer_again,
        {ENDPOINT: Right("inmail-send", "LOCKED"), METRICS: Right("inmail-send", "LOCKED")},
        silent=dict.fromkeys((COMMAND, READYZ, LOG, CONSOLE, ALERTS), "it does not go through that observer"),
        may_speak=frozenset((COMMAND, READYZ, LOG, CONSOLE, ALERTS)),  # of the lock
        most_seconds=60.0,
    ),
    State(
        "transaction open", "a producer begins, writes to each partition of the requests, and does not end",
        "it aborts", causes.held,
        {**_lag("HELD"),
         CONSOLE: _headline("warning", "The send worker cannot read on before a producer ends its transaction"),
         ALERTS: Right(_GROUP, "firing")},
        silent={READYZ: _NO_LAG, LOG: _NO_LAG},
    ),
    State(
        "database away", "SIGQUIT to the database server", "it is started again", causes.database_away,
        {**_lag("not readable", "books"), READYZ: Right("send", "not ready"), LOG: _logs("lanes?_begins?_again"),
         CONSOLE: _headline("failed", "Postgres does not answer"), ALERTS: _NOT_READY},
    ),
    State(
        "group rewound", "`inmail replay rewind send` by 120,000 records, and the worker is started",
        "the worker has read them again", causes.rewound,
        {**_lag("REWOUND"), CONSOLE: _headline("warning", "The send worker reads records again")},
        silent={READYZ: _NO_LAG, LOG: _NO_LAG, ALERTS: "an operator did it, and it passes"},
        may_speak=frozenset((READYZ, LOG)),  # of the worker, which is stopped for it
        most_seconds=40.0,
    ),
    State(
        "poison", "40 records that are not JSON", "nothing ends it, they stay dead letters", causes.poison,
        {METRICS: Right("dead letters", "some"), LOG: _logs("dead_letter"),
         CONSOLE: _headline("(warning|failed)", "N dead letters in the last N minutes"),
         ALERTS: Right("InmailDeadLetters send", "firing as a ticket")},
        silent={COMMAND: "they are read", ENDPOINT: "they are read", READYZ: "it gets on"}, calm_seconds=30.0,
    ),
    State(
        "breaker", "1,500 records that are not JSON: the worker ends", "one is started that lets them through",
        causes.breaker,
        {**_lag("PAUSED"), READYZ: _GONE, LOG: _logs("says"),
         CONSOLE: _headline("failed", "The send worker is paused until an operator decides"), ALERTS: _DOWN},
    ),
    State(
        "one of two databases away", "SIGQUIT to the second of two Postgres servers", "it is started again",
        causes.server_away,
        {**_lag("not readable", "books"), READYZ: Right("send-pg2", "not ready"),
         LOG: Right("send-pg2 lanes?_begins?_again", "logged"),
         CONSOLE: _headline("failed", "Postgres at N.N.N.N:N/inmail does not answer"),
         ALERTS: Right(f"InmailWorkerNotReady send-pg2:8080|{_GROUP}", "firing")},
        databases=2,
    ),
)  # fmt: skip
