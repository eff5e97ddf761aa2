"""The operator's questions on real Kafka: publishing, reading results, lag and dead letters."""

import io
import json
from contextlib import aclosing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from infra.kafka import partition_of
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from schemas.envelope import Event, encode
from schemas.results import DeadLetterReason
from tests.workers.wire import prepare, promotion, send, settled, working
from workers.billing import BillingJob
from workers.ledger.plans import load_catalogue
from workers.ops.dead_letters import NoSuchDeadLetterError, list_dead_letters, show_dead_letter
from workers.ops.lag import GroupLag, read_lag
from workers.ops.publish import Published, publish
from workers.ops.results import Result, in_order, read_results
from workers.send import SendJob


@pytest.fixture
async def cluster(settings: Settings) -> Settings:
    """Return the running stack, its topics made and its groups started."""
    await prepare(settings)
    return settings


@pytest.fixture
def account() -> str:
    """Return an account of the test's own: topics outlive tests."""
    return f"a-{uuid4().hex[:12]}"


def _file(*lines: Event | bytes | dict[str, object]) -> io.BytesIO:
    texts = [
        line if isinstance(line, bytes) else encode(line) if isinstance(line, Event) else json.dumps(line).encode()
        for line in lines
    ]
    return io.BytesIO(b"\n".join(texts) + b"\n")


async def _lag(settings: Settings, group: str) -> GroupLag:
    (found,) = [each for each in await read_lag(settings) if each.group == group]
    return found


async def _work_off(settings: Settings) -> None:
    """Decide everything that is there."""
    catalogue = load_catalogue()
    async with working(settings, SendJob(catalogue), BillingJob(catalogue)):
        while any(each.records for each in await read_lag(settings) if each.topic != EXPIRY_TICKS):
            pass  # each look takes its time
    await settled(settings)


async def _results(settings: Settings, **selection: object) -> list[Result]:
    async with aclosing(in_order(read_results(settings, **selection))) as results:  # type: ignore[arg-type]
        return [result async for result in results]


async def test_what_is_published_is_decided_and_read_back_by_account_and_request(
    cluster: Settings, account: str
) -> None:
    """The way of a file through the system, and the two ways to look for one of its answers."""
    request = uuid4()
    published = await publish(cluster, _file(promotion(account, 2), promotion(f"{account}-2", 1)))
    assert published == Published(published.records, [], 2, published.bytes)
    assert published.records == {BILLING_EVENTS: 2}
    await _work_off(cluster)
    await publish(cluster, _file(send(account), send(account, request), send(account), send(account, request)))
    await _work_off(cluster)

    found = await _results(cluster, account=account)
    told = [(each.data["sequence"], each.data["code"]) for each in found]
    assert [
        (1, "granted"),
        (2, "charged"),
        (3, "charged"),
        (3, "charged"),
        (4, "exhausted"),
        (5, "insufficient_credits"),
    ] == sorted(told)
    answers = await _results(cluster, request=request)
    assert [(account, "charged", False), (account, "charged", True), (account, "exhausted", False)] == sorted(
        (each.account_id, each.data["code"], each.data["repeat"]) for each in answers
    )
    assert [] == await _results(cluster, account=account, request=UUID(int=0))


async def test_a_follower_sees_what_comes_after_it_began(cluster: Settings, account: str) -> None:
    """From the end: nothing of before, and no waiting for an end."""
    await publish(cluster, _file(promotion(account, 1)))
    await _work_off(cluster)
    async with aclosing(read_results(cluster, account=account, follow=True)) as results:
        first = await anext(results)
        await publish(cluster, _file(send(account)))
        await _work_off(cluster)
        second = await anext(results)

    assert ("granted", "charged") == (first.data["code"], second.data["code"])


async def test_lines_that_cannot_be_published_are_told_and_the_rest_is_published(
    cluster: Settings, account: str
) -> None:
    """By number, counted from 1, blank lines included."""
    published = await publish(
        cluster, _file(b"{", promotion(account, 1), b"", {"record": {"topic": "x"}}, {"type": "inmail.x.v1"})
    )

    assert {BILLING_EVENTS: 1} == published.records
    assert [1, 4, 5] == [number for number, _ in published.failures]


