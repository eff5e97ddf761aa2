"""How each part is and why: from the workers' own probes where they are known, from their groups and the books else."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import aiohttp

from infra.settings import Settings, SettingsError
from workers.console.advice import ADVICE
from workers.ledger.model import WorkerName
from workers.ops.lag import GroupLag, Status
from workers.topology import TOPIC_OF, WORKER_OF

__all__ = [
    "BEHIND_SECONDS",
    "Probe",
    "SystemPart",
    "ask_probes",
    "probe_addresses",
    "start_of",
    "with_since",
    "workers_of",
]

BEHIND_SECONDS: Final = 30.0  # of an unread record: a page is answered in less, so somebody waits
_PROBE_SECONDS: Final = 2.0
NAMES: Final = {TOPIC_OF[worker]: f"{worker} worker" for worker in WorkerName}

# Statuses that tell what is wrong also where nobody is in the group.
_SAYS_MORE: Final = {
    *(Status.PAUSED, Status.NEVER_COMMITTED, Status.EXPIRED, Status.HALTED),
    *(Status.BEYOND_BOOKS, Status.BEYOND_END, Status.RECREATED),
}

OK, WARNING, FAILED, UNKNOWN = "ok", "warning", "failed", "unknown"


@dataclass(frozen=True, slots=True)
class SystemPart:
    """One part of the system as it is."""

    name: str
    status: str  # ok, warning, failed, unknown
    cause: str  # in a word or two
    text: str  # in a sentence
    do: str = ""  # what to do, where there is something to do
    since: datetime | None = None  # when this console first saw it so
    actions: tuple[str, ...] = ()  # what an operator can do with its process from here


@dataclass(frozen=True, slots=True)
class Probe:
    """What a worker's `/readyz` says."""

    ready: bool
    reasons: Sequence[str]


def probe_addresses(settings: Settings) -> dict[str, str]:
    """Return where the workers' probes are, by worker.

    Raises:
        SettingsError: when the setting cannot be understood.

    """
    addresses = {}
    for entry in filter(None, (each.strip() for each in settings.console_workers.split(","))):
        name, equals, address = entry.partition("=")
        host, _, port = address.rpartition(":")
        if not (name and equals and host and port.isdecimal()):
            raise SettingsError("INMAIL_CONSOLE_WORKERS: expected name=host:port, several separated by commas")
        addresses[name.strip()] = address.strip()
    return addresses


async def ask_probes(addresses: Mapping[str, str]) -> dict[str, Probe]:
    """Return what the workers say of themselves; one that does not answer is not ready, for that reason."""
    if not addresses:
        return {}
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        probes = await asyncio.gather(*(_ask(client, address) for address in addresses.values()))
    return dict(zip(addresses, probes, strict=True))


async def _ask(client: aiohttp.ClientSession, address: str) -> Probe:
    try:
        async with client.get(f"http://{address}/readyz") as answer:
            body: dict[str, Any] = await answer.json()
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return Probe(ready=False, reasons=("its probe does not answer",))
    return Probe(bool(body.get("ready")), [str(each) for each in body.get("reasons", ())])


def workers_of(lag: Sequence[GroupLag], probes: Mapping[str, Probe]) -> list[SystemPart]:
    """Return how the workers are: each group's, and whatever else has a probe, such as the ticker.

    Args:
        lag: of the workers' groups.
        probes: what they say of themselves, by worker.

    """
    groups = {group.topic: group for group in lag}
    parts = [
        _worker(name, topic, groups.get(topic), probes.get(name.removesuffix(" worker")))
        for topic, name in NAMES.items()
    ]
    grouped = {part.name.removesuffix(" worker") for part in parts}
    return parts + [_alone(name, probe) for name, probe in probes.items() if name not in grouped]


def _alone(name: str, probe: Probe) -> SystemPart:
    return _not_ready(name, probe) or SystemPart(name, OK, "works", "ready, by its probe")


def _worker(name: str, topic: str, lag: GroupLag | None, probe: Probe | None) -> SystemPart:
    """Return how one worker is, the gravest thing first."""
    if lag is None:
        return SystemPart(name, FAILED, "not set up", f"Kafka has no topic {topic}", "run `inmail topics apply`")
    if (trouble := _stopped(name, lag) or _not_ready(name, probe) or _stands(name, lag)) is not None:
        return trouble
    text = f"{lag.members} in its group"
    return SystemPart(name, OK, "works", f"{text}, ready by its probe" if probe is not None else text)


def _stopped(name: str, lag: GroupLag) -> SystemPart | None:
    if lag.status in _SAYS_MORE:
        return _stands(name, lag)
    if lag.members:
        return None
    text = f"nobody is in group {lag.group}"
    return SystemPart(name, FAILED, "stopped", f"{text}; {_waits(lag)}" if lag.records else text, start_of(lag.topic))


def _not_ready(name: str, probe: Probe | None) -> SystemPart | None:
    if probe is None or probe.ready:
        return None
    return SystemPart(name, FAILED, "not ready", "; ".join(probe.reasons) or "it does not say why", "look at its log")


def _stands(name: str, lag: GroupLag) -> SystemPart | None:
    if lag.status is not Status.OK:
        kind, _, do = ADVICE[lag.status]
        do = start_of(lag.topic) if lag.status is Status.STOPPED else do
        return SystemPart(name, kind, lag.status.lower(), lag.reason, do)
    if lag.seconds > BEHIND_SECONDS:
        return SystemPart(name, WARNING, "behind", f"{_waits(lag)}; it gets less", "nothing, or start more workers")
    return None


def start_of(topic: str) -> str:
    """Return what to do where nobody reads a topic of ours."""
    return f"start `inmail worker {WORKER_OF[topic]}`"


def _waits(lag: GroupLag) -> str:
    wait = "1 record waits" if lag.records == 1 else f"{lag.records:,} records wait"
    return f"{wait}, the oldest for {lag.seconds:,.0f} s"


def with_since(parts: Iterable[SystemPart], before: Mapping[str, SystemPart], now: datetime) -> list[SystemPart]:
    """Return parts with when each was first seen as it is."""
    told = []
    for part in parts:
        last = before.get(part.name)
        same = last is not None and (last.status, last.cause) == (part.status, part.cause)
        since = last.since if same and last is not None else now
        told.append(replace(part, since=since))
    return told
