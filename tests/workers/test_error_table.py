"""The table of errors: the command line and the console answer an error with one sentence."""

import asyncio
import errno
import json
import os

import asyncpg
import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaConnectionError, TopicAuthorizationFailedError
from pydantic import SecretStr

from infra.kafka.clients import NotSetUpError
from infra.local.errors import LocalStackError
from infra.migrate import MigrationError
from infra.output import UnwritableOutputError
from infra.postgres_locks import LockedError
from infra.postgres_rights import MissingPrivilegesError
from infra.settings import Settings, SettingsError, load_settings
from infra.waiting import NoAnswerError
from workers.commands.running import run_command
from workers.console.problems import error_middleware
from workers.console.query_limiter import QueryLimiter
from workers.error_table import ERROR_TABLE, KNOWN_ERRORS, explain
from workers.errors import BreakerError, ChildError, LaneError, StuckError
from workers.ledger.plans import CatalogueError
from workers.ops.books.audit_mark import AuditUnderWayError
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.original_ids import UnknownRequestError
from workers.ops.books.shards import NotHeldError, ServerError
from workers.ops.dead_letters.letters import NoSuchDeadLetterError
from workers.ops.operations import NoSuchOperationError, RefusedError
from workers.ops.shards.servers import UnreachableServerError
from workers.ops.topics.plan import TopicsError

OURS = [
    UnknownAccountError,
    UnknownRequestError,
    NoSuchDeadLetterError,
    NoSuchOperationError,
    RefusedError,
    NotHeldError,
    TopicsError,
    CatalogueError,
    SettingsError,
    NotSetUpError,
    MigrationError,
    MissingPrivilegesError,
    LocalStackError,
    LaneError,
    StuckError,
    ChildError,
]
# Each error with its exit code, its HTTP status, and words of its sentence.
ANSWERS: list[tuple[Exception, int, int, str]] = [
    *[
        (kind("planted"), row.exit, row.status, "planted")
        for kind in OURS
        for row in ERROR_TABLE
        if issubclass(kind, row.classes)
    ],
    (AuditUnderWayError("planted"), 75, 409, "planted"),  # not the 1 of what an audit finds: schedulers try it again
    (BreakerError("planted"), 65, 503, "planted"),  # not the 70 of its base class
    (KafkaConnectionError("planted"), 3, 503, "Kafka cannot be reached at localhost:9092"),
    (
        TopicAuthorizationFailedError("planted"),
        3,
        503,
        "refused user ANONYMOUS (no login is set) ([Error 29] TopicAuthorizationFailedError: planted): grant",
    ),
    (GroupCoordinatorNotAvailableError("planted"), 3, 503, "Kafka at localhost:9092 did not carry out the request"),
    (asyncpg.ClientConfigurationError("planted"), 2, 503, "INMAIL_DATABASE_URL: planted"),
    (asyncpg.UndefinedObjectError("unrecognized configuration parameter"), 2, 503, "INMAIL_DATABASE_URL: unrecognized"),
    (asyncpg.UndefinedObjectError("planted"), 70, 503, "did not carry out a statement: UndefinedObjectError: planted"),
    (asyncpg.UndefinedTableError("planted"), 3, 503, "(planted): run `inmail migrate`"),
    (asyncpg.DiskFullError("planted"), 3, 503, "Postgres at localhost:5432 has no room left on its disk: planted"),
    (LockedError("pid 7 holds it"), 3, 503, "a lock in Postgres at localhost:5432 is in the way: pid 7 holds it"),
    (asyncpg.InvalidPasswordError("planted"), 3, 503, "Postgres at localhost:5432 refused: planted: mend the user"),
    (
        asyncpg.InvalidCatalogNameError("planted"),
        3,
        503,
        "Postgres at localhost:5432 refused: planted: make the database",
    ),
    (asyncpg.InsufficientPrivilegeError("planted"), 3, 503, "Postgres at localhost:5432 refused: planted"),
    (asyncpg.CannotConnectNowError("planted"), 3, 503, "Postgres cannot be reached at localhost:5432 (planted)"),
    (asyncpg.InterfaceError("connection is closed"), 3, 503, "cannot be reached at localhost:5432 (connection is"),
    (
        asyncpg.InternalClientError("another operation"),
        3,
        503,
        "cannot be reached at localhost:5432 (another operation",
    ),
    (asyncpg.UniqueViolationError("planted"), 70, 503, "did not carry out a statement: UniqueViolationError: planted"),
    (asyncpg.InterfaceError("planted"), 70, 503, "did not carry out a statement: InterfaceError: planted"),
    (FileNotFoundError(2, "No such file", "plans.toml"), 2, 503, "plans.toml: No such file"),
    *[
        (OSError(number, os.strerror(number)), 2, 503, f"the output cannot be written: {os.strerror(number)}")
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    ],
    (UnwritableOutputError(errno.EBADF, "planted"), 2, 503, "the output cannot be written: planted"),
    (UnreachableServerError("db-b:5432 is away"), 3, 503, "db-b:5432 is away"),
    (NoAnswerError("Kafka at a:1 gives no answer"), 3, 504, "Kafka at a:1 gives no answer: it is slow, hangs"),
    (TimeoutError(), 3, 504, "no answer in time: Postgres at localhost:5432 or Kafka at localhost:9092"),
    (ConnectionRefusedError(111, "refused"), 3, 503, "Postgres cannot be reached at localhost:5432"),
]


