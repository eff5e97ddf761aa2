"""Ports of the local stack: the usual one of a server, or one near it, or any."""

import pytest

from infra.local.ports import LOOPBACK, reserve_usual


@pytest.mark.parametrize("usual", [65_530, 65_535, 65_536, 65_540])
def test_a_usual_port_near_the_last_one_leaves_a_free_one(usual: int) -> None:
    """As the second and third brokers' are with `inmail up --brokers 3 --kafka-port 65535`: two more than there are."""
    with reserve_usual(usual, "Kafka 2") as first, reserve_usual(usual, "Kafka 3") as second:
        places = [each.getsockname() for each in (first, second)]

    assert [LOOPBACK] * 2 == [host for host, _ in places]
    assert len(set(places)) == 2
