"""Pages of dead letters: each letter once, newest first, and a page costs what it shows."""

import asyncio
from collections.abc import Iterable
from datetime import datetime
from itertools import count, pairwise

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import ConsumerRecord
from typer.testing import CliRunner

from infra.clock import utc_now
from infra.kafka.backwards import FEWEST_OFFSETS, BackwardReader, ReadBudget
from infra.kafka.clients import create_lane_producer, create_producer, partition_of
from infra.kafka.cluster_queries import EARLIEST, LATEST, open_cluster_queries
from infra.settings import Settings
from schemas.catalogue import DEAD_LETTERS, SEND_REQUESTS, Undecodable
from schemas.dead_letters import DeadLetterReason
from tests.whole import whole
from tests.workers.letters import set_aside
from tests.workers.two_servers import SILENT
from workers.cli import app
from workers.jobs.dead_letters import dead_letter
from workers.jobs.job import Message
from workers.ops.dead_letters import letters, pages
from workers.ops.dead_letters.letters import DeadLetter, LetterFilter
from workers.ops.dead_letters.pages import LetterPage, count_newest, list_dead_letters
from workers.ops.dead_letters.report import count_dead_letters, report_dead_letters

pytestmark = pytest.mark.usefixtures("no_letters_left")

_numbers = count(2 * 10**9)
_MANY = 1000
_PAGE = 10
_BUDGET = 200


def _letter(account: str, partition: int, value: bytes = b"{") -> Message:
    problem = Undecodable(DeadLetterReason.NOT_JSON, "planted")
    key = account.encode()
    return dead_letter(
        ConsumerRecord(SEND_REQUESTS, partition, next(_numbers), 1_900_000_000_000, 1, key, value, None, 0, 0, ()),
        problem,
    )


async def _plant(settings: Settings, accounts: Iterable[str], partition: int, value: bytes = b"{") -> None:
    """Write a dead letter of each account, in batches as a lane under load does."""
    async with create_producer(settings, "test", large=True) as producer:
        sent = []
        for account in accounts:
            each = _letter(account, partition, value)
            sent.append(await producer.send(each.topic, each.value, each.key, partition=partition))
        await asyncio.gather(*sent)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The offsets of all dead letters that are read."""
    seen: list[int] = []
    parse = letters.parse_dead_letter

    def parse_and_count(record: ConsumerRecord) -> DeadLetter:
        seen.append(record.offset)
        return parse(record)

    for module in (letters, pages):
        monkeypatch.setattr(module, "parse_dead_letter", parse_and_count)
    return seen


async def test_a_page_reads_what_it_shows_and_not_all_there_is(
    cluster: Settings, account: str, read: list[int]
) -> None:
    """Of the newest letters; the next page as well. What a window has too many is bounded by the page's size."""
    await _plant(cluster, [account] * _MANY, 0)

    first = await list_dead_letters(cluster, LetterFilter(), _PAGE)
    second = await list_dead_letters(cluster, LetterFilter(), _PAGE, after=first.next)

    assert (_PAGE, _PAGE) == (len(first.letters), len(second.letters))
    assert 20 == len({each.place for each in (*first.letters, *second.letters)})
    assert len(read) < 2 * _PAGE * (2 + cluster.topic_partitions)


async def test_a_search_for_what_is_rare_ends_and_says_how_far_it_came(
    cluster: Settings, account: str, read: list[int]
) -> None:
    """Each request reads no more than its budget and a window of each partition, and the next one goes on there."""
    partition = partition_of(account.encode(), cluster.topic_partitions)
    await set_aside(cluster, SEND_REQUESTS, account, [b"1{", b"2{"], "not_json")
    await _plant(cluster, [f"{account}-other"] * _MANY, partition)

    pages_read: list[LetterPage] = []
    most = 0
    while (not pages_read or pages_read[-1].next is not None) and len(pages_read) < 100:
        began = len(read)
        after = pages_read[-1].next if pages_read else None
        budget = ReadBudget(_BUDGET, 10**9)
        pages_read.append(
            await list_dead_letters(cluster, LetterFilter(account=account), 5, after=after, budget=budget)
        )
        most = max(most, len(read) - began)

    assert [b"2{", b"1{"] == [letter.value for page in pages_read for letter in page.letters]
    assert len(pages_read) >= _MANY // (_BUDGET + FEWEST_OFFSETS)
    assert [] == pages_read[0].letters
    assert most <= _BUDGET + FEWEST_OFFSETS * cluster.topic_partitions
    reached = [page.searched_to for page in pages_read[:-1]]
    assert all(earlier is not None and later is not None and earlier >= later for earlier, later in pairwise(reached))
    assert (None, None) == (pages_read[-1].next, pages_read[-1].searched_to)


