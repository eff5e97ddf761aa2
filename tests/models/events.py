"""Events to read with generated models: real ones, the published examples, and what may come later."""

import asyncio
import copy
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from infra.kafka.clients import partitions_of
from infra.kafka.records import read_records
from infra.local.stack import LocalStack
from infra.settings import RecordTime, Settings
from schemas.catalogue import BALANCES, CATALOGUE, OUTPUT_TOPICS
from workers.local import demo
from workers.local.processes import WorkerProcesses
from workers.local.story import load_story
from workers.local.up import prepare_stack, stack_settings

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "schemas" / "generated"
OPEN = "x-extensible-enum"
LATER = "a_value_that_comes_later"
HIGH_OFFSET = 2**40  # a partition with 10,000 records a second reaches it in three years

Json = dict[str, Any]


async def real_results() -> list[Json]:
    """Return what real workers publish on real Kafka for the demo's story."""
    with LocalStack(report=print) as stack:
        settings = stack_settings(
            stack,
            topic_partitions=4,
            topic_record_time=RecordTime.CREATE,
            tick_seconds=5,
            tick_grace_seconds=0,
            balances_topic=True,
        )
        await prepare_stack(settings)
        async with _played(settings):
            pass
        partitions = [
            each for topic in (*OUTPUT_TOPICS, BALANCES) for each in partitions_of(topic, settings.topic_partitions)
        ]
        async with aclosing(read_records(settings, partitions)) as records:
            return [json.loads(record.value) async for record in records]


@asynccontextmanager
async def _played(settings: Settings) -> AsyncIterator[None]:
    """Play the demo's chapters, whose results have to be as the story says."""
    collector, quiet = demo.ResultCollector(settings), Console(file=io.StringIO())
    with TemporaryDirectory() as logs:
        workers = WorkerProcesses(settings, Path(logs))
        workers.start()
        collecting = asyncio.create_task(collector.run())
        try:
            for chapter in load_story(ROOT / "examples"):
                for lines in chapter.topic_runs():
                    await demo._play_run(settings, lines, collector, workers, quiet)
            yield
        finally:
            collecting.cancel()
            await asyncio.gather(collecting, return_exceptions=True)
            await asyncio.to_thread(workers.stop)


def published_examples() -> list[Json]:
    """Return the example of each event that comes out."""
    folder = ROOT / "schemas" / "examples"
    return [json.loads((folder / f"{row.name}.json").read_text()) for row in CATALOGUE if row.direction == "out"]


def with_later_values(event: Json) -> Json:
    """Return an event with a new value in each open enum, a new member, and a high offset."""
    later, schema = copy.deepcopy(event), json.loads((SCHEMAS / f"{event['type']}.json").read_text())
    for holder, name in _open_values(later, schema, schema["$defs"]):
        holder[name] = LATER
    later["data"]["later"] = {"member": [1]}
    if "source" in later["data"]:
        later["data"]["source"]["offset"] = HIGH_OFFSET
    return later


def with_another_outcome(event: Json) -> Json | None:
    """Return an event with a value that its closed enum does not have; None if it has no such enum."""
    if "outcome" not in event["data"]:
        return None
    return event | {"data": event["data"] | {"outcome": LATER}}


def _open_values(value: Any, schema: Json, definitions: Json) -> Iterator[tuple[Any, Any]]:
    """Yield where a value has one of an open enum: its holder and its place there."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    places: list[tuple[Any, Json]] = []
    if isinstance(value, dict):
        places = [(name, each) for name, each in schema.get("properties", {}).items() if name in value]
    elif isinstance(value, list):
        places = [(number, schema.get("items", {})) for number in range(len(value))]
    for place, inner in places:
        if OPEN in inner and value[place] is not None:
            yield value, place
        else:
            yield from _open_values(value[place], inner, definitions)
