"""Redriving while the brokers do not answer: it ends in time, and nothing that was sent is unknown."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError

from infra.kafka import sender as module
from infra.kafka.sender import Sender
from infra.local.stack import LocalStack
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS
from schemas.envelope import encode
from tests.workers.letters import platinum, set_aside
from tests.workers.wire import prepare
from workers.ledger.plans import SHIPPED
from workers.ops.dead_letters.letters import LetterFilter
from workers.ops.dead_letters.redrive import redrive
from workers.ops.dead_letters.redrive_plan import RedriveOptions, plan_redrive
from workers.ops.operations import Operator

ME = Operator("ops-1", "the catalogue was mended")


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalStack]:
    """A broker beside the one of the other tests."""
    with LocalStack(postgres=False) as stack:
        yield stack


@pytest.fixture
def frozen(broker: LocalStack) -> Iterator[LocalStack]:
    """A broker to freeze."""
    yield broker
    os.kill(broker.kafka_pid, signal.SIGCONT)


@pytest.mark.whole
@pytest.mark.parametrize("ends_by", ["stop", "limit"])
async def test_a_redrive_whose_broker_does_not_answer_ends_in_time(  # noqa: PLR0917 - one parameter a fixture
    settings: Settings,
    frozen: LocalStack,
    account: str,
    database: Connection,
    tmp_path: Path,
    ends_by: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one that was acknowledged is on record, the one that was not is in doubt, and the next redrive sends it."""
    plans = tmp_path / "plans.toml"
    plans.write_text(SHIPPED.read_text() + "\n[plans.platinum]\ncredits = 7\nrollover = true\n")
    servers = {"kafka_bootstrap_servers": frozen.kafka_bootstrap_servers, "topic_partitions": 2}
    own = settings.model_copy(update=servers | {"plans_file": str(plans)})
    await prepare(own)
    await set_aside(own, BILLING_EVENTS, account, [encode(platinum(account)) for _ in range(3)], "unknown_plan")
    stop, selection = asyncio.Event(), LetterFilter(account=account)
    plan = await plan_redrive(own, selection, RedriveOptions(rate=1))
    monkeypatch.setattr(module, "_STOP_SECONDS", 0.5)
    if ends_by == "limit":
        monkeypatch.setattr(module, "_ANSWER_SECONDS", 2.0)
    send, sent = Sender.send, []

    async def then_stop(sender: Sender, *arguments: Any) -> None:
        await send(sender, *arguments)
        if sent and ends_by == "stop":
            stop.set()

    def freeze(count: int) -> None:
        sent.append(count)
        os.kill(frozen.kafka_pid, signal.SIGSTOP)

    monkeypatch.setattr(Sender, "send", then_stop)
    with pytest.raises(KafkaTimeoutError, match="1 of the messages were not acknowledged"):
        async with asyncio.timeout(15):
            await redrive(own, selection, RedriveOptions(rate=1), plan, who=ME, stop=stop, progress=freeze)
    kept = await database.fetch("select sent_at is not null from redriven order by letter_offset")
    os.kill(frozen.kafka_pid, signal.SIGCONT)
    rest = await plan_redrive(own, selection, RedriveOptions())
    done = await redrive(own, selection, RedriveOptions(), rest, who=ME, stop=asyncio.Event())

    assert [True, False] == [sent for (sent,) in kept]
    assert (2, 1) == (rest.count, rest.in_doubt)
    assert 2 == done.result["sent"]
