"""`inmail demo`: the main job on a real Kafka and a real Postgres, shown as it happens and checked line by line."""

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

from infra.local.directories import keep_logs
from infra.local.stack import LocalStack
from infra.settings import RecordTime, Settings
from infra.terminal import Reporter, console
from schemas.results import DeadLettered
from workers.commands.views.books import show_audit, show_statement
from workers.commands.views.lag import show_lag
from workers.commands.views.results import show_result
from workers.local.load import Load
from workers.local.page import ConsolePage, console_beside
from workers.local.processes import Workers
from workers.local.story import Chapter, StoryLine, load_story
from workers.local.up import prepare, stack_settings
from workers.ops.books.audit import audit
from workers.ops.books.statement import read_statement
from workers.ops.lag import read_lag
from workers.ops.topics.publish import PublishTime, publish
from workers.ops.topics.results import Result, read_results

__all__ = ["DemoError", "run_demo"]

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCOUNT = "member-alice"

_ANSWER_SECONDS = 60.0
_PARTITIONS = 4
_LOAD_REQUESTS = 5_000
_BESIDE = frozenset({"expired", "low", "exhausted", "expiring_soon"})  # what comes beside an answer, not as one


class DemoError(Exception):
    """Something did not come out as the story says. The message says what."""


class Watcher:
    """Reads results as a downstream service does, from the first on, and keeps them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._arrived = asyncio.Event()
        self.results: list[Result] = []

    async def run(self) -> None:
        """Follow the result topics until cancelled."""
        async with aclosing(read_results(self._settings, dead_letters=True, follow=True)) as results:
            async for result in results:
                self.results.append(result)
                self._arrived.set()

    async def wait(self, enough: Callable[[], bool], check: Callable[[], None], what: str) -> None:
        """Wait until enough has arrived.

        Raises:
            DemoError: when it has not within a minute.

        """
        deadline = monotonic() + _ANSWER_SECONDS
        while not enough():
            check()
            if monotonic() > deadline:
                raise DemoError(f"{what}: not within {_ANSWER_SECONDS:.0f} s")
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), 0.5)
            except TimeoutError:
                continue


async def run_demo() -> None:
    """Play the story on a stack of its own, which is gone afterwards.

    Raises:
        DemoError: when anything is not as it should be.
        LocalStackError, ChildError: when the stack or a worker fails.

    """
    out = console()
    began = monotonic()
    story = load_story(EXAMPLES)
    stack = LocalStack(report=Reporter(out))
    await asyncio.to_thread(stack.start)
    try:
        settings = stack_settings(
            stack, topic_partitions=_PARTITIONS, topic_record_time=RecordTime.CREATE, tick_seconds=5, session_seconds=6,
            transaction_seconds=5, log_format="json", tick_grace_seconds=0,
        )  # fmt: skip
        for line in await prepare(settings):
            out.print(f"  {line}")
        with tempfile.TemporaryDirectory(prefix="inmail-demo-") as logs:
            try:
                await _play(settings, story, Path(logs), out)
            except DemoError as error:
                raise DemoError(f"{error}. The workers' logs: {keep_logs(Path(logs), Path(logs).name)}") from error
    finally:
        await asyncio.to_thread(stack.stop)
    out.print("\nTo look around at leisure: `make up`, and its console.")
    out.print(Text(f"\nAll as it should be, in {monotonic() - began:.0f} s.", style="bold green"))


async def _play(settings: Settings, story: list[Chapter], logs: Path, out: Console) -> None:
    async with console_beside(settings) as page:
        out.print(f"  the console, to look on while it goes: {page.greeting}", soft_wrap=True)
        await _play_beside(page, settings, story, logs, out)
    await _close_the_books(settings, out)


async def _play_beside(page: ConsolePage, settings: Settings, story: list[Chapter], logs: Path, out: Console) -> None:
    workers = Workers(settings, logs, probes=page.probes)
    watcher = Watcher(settings)
    workers.start()
    out.print("  send, billing and expiry workers and the ticker started, each a process of its own")
    watching = asyncio.create_task(watcher.run())
    try:
        for chapter in story:
            out.print(Text(f"\n{chapter.title}", style="bold"))
            out.print(Text(chapter.text, style="italic"))
            for block in chapter.blocks():
                await _play_block(settings, block, watcher, workers, out)
        await _kill_a_worker(settings, watcher, workers, out)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        codes = await asyncio.to_thread(workers.stop)
    if any(codes.values()):
        raise DemoError(f"the workers did not all drain in order: {codes}")


async def _play_block(
    settings: Settings, block: list[StoryLine], watcher: Watcher, workers: Workers, out: Console
) -> None:
    """Publish lines of one topic, wait for what comes of each, show it, and compare it with the story."""
    seen = len(watcher.results)
    published = await publish(
        settings, io.BytesIO("\n".join(line.text for line in block).encode()), record_time=PublishTime.EVENT
    )
    if published.failures:
        raise DemoError(f"lines could not be published: {published.failures}")
    ours = {line.request_id for line in block}
    answers = len(block) * (_PARTITIONS if block[0].outgoing.to_every_partition else 1)

    def mine() -> list[Result]:
        return [r for r in watcher.results[seen:] if r.data.get("request_id") in ours or _is_letter(r)]

    def enough() -> bool:
        return sum(1 for result in mine() if result.data.get("code") not in _BESIDE) >= answers

    await watcher.wait(enough, workers.check, f"{answers} answers")
    results = mine()
    for result in sorted(results, key=_position):
        if not (result.data.get("code") == "booked" and not result.data["lots"]):
            show_result(result, out)
    expected = Counter((line.request_id if not line.is_dead_letter else None, line.expect) for line in block)
    actual = Counter(_outcomes(results))
    if expected != actual:
        raise DemoError(f"expected {dict(expected - actual)}, got {dict(actual - expected)}")


def _is_letter(result: Result) -> bool:
    return bool(result.event["type"] == DeadLettered.type_name())


def _position(result: Result) -> tuple[Any, ...]:
    data = result.data
    origin = data["origin"] if _is_letter(result) else data["source"]
    return (result.event["time"], origin["partition"], origin["offset"], data.get("sequence", 0), data.get("repeat"))


def _outcomes(results: Iterable[Result]) -> Iterable[tuple[str | None, str]]:
    """Return what came of each request, in the words of the story. Of a tick: the credits booked, in all."""
    expired: Counter[str] = Counter()
    for result in results:
        data = result.data
        if _is_letter(result):
            yield None, f"dead letter: {data['reason']}"
        elif data["code"] == "booked":
            expired[data["request_id"]] += data["credits"]
        elif data["code"] not in _BESIDE:
            yield data["request_id"], f"repeat: {data['code']}" if data["repeat"] else data["code"]
    for request_id, credits_ in expired.items():
        yield request_id, f"expired: {credits_}"


async def _kill_a_worker(settings: Settings, watcher: Watcher, workers: Workers, out: Console) -> None:
    """Kill the send worker with -9 in the middle of a load, start another, and count the answers."""
    out.print(Text("\nJuly: a worker is killed", style="bold"))
    out.print(
        Text(f"{_LOAD_REQUESTS:,} requests; the send worker dies of kill -9 half-way and another takes over.", "italic")
    )
    load = Load(_LOAD_REQUESTS)
    seen = len(watcher.results)
    await publish(settings, io.BytesIO(load.grants()), record_time=PublishTime.EVENT)
    await watcher.wait(lambda: len(watcher.results) >= seen + load.accounts, workers.check, "the load's credits")

    def answers() -> list[str]:
        answered = (r.data for r in watcher.results[seen:] if r.data.get("code") not in _BESIDE)
        return [data["request_id"] for data in answered if data.get("request_id") in load.request_ids]

    feeding = asyncio.create_task(publish(settings, io.BytesIO(load.requests()), record_time=PublishTime.EVENT))
    await watcher.wait(lambda: len(answers()) >= _LOAD_REQUESTS // 4, workers.check, "a quarter of the answers")
    workers.replace_killed("send")
    at_kill = len(answers())
    out.print(f"  killed after {at_kill:,} answers; the group waits {settings.session_seconds:.0f} s for the dead one")
    await feeding
    await watcher.wait(lambda: len(set(answers())) >= _LOAD_REQUESTS, workers.check, "all answers")
    await asyncio.sleep(1)  # for what should not come
    counts = Counter(answers())
    repeated = sum(count > 1 for count in counts.values())
    out.print(f"  {len(counts):,} requests answered, {repeated} of them more than once")
    if repeated or len(counts) != _LOAD_REQUESTS:
        raise DemoError(f"{len(counts)} of {_LOAD_REQUESTS} requests answered, {repeated} more than once")


async def _close_the_books(settings: Settings, out: Console) -> None:
    """Show the statement, the lag and the audit; none may show anything wrong."""
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
        raise DemoError(f"the workers drained and still lag: {behind}")
    if not found.passed:
        raise DemoError("the books do not balance: see above")
