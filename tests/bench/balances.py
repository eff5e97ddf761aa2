"""`balances`: what the topic of balances costs; the same load with it and without, in turns.

Drained by the send worker alone, and at a steady 1,000 sends a second with all workers up. An account has a few lots
and mostly one send in a turn, so that nearly every send has a balance of its own beside its result: the most
expensive case.
"""

from collections.abc import Callable
from statistics import quantiles

from infra.local.stack import LocalStack
from infra.settings import Settings
from tests.bench.books import Databases, sends, stack_settings
from tests.bench.draining import OURS, Drained, drain, input_ends, publish
from tests.bench.figures import Figure, of_rounds, order_of
from tests.bench.latency import A_SECOND, SECONDS, Measured, all_workers, measure_all, pass_over
from workers.ops.topics.plan import apply_topics, plan_topics

__all__ = ["run"]

ROUNDS = 3
REQUESTS = 100_000


async def run(stack: LocalStack, databases: Databases, report: Callable[[str], None]) -> list[Figure]:
    """Return sends a second, CPU time and waits with the topic, beside those without."""
    settings = _switched(stack_settings(stack, "postgres"), on=True)
    await apply_topics(settings, await plan_topics(settings))
    drained: dict[bool, list[Drained]] = {True: [], False: []}
    steady: dict[bool, list[Measured]] = {True: [], False: []}
    for number in range(1, ROUNDS + 1):
        report(
            f"balances: round {number} of {ROUNDS}, {REQUESTS:,} requests, then {A_SECOND:,} a second for {SECONDS} s"
        )
        order = order_of(number, (True, False))
        begin = await input_ends(settings)
        await publish(settings, sends(REQUESTS, seed=5_000 + number))
        for on in order:
            async with databases.one() as books:
                drained[on].append(await drain(stack, _switched(books, on=on), OURS, begin, REQUESTS))
        for on in order:
            requests = sends(A_SECOND * SECONDS, seed=6_000 + number)
            async with databases.one() as books:
                switched = _switched(books, on=on)
                await pass_over(switched)
                steady[on].append(await measure_all(stack, switched, all_workers(switched), requests))
    return [*_drained(drained), *_steady(steady)]


def _switched(books: Settings, *, on: bool) -> Settings:
    return books.model_copy(update={"balances_topic": on})


def _drained(drained: dict[bool, list[Drained]]) -> list[Figure]:
    rates = [[each.rate for each in drained[on]] for on in (True, False)]
    return [
        of_rounds("balances: drain (without)", "sends/s", *rates, {"requests": REQUESTS}),
        *_cpu("balances: drain", [[each.cpu for each in drained[on]] for on in (True, False)]),
    ]


def _steady(steady: dict[bool, list[Measured]]) -> list[Figure]:
    figures = []
    for at in (50, 99):
        with_, without = ([quantiles(each.waits, n=100)[at - 1] for each in steady[on]] for on in (True, False))
        figures.append(of_rounds(f"balances: at {A_SECOND:,} a second, p{at} (without)", "ms", with_, without, {}))
    cpu = [[each.cpu for each in steady[on]] for on in (True, False)]
    return [*figures, *_cpu(f"balances: at {A_SECOND:,} a second", cpu)]


def _cpu(name: str, cpu: list[list[dict[str, float]]]) -> list[Figure]:
    """Return the CPU time of a send with the topic and without: of all processes, and of each."""
    totals = [[sum(each.values()) for each in form] for form in cpu]
    with_, without = cpu
    return [
        of_rounds(f"{name}, CPU (without)", "us/send", *totals, {}),
        *(
            of_rounds(
                f"  {process}", "us/send", [each[process] for each in with_], [each[process] for each in without], {}
            )
            for process in with_[0]
        ),
    ]
