"""The time that a record is decided as of, as each of those tells it who have to know it."""

from functools import reduce

from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from infra.clock import from_milliseconds
from schemas.catalogue import SEND_REQUESTS
from workers.jobs.decoding import decision_time, decode_records, latest_decision_time

TIMESTAMPS = st.one_of(st.integers(1_800_000_000_000, 1_800_000_000_003), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(TIMESTAMPS, max_size=8), st.integers(1_800_000_000_000, 1_800_000_000_003))
def test_time_is_the_same_however_it_is_asked_for(timestamps: list[int], before: int) -> None:
    """It never runs back, and a timestamp that no result could carry is none."""
    records = [
        ConsumerRecord(SEND_REQUESTS, 0, at, time, 0, b"alice", b"{", None, 0, 0, ())
        for at, time in enumerate(timestamps)
    ]
    as_of = from_milliseconds(before)
    latest = reduce(lambda time, record: decision_time(record, time), records, as_of)

    assert (latest, latest) == (latest_decision_time(records, as_of), decode_records(records, as_of).as_of)
