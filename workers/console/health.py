"""How each part is and why: from the workers' own probes where they are known, from their groups and the books else."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import aiohttp

from infra.kafka import admin_client
from infra.settings import Settings, SettingsError
from schemas.catalogue import BILLING_EVENTS, EXPIRY_TICKS, SEND_REQUESTS
from workers.ops.groups import Group, describe_group
from workers.ops.lag import GroupLag

__all__ = [
    "BEHIND_SECONDS",
    "Part",
    "Probe",
    "ask_probes",
    "probe_addresses",
    "read_members",
    "with_since",
    "workers_of",
]

BEHIND_SECONDS: Final = 30.0  # of an unread record: a page is answered in less, so somebody waits
_PROBE_SECONDS: Final = 2.0
NAMES: Final = {SEND_REQUESTS: "send worker", BILLING_EVENTS: "billing worker", EXPIRY_TICKS: "expiry worker"}

OK, WARNING, FAILED, UNKNOWN = "ok", "warning", "failed", "unknown"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the system as it is."""

    name: str
    status: str  # ok, warning, failed, unknown
    cause: str  # in a word or two
    text: str  # in a sentence, with what to do where there is something to do
    since: datetime | None = None  # when this console first saw it so


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


async def read_members(settings: Settings, groups: Iterable[str]) -> dict[str, Group]:
    """Return who is in each group.

    Raises:
        KafkaError: when a coordinator does not say.

    """
    async with admin_client(settings) as admin:
        return {group: await describe_group(admin, group) for group in groups}


def workers_of(lag: Sequence[GroupLag], members: Mapping[str, Group], probes: Mapping[str, Probe]) -> list[Part]:
    """Return how the workers are: each group's, and whatever else has a probe, such as the ticker."""
    parts = []
    for group in lag:
        name = NAMES.get(group.topic, group.group)
        parts.append(_worker(name, group, members.get(group.group), probes.get(name.removesuffix(" worker"))))
    grouped = {part.name.removesuffix(" worker") for part in parts}
    return parts + [_alone(name, probe) for name, probe in probes.items() if name not in grouped]


def _alone(name: str, probe: Probe) -> Part:
    if probe.ready:
        return Part(name, OK, "works", "ready, by its probe")
    return Part(name, FAILED, "not ready", "; ".join(probe.reasons) or "it does not say why")


def _worker(name: str, lag: GroupLag, group: Group | None, probe: Probe | None) -> Part:
    """Return how one worker is, the gravest thing first."""
    waits = f"{lag.records:,} records wait, the oldest for {lag.seconds:,.0f} s"
    if lag.never_committed:
        text = "a partition was never started, so no worker can open it: run `inmail topics apply`"
        return Part(name, FAILED, "never started", text)
    if group is not None and group.empty:
        text = f"nobody is in group {lag.group}: start `inmail worker {name.removesuffix(' worker')}`"
        return Part(name, FAILED, "stopped", f"{text}; {waits}" if lag.records else text)
    if probe is not None and not probe.ready:
        return Part(name, FAILED, "not ready", "; ".join(probe.reasons) or "it does not say why")
    if lag.held:
        text = f"an open transaction of a producer holds {lag.held:,} records back: they cannot be read before it ends"
        return Part(name, WARNING, "held back", text)
    if lag.seconds > BEHIND_SECONDS:
        return Part(name, WARNING, "behind", waits)
    count = len(group.members) if group is not None else 0
    text = f"{count} in its group" if count else "its group answers"
    return Part(name, OK, "works", f"{text}, ready by its probe" if probe is not None else text)


def with_since(parts: Iterable[Part], before: Mapping[str, Part], now: datetime) -> list[Part]:
    """Return parts with when each was first seen as it is."""
    told = []
    for part in parts:
        last = before.get(part.name)
        same = last is not None and (last.status, last.cause) == (part.status, part.cause)
        since = last.since if same and last is not None else now
        told.append(Part(part.name, part.status, part.cause, part.text, since))
    return told
