"""The time that a record is decided as of, as each of those tells it who have to know it."""

import gc
from dataclasses import replace
from functools import reduce
from weakref import ref

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from infra.clock import from_milliseconds
from infra.settings import RecordTime
from schemas.catalogue import SEND_REQUESTS
from schemas.envelope import encode
from tests.workers.wire import send
from workers.jobs.decoding import decision_time, decode_records, latest_decision_time
from workers.jobs.record_times import SetAside, TimePolicy

START = 1_800_000_000_000
TIMESTAMPS = st.one_of(st.integers(START, START + 3), st.integers(-(2**63), 2**63 - 1))
KINDS = st.sampled_from([0, 1])
RANGES = st.builds(SetAside, st.integers(0, 4), st.integers(2, 8), st.just(from_milliseconds(START + 1)))
POLICIES = st.builds(TimePolicy, st.sampled_from(RecordTime), st.lists(RANGES, max_size=2).map(tuple))


def _records(timestamps: list[tuple[int, int]]) -> list[ConsumerRecord]:
    return [
        ConsumerRecord(SEND_REQUESTS, 0, at, time, kind, b"alice", b"{", None, 0, 0, ())
        for at, (time, kind) in enumerate(timestamps)
    ]


@given(st.lists(st.tuples(TIMESTAMPS, KINDS), max_size=8), st.integers(START, START + 3), POLICIES)
def test_time_is_the_same_however_it_is_asked_for(
    timestamps: list[tuple[int, int]], before: int, times: TimePolicy
) -> None:
    """It never runs back, and a timestamp that no result could carry, or that is not taken, is none."""
    records = _records(timestamps)
    as_of = from_milliseconds(before)
    latest = reduce(lambda time, record: decision_time(record, time, times), records, as_of)

    found = latest_decision_time(records, as_of, times), decode_records(records, as_of, times).as_of
    assert (latest, latest) == found


@pytest.mark.parametrize(
    ("times", "reasons"),
    [
        (TimePolicy(RecordTime.APPEND), ["producer_time", "not_json", "not_json"]),
        (TimePolicy(RecordTime.CREATE), ["not_json", "not_json", "not_json"]),
        (
            TimePolicy(RecordTime.APPEND, (SetAside(1, 3, from_milliseconds(START + 5)),)),
            ["producer_time", "not_json", "time_far_ahead"],
        ),
    ],
)
def test_a_time_that_is_not_taken_is_a_reason_of_its_own_and_moves_no_clock(
    times: TimePolicy, reasons: list[str]
) -> None:
    """The producer's where the broker's counts, and one that an operator has set aside; the others count."""
    records = _records([(START + 7, 0), (START + 5, 1), (START + 9, 1)])

    found = decode_records(records, from_milliseconds(START), times)

    assert reasons == [found.refused[0, offset].reason.value for offset in range(3)]
    believed = [record.timestamp for record, reason in zip(records, reasons, strict=True) if reason == "not_json"]
    assert from_milliseconds(max(believed)) == found.as_of


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"not json",
        b"[]",
        b'{"specversion":"1.0"}',
        encode(send("bob")),
        encode(send("alice")).replace(b'"time"', b'"id":"x","time"', 1),
        encode(send("alice")).replace(b'"data":{', b'"data":{"recipient_id":"x",', 1),
        b'{"specversion":"1.0","data_base64":"!"}',
    ],
    ids=["none", "not json", "no object", "no event", "another key", "a name twice", "a name in data twice", "base64"],
)
def test_a_record_that_is_refused_keeps_none_of_its_batch_in_memory(value: bytes | None) -> None:
    """What was read beside it goes with the batch: no cycle is left to the collector, which a worker runs seldom."""
    good, bad = _records([(START, 1), (START, 1)])
    good, bad = replace(good, value=encode(send("alice"))), replace(bad, value=value)
    kept = ref(good)
    gc.disable()
    try:
        found = decode_records([good, bad], from_milliseconds(START), TimePolicy(RecordTime.APPEND))
        assert (1, [(0, 1)]) == (len(found.requests), [*found.refused])
        del found, good, bad

        assert kept() is None
    finally:
        gc.enable()
