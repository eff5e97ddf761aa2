"""Kafka's retention ends, the books do not."""

from aiokafka.admin import RecordsToDelete

from infra.kafka.clients import admin_client
from infra.postgres import Connection
from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, CREDIT_EVENTS, SEND_REQUESTS, SEND_RESULTS
from tests.workers.wire import ends, promotion, publish, read, send, settled, working
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.ledger.plans import load_catalogue


async def _delete(settings: Settings) -> None:
    """Let retention take all that was sent and all that was answered."""
    async with admin_client(settings) as admin:
        for topic in (SEND_REQUESTS, BILLING_EVENTS, SEND_RESULTS, CREDIT_EVENTS):
            end = await ends(settings, topic)
            await admin.delete_records({tp: RecordsToDelete(before_offset=offset) for tp, offset in end.items()})


async def test_a_request_gets_its_first_answer_also_after_retention(
    cluster: Settings, account: str, database: Connection
) -> None:
    """Both a send and a grant: the same event id and sequence, marked as a repeat, and nothing moves."""
    catalogue = load_catalogue()
    grant, request = promotion(account, 9), send(account)
    start = await ends(cluster, CREDIT_EVENTS) | await ends(cluster, SEND_RESULTS)
    async with working(cluster, SendJob(catalogue), BillingJob(catalogue)):
        await publish(cluster, BILLING_EVENTS, [grant])
        await read(cluster, start, 1)
        await publish(cluster, SEND_REQUESTS, [request])
        first = {answer["type"]: answer for answer in await read(cluster, start, 2)}
        await settled(cluster)
        await _delete(cluster)
        gone = await ends(cluster, CREDIT_EVENTS) | await ends(cluster, SEND_RESULTS)

        await publish(cluster, BILLING_EVENTS, [grant])
        await publish(cluster, SEND_REQUESTS, [request])
        again = {answer["type"]: answer for answer in await read(cluster, gone, 2)}

    assert {("granted", 1, False), ("charged", 2, False)} == {
        (answer["code"], answer["sequence"], answer["repeat"]) for answer in first.values()
    }
    assert {type_: answer | {"repeat": True} for type_, answer in first.items()} == again
    assert 2 == await database.fetchval("select count(*) from journal")
    assert 8 == await database.fetchval("select sum(remaining) from lots")
