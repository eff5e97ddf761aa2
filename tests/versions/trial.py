"""One trial of the whole system on servers of given versions: what it says to whoever connects, and what comes out."""

import json
import tempfile
from collections import Counter
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka.admin import NewTopic
from structlog.testing import capture_logs

from infra.kafka.clients import admin_client
from infra.local.artifacts import read_lock
from infra.local.bundled_binaries import POSTGRES_MAJOR
from infra.local.stack import LocalStack
from infra.settings import Settings, load_settings
from schemas.catalogue import TOPICS
from tests.rights.working import work_off
from tests.versions.binaries import kafka_lock, postgres_folder
from tests.workers.command import run
from tests.workers.wire import settled
from workers.commands.running import Exit
from workers.ops.topics.results import ResultFilter, read_results

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
                log_format="json",
            )
            return Trial(kafka, postgres, **await _try(settings, Path(folder)))


async def _try(settings: Settings, folder: Path) -> dict[str, Any]:
    migrated = await run(settings, "migrate")
    if migrated.code:
        assert migrated.code == Exit.WRONG_USAGE, migrated
        async with admin_client(settings) as admin:  # a worker looks for its topics first
            await admin.create_topics([NewTopic(topic, 2, 1) for topic in TOPICS])
        worker = await run(settings, "worker", "send")
        assert worker.code, worker
        doctor = await run(settings, "doctor", "--json")
        text = next(each["text"] for each in json.loads(doctor.out)["checks"] if each["area"] == "Postgres")
        said = {"doctor": text, "worker": worker.err.strip(), "plan": ""}
        return {"verdict": _REFUSED, **said, "answers": {}}
    plan = await run(settings, "topics", "plan")
    applied = await run(settings, "topics", "apply", "--yes")
    doctor = await run(settings, "doctor", "--before-start", "--json")
    assert [0, 0, 0] == [each.code for each in (plan, applied, doctor)], (plan, applied, doctor)
    warned = await _work(settings, folder)
    answers = await _answers(settings)
    audit = await run(settings, "audit")
    assert audit.code == 0, audit
    concerns = [each for each in json.loads(doctor.out)["checks"] if each["grade"] == "warning"]
    told = [line.removeprefix("warning ") for line in plan.out.splitlines() if line.startswith("warning the broker")]
    said = {
        "doctor": "; ".join(each["text"] for each in concerns),
        "worker": "; ".join(warned),
        "plan": "; ".join(told),
    }
    return {"verdict": _WARNS if any(said.values()) else _WORKS, **said, "answers": answers}


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


async def _work(settings: Settings, folder: Path) -> set[str]:
    """Publish, let all workers decide, rewind and let them publish again; return what they said of the brokers."""
    for events in _events():  # the grants first: what reaches the brokers first is decided first
        (folder / "events.ndjson").write_text("".join(f"{json.dumps(each)}\n" for each in events))
        published = await run(settings, "publish", "--anyway", "events.ndjson", folder=folder)
        assert published.code == 0, published
    with capture_logs() as logs:
        await work_off(settings, settings, settings)
    rewind = ("replay", "rewind", "send", "--to-offset", "0", "--publish-again", "--because", "a trial", "--yes")
    rewound = await run(settings, *rewind)
    assert rewound.code == 0, rewound
    with capture_logs():
        await work_off(settings, settings, settings)
    return {each["error"] for each in logs if each["event"] == "kafka_version"}


async def _answers(settings: Settings) -> dict[str, int]:
    """Return how many answers there are by code, each answer once."""
    await settled(settings)
    codes: Counter[str] = Counter()
    seen = set()
    async with aclosing(read_results(settings, ResultFilter(dead_letters=True, empty_ticks=False))) as results:
        async for each in results:
            kind = each.data.get("code") or each.data["reason"]
            if each.event["id"] not in seen:
                seen.add(each.event["id"])
                codes[kind] += 1
    kinds = ("granted", "charged", "exhausted", "insufficient_credits", "not_json")
    assert dict.fromkeys(kinds, _ACCOUNTS) == codes, codes
    return dict(sorted(codes.items()))
