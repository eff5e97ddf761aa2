"""Sends what a plan of each server that holds the books has: the servers in turn, recorded as one operation, resumable.

The position is saved after the brokers have acknowledged the records: an operation that is killed and resumed sends at
most the last second's records twice.

A server that does not answer keeps none of the others: the operation has failed then, and the same command does what is
missing. A number may move to another server meanwhile: a part counts for the numbers that its server held from the
part's start to its end, and a number that no part counts for is told.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from aiokafka.errors import BrokerResponseError

from infra.kafka.chunk_sender import ChunkResult, ChunkSender
from infra.kafka.sender import Outgoing
from infra.postgres import Connection, open_database
from infra.settings import Settings
from infra.shards import number_ranges
from workers.ops.books.shards import ServerError, naming_server, read_holdings
from workers.ops.numbers import open_locked
from workers.ops.operations import Intent, OngoingOperation, RefusedError, recorded_operation
from workers.ops.replay.server_parts import PartPlan, ServerPart, ServerParts

__all__ = ["Page", "Progress", "run_parts"]

_CHUNK: Final = 500  # maximum number of records sent twice when a process is killed
_NAMED: Final = 20  # refused records in the operation's result

_TOTALS: Final = ("sent", "sent_before", "refused")  # of all servers, as one server's result has them

Progress = Callable[[int], None]
Page = Sequence[tuple[Any, Outgoing]]  # records to send, each with its position, as JSON has it
Plan = TypeVar("Plan", bound=PartPlan)
_Pages = Callable[[Connection, Plan], AsyncGenerator[Page, None]]


async def run_parts(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    intent: Intent,
    plan: Plan,
    pages: _Pages[Plan],
    *,
    stop: asyncio.Event,
    progress: Progress,
) -> OngoingOperation:
    """Carry out a plan on the only server, or on one of several after the other; return the operation.

    Args:
        settings: which servers there are.
        intent: the operation to record.
        plan: the accepted plan.
        pages: yields what one server's part has after its position, read over a connection to the server.
        stop: ends the run between two chunks.
        progress: called with the number of records that are dealt with, of all servers.

    Raises:
        RefusedError: when another operation of the verb is running.
        ServerError: when the operation cannot be noted on one of several servers.
        KafkaError, OSError, asyncpg.PostgresError: when the run fails; the same command resumes it.

    """
    if plan.servers is None:
        async with recorded_operation(settings, intent) as operation:
            await _send_part(settings, operation, plan, pages(operation.connection, plan), stop, progress)
        return operation
    with naming_server(settings):
        async with recorded_operation(settings, intent) as operation:
            await _Run(settings, intent.verb, operation, plan.servers, progress).run(pages, stop)
    return operation


async def _send_part(  # noqa: PLR0913, PLR0917 - what, and how to stop it
    settings: Settings,
    operation: OngoingOperation,
    plan: PartPlan,
    pages: AsyncGenerator[Page, None],
    stop: asyncio.Event,
    progress: Progress,
) -> None:
    """Send what a part has, with an operation whose result is the part's."""
    sender = _PartSender(settings, operation, plan, stop, progress)
    try:
        await operation.save_progress()  # saves the start, in case the process is killed before the first chunk
        async with aclosing(pages) as found:
            async for page in found:
                operation.stopped = await sender.send_all([((position, each), each) for position, each in page])
                if operation.stopped:
                    break
    finally:
        await sender.close()


class _PartSender(ChunkSender[tuple[Any, Outgoing]]):
    """Sends records at a rate; saves the position after each chunk."""

    def __init__(
        self, settings: Settings, operation: OngoingOperation, plan: PartPlan, stop: asyncio.Event, progress: Progress
    ) -> None:
        super().__init__(settings, plan.client_id, plan.rate, stop, chunk_size=_CHUNK)
        self._operation = operation
        self._progress = progress
        self._dealt_with = 0
        operation.result |= {
            "sent": 0,
            "sent_before": plan.sent_before,
            "refused": 0,
            "first_refused": [],
            "position": plan.position,
        }

    async def after_chunk(self, result: ChunkResult[tuple[Any, Outgoing]]) -> None:
        """Count the records and, if the brokers have answered all, save the position of the last."""
        self._operation.result["sent"] += len(result.sent)
        for (_, outgoing), error in result.refused:
            self._record_refusal(outgoing, error)
        self._dealt_with += len(result.sent) + len(result.refused)
        if result.failed:
            return
        if result.handed_over:
            self._operation.result["position"], _ = result.handed_over[-1]
        await self._operation.save_progress()
        self._progress(self._dealt_with)

    def _record_refusal(self, outgoing: Outgoing, error: BrokerResponseError) -> None:
        """Record a record that the broker refuses, such as one larger than its topic allows."""
        self._operation.result["refused"] += 1
        if len(self._operation.result["first_refused"]) < _NAMED:
            # The key of a balance has a word behind the account.
            account = None if outgoing.key is None else outgoing.key.decode().partition(" ")[0]
            named = {"account": account, "bytes": len(outgoing.value or b"")}
            self._operation.result["first_refused"].append(named | {"why": f"refused: {error!r}"[:300]})


