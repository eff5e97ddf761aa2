"""Reemission that is killed again and again: each goes on from where the one before it had come."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from infra.kafka.sender import Sender
from infra.settings import Settings
from tests.workers.noted_operations import list_operations
from tests.workers.replaying import ME, fund_and_send
from workers.ops.operations import OngoingOperation
from workers.ops.replay.reemit import reemit
from workers.ops.replay.reemit_plan import plan_reemit
from workers.ops.replay.reemit_rows import RowFilter


async def test_one_that_is_killed_before_its_first_chunk_is_gone_on_with_from_where_it_was_to_begin(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had sent nothing, and the one that it went on with is not forgotten."""
    await fund_and_send(cluster, account, 4)
    selection, stop = RowFilter(account=account), asyncio.Event()
    whole = await plan_reemit(cluster, selection, None, 1)
    stopped = await reemit(cluster, selection, whole, who=ME, stop=stop, progress=lambda _: stop.set())
    second = await plan_reemit(cluster, selection, None, 1)

    async def dies(*_: object) -> None:
        raise KafkaConnectionError("planted")

    async def writes_nothing(*_: object) -> None:
        """A process that was killed writes no last word."""

    with monkeypatch.context() as broken:
        broken.setattr(Sender, "send", dies)
        broken.setattr(OngoingOperation, "save_end", writes_nothing)
        with pytest.raises(KafkaConnectionError):
            await reemit(cluster, selection, second, who=ME, stop=asyncio.Event())
    third = await plan_reemit(cluster, selection, None, 1)

    assert 1 == stopped.result["sent"]
    assert (second.start, whole.count - 1, 1) == (third.start, third.count, third.sent_before)
    assert third.resumes == (await list_operations(cluster, 1))[0].operation != stopped.number
