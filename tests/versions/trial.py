"""One trial of the whole system on servers of given versions: what it says to whoever connects, and what comes out."""

import asyncio
import json
import tempfile
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, NamedTuple

from infra.local.artifacts import read_lock
from infra.local.bundled_binaries import POSTGRES_MAJOR
from infra.local.stack import LocalStack
from infra.settings import Settings, load_settings
from tests.rights.site import have_worked
from tests.versions.binaries import kafka_lock, postgres_folder
from tests.workers.command import Said, end, run, start
from tests.workers.wire import eventually, settled
from workers.commands.running import Exit
from workers.local.processes import WORKERS
from workers.ops.lag import read_lag
from workers.ops.topics.results import read_results

__all__ = ["OWN_KAFKA", "OWN_POSTGRES", "Trial", "run_trial"]

OWN_KAFKA: Final = read_lock().kafka
OWN_POSTGRES: Final = POSTGRES_MAJOR
_ACCOUNTS: Final = 50
_WORKS, _WARNS, _REFUSED = "works", "warns", "refused"


class Trial(NamedTuple):
    """What came of a trial."""

    kafka: str
    postgres: str
    verdict: str  # works, warns, refused, or what went wrong
    doctor: str  # what each of them says to whoever connects; empty: nothing
    worker: str
    plan: str
    answers: dict[str, int]  # by code


async def run_trial(kafka: str, postgres: str) -> Trial:
    """Start servers of these versions, set the system up, let it decide, and look at what it has decided and said."""
    with tempfile.TemporaryDirectory() as folder:
        own = postgres == OWN_POSTGRES
        installed = None if own else postgres_folder(postgres, Path(folder))
        with LocalStack(kafka_lock=kafka_lock(kafka), postgres_folder=installed) as stack:
            settings = load_settings(
                kafka_bootstrap_servers=stack.kafka_bootstrap_servers,
                database_url=stack.database_url,
                topic_partitions=2,
                session_seconds=10,
                transaction_seconds=5,
                tick_seconds=1,
                order_seconds=1.0,
                log_format="json",
            )
            return Trial(kafka, postgres, **await _try(settings, Path(folder)))


async def _try(settings: Settings, folder: Path) -> dict[str, Any]:
    migrated = await run(settings, "migrate")
    if migrated.code:
        assert migrated.code == Exit.WRONG_USAGE, migrated
        worker = await run(settings, "worker", "send")
        assert worker.code, worker
        doctor = await run(settings, "doctor")
        said = {"doctor": _last(doctor.out, "Postgres"), "worker": _last(worker.err), "plan": ""}
        return {"verdict": _REFUSED, **said, "answers": {}}
    plan = await run(settings, "topics", "plan")
    applied = await run(settings, "topics", "apply", "--yes")
    doctor = await run(settings, "doctor", "--before-start", "--json")
    assert [0, 0, 0] == [each.code for each in (plan, applied, doctor)], (plan, applied, doctor)
    logs = await _work(settings, folder)
    answers = await _answers(settings)
    audit = await run(settings, "audit")
    assert audit.code == 0, audit
    concerns = [each for each in json.loads(doctor.out)["checks"] if each["grade"] == "warning"]
    warned = {json.loads(line)["error"] for line in logs if '"kafka_version"' in line}
    told = [line.removeprefix("warning ") for line in plan.out.splitlines() if line.startswith("warning the broker")]
    said = {
        "doctor": "; ".join(each["text"] for each in concerns),
        "worker": "; ".join(warned),
        "plan": "; ".join(told),
    }
    return {"verdict": _WARNS if any(said.values()) else _WORKS, **said, "answers": answers}


def _last(text: str, start: str = "") -> str:
    return next((line for line in reversed(text.splitlines()) if start in line), "")


def _events() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a grant for each account; and three sends, of which two are one request, and a record that is no event."""
    grants, sends = [], []
    for number in range(_ACCOUNTS):
        account = f"account-{number}"
        common = {"specversion": "1.0", "source": "/test", "subject": account, "time": "2026-01-31T09:00:00Z"}
        body = {"credits": 1, "promotion_id": "welcome"}
        grants.append(common | {"id": f"grant-{number}", "type": "inmail.promotion.granted.v1", "data": body})
        send = {"type": "inmail.send.requested.v1", "data": {"recipient_id": "bob", "relationship": "none"}}
        sends += [common | send | {"id": f"{name}-{number}"} for name in ("first", "first", "second")]
        sends.append({"record": {"topic": "inmail.send-requests", "key": account, "value": "{oops"}})
    return grants, sends


async def _work(settings: Settings, folder: Path) -> list[str]:
    """Publish, let all workers decide, rewind and let them publish again; return what they logged."""
    for events in _events():  # the grants first: what reaches the brokers first is decided first
        (folder / "events.ndjson").write_text("".join(f"{json.dumps(each)}\n" for each in events))
        published = await run(settings, "publish", "events.ndjson", folder=folder)
        assert published.code == 0, published
    logs = await _drain(settings)
    rewind = ("replay", "rewind", "send", "--to-offset", "0", "--publish-again", "--because", "a trial", "--yes")
    rewound = await run(settings, *rewind)
    assert rewound.code == 0, rewound
    return [*logs, *await _drain(settings)]


async def _drain(settings: Settings) -> list[str]:
    running = [await start(settings, "worker", name) for name in WORKERS]

    async def is_read() -> bool:
        assert all(each.returncode is None for each in running), "a worker ended"
        return have_worked(await read_lag(settings))

    try:
        await eventually(is_read, "workers that have read all")
    finally:
        for each in running:
            if each.returncode is None:
                each.terminate()
        said: list[Said] = await asyncio.gather(*map(end, running))
    assert [0] * len(said) == [each.code for each in said], said
    return [line for each in said for line in (each.out + each.err).splitlines()]


async def _answers(settings: Settings) -> dict[str, int]:
    """Return how many answers there are by code, each answer once."""
    await settled(settings)
    codes: Counter[str] = Counter()
    seen = set()
    async with aclosing(read_results(settings, dead_letters=True, empty_ticks=False)) as results:
        async for each in results:
            kind = each.data.get("code") or each.data["reason"]
            if each.event["id"] not in seen:
                seen.add(each.event["id"])
                codes[kind] += 1
    kinds = ("granted", "charged", "exhausted", "insufficient_credits", "not_json")
    assert dict.fromkeys(kinds, _ACCOUNTS) == codes, codes
    return dict(sorted(codes.items()))