@dataclass(slots=True)
class _PartOperation(OngoingOperation):
    """The operation as one server's part sees it: its result is the server's entry in the operation's."""

    save: Callable[[], Awaitable[None]] = field(kw_only=True)

    async def save_progress(self) -> None:
        """Save the result of all servers."""
        await self.save()


class _Run:
    """A run over several servers."""

    def __init__(
        self,
        settings: Settings,
        verb: str,
        operation: OngoingOperation,
        servers: ServerParts[Any],
        progress: Progress,
    ) -> None:
        self._settings = settings
        self._verb = verb
        self._operation = operation
        self._servers = servers
        self._entries = servers.entries()
        self._progress = progress
        self._done = 0  # records dealt with by the parts before
        operation.failures += servers.silent

    async def run(self, pages: _Pages[Any], stop: asyncio.Event) -> None:
        """Do each part that is not finished, until a stop is requested."""
        await self._save()
        for part, entry in zip(self._servers.parts, self._entries, strict=False):  # silent servers' come after
            if part.plan is None:
                continue
            if stop.is_set():
                self._operation.stopped = True
            if self._operation.stopped:
                break
            try:
                await self._run_part(part, entry, pages, stop)
            except ServerError as error:
                if error.settings is not part.server:
                    raise
                entry["error"] = str(error)
                self._operation.failures.append(error)
        if not self._operation.stopped:
            self._tell_moved()
        if self._operation.failures:
            self._operation.result["error"] = "; ".join(map(str, self._operation.failures))[:1000]
        self._add_up()

    async def _run_part(
        self, part: ServerPart[Any], entry: dict[str, Any], pages: _Pages[Any], stop: asyncio.Event
    ) -> None:
        assert part.plan is not None  # noqa: S101 - `run` has looked
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done = count
            self._progress(self._done + done)

        with naming_server(part.server):
            async with self._open(part) as connection:
                running = _PartOperation(self._operation.number, connection, entry, save=self._save)
                await _send_part(self._settings, running, part.plan, pages(connection, part.plan), stop, report)
                held = (await read_holdings(connection)).numbers
        self._done += done
        self._operation.stopped = running.stopped
        if not running.stopped:
            entry |= {"finished": True, "numbers": sorted({*part.holdings.numbers} & {*held})}
        await self._save()

    @asynccontextmanager
    async def _open(self, part: ServerPart[Any]) -> AsyncIterator[Connection]:
        """Connect to a server; the operation holds the lock of its own already."""
        if part.server.database_url != self._settings.database_url:
            async with open_locked(part.server, self._verb) as connection:
                yield connection
            return
        async with open_database(part.server) as connection:
            yield connection

    def _tell_moved(self) -> None:
        """Note the numbers that no part counts for, though all servers answered."""
        if self._operation.failures:
            return
        counted = {number for entry in self._entries if entry["finished"] for number in entry["numbers"]}
        planned = {number for part in self._servers.parts for number in part.holdings.numbers}
        if moved := sorted(planned - counted):
            self._operation.failures.append(
                RefusedError(
                    f"partition numbers {number_ranges(moved)} moved to another server meanwhile: run the same command"
                    " again"
                )
            )

    def _add_up(self) -> None:
        totals = {name: sum(entry.get(name, 0) for entry in self._entries) for name in _TOTALS}
        self._operation.result |= totals | {"servers": self._entries}

    async def _save(self) -> None:
        self._add_up()
        with naming_server(self._settings):
            await self._operation.save_progress()
