"""The health of each part of the system and its cause, from the workers' probes and from the lag of their groups."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import aiohttp

from infra.lock_holder import LockHolder
from infra.settings import Settings, SettingsError
from workers.console.advice import ADVICE
from workers.ledger.model import WorkerName
from workers.ops.lag import GroupLag, Status
from workers.topology import GROUP_OF, TOPIC_OF, TOPIC_OF_GROUP, WORKER_OF

__all__ = [
    "BEHIND_SECONDS",
    "Probe",
    "SystemPart",
    "add_since",
    "dead_letters_part",
    "lock_part",
    "probe_addresses",
    "query_probes",
    "start_advice",
    "worker_health",
]

BEHIND_SECONDS: Final = 30.0  # age of the oldest unread record from which a worker counts as behind
MANY_DEAD_LETTERS: Final = 300  # in the last minutes: somebody sends what cannot be decided, or it was one big mistake
_PROBE_SECONDS: Final = 2.0
WORKER_NAMES: Final = {TOPIC_OF[worker]: f"{worker} worker" for worker in WorkerName}

# Statuses that name the cause even when the group has no members.
_CAUSES_WITHOUT_MEMBERS: Final = {
    *(Status.PAUSED, Status.NEVER_COMMITTED, Status.EXPIRED, Status.HALTED),
    *(Status.BEYOND_BOOKS, Status.BEYOND_END, Status.RECREATED),
}

OK, WARNING, FAILED, UNKNOWN = "ok", "warning", "failed", "unknown"


@dataclass(frozen=True, slots=True)
class SystemPart:
    """The health of one part of the system."""

    name: str
    status: str  # ok, warning, failed, unknown
    cause: str  # in a word or two
    text: str  # in a sentence
    do: str = ""  # advice for an operator; empty where nothing is to be done
    since: datetime | None = None  # when this console first saw the status and cause
    actions: tuple[str, ...] = ()  # what an operator can do with its process in this console
    title: str = ""  # in a headline, where the table of causes cannot have it: with numbers


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of a worker's `/readyz`."""

    ready: bool
    reasons: Sequence[str]
    answers: bool = True


def probe_addresses(settings: Settings) -> dict[str, str]:
    """Return the addresses of the workers' probes, by worker.

    Raises:
        SettingsError: when INMAIL_CONSOLE_WORKERS cannot be parsed.

    """
    addresses = {}
    for entry in filter(None, (each.strip() for each in settings.console_workers.split(","))):
        name, equals, address = entry.partition("=")
        host, _, port = address.rpartition(":")
        if not (name and equals and host and port.isdecimal()):
            raise SettingsError("INMAIL_CONSOLE_WORKERS: expected name=host:port, several separated by commas")
        addresses[name.strip()] = address.strip()
    return addresses


