"""Builds the sample programs of `examples/` and runs them: `python -m tests.examples [LANGUAGE ...]`.

Each language's programs are built with its own tools from pinned packages, and send and read on a broker with 12
partitions (no power of two), beside real workers. Python's environment is made in build/.
"""

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import structlog

from infra.local.stack import LocalStack
from infra.migrate import migrate
from infra.postgres import connect_database
from infra.settings import Settings, load_settings
from tests.examples.story import (
    Sample,
    forge,
    reading,
    send_before_its_grant_is_read,
    send_twice,
    send_with_an_id_of_its_own,
)
from tests.examples.workers_up import working
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob
from workers.ops.topics.plan import apply_topics, plan_topics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples"
FUNCTIONS = ROOT / "workers" / "ledger" / "sql"
BUILD_SECONDS = 600
NEEDS = {"python": (), "go": ("go",), "java": ("java", "mvn"), "typescript": ("node", "npm")}


def _build(folder: Path, *command: str, **variables: str) -> None:
    subprocess.run(command, cwd=folder, check=True, timeout=BUILD_SECONDS, env=os.environ | variables)


def _python() -> Sample:
    folder, made = FOLDER / "python", ROOT / "build" / "examples" / "python"
    venv.create(made, with_pip=True)
    python = str(made / "bin" / "python")
    pip = ("-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-q")
    _build(folder, python, *pip, "-r", "requirements.txt")
    return Sample("python", (python, str(folder / "send_inmail.py")), (python, str(folder / "read_results.py")))


def _go() -> Sample:
    folder, made = FOLDER / "go", ROOT / "build" / "examples" / "go"
    made.mkdir(parents=True, exist_ok=True)
    _build(folder, "go", "vet", "./...")
    _build(folder, "go", "build", "-mod=readonly", "-o", f"{made}/", "./...")
    return Sample("go", (str(made / "send-inmail"),), (str(made / "read-results"),))


def _java() -> Sample:
    folder = FOLDER / "java"
    _build(folder, "mvn", "--batch-mode", "--quiet", "package")
    java = ("java", "-cp", f"{folder / 'target' / 'classes'}:{folder / 'target' / 'lib'}/*")
    return Sample("java", (*java, "inmail.SendInMail"), (*java, "inmail.ReadResults"))


def _typescript() -> Sample:
    folder = FOLDER / "typescript"
    _build(folder, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
    _build(folder, "npm", "run", "--silent", "build")
    programs = folder / "dist"
    return Sample("typescript", ("node", str(programs / "send-inmail.js")), ("node", str(programs / "read-results.js")))


BUILDS: Mapping[str, Callable[[], Sample]] = {"python": _python, "go": _go, "java": _java, "typescript": _typescript}


async def _prepare(settings: Settings) -> None:
    connection = await connect_database(settings)
    try:
        await migrate(connection, [FUNCTIONS])
    finally:
        await connection.close()
    await apply_topics(settings, await plan_topics(settings))


async def play(settings: Settings, samples: Sequence[Sample]) -> None:
    """Run all programs through what they have to do."""
    await _prepare(settings)
    once = [f"once-{uuid4().hex[:12]}" for _ in samples]
    again = [f"again-{uuid4().hex[:12]}" for _ in samples]
    names = [sample.name for sample in samples]
    groups = [f"examples-{sample.name}" for sample in samples]
    await asyncio.gather(*(send_with_an_id_of_its_own(settings, each, f"own-{uuid4().hex[:12]}") for each in samples))
    print("told the id that they made:", *names)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(working(settings, SendJob))
        readers = [
            await stack.enter_async_context(reading(settings, *each))
            for each in zip(samples, groups, once, strict=True)
        ]
        refused = asyncio.Event()
        sending = asyncio.create_task(send_before_its_grant_is_read(settings, samples, again, refused))
        waiting = asyncio.create_task(refused.wait())
        await asyncio.wait([sending, waiting], return_when=asyncio.FIRST_COMPLETED)
        await stack.enter_async_context(working(settings, BillingJob))
        await sending
        await waiting
        print("sent again after balance_not_current, and charged:", *names)
        await asyncio.gather(*(send_twice(settings, *each) for each in zip(samples, once, strict=True)))
        print("charged once, on the account's own partition:", *names)
        for account in once:
            await forge(settings, account)
        decided = [("deliver", "charged"), ("ignore", "key_conflict"), ("refuse", "insufficient_credits")]
        expected = [*decided, ("refuse", "from_the_future")]
        for sample, reader in zip(samples, readers, strict=True):
            seen = await reader.until(expected[-1])
            assert expected == seen, f"{sample.name}: {seen}"
        print("read once each, without what was aborted, with a code that nobody knows:", *names)
        for sample, group, account in zip(samples, groups, once, strict=True):
            await forge(settings, account)
            async with reading(settings, sample, group, account) as reader:
                seen = await reader.until(expected[-1])
                assert expected[-1:] == seen, f"{sample.name}: {seen}"
        print("went on where they had ended:", *names)


def main() -> None:
    """Build and run the languages named, or all; end with 1 if one's tools are missing."""
    names = sys.argv[1:] or list(BUILDS)
    if missing := [tool for name in names for tool in NEEDS[name] if shutil.which(tool) is None]:
        sys.exit(f"install {', '.join(missing)}, or name the languages to run: {' '.join(BUILDS)}")
    samples = [BUILDS[name]() for name in names]
    print("built:", *names)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that has just started
    with LocalStack(report=print) as stack:
        settings = load_settings(
            kafka_bootstrap_servers=stack.kafka_bootstrap_servers, database_url=stack.database_url, order_seconds=1
        )
        asyncio.run(play(settings, samples))


if __name__ == "__main__":
    main()
