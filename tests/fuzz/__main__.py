"""`make fuzz`: malformed records by the hundred thousand, through a real broker, each of them accounted for.

python -m tests.fuzz [--malformed 100000] [--seed a]   until so many were set aside
python -m tests.fuzz --seed a --number 4711            that record alone, and what it is
"""

import argparse
import asyncio
import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count
from time import monotonic

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import RecordTime, Settings, load_settings
from tests.fuzz.mutations import make_record
from tests.fuzz.records import PARTITIONS, Record, valid_record
from tests.fuzz.rounds import Fuzz, fuzzing
from tests.workers.wire import prepare
from workers.ledger.store import FUNCTIONS
from workers.ops.topics.plan import apply_topics, plan_topics

ROUND = 5_000
TIMES = 500  # records whose producer gives them an odd time, on topics that take its word
_SHOWN = 10

# Milliseconds: before 1970, no calendar has them, the years 1999, 2200 and 10000, and what fits 64 bits.
_ODD_TIMES = (-2, -62_135_596_800_001, 946_684_799_999, 7_258_118_400_000, 253_402_300_800_000, 2**62, 2**63 - 1, 0, 1)


async def _settings(stack: LocalStack) -> Settings:
    settings = load_settings(
        kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
        database_url=stack.database_url,
        topic_partitions=PARTITIONS,
        tick_grace_seconds=0,
    )
    connection = await connect_database(settings)
    await migrate(connection, [FUNCTIONS])
    await connection.close()
    await prepare(settings)
    return settings


def _tell(fuzz: Fuzz, malformed: int, began: float) -> None:
    seconds, done = monotonic() - began, fuzz.judged.reasons.total()
    left = timedelta(seconds=round(seconds * max(0, malformed - done) / max(1, done)))
    print(f"{fuzz.sent:,} records, {done:,} set aside, {fuzz.sent / seconds:,.0f} a second, {left} left", flush=True)


def _odd_times(seed: str) -> Iterator[Record]:
    """Yield events that are sound but for the time that their producer gives the record."""
    dice = random.Random(f"times {seed}")  # noqa: S311 - a workload
    for number in range(TIMES):
        record, _ = valid_record(f"{seed}-times", number)
        yield replace(record, timestamp=dice.choice(_ODD_TIMES), valid=False, kind="odd record time")


async def run(seed: str, malformed: int, only: list[Record] | None) -> Fuzz:
    """Fuzz until so many records were set aside, or with these records only."""
    with LocalStack(report=lambda line: print(line, flush=True)) as stack:
        settings = await _settings(stack)
        numbers, began = count(), monotonic()
        async with fuzzing(settings) as fuzz:
            if only is not None:
                await fuzz.round(only)
            while only is None and not fuzz.judged.complaints and fuzz.judged.reasons.total() < malformed:
                await fuzz.round([make_record(seed, next(numbers)) for _ in range(min(ROUND, malformed))])
                _tell(fuzz, malformed, began)
            if only is None and not fuzz.judged.complaints:
                create = settings.model_copy(update={"topic_record_time": RecordTime.CREATE})
                await apply_topics(create, await plan_topics(create))
                await fuzz.round(list(_odd_times(seed)))
                _tell(fuzz, malformed, began)
        await fuzz.end()
        print(f"{monotonic() - began:.0f} s")
    return fuzz


def main() -> None:
    """Fuzz, and tell what came of it; end with 1 where a record is not accounted for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--malformed", type=int, default=100_000, help="go on until so many were set aside")
    parser.add_argument("--seed", default="a", help="another seed, other records")
    parser.add_argument("--number", type=int, help="only this record of the seed")
    asked = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # it warns of each "try again", which is usual
    only = None if asked.number is None else [make_record(asked.seed, asked.number)]
    if only is not None:
        print(only[0])
    fuzz = asyncio.run(run(asked.seed, asked.malformed, only))
    judged = fuzz.judged
    for reason, number in judged.reasons.most_common():
        print(f"{number:>9,} {reason}")
    print(f"{judged.reasons.total():>9,} set aside, {judged.answered:,} answered, of {fuzz.sent:,}")
    if fuzz.refused:
        print(f"{fuzz.refused:>9,} more that the broker refused")
    for complaint in judged.complaints[:_SHOWN]:
        print(complaint)
    if judged.complaints:
        sys.exit(f"{len(judged.complaints)} complaints: paste the records above into tests/fuzz/test_wire.py")


if __name__ == "__main__":
    main()