@pytest.fixture(autouse=True)
def defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read the same addresses, one of them with a password."""
    monkeypatch.setenv("INMAIL_KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    monkeypatch.setenv("INMAIL_DATABASE_URL", "postgresql://ledger:secret@localhost:5432/inmail")


async def ask_console(error: Exception) -> tuple[int, str]:
    """Return the status and the text of the console's answer to an error."""

    async def fail(_: web.Request) -> web.StreamResponse:
        raise error

    answer = await error_middleware(QueryLimiter(load_settings()))(make_mocked_request("GET", "/api/lag"), fail)
    assert isinstance(answer, web.Response)
    return answer.status, json.loads(answer.text or "")["error"]["text"]


def run_failing(error: Exception, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit code and the last line of a command that ends with an error."""

    async def fail(_: Settings) -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        run_command(fail)
    return ended.value.exit_code, capsys.readouterr().err.splitlines()[-1].removeprefix("inmail: ")


@pytest.mark.parametrize(("error", "code", "status", "words"), ANSWERS, ids=lambda each: type(each).__name__)
def test_the_command_line_and_the_console_answer_an_error_with_one_sentence(
    error: Exception, code: int, status: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind of error has its exit code, its status, and the same sentence in both; no password is in it."""
    console = asyncio.run(ask_console(error))
    command = run_failing(error, capsys)

    assert (status, code) == (console[0], command[0])
    assert console[1] == command[1]
    assert words in console[1]
    assert "secret" not in console[1]


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "refused"), LockedError("pid 7 holds it"), asyncpg.UndefinedTableError("planted")],
)
def test_an_error_of_one_of_several_servers_names_that_server(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is that of the error itself, with the address of the server that has it."""
    other = Settings(database_url=SecretStr("postgresql://ledger:secret@other:5433/inmail"))
    expected = explain(error, lambda: other)
    assert expected is not None
    wrapped = ServerError(other, error)

    told = run_failing(wrapped, capsys)

    assert told == (
        expected.exit,
        expected.text.replace("the database schema", "Postgres at other:5433/inmail: the database schema"),
    )
    assert (expected.status, told[1]) == asyncio.run(ask_console(wrapped))
    assert "other:5433" in told[1]
    assert "localhost" not in told[1]


def test_every_row_of_the_table_answers_one_of_the_errors_above() -> None:
    """A base class above its subclass would take the errors of the subclass."""
    rows = {
        next(
            number
            for number, row in enumerate(ERROR_TABLE)
            if isinstance(error, row.classes) and (row.applies is None or row.applies(error))
        )
        for error, *_ in ANSWERS
    }

    assert set(range(len(ERROR_TABLE))) == rows


def test_every_known_class_has_an_answer_and_no_other_has() -> None:
    """The console catches the known classes, so each has a row without a condition, or a base class that has one."""
    rows = tuple(kind for row in ERROR_TABLE if row.applies is None for kind in row.classes)
    unconditional = (ServerError, *rows)  # answered as the error of the server that it has

    assert [] == [kind for kind in KNOWN_ERRORS if not issubclass(kind, unconditional)]
    assert None is explain(ValueError("planted"), load_settings)
