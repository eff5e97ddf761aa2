"""A lane's inbox: bounded by what records take, whatever of them is large or how many there are."""

from aiokafka.structs import ConsumerRecord

from schemas.catalogue import SEND_REQUESTS
from workers.lane.inbox import MOST_BYTES, Inbox

Headers = tuple[tuple[str, bytes], ...]


def _records(count: int, value: bytes | None, headers: Headers = (), first: int = 0) -> list[ConsumerRecord]:
    offsets = range(first, first + count)
    return [ConsumerRecord(SEND_REQUESTS, 0, each, 0, 0, None, value, None, 0, 0, headers) for each in offsets]


def _open() -> Inbox:
    inbox = Inbox(lambda: None)
    inbox.open(0)
    return inbox


def test_records_without_a_value_fill_it_too() -> None:
    """A backlog of tombstones, or of headers, is not read into memory as a whole."""
    for value, headers in ((None, ()), (b"", (("trace", bytes(10_000)),))):
        inbox = _open()
        inbox.offer(_records(10_000, value, headers), 10_000)
        assert not inbox.hungry


def test_records_that_are_large_are_taken_by_their_bytes() -> None:
    """A fetch that was compressed well may hold a hundred times more: one transaction could not take it in its time."""
    inbox = _open()
    inbox.offer(_records(10, bytes(MOST_BYTES // 4)), 10)
    inbox.offer(_records(1, bytes(MOST_BYTES * 2), first=10), 12)  # and a marker of a transaction after it
    taken = []
    while not inbox.hungry:
        taken.append(inbox.take(1000))

    assert [3, 3, 3, 1, 1] == [len(each.records) for each in taken if each]
    assert [3, 6, 9, 10, 12] == [each.next_offset for each in taken if each]
    assert 0 == inbox._bytes


def test_records_of_before_the_place_where_the_lane_has_begun_again_are_not_taken() -> None:
    """They were fetched before it sought, and delivered after."""
    inbox = _open()
    inbox.open(30)
    inbox.offer(_records(10, b"v", first=20), 30)
    assert 0 == inbox.records
    inbox.offer(_records(10, b"v", first=30), 40)
    assert 10 == inbox.records


def test_of_records_that_pass_the_place_where_the_lane_has_begun_those_of_after_it_are_taken() -> None:
    """The consumer goes on after them: records 100 to 119 would be lost if the whole of them were dropped."""
    inbox = _open()
    inbox.open(100)
    inbox.offer(_records(30, b"v", first=90), 120)
    inbox.offer(_records(1, b"v", first=120), 121)

    assert list(range(100, 121)) == [record.offset for record in inbox.take(1000).records]
    assert 0 == inbox._bytes
