"""The one table of known errors: each kind with its exit code, its HTTP status, its code and its sentence.

The command line and the console answer from this table, so that an error has the same sentence in both. A sentence
contains no secret: of an address it shows the host and the port.
"""

import errno
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Final, NamedTuple

import asyncpg
from aiokafka.errors import KafkaConnectionError, KafkaError, NoBrokersAvailable

from infra.kafka.clients import NotSetUpError
from infra.kafka.permanent_errors import operator_hint
from infra.kafka.rights import MissingRightsError, user_of
from infra.local.errors import LocalStackError
from infra.migrate import MigrationError
from infra.output import UnwritableOutputError
from infra.postgres import database_address, is_transient, login_hint
from infra.postgres_rights import MissingPrivilegesError
from infra.settings import Settings, SettingsError
from infra.waiting import NoAnswerError
from workers.errors import BreakerError, ChildError, LaneError, WorkerError
from workers.ledger.plans import CatalogueError
from workers.ops.books.audit_mark import AuditUnderWayError
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.books.shards import NotHeldError, ServerError, server_name
from workers.ops.books.snapshot import is_unmigrated
from workers.ops.dead_letters.letters import NoSuchDeadLetterError
from workers.ops.operations import NoSuchOperationError, RefusedError
from workers.ops.shards.servers import UnreachableServerError
from workers.ops.topics.plan import TopicsError

__all__ = ["ERROR_TABLE", "KNOWN_ERRORS", "ErrorAnswer", "ErrorKind", "Exit", "explain"]


class Exit(IntEnum):
    """The exit codes of every command, as `inmail --help` lists them."""

    DONE = 0
    NO = 1
    WRONG_USAGE = 2
    UNREACHABLE = 3
    UNDECIDABLE = 65  # sysexits' EX_DATAERR: a supervisor must not start the worker again by itself
    BROKEN = 70  # sysexits' EX_SOFTWARE, so that a process supervisor can distinguish a defect from a refusal
    TRY_LATER = 75  # sysexits' EX_TEMPFAIL: a scheduler runs the same command again, as nothing is wrong
    INTERRUPTED = 130


class ErrorAnswer(NamedTuple):
    """The answer to one error."""

    exit: Exit
    status: int  # of HTTP
    code: str  # for programs
    text: str  # for people
    unexpected: bool  # a defect may be the cause: show the traceback too
    hint: str | None  # what to do, for programs that show it apart; the text may say it too


ReadSettings = Callable[[], Settings]


class ErrorKind(NamedTuple):
    """One row of the table: the errors of some classes that meet a condition."""

    classes: tuple[type[BaseException], ...]
    exit: Exit
    status: int
    code: str
    describe: Callable[[Any, ReadSettings], str] = lambda error, _: str(error) or type(error).__name__
    applies: Callable[[Any], bool] | None = None
    unexpected: bool = False
    hint: Callable[[Any], str | None] | str | None = None


def explain(error: BaseException, read_settings: ReadSettings) -> ErrorAnswer | None:
    """Return the answer to a known error; None for any other.

    Args:
        error: the error.
        read_settings: returns the settings whose addresses the sentence names; called only if it names any.

    """
    if isinstance(error, ServerError):
        server, answer = error.settings, explain(error.error, lambda: error.settings)
        if answer is None or database_address(server) in answer.text:
            return answer
        return answer._replace(text=f"Postgres at {server_name(server)}: {answer.text}")
    for kind in ERROR_TABLE:
        if isinstance(error, kind.classes) and (kind.applies is None or kind.applies(error)):
            text = "; ".join([kind.describe(error, read_settings), *_notes(error)])
            hint = kind.hint(error) if callable(kind.hint) else kind.hint
            return ErrorAnswer(kind.exit, kind.status, kind.code, text, kind.unexpected, hint)
    return None


def _notes(error: BaseException) -> Iterator[str]:
    """Yield what was added to an error on its way, or to the one that it explains."""
    cause: BaseException | None = error
    while cause is not None:
        yield from getattr(cause, "__notes__", ())
        cause = cause.__cause__


def _kafka_unreachable(_: KafkaError, read_settings: ReadSettings) -> str:
    servers = read_settings().kafka_bootstrap_servers
    return f"Kafka cannot be reached at {servers}: is it running, and is INMAIL_KAFKA_BOOTSTRAP_SERVERS right?"


