"""The table of rights on Kafka: what each command needs, and why an error of the brokers' authorizer has come.

docs/operate.md lists the same, and a test compares the two. READ and WRITE include DESCRIBE, ALTER_CONFIGS includes
DESCRIBE_CONFIGS.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import asyncpg
import structlog
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from infra.kafka.clients import NotSetUpError
from infra.kafka.cluster_queries import open_cluster_queries
from infra.kafka.hanging_transactions import TRANSACTION_STATE
from infra.kafka.rights import (
    AUTHORIZATION_ERRORS,
    MissingRightsError,
    Operation,
    Resource,
    Right,
    find_missing_rights,
    require_rights,
)
from infra.postgres import POSTGRES_ERRORS
from infra.postgres_rights import MissingPrivilegesError, explain_denial
from infra.settings import Settings
from schemas.catalogue import (
    BALANCES,
    CREDIT_EVENTS,
    DEAD_LETTERS,
    EXPIRY_TICKS,
    INPUT_TOPICS,
    SEND_RESULTS,
    TOPICS,
)
from workers.topology import GROUP_OF

__all__ = [
    "BALANCES_RIGHTS",
    "CHANGING",
    "CHECKED",
    "RIGHTS",
    "check_rights",
    "explain_refusal",
    "rights_of",
]

_ANSWER_SECONDS: Final = 5.0
_GROUPS: Final = tuple(GROUP_OF.values())
_IDS: Final = tuple(f"{group}." for group in _GROUPS)
# Errors by which the lack of a right shows that Kafka does not tell of before it is used.
_UNTOLD: Final = {
    TransactionalIdAuthorizationFailed: Resource.TRANSACTIONAL_IDS,
    ClusterAuthorizationFailedError: Resource.CLUSTER,
    TopicAuthorizationFailedError: Resource.CLUSTER,  # to create a topic
}
_READ, _WRITE, _DESCRIBE = Operation.READ, Operation.WRITE, Operation.DESCRIBE
_RESULTS: Final = (SEND_RESULTS, CREDIT_EVENTS)


def _topics(operation: Operation, *topics: str) -> tuple[Right, ...]:
    return tuple(Right(operation, Resource.TOPIC, topic) for topic in topics)


def _groups(operation: Operation) -> tuple[Right, ...]:
    return tuple(Right(operation, Resource.GROUP, group) for group in _GROUPS)


def _union(*parts: Sequence[Right]) -> tuple[Right, ...]:
    """Return the rights of several commands, without those that another includes."""
    together = dict.fromkeys(right for part in parts for right in part)
    wide = {(right.resource, right.name) for right in together if right.operation in (_READ, _WRITE)}
    return tuple(
        right for right in together if right.operation is not _DESCRIBE or (right.resource, right.name) not in wide
    )


_OWNERS: Final = tuple(Right(_WRITE, Resource.TRANSACTIONAL_IDS, prefix) for prefix in _IDS)
_WORKER: Final = (
    *_topics(_READ, *INPUT_TOPICS),
    *_groups(_READ),
    *_topics(_WRITE, *_RESULTS, DEAD_LETTERS),
    *_topics(_READ, *_RESULTS, DEAD_LETTERS),  # which answers can be read already, when a committed offset is in doubt
    *_OWNERS,
)
_TICKER: Final = _topics(_WRITE, EXPIRY_TICKS)
_PLAN: Final = (
    *_topics(_DESCRIBE, *TOPICS),
    *_topics(Operation.DESCRIBE_CONFIGS, *TOPICS),
    *_groups(_DESCRIBE),
)
_APPLY: Final = (
    *_topics(Operation.ALTER_CONFIGS, *TOPICS),
    *_topics(_READ, *INPUT_TOPICS),
    *_topics(_DESCRIBE, *_RESULTS, DEAD_LETTERS),
    *_groups(_READ),
    Right(Operation.CREATE, Resource.CLUSTER),
)
_LAG: Final = (*_topics(_READ, *INPUT_TOPICS), *_groups(_DESCRIBE))
_LETTERS: Final = _topics(_READ, DEAD_LETTERS)
_REDRIVE: Final = (*_LETTERS, *_topics(_WRITE, *INPUT_TOPICS))
_REWIND: Final = (*_topics(_READ, *INPUT_TOPICS), *_groups(_READ), *_OWNERS)
_REEMIT: Final = _topics(_WRITE, *_RESULTS)
_TRACE: Final = _topics(_READ, *TOPICS)
_STAND: Final = (*_topics(_DESCRIBE, *INPUT_TOPICS), *_groups(_DESCRIBE))
_HANGING: Final = (
    *_topics(_READ, *TOPICS),
    *(Right(_DESCRIBE, Resource.TRANSACTIONAL_IDS, prefix) for prefix in _IDS),
)
_CONSOLE: Final = _union((*_TRACE, *_groups(_DESCRIBE)), _PLAN)

# By command. One that is not here needs no right on Kafka, as `api`, `balance` and `audit`.
RIGHTS: Final[Mapping[str, Sequence[Right]]] = {
    "worker": _WORKER,
    "worker ticker": _TICKER,
    "topics plan": _PLAN,
    "topics apply": _APPLY,
    "doctor": (*_WORKER, *_TICKER),
    "publish": _topics(_WRITE, *INPUT_TOPICS),
    "results": _topics(_READ, *_RESULTS),
    "lag": _LAG,
    "metrics": (*_topics(_DESCRIBE, *INPUT_TOPICS), *_groups(_DESCRIBE)),
    "trace": _TRACE,
    "dead-letters list": _LETTERS,
    "dead-letters show": _LETTERS,
    "dead-letters redrive": _REDRIVE,
    "replay rewind": _REWIND,
    "replay skip": _STAND,
    "replay reemit": _REEMIT,
    "replay balances": _topics(_WRITE, BALANCES),
    "prune": (*_topics(_DESCRIBE, EXPIRY_TICKS), *_groups(_DESCRIBE)),
    "replay rebuild": _topics(_READ, *INPUT_TOPICS),
    "replay shadow": _topics(_READ, *INPUT_TOPICS),
    "shards add": _groups(_DESCRIBE),
    "shards move": _STAND,
    "transactions list": _HANGING,
    "transactions end": (
        *_HANGING,
        *_topics(_DESCRIBE, TRANSACTION_STATE),  # whether each coordinator could be asked
        Right(Operation.ALTER, Resource.CLUSTER),
    ),
    "console": _CONSOLE,
    "console operator": _union(_CONSOLE, _REDRIVE, _REWIND, _REEMIT),
}
# What some need beside, where the topic of balances is switched on.
BALANCES_RIGHTS: Final[Mapping[str, Sequence[Right]]] = {
    "worker": _topics(_WRITE, BALANCES),
    "topics plan": (*_topics(_DESCRIBE, BALANCES), *_topics(Operation.DESCRIBE_CONFIGS, BALANCES)),
    "topics apply": (*_topics(_DESCRIBE, BALANCES), *_topics(Operation.ALTER_CONFIGS, BALANCES)),
    "doctor": (*_topics(_READ, BALANCES), *_topics(_WRITE, BALANCES)),  # it asks for open transactions there, too
    "transactions list": _topics(_READ, BALANCES),
    "transactions end": _topics(_READ, BALANCES),
    "console": (*_topics(_READ, BALANCES), *_topics(Operation.DESCRIBE_CONFIGS, BALANCES)),
    "console operator": (*_topics(_READ, BALANCES), *_topics(Operation.DESCRIBE_CONFIGS, BALANCES)),
}
# Commands that ask for their rights before they begin: those that change something, and one that would draw a false
# plan from what it is not shown.
CHECKED: Final = frozenset(
    {"topics plan", "topics apply", "dead-letters redrive", "replay rewind", "replay skip", "replay reemit", "lag"}
    | {"prune", "replay balances", "shards add", "shards move"}
    | {"transactions list", "transactions end"}
)
# Commands that write to the ledger's database: what they need there beside SELECT is told with what they lack. Some of
# them need no right on Kafka.
CHANGING: Final = frozenset(
    {
        "audit",
        "clock accept",
        "clock set-aside",
        "clock set-back",
        "prune",
        "replay rebuild",
        "replay shadow",
        "console operator",
    }
    | {"topics apply", "dead-letters redrive", "replay rewind", "replay skip", "replay reemit", "replay balances"}
    | {"transactions end"}
)


def rights_of(command: str, settings: Settings) -> tuple[Right, ...]:
    """Return the rights on Kafka that a command needs, given what is switched on."""
    return (*RIGHTS[command], *(BALANCES_RIGHTS.get(command, ()) if settings.balances_topic else ()))


async def check_rights(settings: Settings, command: str) -> None:
    """Check that the user has the rights on Kafka that a command needs.

    Raises:
        MissingRightsError: naming those that it lacks.
        KafkaError: when the cluster cannot be reached.

    """
    await require_rights(settings, rights_of(command, settings), _purpose(command))


# What operators need in Postgres beside SELECT, by table. docs/operate.md has the statements that grant it.
_OPERATORS_PRIVILEGES: Final[Mapping[str, Sequence[str]]] = {
    "operations": ("insert", "update"),
    "redriven": ("insert", "update", "delete"),
    "clock_decisions": ("insert", "update", "delete"),
    "clock_set_backs": ("insert",),
    "lanes": ("update",),
    "ticks": ("delete",),
    "audits": ("insert",),
    "audited_accounts": ("insert", "update", "delete"),
}


async def explain_refusal(
    error: BaseException, read_settings: Callable[[], Settings], command: str
) -> MissingRightsError | MissingPrivilegesError | None:
    """Return which right of a command the user lacks; None where the error has another cause, or no server tells.

    A topic that the user may not describe looks as if it did not exist.
    """
    causes = list(_causes(error))
    denied = next((each for each in causes if isinstance(each, asyncpg.InsufficientPrivilegeError)), None)
    if denied is not None and not command.startswith("worker"):  # a worker has a role, whose rights `migrate` gives
        return await _explain_denial(denied, read_settings(), changes=command in CHANGING)
    if command not in RIGHTS or not any(isinstance(each, (*AUTHORIZATION_ERRORS, NotSetUpError)) for each in causes):
        return None
    settings = read_settings()
    needed = rights_of(command, settings)
    try:
        async with asyncio.timeout(_ANSWER_SECONDS), open_cluster_queries(settings) as lookup:
            missing = await find_missing_rights(lookup, needed)
    except (KafkaError, OSError) as silent:
        structlog.get_logger("inmail").debug("rights_not_known", error=repr(silent))
        return None
    for kind, resource in _UNTOLD.items():
        if not missing and any(isinstance(each, kind) for each in causes):
            missing = [right for right in needed if right.resource is resource]
    return MissingRightsError(settings, missing, _purpose(command)) if missing else None


async def _explain_denial(
    error: asyncpg.InsufficientPrivilegeError, settings: Settings, *, changes: bool
) -> MissingPrivilegesError | None:
    privileges = _OPERATORS_PRIVILEGES if changes else {}
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await explain_denial(error, settings, privileges)
    except POSTGRES_ERRORS as silent:
        structlog.get_logger("inmail").debug("rights_not_known", error=repr(silent))
        return None


def _purpose(command: str) -> str:
    return f"`inmail {command}`"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # one that is raised from itself is its own cause
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
