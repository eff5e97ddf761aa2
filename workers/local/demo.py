"""`inmail demo`: a story played on a real Kafka and a real Postgres, with every result shown and checked."""

import asyncio
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.text import Text

from infra.first_of import wait_for_event
from infra.local.directories import keep_logs
from infra.local.stack import LocalStack
from infra.settings import RecordTime, Settings
from infra.terminal import Reporter, console
from schemas.dead_letters import DeadLettered
from workers.commands.views.books import show_audit, show_statement
from workers.commands.views.lag import show_lag
from workers.commands.views.results import show_result
from workers.local.load import Load
from workers.local.local_console import LocalConsole, serve_local_console
from workers.local.processes import WorkerProcesses
from workers.local.story import Chapter, StoryLine, load_story
from workers.local.up import prepare_stack, stack_settings, start_stack
from workers.ops.books.audit import audit
from workers.ops.books.statement import read_statement
from workers.ops.lag import read_lag
from workers.ops.topics.publish import publish
from workers.ops.topics.record_lines import PublishTime
from workers.ops.topics.results import Result, ResultFilter, read_results

__all__ = ["DemoError", "run_demo"]

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCOUNT = "member-alice"

_ANSWER_SECONDS = 60.0
_PARTITIONS = 4
_LOAD_REQUESTS = 5_000
_ADDITIONAL_CODES = frozenset({"expired", "low", "exhausted", "expiring_soon"})  # of events beside the answer


class DemoError(Exception):
    """A result differs from the story. The message names the difference."""


class ResultCollector:
    """Reads all results from the first on, as a downstream service does, and keeps them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._arrived = asyncio.Event()
        self.results: list[Result] = []

    async def run(self) -> None:
        """Follow the result topics until cancelled."""
        async with aclosing(read_results(self._settings, ResultFilter(dead_letters=True), follow=True)) as results:
            async for result in results:
                self.results.append(result)
                self._arrived.set()

    async def wait_until(self, condition: Callable[[], bool], check: Callable[[], None], what: str) -> None:
        """Wait until the condition holds, calling `check` meanwhile.

        Raises:
            DemoError: when the condition does not hold within 60 s.

        """
        deadline = monotonic() + _ANSWER_SECONDS
        while not condition():
            check()
            if monotonic() > deadline:
                raise DemoError(f"{what}: not within {_ANSWER_SECONDS:.0f} s")
            self._arrived.clear()
            await wait_for_event(self._arrived, 0.5)


async def run_demo() -> None:
    """Play the story on a temporary stack.

    Raises:
        DemoError: when a result differs from the story.
        LocalStackError, ChildError: when the stack or a worker fails.

    """
    out = console()
    began = monotonic()
    story = load_story(EXAMPLES)
    stack = LocalStack(report=Reporter(out))
    await start_stack(stack)
    try:
        settings = stack_settings(
            stack, topic_partitions=_PARTITIONS, topic_record_time=RecordTime.CREATE, tick_seconds=5, session_seconds=6,
            transaction_seconds=5, log_format="json", tick_grace_seconds=0,
        )  # fmt: skip
        for line in await prepare_stack(settings):
            out.print(f"  {line}")
        with tempfile.TemporaryDirectory(prefix="inmail-demo-") as logs:
            try:
                await _play_story(settings, story, Path(logs), out)
            except DemoError as error:
                raise DemoError(f"{error}. The workers' logs: {keep_logs(Path(logs), Path(logs).name)}") from error
    finally:
        await asyncio.to_thread(stack.stop)
    out.print("\nTo explore the system: `make up`, and its console.")
    out.print(Text(f"\nAll results match the story, after {monotonic() - began:.0f} s.", style="bold green"))


async def _play_story(settings: Settings, story: list[Chapter], logs: Path, out: Console) -> None:
    async with serve_local_console(settings) as page:
        out.print(f"  the console shows the demo live: {page.sign_in_hint}", soft_wrap=True)
        await _play_chapters(page, settings, story, logs, out)
    await _show_final_state(settings, out)


async def _play_chapters(
    page: LocalConsole, settings: Settings, story: list[Chapter], logs: Path, out: Console
) -> None:
    workers = WorkerProcesses(settings, logs, probes=page.probes)
    collector = ResultCollector(settings)
    workers.start()
    out.print("  started the send, billing and expiry workers and the ticker, each in its own process")
    collecting = asyncio.create_task(collector.run())
    try:
        for chapter in story:
            out.print(Text(f"\n{chapter.title}", style="bold"))
            out.print(Text(chapter.text, style="italic"))
            for lines in chapter.topic_runs():
                await _play_run(settings, lines, collector, workers, out)
        await _play_worker_kill(settings, collector, workers, out)
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        codes = await asyncio.to_thread(workers.stop)
    if any(codes.values()):
        raise DemoError(f"not every worker drained: exit codes {codes}")


async def _play_run(
    settings: Settings, lines: list[StoryLine], collector: ResultCollector, workers: WorkerProcesses, out: Console
) -> None:
    """Publish lines of one topic, wait for their results, show the results, and compare them with the story."""
    seen = len(collector.results)
    published = await publish(
        settings, io.BytesIO("\n".join(line.text for line in lines).encode()), record_time=PublishTime.EVENT
    )
    if published.failures:
        raise DemoError(f"lines could not be published: {published.failures}")
    ours = {line.request_id for line in lines}
    answers = len(lines) * (_PARTITIONS if lines[0].outgoing.to_every_partition else 1)

    def matching_results() -> list[Result]:
        return [r for r in collector.results[seen:] if r.data.get("request_id") in ours or _is_dead_letter(r)]

    def is_complete() -> bool:
        return sum(1 for result in matching_results() if result.data.get("code") not in _ADDITIONAL_CODES) >= answers

    await collector.wait_until(is_complete, workers.check, f"{answers} answers")
    results = matching_results()
    for result in sorted(results, key=_sort_key):
        if not (result.data.get("code") == "booked" and not result.data["lots"]):
            show_result(result, out)
    expected = Counter((line.request_id if not line.is_dead_letter else None, line.expected) for line in lines)
    actual = Counter(_outcome_words(results))
    if expected != actual:
        raise DemoError(f"expected {dict(expected - actual)}, got {dict(actual - expected)}")


def _is_dead_letter(result: Result) -> bool:
    return bool(result.event["type"] == DeadLettered.type_name())


def _sort_key(result: Result) -> tuple[Any, ...]:
    data = result.data
    origin = data["origin"] if _is_dead_letter(result) else data["source"]
    return (result.time, origin["partition"], origin["offset"], data.get("sequence", 0), data.get("repeat"))


def _outcome_words(results: Iterable[Result]) -> Iterable[tuple[str | None, str]]:
    """Return each request's outcome in the words of the story; for a tick, the total of expired credits."""
    expired: Counter[str] = Counter()
    for result in results:
        data = result.data
        if _is_dead_letter(result):
            yield None, f"dead letter: {data['reason']}"
        elif data["code"] == "booked":
            expired[data["request_id"]] += data["credits"]
        elif data["code"] not in _ADDITIONAL_CODES:
            yield data["request_id"], f"repeat: {data['code']}" if data["repeat"] else data["code"]
    for request_id, credits_ in expired.items():
        yield request_id, f"expired: {credits_}"