async def test_pages_hold_each_letter_once_in_the_order_of_all_partitions(cluster: Settings, account: str) -> None:
    """Each page begins where the one before ends, and letters that come in meanwhile move no page."""
    places = [number % cluster.topic_partitions for number in (0, 1, 1, 2, 0, 2, 2, 2, 1, 0, 0, 0, 1, 2, 0)]
    for place in places:
        await _plant(cluster, [account], place)

    found: list[DeadLetter] = []
    times: list[datetime | None] = []
    after = None
    for number in range(4):
        page = await list_dead_letters(cluster, LetterFilter(account=account), 4, after=after)
        found += page.letters
        times.append(page.searched_to)
        after = page.next
        await _plant(cluster, [account], number % cluster.topic_partitions)

    assert list(reversed(places)) == [letter.partition for letter in found]
    assert len(places) == len({letter.place for letter in found})
    assert [False] * 3 + [True] == [time is None for time in times]
    assert None is after


async def test_markers_and_what_was_aborted_are_passed(cluster: Settings, account: str) -> None:
    """Both take offsets, so that a window may hold no letter at all."""
    producer = create_lane_producer(cluster, f"test-{account}")
    await producer.start()
    await _plant(cluster, [account], 0)
    for number in range(12):
        await producer.begin_transaction()
        each = _letter(account, 0)
        await producer.send_and_wait(each.topic, each.value, each.key, partition=0)
        await (producer.commit_transaction() if number == 3 else producer.abort_transaction())
    await producer.stop()

    page = await list_dead_letters(cluster, LetterFilter(account=account), 2)

    newest, oldest = page.letters
    assert 7 == newest.offset - oldest.offset
    counts = await count_dead_letters(cluster, LetterFilter(account=account))
    assert {(SEND_REQUESTS, "not_json"): 2} == counts


async def test_the_newest_are_counted_within_a_budget(cluster: Settings, account: str, read: list[int]) -> None:
    """By topic and reason, and back to when; whoever asks for all gets all."""
    await _plant(cluster, [account] * _MANY, 0)

    counts, counted_to = await count_newest(cluster, ReadBudget(_BUDGET, 10**9))
    few = len(read)
    everything, nothing = await count_newest(cluster, ReadBudget(10**9, 10**12))

    assert 0 < counts[SEND_REQUESTS, "not_json"] <= few <= _BUDGET + FEWEST_OFFSETS * cluster.topic_partitions
    assert counted_to is not None
    assert (everything, None) == (await count_dead_letters(cluster), nothing)


async def test_letters_behind_what_was_aborted_are_not_taken_for_all(cluster: Settings, account: str) -> None:
    """A budget that markers and aborted records have spent has searched back to no time, and says so."""
    await _plant(cluster, [account] * 3, 0)
    producer = create_lane_producer(cluster, f"test-{account}")
    await producer.start()
    await producer.begin_transaction()
    each = _letter(account, 0)
    await asyncio.gather(
        *[await producer.send(each.topic, each.value, each.key, partition=0) for _ in range(2 * _BUDGET)]
    )
    await producer.abort_transaction()
    await producer.stop()
    began = utc_now()

    _, counted_to = await count_newest(cluster, ReadBudget(_BUDGET, 10**9))
    page = await list_dead_letters(cluster, LetterFilter(account=account), 5, budget=ReadBudget(_BUDGET, 10**9))
    rest = await list_dead_letters(cluster, LetterFilter(account=account), after=page.next)

    assert counted_to is not None
    assert counted_to >= began
    assert page.searched_to is not None
    assert page.searched_to >= began
    assert ([], 3) == (page.letters, len(rest.letters))