def _kafka_refused(error: KafkaError, read_settings: ReadSettings) -> str:
    servers = (settings := read_settings()).kafka_bootstrap_servers
    if (words := operator_hint(error)) is not None:
        return f"Kafka at {servers} refused {user_of(settings)} ({error}): {words}"
    return f"Kafka at {servers} did not carry out the request: {error}"


def _unmigrated(error: Exception, _: ReadSettings) -> str:
    return f"the database schema does not match this version ({error}): run `inmail migrate`"


def _wrong_url(error: Exception, _: ReadSettings) -> str:
    return f"INMAIL_DATABASE_URL: {error}"


def _file_error(error: OSError, _: ReadSettings) -> str:
    return f"{error.filename}: {error.strerror}"


def _output_error(error: OSError, _: ReadSettings) -> str:
    return f"the output cannot be written: {error.strerror}"


def _no_answer(error: NoAnswerError, _: ReadSettings) -> str:
    return f"{error}: it is slow, hangs, or is out of reach, or there is much to read"


def _timed_out(_: TimeoutError, read_settings: ReadSettings) -> str:
    servers = f"Postgres at {database_address(read_settings())} or Kafka at {read_settings().kafka_bootstrap_servers}"
    return f"no answer in time: {servers} is slow or cannot be reached, or there is much to read"


def _disk_full(error: Exception, read_settings: ReadSettings) -> str:
    return f"Postgres at {database_address(read_settings())} has no room left on its disk: {error}"


def _postgres_refused(error: Exception, read_settings: ReadSettings) -> str:
    return f"Postgres at {database_address(read_settings())} refused: {error}"


def _login_refused(error: Exception, read_settings: ReadSettings) -> str:
    return f"{_postgres_refused(error, read_settings)}: {login_hint(error)}"


def _postgres_unreachable(error: Exception, read_settings: ReadSettings) -> str:
    place, why = database_address(settings := read_settings()), str(error) or type(error).__name__
    name = "INMAIL_DATABASE_SHARDS" if settings.database_shards.get_secret_value() else "INMAIL_DATABASE_URL"
    return f"Postgres cannot be reached at {place} ({why}): is it running, and is {name} right?"


def _locked(error: Exception, read_settings: ReadSettings) -> str:
    return f"a lock in Postgres at {database_address(read_settings())} is in the way: {error}"


def _statement_failed(error: Exception, read_settings: ReadSettings) -> str:
    place = database_address(read_settings())
    return f"Postgres at {place} did not carry out a statement: {type(error).__name__}: {error}"


