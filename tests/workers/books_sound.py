"""Sound books for tests to look at: made by the ledger's own functions, with a worker's rights, and rolled back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from infra.postgres import WORKER_ROLE, Connection
from tests.ledger.scenario import read_text
from tests.ledger.scenario_run import run
from tests.ledger.scenario_sql import SqlBooks
from workers.ops.books.audit import audit_books
from workers.ops.books.balance_history import BalanceHistory

__all__ = ["STORY", "alarms_of", "all_is_read", "balance_at", "books_of_a_worker", "write_story"]


@asynccontextmanager
async def books_of_a_worker(connection: Connection) -> AsyncIterator[SqlBooks]:
    """Empty books whose entries are gone afterwards, on a connection that has a worker's rights."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(f"set local role {WORKER_ROLE}")
    try:
        yield SqlBooks(connection)
    finally:
        await transaction.rollback()


async def all_is_read(connection: Connection) -> None:
    """Note that the lanes have read what the journal tells of, as real ones would have."""
    await connection.execute(
        "insert into lanes (consumer_group, topic, partition, epoch, next_offset)"
        " select 'inmail-' || worker, 'a topic', source_partition, 1, max(source_offset) + 1 from journal group by 1, 3"
    )


async def alarms_of(connection: Connection) -> list[tuple[str, Any]]:
    """Return what an audit finds wrong, with where. The totals have to be equal whatever it finds."""
    await all_is_read(connection)
    found = await audit_books(connection)
    assert found.totals.balanced
    return [(finding.name, finding.examples) for finding in found.failures()]


# A little of everything. Numbers of lines and lots in tests are this story's.
STORY = """
scenario: books with a little of everything
catalogue notices = { low_balance = 2, expiring_days = 7 }
catalogue plans.premium_business.on_change = "forfeit"
activate s-1 premium_career 2030-01-01..2030-02-01              -> granted +5 sequence 1 lot 1
send bob as first                                               -> charged -1 lot 1
send bob connection                                             -> free
send zoe as second                                              -> charged -1
undeliverable first                                             -> reversed +1 sequence 5
promotion 3 of welcome as gift                                  -> granted +3 lot 2
void gift because "a mistake"                                   -> voided -3
adjust -1 by ops-1 because "a trial"                            -> adjusted -1 lot 1
adjust 2 by ops-1 because "a present"                           -> granted +2 sequence 9 lot 3
send carol as first                                             -> key_conflict
cancel s-1 at 2030-01-15                                        -> cancelled
take-back s-1                                                   -> cancellation_taken_back
cancel s-1 at 2030-01-20                                        -> cancelled sequence 13
carol: activate s-2 premium_business 2030-01-01..2030-04-01 annual -> granted +15; granted +15 lot 2; granted +15 lot 3
carol: send bob                                                 -> charged -1
carol: change s-2 premium_career 2030-02-01..2030-03-01         -> ROWS OF THE CHANGE
erin: promotion 4 of welcome                                    -> granted +4
erin: erase                                                     -> erased sequence 2; voided -4
erin: send bob                                                  -> account_erased
erin: promotion 1 of welcome                                    -> account_erased
at 2030-01-14
tick                                                            -> alice: expiring_soon lot 1 sequence 14
at 2030-01-20
tick                                                            -> alice: expired -3 lot 1 sequence 15; alice: low
send bob                                                        -> charged -1 lot 3 sequence 17
undeliverable second                                            -> lot_ended lot 1 sequence 18
send bob as third                                               -> charged -1 lot 3; exhausted
send bob                                                        -> insufficient_credits sequence 21
undeliverable third                                             -> reversed +1 lot 3
catalogue apply_balance_caps = true
catalogue plans.premium_career.balance_cap = 4
dave: activate s-3 premium_career 2030-01-20..2030-02-20        -> granted +5; cap_forfeited -1
dave: cancel s-3 at 2030-02-20                                  -> cancelled
""".replace(
    "ROWS OF THE CHANGE", "forfeited -14 lot 1; forfeited -15 lot 2; forfeited -15 lot 3; granted +5 lot 4; exhausted"
)


async def write_story(connection: Connection) -> None:
    """Play the story, as far as all lanes have read it."""
    (story,) = read_text(STORY, "story")
    await run(story, SqlBooks(connection))
    await all_is_read(connection)


def balance_at(history: BalanceHistory, instant: datetime) -> int:
    """Return what an account's balance over time says of an instant."""
    return next((point.balance for point in reversed(history.points) if point.at <= instant), 0)
