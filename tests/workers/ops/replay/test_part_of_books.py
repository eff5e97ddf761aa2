"""What goes through all accounts does not take one server of several for all."""

from collections.abc import Awaitable, Callable

import pytest

from infra.settings import Settings
from tests.whole import whole
from tests.workers.two_servers import TwoServers, account_of
from tests.workers.wire import prepare
from workers.ledger.model import WorkerName
from workers.ops.books.whole_books import PartOfBooksError
from workers.ops.replay.balances import plan_balances
from workers.ops.replay.rebuild_plan import RebuildRequest
from workers.ops.replay.rebuild_servers import plan_each_server
from workers.ops.replay.reemit_plan import plan_reemit
from workers.ops.replay.reemit_rows import RowFilter
from workers.ops.replay.rewind_plan import RewindOptions, plan_rewind
from workers.ops.replay.rewind_target import RewindTarget, TargetKind

_PLANS: list[Callable[[Settings], Awaitable[object]]] = [
    lambda settings: plan_reemit(settings, RowFilter(), None, 1.0),
    whole(lambda settings: plan_reemit(settings, RowFilter(account=account_of(3)), None, 1.0)),
    lambda settings: plan_balances(settings, None, 1.0),
    lambda settings: plan_each_server(settings, RebuildRequest("replay shadow", schema="other")),
    lambda settings: plan_rewind(
        settings, WorkerName.SEND, RewindTarget(TargetKind.OFFSET, 0), RewindOptions(publish_again=True)
    ),
]


@pytest.mark.parametrize("plan", _PLANS, ids=["reemit", "reemit of an account", "balances", "shadow", "rewind"])
async def test_a_plan_for_one_server_of_several_is_refused(
    servers: TwoServers, plan: Callable[[Settings], Awaitable[object]]
) -> None:
    """With INMAIL_DATABASE_SHARDS forgotten, what others have would be left out, and nobody told."""
    settings = servers.alone[0].model_copy(update={"balances_topic": True})
    await prepare(settings)

    with pytest.raises(PartOfBooksError, match="holds only some of the partition numbers: name all servers"):
        await plan(settings)
