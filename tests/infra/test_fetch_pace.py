"""How long a worker's fetches wait at the brokers."""

from infra.kafka.fetch_pace import GATHERING, WAITING, FetchPace, FetchWait


class _Fetches:
    """What the fetches of a worker were changed to, under a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.changes: list[FetchWait] = []
        self.pace = FetchPace(self.changes.append, lambda: self.now)

    def count(self, *records: int, seconds: float) -> None:
        """Count polls that came over so many seconds."""
        for each in records:
            self.now += seconds / len(records)
            self.pace.count(each)


def test_fetches_of_an_idle_worker_wait_for_a_record() -> None:
    """After a second without records a fetch waits for the first one instead of being asked again and again."""
    fetches = _Fetches()
    fetches.count(0, 0, 0, seconds=0.9)
    assert not fetches.pace.is_waiting

    fetches.count(0, seconds=0.2)
    assert [WAITING] == fetches.changes
    assert fetches.pace.is_waiting


def test_fetches_gather_as_soon_as_many_records_come() -> None:
    """A burst is not decided record by record, not even for the rest of the second."""
    fetches = _Fetches()
    fetches.count(0, seconds=1.1)
    fetches.count(20, seconds=0.1)
    assert fetches.pace.is_waiting  # as many as gathering would make turns

    fetches.count(1, seconds=0.1)
    assert [WAITING, GATHERING] == fetches.changes


def test_fetches_gather_while_many_records_come() -> None:
    """One second without many makes them wait again; a steady stream does not change them."""
    fetches = _Fetches()
    for _ in range(5):
        fetches.count(10, 10, 10, seconds=1.1)
    assert not fetches.changes

    fetches.count(5, seconds=1.1)
    assert [WAITING] == fetches.changes
