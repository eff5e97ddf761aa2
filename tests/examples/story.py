"""What the sample programs of `examples/` have to do, against real Kafka and real workers."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from infra.kafka.clients import create_lane_producer, partition_of, partitions_of
from infra.kafka.records import read_records
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS, SEND_RESULTS
from tests.workers.wire import promotion, publish

SECONDS = 120  # until a program says what it should: a request that is sent again waits for 60 of them


@dataclass(frozen=True, slots=True)
class Sample:
    """A language's two programs, as command lines without their arguments."""

    name: str
    send_inmail: Sequence[str]
    read_results: Sequence[str]
    retry_seconds: float | None = None  # instead of what an answer says

    def environment(self, settings: Settings) -> dict[str, str]:
        """Return the environment of both programs."""
        servers = {"KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers}
        return {**os.environ, **servers} | (
            {} if self.retry_seconds is None else {"RETRY_SECONDS": f"{self.retry_seconds:g}"}
        )


@dataclass(slots=True)
class Said:
    """A program at work, and the JSON lines that it has printed."""

    process: Process
    lines: list[dict[str, Any]] = field(default_factory=list)

    async def until(self, count: int) -> None:
        """Read lines until there are so many."""
        async with asyncio.timeout(SECONDS):
            while len(self.lines) < count:
                assert self.process.stdout is not None
                line = await self.process.stdout.readline()
                assert line, f"ended with {await self.process.wait()} after {self.lines}"
                self.lines.append(json.loads(line))

    async def told(self) -> str:
        """Read standard error, which has to be a pipe, until the program tells the id of its request; return that."""
        async with asyncio.timeout(SECONDS):
            assert self.process.stderr is not None
            async for line in self.process.stderr:
                word, _, id_ = line.decode().strip().partition(" ")
                if word == "request":
                    return id_
        raise AssertionError(f"ended with {await self.process.wait()} and told no id")

    async def end(self) -> list[dict[str, Any]]:
        """Read until the program ends, with 0 or as a JVM does that a signal ended in order; return all its lines."""
        async with asyncio.timeout(SECONDS):
            assert self.process.stdout is not None
            self.lines += [json.loads(line) async for line in self.process.stdout]
            assert await self.process.wait() in {0, 128 + signal.SIGTERM}, self.lines
        return self.lines


@asynccontextmanager
async def _running(settings: Settings, sample: Sample, *command: str, stderr: int | None = None) -> AsyncIterator[Said]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=stderr, env=sample.environment(settings)
    )
    try:
        yield Said(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _send(
    settings: Settings, sample: Sample, account: str, id_: str, recipient: str = "bob"
) -> list[dict[str, Any]]:
    async with _running(settings, sample, *sample.send_inmail, account, recipient, id_) as said:
        return await said.end()


class Reading:
    """A sample's reader, and what it did for one account."""

    def __init__(self, said: Said, account: str) -> None:
        self._said = said
        self._account = account

    @property
    def actions(self) -> list[tuple[str, str]]:
        """Action and code, in order."""
        return [(line["action"], line["code"]) for line in self._said.lines if line["account"] == self._account]

    async def until(self, last: tuple[str, str]) -> list[tuple[str, str]]:
        """Read until this was done; then end the reader as a deployment does, and return all that was done."""
        while last not in self.actions:
            await self._said.until(len(self._said.lines) + 1)
        self._said.process.send_signal(signal.SIGTERM)
        await self._said.end()
        return self.actions


@asynccontextmanager
async def reading(settings: Settings, sample: Sample, group: str, account: str) -> AsyncIterator[Reading]:
    """Run a sample's reader."""
    async with _running(settings, sample, *sample.read_results, group) as said:
        yield Reading(said, account)


async def send_twice(settings: Settings, sample: Sample, account: str) -> None:
    """A grant of one, a send right after it, the same again, another body with its id, and another send.

    Charged, as before, a conflict, and refused.
    """
    id_ = str(uuid4())
    await publish(settings, BILLING_EVENTS, [promotion(account, 1)])
    (first,) = await _send(settings, sample, account, id_)
    (second,) = await _send(settings, sample, account, id_)
    (conflict,) = await _send(settings, sample, account, id_, "carol")
    (other,) = await _send(settings, sample, account, str(uuid4()))

    assert ("charged", id_, False) == (first["code"], first["request_id"], first["repeat"]), first
    assert ("charged", True, first["sequence"]) == (second["code"], second["repeat"], second["sequence"]), second
    assert ("rejected", "key_conflict", id_) == tuple(conflict[name] for name in ("outcome", "code", "request_id"))
    assert ("rejected", "insufficient_credits") == (other["outcome"], other["code"]), other
    assert partition_of(account.encode(), settings.topic_partitions) == first["source"]["partition"], first


async def send_with_an_id_of_its_own(settings: Settings, sample: Sample, account: str) -> None:
    """Without an ID, and without workers: the program makes one and tells it, and takes no other account's answer."""
    async with _running(settings, sample, *sample.send_inmail, account, "bob", stderr=PIPE) as said:
        id_ = await said.told()
        others, own = (f"not-{account}", id_, "of_another"), (account, id_, "forged")
        await _answer(settings, account, others, own)
        (answer,) = await said.end()

    assert ("forged", id_) == (answer["code"], answer["request_id"]), answer
    places = partitions_of(SEND_REQUESTS, settings.topic_partitions)
    async with aclosing(read_records(settings, places)) as records:
        sent = [json.loads(record.value)["id"] async for record in records if record.key == account.encode()]
    assert [id_] == sent


async def forge(settings: Settings, account: str) -> None:
    """An answer in a transaction that is aborted, and then one with a code and a member that nobody knows."""
    answers = [(account, str(uuid4()), code) for code in ("aborted", "aborted_too", "from_the_future")]
    await _answer(settings, account, *answers, commit="from_the_future")


async def _answer(settings: Settings, key: str, *answers: tuple[str, str, str], commit: str | None = None) -> None:
    """Publish answers that no worker gave, all in the partition of a key, each in a transaction of its own.

    Args:
        settings: the cluster.
        key: of the records.
        answers: of each its subject, request id and code.
        commit: the code whose transactions are committed, others are aborted; by default all are committed.

    """
    data = {"outcome": "rejected", "repeat": False, "sequence": 9, "later": {"member": 1}}
    event = {"specversion": "1.0", "source": "/forged", "type": "inmail.send.decided.v1"}
    producer = create_lane_producer(settings, f"forged-{uuid4()}")
    await producer.start()
    try:
        for subject, request_id, code in answers:
            await producer.begin_transaction()
            body = data | {"request_id": request_id, "code": code}
            value = json.dumps(event | {"id": str(uuid4()), "subject": subject, "data": body}).encode()
            await producer.send_and_wait(SEND_RESULTS, value, key.encode())
            await (producer.commit_transaction() if commit in {None, code} else producer.abort_transaction())
    finally:
        await producer.stop()


async def send_before_its_grant_is_read(
    settings: Settings, samples: Sequence[Sample], accounts: Sequence[str], refused: asyncio.Event
) -> None:
    """A grant that no worker reads, a send, and then the worker: refused for now, sent again, and charged.

    Args:
        settings: the cluster, without a billing worker.
        samples: whose programs send.
        accounts: an account for each.
        refused: is set once each has been refused. The billing worker starts then.

    """
    async with AsyncExitStack() as stack:
        sending, ids = [], [str(uuid4()) for _ in samples]
        for sample, account, id_ in zip(samples, accounts, ids, strict=True):
            await publish(settings, BILLING_EVENTS, [promotion(account, 1)])
            command = (*sample.send_inmail, account, "bob", id_)
            sending.append(await stack.enter_async_context(_running(settings, sample, *command)))
        await asyncio.gather(*(said.until(1) for said in sending))
        refused.set()
        for said, id_ in zip(sending, ids, strict=True):
            *refused, last = await said.end()
            assert {("rejected", "balance_not_current", id_)} == {
                (each["outcome"], each["code"], each["request_id"]) for each in refused
            }
            assert ("accepted", "charged", id_, False) == tuple(
                last[name] for name in ("outcome", "code", "request_id", "repeat")
            ), last
