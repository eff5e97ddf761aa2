"""`drain_end_to_end`: requests that are already in Kafka, until the last result can be read; `redelivery`: all again.

Ours is the send worker as a user runs it; the baseline is `naive.py` as a process of its own. Both start on a copy of
the same books and at the same place of the same topic; every result is counted afterwards. Then the producer sends
everything once more, as one does that never got its acknowledgement, and the worker finds every answer again.

The bound is `relay.py`, which drains the same requests: what Kafka and its client leave to a process that decodes,
decides and stores nothing.
"""

from collections.abc import Callable

from infra.local.stack import LocalStack
from tests.bench.books import Databases, sends, stack_settings
from tests.bench.draining import OURS, Drained, Form, drain, input_ends, publish
from tests.bench.figures import Figure, of_rounds
from tests.bench.naive import GROUP as NAIVE_GROUP
from tests.bench.relay import GROUP as RELAY_GROUP
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
REQUESTS = 200_000
NAIVE_REQUESTS = 2_000

_NAIVE = Form(NAIVE_GROUP, ["-m", "tests.bench.naive", f"{NAIVE_REQUESTS}"], ends_by_itself=True)
_RELAY = Form(RELAY_GROUP, ["-m", "tests.bench.relay"])


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return sends a second, the CPU time of a send by process, and how fast all is answered again."""
    settings = stack_settings(stack, "postgres")
    await apply_topics(settings, await plan_topics(settings))
    ours: list[Drained] = []
    naive: list[Drained] = []
    again: list[Drained] = []
    bound: list[Drained] = []
    for number in range(1, ROUNDS + 1):
        report(f"drain_end_to_end: round {number} of {ROUNDS}, {REQUESTS:,} requests")
        requests = sends(REQUESTS, seed=number)
        begin = await input_ends(settings)
        await publish(settings, requests)
        async with databases.one() as books:
            naive.append(await drain(stack, books, _NAIVE, begin, NAIVE_REQUESTS))
        async with databases.one() as books:
            ours.append(await drain(stack, books, OURS, begin, REQUESTS))
            report(f"redelivery: round {number} of {ROUNDS}")
            begin = await input_ends(settings)
            await publish(settings, requests)
            again.append(await drain(stack, books, OURS, begin, REQUESTS))
        async with databases.one() as books:
            report(f"the relay: round {number} of {ROUNDS}")
            bound.append(await drain(stack, books, _RELAY, begin, REQUESTS))
    return [*_drained(ours, naive), *_redelivered(again, ours), *_bound(ours, again, bound)]


def _drained(ours: list[Drained], naive: list[Drained]) -> list[Figure]:
    rates, cpus = (
        ([each.rate for each in form] for form in (ours, naive)),
        ([each.cpu for each in form] for form in (ours, naive)),
    )
    (our_rates, naive_rates), (our_cpu, naive_cpu) = rates, cpus
    details = {"requests": REQUESTS, "cpu_us": our_cpu, "baseline_cpu_us": naive_cpu}
    mine, theirs = ([sum(cpu.values()) for cpu in each] for each in (our_cpu, naive_cpu))
    return [
        of_rounds("drain_end_to_end", "sends/s", our_rates, naive_rates, details),
        of_rounds("drain_end_to_end, CPU", "us/send", mine, theirs, {"processes": "worker, postgres, kafka"}),
        *(
            of_rounds(f"  {name}", "us/send", [cpu[name] for cpu in our_cpu], [cpu[name] for cpu in naive_cpu], {})
            for name in our_cpu[0]
        ),
    ]


def _redelivered(again: list[Drained], first: list[Drained]) -> list[Figure]:
    cpu = [[sum(each.cpu.values()) for each in form] for form in (again, first)]
    return [
        of_rounds(
            "redelivery (drain_end_to_end)", "sends/s", *([each.rate for each in form] for form in (again, first)), {}
        ),
        of_rounds("redelivery (drain_end_to_end), CPU", "us/send", *cpu, {"cpu_us": [each.cpu for each in again]}),
    ]


def _bound(first: list[Drained], again: list[Drained], bound: list[Drained]) -> list[Figure]:
    """Return what of the relay's pace is left, and the CPU time of the worker's process beside the relay's."""
    return [
        figure
        for name, form in (("drain_end_to_end", first), ("redelivery", again))
        for figure in (
            of_rounds(
                f"{name}, beside the relay", "sends/s", *([each.rate for each in runs] for runs in (form, bound)), {}
            ),
            of_rounds(
                f"{name}, CPU of the process beside the relay's",
                "us/send",
                *([each.cpu["worker"] for each in runs] for runs in (form, bound)),
                {},
            ),
        )
    ]
