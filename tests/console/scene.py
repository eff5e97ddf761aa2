"""A cluster with data for the console: an account that spends, dead letters, and text that tries to be markup."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from aiokafka import TopicPartition
from pydantic import SecretStr

from infra.kafka.clients import create_producer, reader
from infra.local.ports import reserve_port
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from tests.workers.letters import platinum
from tests.workers.wire import eventually, pass_over, prepare, promotion, publish, send, working
from workers.console.server import serve_console
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.books.balance import UnknownAccountError
from workers.ops.books.statement import read_statement
from workers.ops.dead_letters.letters import DeadLetter, find_dead_letters

__all__ = ["EVIL", "OPERATOR", "READER", "Scene", "play_scene", "serve_test_console"]

OPERATOR: Final = "operator-token-of-a-test"
READER: Final = "reader-token-of-a-test"
EVIL: Final = "<img/src=x/onerror=alert(1)>"  # an id may contain all these characters
LETTERS: Final = 4  # of the account with an unknown plan


@dataclass(frozen=True, slots=True)
class Scene:
    """The data that the console shows."""

    settings: Settings
    account: str  # got 5 credits, sent 3 paid and 1 free
    request: UUID  # one of its paid sends
    refused: str  # an account of dead letters: its plan is unknown
    evil: str  # an account whose id tries to be markup, and who sent to one that does
    letter: DeadLetter  # a message that tries to be markup, in every part
    stranger: str  # a group of somebody else's, which stopped at the first send request


@asynccontextmanager
async def play_scene(settings: Settings) -> AsyncIterator[Scene]:
    """Let workers decide the scene's events; the workers run until the context ends, without the expiry worker."""
    await prepare(settings)
    await publish(settings, EXPIRY_TICKS, [(b"", b"a tick that nobody is there to read")])
    tail = uuid4().hex[:8]
    account, refused, evil = f"anna-{tail}", f"otto-{tail}", f"{EVIL}{tail}"
    stranger = f"analytics-{tail}"
    paid = [send(account) for _ in range(3)]
    catalogue = load_catalogue(settings.plans_file)
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):
        await publish(settings, BILLING_EVENTS, [promotion(account, 5), *(platinum(refused) for _ in range(LETTERS))])
        await _wait_for_lines(settings, account, 1)
        await publish(
            settings, SEND_REQUESTS, [*paid, send(account, relationship="connection"), send(evil, recipient_id=EVIL)]
        )
        await _publish_evil(settings, tail)
        await _wait_for_lines(settings, account, 5)
        await _wait_for_lines(settings, evil, 1)
        found: list[DeadLetter] = []

        async def all_there() -> bool:
            async with aclosing(find_dead_letters(settings)) as letters:
                found[:] = [letter async for letter in letters if tail in str((letter.account_id, letter.value))]
            return len(found) == LETTERS + 1

        await eventually(all_there, "the dead letters")
        letter = next(each for each in found if each.account_id != refused)
        await _commit_first_offset(settings, stranger)
        yield Scene(settings, account, paid[0].id, refused, evil, letter, stranger)
    await pass_over(settings)


async def _publish_evil(settings: Settings, tail: str) -> None:
    value = f'{{"type": "{EVIL}", "note": "{tail} <script>alert(2)</script>"}}'.encode()
    async with create_producer(settings, "test") as producer:
        await producer.send_and_wait(SEND_REQUESTS, value, EVIL.encode(), headers=[(f"<b>{EVIL}</b>", EVIL.encode())])


async def _commit_first_offset(settings: Settings, group: str) -> None:
    async with reader(settings, group) as consumer:
        place = TopicPartition(SEND_REQUESTS, 0)
        consumer.assign([place])
        await consumer.commit(await consumer.beginning_offsets([place]))


async def _wait_for_lines(settings: Settings, account: str, lines: int) -> None:
    async def there() -> bool:
        try:
            return len((await read_statement(settings, account)).lines) >= lines
        except UnknownAccountError:
            return False

    await eventually(there, f"{lines} lines of {account}")


@asynccontextmanager
async def serve_test_console(settings: Settings, port: int | None = None, **changes: Any) -> AsyncIterator[str]:
    """Serve a console on loopback with an operator's token."""
    tokens = {"console_operator_token": SecretStr(OPERATOR)}
    async with serve_console(
        settings.model_copy(update=tokens | changes), reserve_port(port, "a test's console")
    ) as address:
        yield address
