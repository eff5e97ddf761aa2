"""Sends the messages of dead letters back at a steady rate, each on record.

A message goes to the partition it came from, or to its account's where it was refused for that, with its bytes, key and
headers, and two headers that mark the redrive. Its worker decides it like any other record, as of the time of the
redrive; a request that was answered before gets its stored answer.

The intent to send a message is recorded before it is sent, and the broker's answer after. So no sent message is
unknown: if an operation breaks off, the messages without an answer are in doubt, and the next redrive sends them again.
Of several Postgres servers that of INMAIL_DATABASE_URL has the record; what the others have of earlier ones counts too.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any

from infra.clock import to_milliseconds, utc_now
from infra.kafka.chunk_sender import ChunkResult, ChunkSender
from infra.kafka.sender import Outgoing
from infra.settings import Settings
from infra.shards import settings_of_shards
from workers.jobs.dead_letters import LETTER_HEADER
from workers.ops.books.shards import ServerError, naming_server
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveDecision, RedriveOptions, RedrivePlan, decide_redrives
from workers.ops.dead_letters.server_answers import read_server_redrives
from workers.ops.numbers import open_locked
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation

__all__ = ["OPERATION_HEADER", "VERB", "redrive"]

VERB = "redrive"
OPERATION_HEADER = "inmail-redrive-operation"

_INTENDED = 100  # messages at most that are in doubt when a process is killed

_INTEND = """
insert into redriven (letter_partition, letter_offset, letter, operation, topic, partition, intended_at)
values ($1, $2, $3, $4, $5, $6, $7)
"""
_CONFIRM = """
update redriven set sent_offset = $5, sent_at = $6
where letter_partition = $1 and letter_offset = $2 and letter = $3 and operation = $4
"""
_WITHDRAW = """
delete from redriven where letter_partition = $1 and letter_offset = $2 and letter = $3 and operation = $4
"""


async def redrive(  # noqa: PLR0913 - what, how and by whom, and how to stop it
    settings: Settings,
    selection: LetterFilter,
    options: RedriveOptions,
    plan: RedrivePlan,
    *,
    who: Operator,
    stop: asyncio.Event,
    progress: Callable[[int], None] = lambda _: None,
) -> OngoingOperation:
    """Send back the messages of a plan, each decided again before sending; return the operation and its result.

    Args:
        settings: where Kafka and Postgres are.
        selection: the filter that the plan was made with.
        options: the options that the plan was made with.
        plan: the accepted plan: no other dead letter is sent.
        who: the operator.
        stop: ends the redrive between two messages; the same command resumes it.
        progress: called with the number of messages sent or skipped.

    Raises:
        RefusedError: when another redrive is running, on whichever server it is noted.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when the redrive fails; the same command resumes it.

    """
    arguments = {"selection": selection.summary(), **{name: getattr(options, name) for name in options.__slots__}}
    # The texts of errors have parts of messages, and what is on record is kept for good.
    kept = {name: value for name, value in plan.summary().items() if name != "errors"}
    async with recorded_operation(settings, Intent(VERB, *who, arguments, kept)) as operation:
        sender = _RedriveSender(settings, operation, options.rate, stop, progress)
        try:
            async with _locked_elsewhere(settings):
                known = await read_server_redrives(settings, connection=operation.connection)
                await sender.start()
                decided = decide_redrives(settings, operation.connection, selection, options, known.found, plan.places)
                async with aclosing(decided) as batches:
                    async for batch in batches:
                        await sender.redrive(batch)
                        if operation.stopped:
                            break
        finally:
            await sender.close()
        operation.result["left"] = plan.count - sender.dealt_with
    return operation


@asynccontextmanager
async def _locked_elsewhere(settings: Settings) -> AsyncIterator[None]:
    """Keep redrives away that operators would note on other servers, as far as these answer."""
    async with AsyncExitStack() as opened:
        for server in settings_of_shards(settings):
            if server.database_url != settings.database_url:
                with suppress(ServerError), naming_server(server):
                    await opened.enter_async_context(open_locked(server, VERB))
        yield


class _RedriveSender(ChunkSender[RedriveDecision]):
    """Sends messages at a rate; records the intent before each chunk and the brokers' answers after it."""

    def __init__(
        self,
        settings: Settings,
        operation: OngoingOperation,
        rate: float,
        stop: asyncio.Event,
        progress: Callable[[int], None],
    ) -> None:
        super().__init__(settings, f"inmail-{VERB}", rate, stop, chunk_size=_INTENDED, large=True)
        self._operation = operation
        self._progress = progress
        self.dealt_with = 0
        operation.result |= {"sent": 0, "not_sent": {}}

    async def redrive(self, batch: Sequence[RedriveDecision]) -> None:
        """Send the messages of a batch that are to be sent, until a stop is requested."""
        for decision in batch:
            if decision.refusal is not None:  # the decision has changed since the plan was made
                self._count_unsent(decision.refusal)
        sendable = [decision for decision in batch if decision.refusal is None]
        await self.send_all([(decision, self._outgoing(decision)) for decision in sendable])
        self._operation.stopped = self._stop.is_set()

    async def before_chunk(self, items: Sequence[RedriveDecision]) -> None:
        """Record the intent to send each message."""
        rows = [(*self._key(each), each.letter.origin_topic, each.partition, utc_now()) for each in items]
        await self._operation.connection.executemany(_INTEND, rows)

    async def after_chunk(self, result: ChunkResult[RedriveDecision]) -> None:
        """Record what was sent, and withdraw the intent to send the rest; messages in doubt keep theirs."""
        for _, error in result.refused:
            self._count_unsent(f"refused by Kafka: {type(error).__name__}")
        sent = [(*self._key(decision), metadata.offset, utc_now()) for decision, metadata in result.sent]
        withdrawn = [self._key(each) for each in (*result.unsent, *(decision for decision, _ in result.refused))]
        async with self._operation.connection.transaction():
            await self._operation.connection.executemany(_CONFIRM, sent)
            await self._operation.connection.executemany(_WITHDRAW, withdrawn)
        self._operation.result["sent"] += len(sent)
        self.dealt_with += len(sent)
        if not result.failed:
            await self._operation.save_progress()
            self._progress(self.dealt_with)

    def _outgoing(self, decision: RedriveDecision) -> Outgoing:
        letter = decision.letter
        headers = [each for each in letter.headers if each[0] not in (OPERATION_HEADER, LETTER_HEADER)]
        headers.append((OPERATION_HEADER, str(self._operation.number).encode()))
        headers.append((LETTER_HEADER, letter.place.encode()))
        # Where the topic keeps the producer's timestamp, the current time could move a lane's clock far ahead.
        timestamp = max(0, to_milliseconds(letter.origin_time))
        return Outgoing(
            letter.origin_topic, letter.key, letter.value, timestamp, tuple(headers), partition=decision.partition
        )

    def _count_unsent(self, why: str) -> None:
        not_sent: dict[str, int] = self._operation.result["not_sent"]
        not_sent[why] = not_sent.get(why, 0) + 1
        self.dealt_with += 1

    def _key(self, decision: RedriveDecision) -> tuple[Any, ...]:
        return decision.letter.partition, decision.letter.offset, decision.letter.id, self._operation.number
