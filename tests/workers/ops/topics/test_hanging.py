"""Which of the transactions that seem to hang may be ended."""

from datetime import timedelta
from unittest.mock import AsyncMock

import pytest
from aiokafka import TopicPartition
from typer.testing import CliRunner

from infra.clock import utc_now
from infra.kafka.hanging_transactions import HangingTransaction
from schemas.catalogue import SEND_REQUESTS, SEND_RESULTS
from workers.commands import transactions
from workers.ops.topics.hanging import may_be_live, still_hanging


def hanging(state: str | None, minutes: float = 0.0) -> HangingTransaction:
    """Return one that was last written to so many minutes ago."""
    since = utc_now() - timedelta(minutes=minutes)
    return HangingTransaction(TopicPartition(SEND_RESULTS, 0), 5, since, 7, 1, 0, None, state)


@pytest.mark.parametrize(
    ("state", "minutes", "live"),
    [
        ("CompleteCommit", 0, False),
        ("CompleteAbort", 0, False),
        (None, 0, True),
        (None, 4.9, True),
        (None, 5.1, False),
        ("Ongoing", 4.9, True),
        (None, -1, True),  # by a broker's clock that is ahead
    ],
)
def test_a_young_transaction_of_which_nobody_knows_may_be_live(
    state: str | None, minutes: float, *, live: bool
) -> None:
    """A worker's transaction times out before it is 5 minutes old; what its coordinator calls complete is over."""
    assert live is may_be_live(hanging(state, minutes))


LISTED = hanging("CompleteCommit")


@pytest.mark.parametrize(
    ("found", "ended"),
    [
        (LISTED, True),
        (LISTED._replace(coordinator_epoch=9), True),
        (LISTED._replace(place=TopicPartition(SEND_RESULTS, 1)), False),
        (LISTED._replace(place=TopicPartition(SEND_REQUESTS, 0)), False),
        (LISTED._replace(producer_id=8), False),
        (LISTED._replace(producer_epoch=2), False),
        (LISTED._replace(start_offset=6), False),
        (LISTED._replace(state="CompleteAbort"), False),  # another marker than the operator has confirmed
    ],
)
def test_only_what_still_hangs_as_it_was_listed_is_ended(found: HangingTransaction, *, ended: bool) -> None:
    """While the operator was asked, its producer may have come back."""
    assert [found] * ended == still_hanging([LISTED], [found])


def test_what_may_be_live_is_not_ended_though_it_is_listed() -> None:
    """Whoever calls, the age holds."""
    young, old = hanging(None), hanging(None, 6)
    assert [old] == still_hanging([young, old], [young, old._replace(since=old.since)])


def test_a_transaction_of_another_producer_is_named_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """An open transaction in an input topic is of somebody's producer; nothing was said of it, and readers stood."""
    theirs = hanging("CompleteCommit")._replace(place=TopicPartition(SEND_REQUESTS, 3), transactional_id="orders-7")
    monkeypatch.setattr(transactions, "list_hanging", AsyncMock(return_value=[theirs]))

    done = CliRunner().invoke(transactions.transactions, ["end", "--because", "a test", "--yes"])

    says = "left to its producer's owner: inmail.send-requests 3 from offset 5: a transaction of orders-7,"
    assert 0 == done.exit_code
    assert says in done.output
    assert "0 ended as committed, 0 as aborted" in done.output
