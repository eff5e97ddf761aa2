"""`memory`: what a send worker has resident while it drains a backlog of a million requests at full pace.

Tried and not taken, runs interleaved on two cores: blocks of 64 KiB and more mapped one by one (mallopt of glibc) leave
120 MB instead of 126 and take 8 % of the drain's pace; of 256 KiB and more, without trimming, 120 MB and 3 %. Half the
inbox: 119 MB and 3 %.
"""

from collections.abc import Callable

from infra.local.stack import LocalStack
from tests.bench.books import Databases, sends, stack_settings
from tests.bench.draining import OURS, drain, input_ends, publish
from tests.bench.figures import Figure
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

BACKLOG = 1_000_000

_AT_ONCE = 200_000  # of them, made before they are published


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return the most that was resident."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    begin = await input_ends(settings)
    report(f"memory: publishing {BACKLOG:,} requests")
    for seed in range(BACKLOG // _AT_ONCE):
        await publish(settings, sends(_AT_ONCE, seed=1_000 + seed))
    report("memory: draining them")
    async with databases.one() as books:
        drained = await drain(stack, books, OURS, begin, BACKLOG)
    details = {"requests": BACKLOG, "sends_a_second": round(drained.rate)}
    return [Figure("memory, the most at full drain", round(drained.megabytes, 1), "MB", None, None, details)]
