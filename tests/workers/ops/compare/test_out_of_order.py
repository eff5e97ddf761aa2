"""What was decided ahead of another lane is named by a comparison, and told apart from what has another cause."""

import asyncio
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from pydantic_core import to_json

from infra.postgres import connect_database
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.workers.history_books import new_database
from tests.workers.life import in_partition
from tests.workers.replaying import published
from tests.workers.wire import promotion, publish, send, working
from workers.commands.views.rebuild import show_comparison
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue
from workers.ops.compare.comparison import Comparison
from workers.ops.compare.html_report import render_page
from workers.ops.compare.out_of_order import DifferenceCause, OvertakenIndex, RecordRef
from workers.ops.operations import Operator
from workers.ops.replay.rebuild import rebuild
from workers.ops.replay.rebuild_plan import RebuildRequest, plan_rebuild, target_settings


async def _compared(settings: Settings, asked: RebuildRequest) -> Comparison:
    plan = await plan_rebuild(settings, asked)
    _, comparison = await rebuild(settings, asked, plan, who=Operator("ops-1", "a trial"), stop=asyncio.Event())
    assert comparison is not None
    return comparison


async def test_an_outcome_decided_ahead_is_named_with_what_came_of_it(
    cluster: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """A send that was decided before an earlier grant was not refused for good, and a free one comes out the same."""
    since = datetime.now(UTC)
    poor, other, apart = (in_partition(cluster, number) for number in (0, 0, 1))
    requests = [send(poor), send(other, relationship="connection"), send(apart, relationship="connection")]
    sending, billing = SendJob(load_catalogue()), BillingJob(load_catalogue())
    await publish(cluster, BILLING_EVENTS, [promotion(poor, 5)])
    await publish(cluster, SEND_REQUESTS, requests)
    for job in (sending, billing):  # as if the billing worker had ended before
        async with working(cluster, job):
            await published(cluster, job)
    asked = RebuildRequest("replay shadow", SecretStr(await new_database(cluster)), start=since)

    first = await _compared(cluster, asked)
    connection = await connect_database(target_settings(cluster, asked))
    await connection.execute("update journal set recipient_id = 'else' where source_partition = 1")
    await connection.close()
    second = await _compared(cluster, asked)

    found = {each.place["request_id"]: (each.ahead_of, each.difference) for each in second.ahead.outcomes}
    assert (("inmail-billing",), "balance_not_current: missing") == found[requests[0].id]
    assert (("inmail-billing",), None) == found[requests[1].id]
    assert requests[2].id not in found
    assert (0, 1) == (first.unexplained, second.unexplained)
    assert {"entries: free: differs in recipient_id"} == second.counts().keys() - first.counts().keys()
    assert 1 == first.counts()["entries: balance_not_current: missing (decided ahead)"]
    assert 1 == first.counts()["lots: promotion: differs in sum_of_entries (after one that was decided ahead)"]
    show_comparison(second)
    text, page, json = capsys.readouterr().out, render_page(second, "a trial", {}), to_json(second.summary()).decode()
    assert f"request_id {requests[0].id}: send 0/" in text
    assert "ahead of inmail-billing: missing\n" in text or "balance_not_current: missing" in text
    assert "1 difference not caused by records decided ahead." in text
    assert "balance_not_current: missing (decided ahead)" in page
    assert "<td>the same</td>" in page
    assert '"not_of_that":1' in json
    assert '"difference":"balance_not_current: missing"' in json


def test_ranges_of_records_may_overlap() -> None:
    """A record is ahead of each lane whose range holds it; the ends of ranges are not in them."""
    marks = OvertakenIndex.of(
        [("send", 3, 10, 20, "billing"), ("send", 3, 15, 25, "expiry"), ("send", 3, 20, 22, "billing")]
    )

    found = {at: marks.ahead_of(RecordRef("send", 3, at)) for at in (9, 10, 15, 19, 20, 22, 24, 25)}

    both = ("billing", "expiry")
    assert {9: (), 10: ("billing",), 15: both, 19: both, 20: both, 22: ("expiry",), 24: ("expiry",), 25: ()} == found
    assert () == marks.ahead_of(RecordRef("send", 4, 12))


def test_what_came_before_has_another_cause() -> None:
    """Only what an account did at the same time or later may follow from what was decided ahead."""
    marks = OvertakenIndex.of([])
    early, late, later = (datetime(2030, 1, day, tzinfo=UTC) for day in (1, 2, 3))
    marks.mark_affected(["alice", 0], late)
    marks.mark_affected(["alice"], later)

    assert [DifferenceCause.ELSEWHERE, DifferenceCause.FOLLOWS, DifferenceCause.FOLLOWS, DifferenceCause.FOLLOWS] == [
        marks.origin("alice", time, ahead=False) for time in (early, late, later, None)
    ]
    assert DifferenceCause.ELSEWHERE == marks.origin("bob", later, ahead=False)
    assert DifferenceCause.AHEAD == marks.origin("bob", early, ahead=True)