async def query_probes(addresses: Mapping[str, str]) -> dict[str, Probe]:
    """Return each worker's probe; a worker that does not answer within 2 s is not ready."""
    if not addresses:
        return {}
    timeout = aiohttp.ClientTimeout(total=_PROBE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as client:
        probes = await asyncio.gather(*(_query_probe(client, address) for address in addresses.values()))
    return dict(zip(addresses, probes, strict=True))


async def _query_probe(client: aiohttp.ClientSession, address: str) -> Probe:
    """Return the answer of a worker's probe; whatever else answers at its address is no probe."""
    try:
        async with client.get(f"http://{address}/readyz") as answer:
            probe = _parse_probe(await answer.json())
    except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
        probe = None
    return probe or Probe(ready=False, reasons=(f"its probe at {address} does not answer",), answers=False)


def _parse_probe(body: object) -> Probe | None:
    """Return the probe in the body of an answer; None for what no worker answers."""
    if not isinstance(body, dict) or not isinstance(ready := body.get("ready"), bool):
        return None
    reasons = body.get("reasons", [])
    return Probe(ready, [str(each) for each in reasons]) if isinstance(reasons, list) else None


def lock_part(locks: Sequence[LockHolder], lag: Sequence[GroupLag]) -> SystemPart | None:
    """Return the health of Postgres while somebody keeps something locked there; None while nobody does.

    Rows that somebody keeps are a warning until a lane of ours does not get on.
    """
    if not locks:
        return None
    worst = locks[0]
    holds = worst.blocks or any(group.status is Status.LOCKED for group in lag)
    more = f" ({len(locks) - 1} more sessions hold locks)" if len(locks) > 1 else ""
    kind, cause = (FAILED, "locked") if holds else (WARNING, "rows locked")
    what = "a lock that the workers need" if holds else "rows of the ledger locked"
    who = f"Session {worst.pid}" if worst.pid else "A prepared transaction"
    return SystemPart("Postgres", kind, cause, worst.text + more, worst.do, title=f"{who} in Postgres holds {what}")


def dead_letters_part(
    reasons: Mapping[str, float], first_at: datetime | None, minutes: int, problem: str | None = None
) -> SystemPart | None:
    """Return the trouble of dead letters that came in the last minutes; None where none came, as far as they are read.

    Args:
        reasons: how many came, by reason.
        first_at: when the first of them came.
        minutes: in how many minutes.
        problem: why they cannot be read now; None where they can.

    """
    count = round(sum(reasons.values()))
    if not count and problem is not None:  # what nobody can read is not known to be none
        return SystemPart("Dead letters", UNKNOWN, "not counted", f"not counted: {problem}")
    if not count:
        return None
    many = count >= MANY_DEAD_LETTERS
    most = sorted(reasons.items(), key=lambda each: -each[1])
    told = ", ".join(f"{round(number):,} {reason.replace('_', ' ')}" for reason, number in most[:3])
    more = f", and {len(most) - 3} more reasons" if len(most) > 4 else ", and another reason" if len(most) == 4 else ""
    first = f", {'that' if count == 1 else 'the first'} at {first_at:%H:%M:%S} UTC" if first_at is not None else ""
    return SystemPart(
        "Dead letters",
        FAILED if many else WARNING,
        "many arriving" if many else "arriving",
        f"{count:,} in the last {minutes} minutes{first}: {told}{more}",
        "`inmail dead-letters list` shows each with its error: fix the producer or the plan catalogue, then redrive",
        title=f"{count:,} dead {'letter' if count == 1 else 'letters'} in the last {minutes} minutes",
    )


def worker_health(
    lag: Sequence[GroupLag], probes: Mapping[str, Probe], hidden: Collection[str] = ()
) -> list[SystemPart]:
    """Return the health of each worker, and of other processes with a probe, such as the ticker.

    Args:
        lag: the lag of the workers' groups.
        probes: the workers' probes, by worker.
        hidden: the workers' groups that cannot be seen for want of a right.

    """
    groups = {group.topic: group for group in lag}
    parts = [
        _hidden_part(name, GROUP_OF[topic], probes.get(name.removesuffix(" worker")))
        if GROUP_OF[topic] in hidden
        else _worker_part(name, topic, groups.get(topic), probes.get(name.removesuffix(" worker")))
        for topic, name in WORKER_NAMES.items()
    ]
    grouped = {part.name.removesuffix(" worker") for part in parts}
    return parts + [_ungrouped_part(name, probe) for name, probe in probes.items() if name not in grouped]


def _ungrouped_part(name: str, probe: Probe) -> SystemPart:
    return _check_probe(name, probe) or SystemPart(name, OK, "running", "the probe reports ready")


def _hidden_part(name: str, group: str, probe: Probe | None) -> SystemPart:
    """Return the health of a worker whose group cannot be seen: what its probe says, unless that is well."""
    text = f"this console may not see group {group}"
    do = f"grant its user DESCRIBE on group {group}"
    return _check_probe(name, probe) or SystemPart(name, UNKNOWN, "not known", text, do)


def _worker_part(name: str, topic: str, lag: GroupLag | None, probe: Probe | None) -> SystemPart:
    """Return the health of one worker: the most severe problem, or running."""
    if lag is None:
        return SystemPart(name, FAILED, "not set up", f"Kafka has no topic {topic}", "run `inmail topics apply`")
    if lag.status is Status.LOCKED and (cause := _check_lag(name, lag)) is not None:
        return cause  # the probe names what the lock does, and lag who holds it
    if (problem := _check_members(name, lag) or _check_probe(name, probe) or _check_lag(name, lag)) is not None:
        return problem
    text = "1 member in the group" if lag.members == 1 else f"{lag.members} members in the group"
    return SystemPart(name, OK, "running", f"{text}; the probe reports ready" if probe is not None else text)


def _check_members(name: str, lag: GroupLag) -> SystemPart | None:
    if lag.status in _CAUSES_WITHOUT_MEMBERS:
        return _check_lag(name, lag)
    if lag.members:
        return None
    text = f"group {lag.group} has no members"
    return SystemPart(
        name, FAILED, "stopped", f"{text}; {_backlog_text(lag)}" if lag.records else text, start_advice(lag.topic)
    )


def _check_probe(name: str, probe: Probe | None) -> SystemPart | None:
    if probe is None or probe.ready:
        return None
    if not probe.answers:
        text = f"{'; '.join(probe.reasons)}: its process has ended, hangs, or cannot be reached"
        return SystemPart(name, FAILED, "not answering", text, "see whether its process runs, and read its log")
    return SystemPart(
        name, FAILED, "not ready", "; ".join(probe.reasons) or "the probe gives no reason", "read its log"
    )


def _check_lag(name: str, lag: GroupLag) -> SystemPart | None:
    if lag.status is not Status.OK:
        kind, _, do = ADVICE[lag.status]
        do = start_advice(lag.topic) if lag.status is Status.STOPPED else do
        title = _waiting_title(name, lag.reason) if lag.status is Status.WAITING else ""
        return SystemPart(name, kind, lag.status.lower(), lag.reason, do, title=title)
    if lag.seconds > BEHIND_SECONDS:
        return SystemPart(
            name, WARNING, "behind", f"{_backlog_text(lag)}; the lag falls", "nothing, or start more workers"
        )
    return None


def _waiting_title(name: str, reason: str) -> str:
    """Return the headline of a worker that waits: for whom is the beginning of the reason, a group as a rule."""
    awaited = reason.removeprefix("waits for ").partition(",")[0]
    topic = TOPIC_OF_GROUP.get(awaited)
    return f"The {name} waits for {awaited if topic is None else f'the {WORKER_NAMES[topic]}'}"


def start_advice(topic: str) -> str:
    """Return the advice for an input topic that no worker reads."""
    return f"start `inmail worker {WORKER_OF[topic]}`"


def _backlog_text(lag: GroupLag) -> str:
    wait = "1 record waits" if lag.records == 1 else f"{lag.records:,} records wait"
    return f"{wait}, the oldest for {lag.seconds:,.0f} s"


def add_since(parts: Iterable[SystemPart], before: Mapping[str, SystemPart], now: datetime) -> list[SystemPart]:
    """Return the parts with the time since which each has had its status and cause."""
    dated = []
    for part in parts:
        last = before.get(part.name)
        same = last is not None and (last.status, last.cause) == (part.status, part.cause)
        since = last.since if same and last is not None else now
        dated.append(replace(part, since=since))
    return dated
