"""What is asked of the lanes: what each waits for, and whether the groups' offsets agree with the ledger's database."""

from collections.abc import Sequence
from typing import Final

from infra.postgres import Connection
from infra.settings import Settings
from workers.ops.books.shards import read_holdings
from workers.ops.doctor.model import CheckResult, Grade, ok, warning, wrong
from workers.ops.lag import GroupLag, Status, observer
from workers.ops.lag.offsets import LOST_UNDECIDED
from workers.topology import WORKER_OF

__all__ = ["check_lanes", "check_offsets"]

_LANES: Final = (
    "select topic, partition, paused, halted, held, held_offset"
    " from lanes where topic = any($1) order by topic, partition"
)
_DISAGREE: Final = {Status.BEYOND_BOOKS, Status.BEYOND_END, Status.RECREATED, Status.EXPIRED, Status.NEVER_COMMITTED}
_TOLD_BY_LANES: Final = {Status.PAUSED, Status.HALTED}
_SHARING: Final = {"PreparingRebalance", "CompletingRebalance"}
_WAIT: Final = (
    "look again: after a kill the group waits for the member that is gone, for up to INMAIL_SESSION_SECONDS; if it"
    " lasts for longer, see the workers' logs"
)


async def check_lanes(connection: Connection, *, before_start: bool, several: bool = False) -> list[CheckResult]:
    """Return which lanes cannot go on, and what each says of it; of several servers those whose numbers it holds."""
    rows = await connection.fetch(_LANES, list(WORKER_OF))
    if several:
        holdings = await read_holdings(connection)
        rows = [row for row in rows if holdings.has_number(row["partition"])]
    # What starting a worker is part of the remedy of does not keep it from being started.
    grade = Grade.WARNING if before_start else Grade.WRONG
    results = []
    for row in rows:
        worker = WORKER_OF[row["topic"]]
        subject = f"{worker} {row['partition']}"
        if row["halted"] is not None:
            results.append(CheckResult("lanes", subject, grade, f"halted: {row['halted']}", "do what it says"))
        if row["paused"] is not None:
            do = f"mend the producer, the plan catalogue or this version; then start `inmail worker {worker}`"
            results.append(CheckResult("lanes", subject, grade, f"paused: {row['paused']}", do))
        if row["held"] is not None:
            text = f"it holds the record at offset {row['held_offset']}: {row['held']}"
            results.append(CheckResult("lanes", subject, grade, text, "`inmail clock show`"))
    return results or [ok("lanes", "all", f"none of {len(rows)} is paused, halted or holds a record")]


async def check_offsets(settings: Settings, *, before_start: bool) -> list[CheckResult]:
    """Return where committed offsets and the ledger's database disagree, and which groups nobody is in.

    Where that database cannot be read, a warning says so, and no group's offsets are said to agree with it.
    """
    async with observer(settings, remembers=False) as once:
        await once.refresh()
        groups, trouble = once.groups, once.books_trouble
    results = [] if trouble is None else [warning("lanes", "offsets", f"not compared: {trouble}")]
    for group in groups:
        found = list(_group(group, before_start=before_start))
        if not found and trouble is None:
            found = [ok("lanes", group.group, f"offsets agree with the ledger's database; {_members(group)}")]
        results += found
    return results


def _group(group: GroupLag, *, before_start: bool) -> Sequence[CheckResult]:
    results = [
        wrong("lanes", f"{group.group} {each.partition}", f"{each.status}: {each.reason}", "see `inmail lag`")
        for each in group.partitions
        if each.status in _DISAGREE or each.reason.startswith(LOST_UNDECIDED)
    ]
    if before_start:
        return results
    if not group.members:
        text = f"nobody is in the group; {group.records:,} records wait"
        do = f"start `inmail worker {WORKER_OF[group.topic]}`" if group.topic in WORKER_OF else "`inmail topics apply`"
        results.append(warning("lanes", group.group, text, do))
    elif group.status is not Status.OK and group.status not in _DISAGREE | _TOLD_BY_LANES:
        results.append(warning("lanes", group.group, f"{group.status}: {group.reason}", "see `inmail lag`"))
    elif group.state in _SHARING:
        text = f"it shares its partitions out, and nobody reads meanwhile; unread records: {group.records:,}"
        results.append(warning("lanes", group.group, text, _WAIT))
    return results


def _members(group: GroupLag) -> str:
    """Return who owns which partitions."""
    owned: dict[str, list[int]] = {}
    for each in group.partitions:
        owner = f"{each.owner.client} at {each.owner.host}" if each.owner is not None else "nobody"
        owned.setdefault(owner, []).append(each.partition)
    return "; ".join(f"{owner} reads {', '.join(map(str, numbers))}" for owner, numbers in owned.items())
