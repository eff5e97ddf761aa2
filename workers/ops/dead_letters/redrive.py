"""Sends the messages of dead letters back at a steady rate, each on record.

A message goes to the partition it came from, with its bytes, key and headers, and two headers that mark the redrive.
Its worker decides it like any other record, as of the time of the redrive; a request that was answered before gets its
stored answer.

The intent to send a message is recorded before it is sent, and the broker's answer after. So no sent message is
unknown: if an operation breaks off, the messages without an answer are in doubt, and the next redrive sends them again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import BrokerResponseError, KafkaTimeoutError, OutOfOrderSequenceNumber
from aiokafka.structs import RecordMetadata

from infra.clock import to_milliseconds, utc_now
from infra.kafka.clients import create_producer, stop_producer
from infra.rate_limit import RateLimit
from infra.settings import Settings
from workers.jobs.dead_letters import LETTER_HEADER
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive_plan import RedriveDecision, RedriveOptions, RedrivePlan, decide_redrives
from workers.ops.operations import Intent, OngoingOperation, Operator, recorded_operation

__all__ = ["LETTER_HEADER", "OPERATION_HEADER", "VERB", "redrive"]

VERB = "redrive"
OPERATION_HEADER = "inmail-redrive-operation"

_INTENDED = 100  # messages at most that are in doubt when a process is killed
_ANSWER_SECONDS = 60.0
_STOP_SECONDS = 5.0


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

SentLetter = tuple[RedriveDecision, "asyncio.Future[RecordMetadata]"]


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
        RefusedError: when another redrive is running.
        NotSetUpError, KafkaError, OSError, asyncpg.PostgresError: when the redrive fails; the same command resumes it.

    """
    arguments = {"selection": selection.summary(), **{name: getattr(options, name) for name in options.__slots__}}
    async with recorded_operation(settings, Intent(VERB, *who, arguments, plan.summary())) as operation:
        sender = _RedriveSender(settings, operation, options.rate, stop)
        try:
            await sender.renew()
            judged = decide_redrives(settings, operation.connection, selection, options, plan.places)
            async with aclosing(judged) as batches:
                async for batch in batches:
                    await sender.send_all(batch, progress)
                    if operation.stopped:
                        break
        finally:
            await sender.close()
        operation.result["left"] = plan.count - sender.dealt_with
    return operation


