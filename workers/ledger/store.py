"""The ledger's calls: a batch of requests in, one stored answer for each out, in one database transaction.

The caller owns the transaction. Whatever is decided here is final for its request id: asking again, in the same
batch or years later, finds the first answer. Only `balance_not_current` is not: it stands for its own record, and the
next record with the id is decided afresh.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from infra.clock import EPOCH
from infra.postgres import Connection
from schemas.ids import DerivedId
from workers.ledger.accounts import lock_accounts
from workers.ledger.model import Code, Entry, Place, Request, WorkerName
from workers.ledger.original_ids import keep_original_ids, read_original_ids
from workers.ledger.plans import Catalogue

__all__ = ["FUNCTIONS", "Answer", "Call", "Fresh", "Opened", "answer_all", "is_of", "open_batch", "split_at_repeats"]

FUNCTIONS = Path(__file__).parent / "sql"  # replaced on each `inmail migrate`

Event = TypeVar("Event")
Key = tuple[int, UUID]  # an account and a request id
Fresh = tuple[Request[Any], bool]  # a request to decide; True where its id was used before with another body

# In one round trip, since each turn waits for it, and mostly there is neither.
_READ = """
select null::bigint as account_with_cap, null::timestamptz as due, s.* from stored_answers($1, $2) as s
union all
select c.account, c.granted_at, (null::journal).* from caps_due($3, $4) as c
"""


class Answer(NamedTuple):
    """What came of one input record: the journal rows to publish for it, in order, one of them the answer."""

    request: Request[Any]
    entries: list[Entry]
    original_id: str | None = None  # the id that its producer gave to the request, where it is no UUID
    is_ended: bool = False  # they were booked for a record at the same place of a topic before this one


class Opened(NamedTuple):
    """A batch whose accounts are locked, sorted into what is already answered and what is to decide."""

    worker: WorkerName
    accounts: dict[str, int]
    foreign: dict[str, int]  # own partitions of the accounts of which a request came on another one
    elsewhere: dict[str, int]  # those of accounts that another server holds: of them nothing new is decided here
    fresh: list[Fresh]  # in input order
    set_aside: list[Request[Any]]  # neither answered before nor to be decided
    same: dict[Place, Place]  # the place of a record that asks what a fresh one before it does, and that one's
    caps_due: dict[str, list[datetime]]  # when lots came to their date whose cap was not applied yet: mostly nothing
    answers: dict[Place, list[Entry]]  # by the record's place; what was found, and later what is booked
    ended: set[Place]  # of records whose answer was found, and was booked at that place of a topic before this one
    original_ids: dict[Key, str]  # of requests that came by the id which is derived from these

    def rows(self, requests: Iterable[Request[Any]]) -> list[tuple[Any, ...]]:
        """Return requests as the SQL functions take them: the composite type `request`."""
        return [
            (
                self.accounts[request.account_id],
                request.request_id,
                request.fingerprint,
                self.worker.value,
                request.as_of,
                request.partition,
                request.offset,
            )
            for request in requests
        ]


async def open_batch(
    connection: Connection,
    worker: WorkerName,
    requests: Sequence[Request[Event]],
    is_decidable: Callable[[Request[Event]], bool] = lambda _: True,
    since: Mapping[int, datetime] = {},
) -> Opened:
    """Lock the accounts of a batch and find what was answered before, in earlier batches or in this one.

    A request that is not decidable is set aside, unless it was answered before or its id is another one's: it leaves
    no trace, so that it can be sent again. So is, whatever its id, one of an account that another server holds, unless
    this one has its answer, stored before the account's number left. `since` has the partitions whose topic followed
    another one, with the watermark then: rows up to it are of other records, though they name the same places.
    """
    accounts, own, elsewhere = await lock_accounts(connection, requests)
    asked = [request for request in requests if request.account_id in accounts] if elsewhere else requests
    stored, not_final, caps_due = await _read(connection, worker, accounts, asked)
    if since and not_final:
        not_final = {place: each for place, each in not_final.items() if not _has_ended(each, since)}
    answers: dict[Place, list[Entry]] = {}
    foreign: dict[str, int] = elsewhere.copy()
    others = []
    # Python's own UUIDs are slow to hash and to compare: what is found is known by its place from here on.
    for request in asked:
        account_id = request.account_id
        if own[account_id] != request.partition:
            foreign[account_id] = own[account_id]
        key = accounts[account_id], request.request_id
        entry = not_final.get(request.place) if not_final else None
        if entry is None or _key_of(entry) != (*key, request.fingerprint):
            entry = stored.get(key)
        if entry is not None and entry.fingerprint == request.fingerprint:
            answers[request.place] = [entry]
        else:
            others.append((request, key, entry is not None))
    await _add_conflicts(connection, [(request, key) for request, key, conflict in others if conflict], answers)
    ended = {place for place, (entry,) in answers.items() if _has_ended(entry, since)} if since else set[Place]()
    await _add_movements(connection, worker, answers, since)
    rest = [other for other in others if other[0].place not in answers] if answers else others
    if elsewhere:
        rest = [other for other in rest if other[0].account_id not in elsewhere]
    fresh, set_aside, same = _sort(rest, is_decidable)
    if elsewhere:
        set_aside += [each for each in requests if each.account_id in elsewhere and each.place not in answers]
    await keep_original_ids(connection, accounts, [request for request, _ in fresh])
    original_ids = await read_original_ids(connection, accounts, asked)
    return Opened(worker, accounts, foreign, elsewhere, fresh, set_aside, same, caps_due, answers, ended, original_ids)


async def _read(
    connection: Connection, worker: WorkerName, accounts: Mapping[str, int], requests: Sequence[Request[Any]]
) -> tuple[dict[Key, Entry], dict[Place, Entry], dict[str, list[datetime]]]:
    """Return the final answers to requests; those that are not, by the place of the record of each; and due caps.

    Caps are those of the accounts, up to the latest time of the requests, each account's in order.
    """
    found = await connection.fetch(
        _READ,
        [accounts[request.account_id] for request in requests],
        [request.request_id for request in requests],
        list(accounts.values()),
        max((request.as_of for request in requests), default=EPOCH),
    )
    stored: dict[Key, Entry] = {}
    not_final: dict[Place, Entry] = {}
    dates: dict[int, list[datetime]] = {}
    for account_with_cap, due, *columns in map(tuple, found):
        if due is not None:
            dates.setdefault(account_with_cap, []).append(due)
            continue
        each = Entry(*columns)
        if each.code != Code.BALANCE_NOT_CURRENT:
            stored[each.account, each.request_id] = each
        elif each.worker == worker:
            not_final[each.source_partition, each.source_offset] = each
    caps_due = {name: sorted(dates[account]) for name, account in accounts.items() if account in dates} if dates else {}
    return stored, not_final, caps_due


def _sort(
    unanswered: Iterable[tuple[Request[Event], Key, bool]], is_decidable: Callable[[Request[Event]], bool]
) -> tuple[list[Fresh], list[Request[Event]], dict[Place, Place]]:
    """Tell apart what is fresh, what is set aside, and what asks the same as a fresh one before it."""
    fresh: list[Fresh] = []
    set_aside = []
    same = {}
    asked: dict[Key, dict[int, Request[Event]]] = {}  # by request and fingerprint
    for request, key, conflict in unanswered:
        bodies = asked.setdefault(key, {})
        if request.fingerprint in bodies:
            same[request.place] = bodies[request.fingerprint].place
        elif conflict or bodies or is_decidable(request):
            fresh.append((request, conflict or bool(bodies)))
            bodies[request.fingerprint] = request
        else:
            set_aside.append(request)
    return fresh, set_aside, same


async def _add_conflicts(
    connection: Connection, requests: Sequence[tuple[Request[Any], Key]], answers: dict[Place, list[Entry]]
) -> None:
    """Find what requests were answered whose id another body had first."""
    if not requests:
        return
    rows = await connection.fetch(
        "select * from stored_conflicts($1, $2, $3)",
        [account for _, (account, _) in requests],
        [request.request_id for request, _ in requests],
        [request.fingerprint for request, _ in requests],
    )
    conflicts = {_key_of(entry): entry for entry in map(Entry._make, rows)}
    for request, key in requests:
        if (entry := conflicts.get((*key, request.fingerprint))) is not None:
            answers[request.place] = [entry]


async def _add_movements(
    connection: Connection, worker: WorkerName, answers: dict[Place, list[Entry]], since: Mapping[int, datetime]
) -> None:
    """Complete the answers to records that are read again after a crash with what they moved beside the answer.

    A record that repeats an earlier one gets the answer alone: what that one moved was published with it.
    """
    again = {
        place: entry
        for place, (entry,) in answers.items()
        if (entry.source_partition, entry.source_offset) == place and not _has_ended(entry, since)
    }
    if not again:
        return
    rows = await connection.fetch(
        "select * from stored_movements($1, $2, $3)",
        worker.value,
        [partition for partition, _ in again],
        [offset for _, offset in again],
    )
    answers |= {place: [] for place in again}
    for entry in map(Entry._make, rows):
        place = entry.source_partition, entry.source_offset
        # Of a topic before this one the same offsets may be other requests', or the same request's.
        if _key_of(entry) == _key_of(again[place]) and not _has_ended(entry, since):
            answers[place].append(entry)


def _has_ended(entry: Entry, since: Mapping[int, datetime]) -> bool:
    """Tell whether a row was booked for a record of the topic before."""
    ended = since.get(entry.source_partition)
    return ended is not None and entry.as_of <= ended


def _key_of(entry: Entry) -> tuple[int, UUID, int]:
    return entry.account, entry.request_id, entry.fingerprint


def is_of(entry: Entry, request: Request[Any]) -> bool:
    """Tell whether a row was booked for a request's own record, and not for an earlier record of the same request."""
    return entry.source_offset == request.offset and entry.source_partition == request.partition