async def _play_worker_kill(
    settings: Settings, collector: ResultCollector, workers: WorkerProcesses, out: Console
) -> None:
    """Kill the send worker with SIGKILL during a load, start another, and check that each request has one answer."""
    out.print(Text("\nJuly: a worker is killed", style="bold"))
    out.print(
        Text(f"{_LOAD_REQUESTS:,} requests; kill -9 ends the send worker half-way and another takes over.", "italic")
    )
    load = Load(_LOAD_REQUESTS)
    seen = len(collector.results)
    await publish(settings, io.BytesIO(load.encode_grants()), record_time=PublishTime.EVENT)
    await collector.wait_until(
        lambda: len(collector.results) >= seen + load.accounts, workers.check, "the load's credits"
    )

    def answers() -> list[str]:
        answered = (r.data for r in collector.results[seen:] if r.data.get("code") not in _ADDITIONAL_CODES)
        return [data["request_id"] for data in answered if data.get("request_id") in load.request_ids]

    feeding = asyncio.create_task(publish(settings, io.BytesIO(load.encode_requests()), record_time=PublishTime.EVENT))
    await collector.wait_until(lambda: len(answers()) >= _LOAD_REQUESTS // 4, workers.check, "a quarter of the answers")
    workers.kill_and_restart("send")
    at_kill = len(answers())
    out.print(
        f"  killed after {at_kill:,} answers; the group waits {settings.session_seconds:.0f} s for the dead member"
    )
    await feeding
    await collector.wait_until(lambda: len(set(answers())) >= _LOAD_REQUESTS, workers.check, "all answers")
    await asyncio.sleep(1)  # time for surplus answers to arrive
    counts = Counter(answers())
    repeated = sum(count > 1 for count in counts.values())
    out.print(f"  {len(counts):,} requests answered, {repeated} of them more than once")
    if repeated or len(counts) != _LOAD_REQUESTS:
        raise DemoError(f"{len(counts)} of {_LOAD_REQUESTS} requests answered, {repeated} more than once")


async def _show_final_state(settings: Settings, out: Console) -> None:
    """Show the statement, the lag and the audit.

    Raises:
        DemoError: when a worker lags or the audit fails.

    """
    out.print(Text(f"\nThe statement of {ACCOUNT}", style="bold"))
    show_statement(await read_statement(settings, ACCOUNT))
    out.print(Text("\nLag", style="bold"))
    groups = await read_lag(settings)
    show_lag(groups)
    out.print(Text("\nThe audit", style="bold"))
    found = await audit(settings)
    show_audit(found)
    behind = [json.dumps(group.summary(), default=str) for group in groups if group.records]
    if behind:
        raise DemoError(f"the workers drained, but still lag: {behind}")
    if not found.passed:
        raise DemoError("the ledger does not balance: see above")