@pytest.mark.parametrize("limit", [1, 10**6])
async def test_large_letters_are_read_within_the_budget(
    cluster: Settings, account: str, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """Of bytes: one window may exceed it, and a letter of each partition; and each page goes on."""
    size, many = 100_000, 20
    for partition in range(cluster.topic_partitions):
        await _plant(cluster, [account] * many, partition, b"{" * size)
    seen: list[int] = []
    parse = letters.parse_dead_letter

    def parse_and_weigh(record: ConsumerRecord) -> DeadLetter:
        seen.append(len(record.value or b""))
        return parse(record)

    monkeypatch.setattr(pages, "parse_dead_letter", parse_and_weigh)
    most = limit + (FEWEST_OFFSETS + cluster.topic_partitions) * size * 1.4  # base64

    await count_newest(cluster, ReadBudget(10**6, limit))
    counting = sum(seen)
    found, after = 0, None
    for _ in range(5):
        seen.clear()
        page = await list_dead_letters(
            cluster, LetterFilter(account=account), 5, after=after, budget=ReadBudget(10**6, limit)
        )
        assert sum(seen) <= most
        assert page.next != after
        found, after = found + len(page.letters), page.next

    assert counting <= most
    assert found > 0


async def test_times_bound_what_is_read(cluster: Settings, account: str, read: list[int]) -> None:
    """Kafka's index of times finds where a range begins and ends, however far back."""
    await _plant(cluster, [account] * 3, 0)
    oldest, middle, newest = reversed((await list_dead_letters(cluster, LetterFilter(account=account))).letters)
    await _plant(cluster, [f"{account}-other"] * _MANY, 0)
    read.clear()

    selection = LetterFilter(account=account, after=oldest.set_aside_at, before=newest.set_aside_at)
    page = await list_dead_letters(cluster, selection)

    wanted = [each for each in (middle, oldest) if each.set_aside_at < newest.set_aside_at]
    assert wanted == page.letters
    assert len(read) <= 3 + cluster.topic_partitions


async def test_letters_that_an_operation_sent_back_are_read_by_their_places(
    cluster: Settings, account: str, read: list[int]
) -> None:
    """An unknown operation has none, and reads none."""
    await _plant(cluster, [account], 0)

    report = await report_dead_letters(cluster, LetterFilter(account=account), 5, operation=10**12)

    assert ([], None, []) == (report.letters, report.next, read)


@pytest.mark.parametrize("option", ["--last=50", whole("--count"), whole("--json")])
async def test_what_an_operation_sent_back_is_not_known_without_postgres(option: str, cluster: Settings) -> None:
    """It is noted there: no letter at all would be an answer, and a wrong one."""
    env = {"INMAIL_KAFKA_BOOTSTRAP_SERVERS": cluster.kafka_bootstrap_servers, "INMAIL_DATABASE_URL": SILENT}
    words = ["dead-letters", "list", "--operation", "12", option]

    done = await asyncio.to_thread(CliRunner().invoke, app, words, env=env)

    assert (3, "") == (done.exit_code, done.stdout)
    assert "Postgres cannot be reached at localhost:1 (" in done.stderr


async def test_what_retention_removes_meanwhile_ends_the_search(cluster: Settings, account: str) -> None:
    """A window that begins before the oldest record is read again from there."""
    await _plant(cluster, [account], 0)
    place = TopicPartition(DEAD_LETTERS, 0)
    async with open_cluster_queries(cluster) as lookup:
        end = (await lookup.offsets({place: LATEST}, committed=True))[place]
        oldest = (await lookup.offsets({place: EARLIEST}))[place]
        reader = BackwardReader(lookup, place, end, oldest - 5, end - oldest + 5)
        first = await reader.read_window()
        records = await reader.read_window()

    assert [] == first
    assert records[0].key == account.encode()
    assert (True, oldest) == (reader.is_done, reader.oldest)