async def test_a_record_that_kafka_refuses_fails_alone(cluster: Settings, account: str) -> None:
    """Larger than any record may be: told of its line, after which the file goes on."""
    huge = {"record": {"topic": SEND_REQUESTS, "key": account, "value": "x" * 1_200_000}}

    published = await publish(cluster, _file(huge, promotion(account, 1)))

    assert {BILLING_EVENTS: 1} == published.records
    ((number, reason),) = published.failures
    assert (1, "refused") == (number, reason.partition(":")[0])


async def test_a_tick_is_published_to_every_partition(cluster: Settings) -> None:
    """One line, as many records as there are partitions."""
    tick = {"type": "inmail.expiry.tick.v1", "data": {}}
    before = await _lag(cluster, "inmail-expiry")

    published = await publish(cluster, _file(tick))

    after = await _lag(cluster, "inmail-expiry")
    assert {EXPIRY_TICKS: cluster.topic_partitions} == published.records
    assert [1] * cluster.topic_partitions == [
        b.end - a.end for a, b in zip(before.partitions, after.partitions, strict=True)
    ]


async def test_lag_counts_unread_records_and_their_age(cluster: Settings, account: str) -> None:
    """In the account's partition, until the worker has answered; then none, whatever markers lie at the end."""
    await _work_off(cluster)
    assert (0, 0.0) == ((await _lag(cluster, "inmail-send")).records, (await _lag(cluster, "inmail-send")).seconds)
    await publish(cluster, _file(send(account), send(account)))

    behind = await _lag(cluster, "inmail-send")

    assert (2, False) == (behind.records, behind.never_committed)
    partition = behind.partitions[partition_of(account.encode(), cluster.topic_partitions)]
    assert partition.records == 2
    assert partition.committed is not None
    assert partition.end - partition.committed == 2
    assert 0 <= behind.seconds < 60
    await _work_off(cluster)
    assert (await _lag(cluster, "inmail-send")).records == 0


async def test_dead_letters_are_listed_and_shown_in_full(cluster: Settings, account: str, tmp_path: Path) -> None:
    """The newest first, by reason and by origin; one of them with its bytes, key and headers as they were."""
    bad = {
        "record": {"topic": SEND_REQUESTS, "key": account, "value": "{oops", "headers": {"trace": "1", "none": None}}
    }
    file = tmp_path / "bad.ndjson"
    file.write_bytes(_file(bad).getvalue())
    with file.open("rb") as opened:
        await publish(cluster, opened)
    await publish(cluster, _file({"record": {"topic": BILLING_EVENTS, "key": account, "value": None}}))
    await _work_off(cluster)

    mine = [each for each in await list_dead_letters(cluster) if each.account_id == account]
    assert {"not_json", "no_value"} == {each.reason for each in mine}
    (letter,) = [
        each
        for each in await list_dead_letters(cluster, DeadLetterReason.NOT_JSON, SEND_REQUESTS)
        if each.account_id == account
    ]
    assert letter == await show_dead_letter(cluster, letter.partition, letter.offset)
    assert (b"{oops", account.encode()) == (letter.value, letter.key)
    assert (("trace", b"1"), ("none", None)) == letter.headers
    found = await _results(cluster, account=account, dead_letters=True)
    assert ["inmail.message.dead-lettered.v1"] * 2 == [each.event["type"] for each in found]


@pytest.mark.parametrize(("partition", "offset"), [(0, 10**9), (99, 0)])
async def test_a_dead_letter_that_is_not_there_is_said_to_be_missing(
    cluster: Settings, partition: int, offset: int
) -> None:
    """At once: no waiting for one to come."""
    with pytest.raises(NoSuchDeadLetterError, match=f"{partition}/{offset}"):
        await show_dead_letter(cluster, partition, offset)