_OUTPUT_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_FIND_REQUEST: Final = "inmail trace --account ACCOUNT lists the last requests of an account"
_SEE_SETTINGS: Final = "docs/settings.md lists every setting with its values"
_START_POSTGRES: Final = "start Postgres, or mend INMAIL_DATABASE_URL"
_ANY_POSTGRES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# The first row that applies answers, so a subclass stands above its base class.
ERROR_TABLE: Final[tuple[ErrorKind, ...]] = (
    ErrorKind((UnknownAccountError,), Exit.NO, 404, "unknown_account", hint=lambda error: error.hint),
    ErrorKind((UnknownRequestError,), Exit.NO, 404, "unknown_request", hint=_FIND_REQUEST),
    ErrorKind((NoSuchDeadLetterError,), Exit.NO, 404, "no_such_letter", hint="inmail dead-letters list"),
    ErrorKind((NoSuchOperationError,), Exit.NO, 404, "no_such_operation", hint="inmail operations list"),
    ErrorKind((RefusedError,), Exit.NO, 409, "refused"),
    ErrorKind((AuditUnderWayError,), Exit.TRY_LATER, 409, "under_way"),
    ErrorKind((NotHeldError,), Exit.UNREACHABLE, 503, "shards", hint="inmail shards list"),
    ErrorKind((UnreachableServerError,), Exit.UNREACHABLE, 503, "postgres", hint="inmail shards list"),
    ErrorKind((TopicsError,), Exit.WRONG_USAGE, 409, "topics_differ", hint="inmail topics plan"),
    ErrorKind((CatalogueError,), Exit.WRONG_USAGE, 503, "plan_catalogue", hint="mend the file of INMAIL_PLANS_FILE"),
    ErrorKind((SettingsError,), Exit.WRONG_USAGE, 503, "settings", hint=_SEE_SETTINGS),
    ErrorKind((NotSetUpError, MigrationError), Exit.UNREACHABLE, 503, "not_set_up", hint="inmail doctor"),
    ErrorKind(
        (MissingRightsError, MissingPrivilegesError), Exit.UNREACHABLE, 503, "rights", hint="docs/operate.md#rights"
    ),
    ErrorKind((LocalStackError,), Exit.UNREACHABLE, 503, "local_stack"),
    ErrorKind((BreakerError,), Exit.UNDECIDABLE, 503, "too_many_undecidable", hint="inmail dead-letters list"),
    ErrorKind((LaneError, WorkerError, ChildError), Exit.BROKEN, 503, "worker_ended"),
    ErrorKind(
        (KafkaConnectionError, NoBrokersAvailable),
        Exit.UNREACHABLE,
        503,
        "kafka",
        _kafka_unreachable,
        hint="start Kafka, or mend INMAIL_KAFKA_BOOTSTRAP_SERVERS",
    ),
    ErrorKind((KafkaError,), Exit.UNREACHABLE, 503, "kafka", _kafka_refused, hint=operator_hint),
    ErrorKind((asyncpg.ClientConfigurationError,), Exit.WRONG_USAGE, 503, "settings", _wrong_url, hint=_SEE_SETTINGS),
    # The client passes parameters of the URL that it does not know to Postgres as settings.
    ErrorKind(
        (asyncpg.UndefinedObjectError,),
        Exit.WRONG_USAGE,
        503,
        "settings",
        _wrong_url,
        lambda error: "configuration parameter" in str(error),
        hint=_SEE_SETTINGS,
    ),
    ErrorKind(
        (asyncpg.PostgresError,),
        Exit.UNREACHABLE,
        503,
        "not_set_up",
        _unmigrated,
        is_unmigrated,
        hint="inmail migrate",
    ),
    ErrorKind(
        (asyncpg.LockNotAvailableError,),
        Exit.UNREACHABLE,
        503,
        "locked",
        _locked,
        hint="end the session that holds the lock, or wait for it",
    ),
    ErrorKind((asyncpg.DiskFullError,), Exit.UNREACHABLE, 503, "postgres", _disk_full, hint="give Postgres room"),
    ErrorKind(
        (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError),
        Exit.UNREACHABLE,
        503,
        "postgres",
        _login_refused,
        hint=login_hint,
    ),
    ErrorKind(
        (asyncpg.InsufficientPrivilegeError,),
        Exit.UNREACHABLE,
        503,
        "postgres",
        _postgres_refused,
        hint="inmail doctor",
    ),
    ErrorKind(
        _ANY_POSTGRES, Exit.UNREACHABLE, 503, "postgres", _postgres_unreachable, is_transient, hint=_START_POSTGRES
    ),
    ErrorKind(_ANY_POSTGRES, Exit.BROKEN, 503, "postgres", _statement_failed, unexpected=True),
    ErrorKind((OSError,), Exit.WRONG_USAGE, 503, "file", _file_error, lambda error: error.filename is not None),
    ErrorKind((UnwritableOutputError,), Exit.WRONG_USAGE, 503, "file", _output_error),
    # A file's, which does not name it; no connection has these.
    ErrorKind((OSError,), Exit.WRONG_USAGE, 503, "file", _output_error, lambda error: error.errno in _OUTPUT_ERRORS),
    ErrorKind((NoAnswerError,), Exit.UNREACHABLE, 504, "no_answer", _no_answer, hint="inmail doctor"),
    ErrorKind((TimeoutError,), Exit.UNREACHABLE, 504, "no_answer", _timed_out, hint="inmail doctor"),
    # aiokafka has its own classes, so an error of a connection is asyncpg's.
    ErrorKind((OSError,), Exit.UNREACHABLE, 503, "postgres", _postgres_unreachable, hint=_START_POSTGRES),
)
KNOWN_ERRORS: Final[tuple[type[BaseException], ...]] = tuple(
    dict.fromkeys((ServerError, *(each for kind in ERROR_TABLE for each in kind.classes)))
)