def answer_all(opened: Opened, requests: Iterable[Request[Event]], decided: Iterable[Entry]) -> list[Answer]:
    """Match every request of the batch with its journal rows, found or just booked."""
    answers, same, original_ids = opened.answers, opened.same, opened.original_ids
    for entry in decided:
        answers.setdefault((entry.source_partition, entry.source_offset), []).append(entry)
    answered = []
    for request in requests:
        place = request.place
        entries = answers[same.get(place, place) if same else place]
        if len(entries) > 1:  # a repeat publishes the answer alone, and not the rows beside it
            entries = [entry for entry in entries if entry.is_answer or is_of(entry, request)]
        id_ = request.request_id
        original = id_.original if isinstance(id_, DerivedId) else None
        if original_ids and original is None:
            original = original_ids.get((opened.accounts[request.account_id], id_))
        answered.append(Answer(request, entries, original, place in opened.ended))
    return answered


def split_at_repeats(requests: Sequence[Request[Event]]) -> Iterator[list[Request[Event]]]:
    """Cut a batch into parts in which no account has a request id twice, in order.

    An answer that is not final leaves the id free for the very next record, so that each part has to be decided before
    the next one is looked up.
    """
    part: list[Request[Event]] = []
    seen: set[tuple[str, UUID]] = set()
    for request in requests:
        key = request.account_id, request.request_id
        if key in seen:
            yield part
            part, seen = [], set()
        part.append(request)
        seen.add(key)
    if part:
        yield part


class Call(NamedTuple):
    """What every movement works with: an opened batch, and how to call the ledger's functions."""

    connection: Connection
    opened: Opened
    catalogue: Catalogue
    waited_for: str | None = None  # consumer group that has records unread which come before the batch

    async def of(self, function: str, *arguments: object) -> list[Entry]:
        """Call one of the functions in `sql/` and return the journal rows it made."""
        places = ", ".join(f"${number}" for number in range(1, len(arguments) + 1))
        rows = await self.connection.fetch(f"select * from {function}({places})", *arguments)  # noqa: S608
        return [Entry._make(row) for row in rows]

    @property
    def low(self) -> int:
        """The balance at and below which a holder is told that few credits are left."""
        return self.catalogue.notices.low_balance
