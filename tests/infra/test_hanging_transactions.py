"""Which transactions count as hanging, by what brokers answer."""

from collections.abc import Mapping
from types import SimpleNamespace as Answer
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import LeaderNotAvailableError

from infra.kafka.cluster_queries import ClusterQueries
from infra.kafka.hanging_transactions import find_hanging_transactions

TRANSACTION_STATE = "__transaction_state"
RESULTS = TopicPartition("results", 0)
PRODUCER, EPOCH = 7, 3
STATES = (TopicPartition(TRANSACTION_STATE, 0), TopicPartition(TRANSACTION_STATE, 1))


class _Brokers:
    """Brokers 1 and 2; `results` has an open transaction, of which a broker's list knows what its states say."""

    def __init__(
        self, leaders: Mapping[TopicPartition, int], states: Mapping[int, str], *, moves: bool = False
    ) -> None:
        self._leaders = {RESULTS: 1, **leaders}
        self._states = states
        self._moves = moves

    async def refresh(self) -> None:
        pass

    def brokers(self) -> dict[int, str]:
        return {1: "one", 2: "two"}

    def partitions(self, topic: str) -> list[TopicPartition]:
        return [RESULTS] if topic == RESULTS.topic else list(STATES)

    def group_by_leader(self, places: Mapping[TopicPartition, int]) -> dict[int, dict[TopicPartition, int]]:
        found: dict[int, dict[TopicPartition, int]] = {}
        for place in places:
            if place in self._leaders:
                found.setdefault(self._leaders[place], {})[place] = 0
        return found

    async def send(self, node: int, request: Any) -> Any:
        match request.API_KEY:
            case 61:  # DescribeProducers
                row = (PRODUCER, EPOCH, 0, 1_000, 0, 5, {})
                return Answer(topics=[(RESULTS.topic, [(RESULTS.partition, 0, None, [row], {})], {})])
            case 66:  # ListTransactions
                rows = [("id", PRODUCER, self._states[node], {})] if node in self._states else []
                if self._moves:
                    self._leaders[STATES[1]] = 1
                return Answer(error_code=0, transactions=rows)
        row = (0, "id", self._states[node], 0, 0, PRODUCER, EPOCH, [(RESULTS.topic, [RESULTS.partition], {})], {})
        return Answer(transactions=[row])


async def _hanging(brokers: _Brokers) -> list[str | None]:
    found = await find_hanging_transactions(cast("ClusterQueries", brokers), [RESULTS.topic])
    return [each.state for each in found]


async def test_without_a_coordinator_no_transaction_counts_as_unknown() -> None:
    """A broker does not list the transactions of a partition that nobody leads, and gives no error either."""
    with pytest.raises(LeaderNotAvailableError, match=f"nobody leads {TRANSACTION_STATE} 1, so"):
        await _hanging(_Brokers({STATES[0]: 1}, {}))


async def test_a_coordinator_that_moves_meanwhile_may_have_been_missed() -> None:
    """The broker asked first did not lead the partition yet, the one asked last does not lead it any more."""
    with pytest.raises(LeaderNotAvailableError, match="changed while they were asked"):
        await _hanging(_Brokers({STATES[0]: 1, STATES[1]: 2}, {}, moves=True))


@pytest.mark.parametrize(
    ("states", "hanging"),
    [
        ({}, [None]),
        ({1: "CompleteCommit"}, ["CompleteCommit"]),
        ({2: "Ongoing"}, []),
        ({1: "Ongoing", 2: "CompleteAbort"}, []),
        ({1: "CompleteAbort", 2: "Ongoing"}, []),
    ],
)
async def test_a_transaction_hangs_unless_a_coordinator_has_it_under_way(
    states: dict[int, str], hanging: list[str | None]
) -> None:
    """Of two brokers that both call themselves its coordinator, one is not any more."""
    assert hanging == await _hanging(_Brokers({STATES[0]: 1, STATES[1]: 2}, states))