class _RedriveSender:
    """Sends at a rate, and keeps the record."""

    def __init__(self, settings: Settings, operation: OngoingOperation, rate: float, stop: asyncio.Event) -> None:
        self._settings = settings
        self._producer: AIOKafkaProducer | None = None
        self._operation = operation
        self._rate = rate
        self._stop = stop
        self._rate_limit = RateLimit(rate, stop)
        self.dealt_with = 0
        operation.result |= {"sent": 0, "not_sent": {}}

    async def renew(self) -> None:
        """Take a producer that is new: aiokafka goes on counting behind a batch that the broker refused."""
        await self.close()
        self._producer = create_producer(self._settings, f"inmail-{VERB}", large=True)
        await self._producer.start()

    async def close(self) -> None:
        """Stop the producer, within 5 s."""
        await stop_producer(self._producer, _STOP_SECONDS)

    async def send_all(self, batch: Sequence[RedriveDecision], progress: Callable[[int], None]) -> None:
        """Send what is to be sent of a batch, until asked to stop."""
        for verdict in batch:
            if verdict.refusal is not None:  # something became of it since the plan was made
                self._leave(verdict.refusal)
        sendable = [verdict for verdict in batch if verdict.refusal is None]
        # A second's worth at most, so that the record is never far behind.
        size = max(1, min(_INTENDED, round(self._rate)))
        for start in range(0, len(sendable), size):
            if self._stop.is_set():
                break
            await self._send(sendable[start : start + size])
            await self._operation.save_progress()
            progress(self.dealt_with)
        self._operation.stopped = self._stop.is_set()

    def _leave(self, why: str) -> None:
        not_sent: dict[str, int] = self._operation.result["not_sent"]
        not_sent[why] = not_sent.get(why, 0) + 1
        self.dealt_with += 1

    async def _send(self, chunk: Sequence[RedriveDecision]) -> None:
        await self._intend(chunk)
        unsent = chunk
        while unsent:
            deliveries, never = await self._hand_over(unsent)
            if deliveries:
                await self._wait_for([delivery for _, delivery in deliveries])
            unsent, refused = await self._record(deliveries, never)
            if refused:
                await self.renew()

    async def _wait_for(self, deliveries: Sequence["asyncio.Future[RecordMetadata]"]) -> None:
        """Wait for the brokers' word. Bounded, and shorter after a stop: an idempotent producer waits for ever."""
        told = asyncio.create_task(asyncio.wait(deliveries))
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([told, stopped], timeout=_ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await asyncio.wait([told], timeout=_STOP_SECONDS)
        finally:
            told.cancel()
            stopped.cancel()

    async def _hand_over(self, chunk: Sequence[RedriveDecision]) -> tuple[list[SentLetter], list[RedriveDecision]]:
        """Give messages to the producer, one after another in time; return also those that there was no time for."""
        assert self._producer is not None  # noqa: S101 - renewed before anything is sent
        deliveries: list[SentLetter] = []
        for number, verdict in enumerate(chunk):
            if await self._rate_limit.before():
                return deliveries, list(chunk[number:])
            letter = verdict.letter
            headers = [each for each in letter.headers if each[0] not in (OPERATION_HEADER, LETTER_HEADER)]
            headers.append((OPERATION_HEADER, str(self._operation.number).encode()))
            headers.append((LETTER_HEADER, letter.place.encode()))
            try:
                delivery = await self._producer.send(
                    letter.origin_topic,
                    letter.value,
                    letter.key,
                    partition=verdict.partition,
                    # Where the producer's word is taken for the time, "now" could carry a lane far ahead of its story.
                    timestamp_ms=max(0, to_milliseconds(letter.origin_time)),
                    headers=headers,
                )
            except BrokerResponseError as error:  # larger than any topic takes
                delivery = asyncio.get_running_loop().create_future()
                delivery.set_exception(error)
            deliveries.append((verdict, delivery))
        return deliveries, []

    async def _intend(self, chunk: Sequence[RedriveDecision]) -> None:
        rows = [(*self._key(each), each.letter.origin_topic, each.partition, utc_now()) for each in chunk]
        await self._operation.connection.executemany(_INTEND, rows)

    async def _record(
        self, deliveries: Sequence[SentLetter], never: list[RedriveDecision]
    ) -> tuple[list[RedriveDecision], bool]:
        """Write down what the broker said of each message; raise what leaves one in doubt.

        Returns those that stood behind one that was refused, which are to be sent again, and whether one was.
        """
        errors = {verdict: delivery.exception() for verdict, delivery in deliveries if delivery.done()}
        behind = [verdict for verdict, error in errors.items() if isinstance(error, OutOfOrderSequenceNumber)]
        refused = {
            verdict: error
            for verdict, error in errors.items()
            if isinstance(error, BrokerResponseError) and not error.retriable and verdict not in behind
        }
        for error in refused.values():
            self._leave(f"refused by Kafka: {type(error).__name__}")
        sent = [
            (*self._key(verdict), delivery.result().offset, utc_now())
            for verdict, delivery in deliveries
            if delivery.done() and errors[verdict] is None
        ]
        async with self._operation.connection.transaction():
            await self._operation.connection.executemany(_CONFIRM, sent)
            await self._operation.connection.executemany(_WITHDRAW, [self._key(each) for each in (*never, *refused)])
        self._operation.result["sent"] += len(sent)
        self.dealt_with += len(sent)
        for verdict, error in errors.items():
            if error is not None and verdict not in refused and not (refused and verdict in behind):
                raise error
        if late := len(deliveries) - len(errors):
            raise KafkaTimeoutError(f"{late} of the messages were not acknowledged in time: the same command goes on")
        return behind, bool(refused)

    def _key(self, verdict: RedriveDecision) -> tuple[Any, ...]:
        return verdict.letter.partition, verdict.letter.offset, verdict.letter.id, self._operation.number
