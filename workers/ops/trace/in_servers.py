"""Finds what is traced in the books, whichever of several servers hold them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from aiokafka import TopicPartition

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.lanes import next_offsets
from workers.ops.books.original_ids import find_request_ids, only_request_id
from workers.ops.books.shards import Holdings, ServerError, ask_each_server, choose_server
from workers.ops.trace import in_books as books
from workers.ops.trace.in_books import DecidedRecord

__all__ = ["FoundInBooks", "Question", "find_in_books", "read_books"]

LIMIT: Final = 100_000  # records


class Question(NamedTuple):
    """What to trace: a request or event by id, an account's last requests, or an id of that account."""

    id: UUID | None
    account: str | None
    last: int = 10  # number of an account's requests
    limit: int = LIMIT  # maximum number of records read of a partition
    original: str | None = None  # instead of `id`: what the request's producer gave it that is no UUID


class _FoundOnServer(NamedTuple):
    ids: list[UUID]  # of requests that a producer gave the original id
    cases: list[DecidedRecord]
    unknown: UnknownAccountError | None
    decided: dict[TopicPartition, int]


class FoundInBooks(NamedTuple):
    """What the books have of a question."""

    id: UUID | None  # that is asked for
    cases: list[DecidedRecord]
    unknown: UnknownAccountError | None  # the account may have dead letters or undecided records
    decided: Mapping[TopicPartition, int]  # the next offset to decide of each input partition
    is_known: Callable[[int], bool]  # whether the lanes of a partition are in `decided`, if they have decided anything
    silent: Sequence[ServerError]  # servers that may have more


async def read_books(settings: Settings, question: Question) -> FoundInBooks:
    """Return what the books have of a question.

    Raises:
        UnknownRequestError: when no request or several have the original id.
        NotHeldError, ServerError: when the account's server cannot be told, or does not answer.
        OSError, asyncpg.PostgresError, NotSetUpError: of the only server.

    """

    async def read(connection: Connection, holdings: Holdings) -> _FoundOnServer:
        return await _read_server(connection, holdings, question)

    told = await ask_each_server(settings, read)
    silent = told.silent
    if question.account is not None:
        choose_server(((server, holdings) for server, holdings, _ in told.found), silent, question.account)
        silent = []  # they have nothing of the account
    id_ = question.id
    if question.original is not None:
        id_ = only_request_id(question.original, (id_ for each in told.answers for id_ in each.ids), silent)
    decided: dict[TopicPartition, int] = {}
    for each in told.answers:
        decided |= each.decided
    unknown = next((each.unknown for each in told.answers if each.unknown is not None), None)
    cases = [case for each in told.answers for case in each.cases]
    is_known: Callable[[int], bool] = told.has_number if told.silent else lambda _: True
    return FoundInBooks(id_, cases, unknown, decided, is_known, silent)


async def find_in_books(settings: Settings, request_id: UUID) -> list[DecidedRecord]:
    """Return the decided records of a request on any server."""

    async def find(connection: Connection, holdings: Holdings) -> list[DecidedRecord]:
        return _current(await books.find_by_request(connection, request_id, None), holdings)

    return [case for cases in (await ask_each_server(settings, find)).answers for case in cases]


async def _read_server(connection: Connection, holdings: Holdings, question: Question) -> _FoundOnServer:
    cases: list[DecidedRecord] = []
    ids: list[UUID] = []
    unknown = None
    if question.account is None or holdings.has_account(question.account):
        if question.original is not None:
            ids = await find_request_ids(connection, question.original, question.account)
        try:
            if question.original is None or len(ids) == 1:
                cases = await _find_decided(connection, question._replace(id=ids[0] if ids else question.id))
        except UnknownAccountError as error:
            unknown = error
    offsets = (await next_offsets(connection)).items()
    decided = {place: offset for place, offset in offsets if holdings.has_number(place.partition)}
    return _FoundOnServer(ids, _current(cases, holdings), unknown, decided)


def _current(cases: list[DecidedRecord], holdings: Holdings) -> list[DecidedRecord]:
    """Return the records whose rows are current on a server: others are copies."""
    return [
        case
        for case in cases
        if (holdings.has_number(case.partition) if case.account_id is None else holdings.has_account(case.account_id))
    ]


async def _find_decided(connection: Connection, question: Question) -> list[DecidedRecord]:
    if question.id is None:
        return await books.find_by_account(connection, question.account or "", question.last)
    cases = await books.find_by_request(connection, question.id, question.account)
    if not cases and question.account is not None:
        cases = await books.find_by_event(connection, question.id, question.account)
    return cases
