"""`order`: what it costs that the lanes decide in one order; the send worker with it and without, in turns.

The other two workers do not run and have nothing to read: what is measured is asking for their ends and reading their
rows, once a batch, which is what it costs while all keep up.
"""

from collections.abc import Callable
from statistics import quantiles

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.books import Databases, sends, stack_settings
from tests.bench.draining import OURS, Drained, drain, input_ends, publish, set_offsets
from tests.bench.figures import Figure, of_rounds, order_of
from tests.bench.latency import A_SECOND, measure
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
REQUESTS = 100_000
SECONDS = 15
WARM_SECONDS = 5  # of them, not counted


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return sends a second, CPU time and waits with the order, beside those without."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    drained: dict[float, list[Drained]] = {1.0: [], 0.0: []}
    waits: dict[float, list[list[float]]] = {1.0: [], 0.0: []}
    for number in range(1, ROUNDS + 1):
        report(f"order: round {number} of {ROUNDS}")
        begin = await input_ends(settings)
        await publish(settings, sends(REQUESTS, seed=3_000 + number))
        forms = order_of(number, list(drained))
        for seconds in forms:
            async with databases.one() as books:
                drained[seconds].append(await drain(stack, _ordered(books, seconds), OURS, begin, REQUESTS))
        for seconds in forms:
            async with databases.one() as books:
                waits[seconds].append(await _waits(_ordered(books, seconds), number))
    (with_, without), (slow, fast) = drained.values(), waits.values()
    return [
        of_rounds("order: drain", "sends/s", [each.rate for each in with_], [each.rate for each in without], {}),
        of_rounds(
            "order: drain, CPU",
            "us/send",
            *map(_cpu, drained.values()),
            {},
        ),
        of_rounds("order: latency, p50", "ms", [each[499] for each in slow], [each[499] for each in fast], {}),
        of_rounds("order: latency, p99", "ms", [each[989] for each in slow], [each[989] for each in fast], {}),
    ]


def _cpu(rounds: list[Drained]) -> list[float]:
    return [sum(each.cpu.values()) for each in rounds]


def _ordered(books: Settings, seconds: float) -> Settings:
    return books.model_copy(update={"order_seconds": seconds})


async def _waits(books: Settings, number: int) -> list[float]:
    """Return the thousandths of the waits of a short run at a steady pace."""
    await set_offsets(books, OURS.group, await input_ends(books))
    waits = await measure(books, OURS, sends(A_SECOND * SECONDS, seed=4_000 + number))
    return quantiles(waits[A_SECOND * WARM_SECONDS :], n=1000)
