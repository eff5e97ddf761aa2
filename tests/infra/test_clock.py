"""Kafka's timestamps as instants, also those that no calendar has."""

from datetime import UTC, datetime

import pytest

from infra.clock import nearest_instant


@pytest.mark.parametrize(
    ("milliseconds", "instant"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (946_684_800_123, datetime(2000, 1, 1, 0, 0, 0, 123_000, tzinfo=UTC)),
        (2**62, datetime.max.replace(tzinfo=UTC)),
        (253_402_300_800_000, datetime.max.replace(tzinfo=UTC)),
        (-(2**62), datetime.min.replace(tzinfo=UTC)),
    ],
)
def test_a_time_beyond_the_calendar_is_its_end(milliseconds: int, instant: datetime) -> None:
    """A producer's word may be any number: the lag of a topic that takes it is told all the same."""
    assert instant == nearest_instant(milliseconds)
