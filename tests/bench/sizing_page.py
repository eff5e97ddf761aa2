"""Renders `docs/sizing.md` from what the sizing bench wrote last: `python -m tests.bench.sizing_page`."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

from tests.bench.sizing import FILE
from workers.commands.views.styles import format_count

__all__ = ["render"]

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "sizing.md"

_LOADS: Final = (10, 100, 1_000, 5_000, 20_000, 50_000)  # sends a second
_BUSY: Final = 0.6  # of a core: the share that a process may use in an even hour, so that a peak finds room
_USUAL: Final = 12  # partitions: the default
_KINDS: Final = {"workers": ("send", "billing", "expiry", "ticker"), "Postgres": ("postgres",), "Kafka": ("kafka",)}

_HEAD = """# Sizing

What a load needs, from the CPU that a send costs. *Measured* figures come from one machine with two cores that Kafka,
Postgres, all workers, the producer and the reader share: CPU a send is steadier there than pace or latency, which on
cores of their own are better. What is *reasoned* from them says so, and how.

Measured by `python -m tests.bench.sizing`, rendered by `python -m tests.bench.sizing_page`, {when}. {beside}

## What a send costs (measured)

A cell is a number of partitions and of workers of each kind (send, billing, expiry; one ticker). CPU is in
microseconds a send, of all workers, Postgres and Kafka together, with one billing event to fifty sends. The last
columns are backlogs that are worked off: of sends alone, by send workers, which is the least that a send costs; and of
both kinds, by both workers, as they would have come at 1,000 a second. There the lanes of a number take turns at each
billing event, since a grant counts from its own time on.

"""

_SHARES = """
A send costs less the more come at once, since a turn, its two transactions and its round trips are shared by all sends
that it decides. Standing idle costs what the polls, ticks and heartbeats of each process cost; on another
day `make bench` measured [5 %](operate.md#size) with 12 partitions.

At {partitions} partitions and {members} of each kind, by process:

"""

_NEEDS = """
## What a load needs (reasoned)

**Where cores are a range, provision the upper figure**: no steady rate above {most:,} a second was measured, nor more
than {busiest} of each kind.

From the cell of {partitions} partitions and {members} of each kind. Up to the highest rate measured ({most:,} a
second) the cost is that of the measured rate at or below the load; beyond it lies between the least (a backlog of
sends) and that rate's, and so do the cores. Send workers: as many as keep each below {busy:.0%} of a core, at the
higher of the two; a worker process uses one core. Partitions: the default of 12, or three for each send worker where
that is more, so that the others share what a worker leaves; they can be [raised, with a
stop](operate.md#add-partitions), but not lowered. Disk: what a send of a backlog added to the database and to its
write-ahead log, which archiving keeps as long as you say.

| sends a second | cores: workers | Postgres | Kafka | send workers | partitions | database a day | log a day |
|---|---|---|---|---|---|---|---|
"""

_BEYOND = """
Memory: each process 52 to 80 MB at 200 to 400 records a second ([soak](soak.md)), a send worker 126 MB at most while it
drains a backlog at full pace (`make bench BENCH=memory`): provision for the second. Postgres and Kafka as you give
them. Connections to Postgres ([by process](operate.md#size)): 12 send workers and two of billing and expiry each open
64 at most, with the read API, console and observers of the Kubernetes manifests 80. Postgres's default
`max_connections` is 100.

## What breaks first beyond this (reasoned)

1. **One send worker's core.** The first limit of a small system: the worker's share of a send, {worker_us:.0f} us at
   the least, is {worker_most:,} sends a second for a process that has a whole core. Another worker takes half of the
   partitions. Up to one worker a partition; more stand idle.
2. **Catching up with both topics.** After a pause the send lane and the billing lane of a number decide in the order of
   their records' times, so a turn ends at the other's next record: {both:,} sends a second above (measured), where
   sends alone make {alone:,}. The more partitions and the fewer billing events, the more sends are in a turn; the time
   of a turn is that of the commits, so fast disks and brokers help, and cores do not.
3. **Postgres.** All lanes write to one server: {postgres_us:.0f} us a send at the least, {postgres_most:,} sends a
   second for each of its cores, as long as its disk keeps up with {wal:,} bytes of log a send and one commit a turn.
   Debits in the database alone, without Kafka, are 24,000 a second on two cores ([measured](operate.md#size)), of
   which the bench's own client, in Python, takes a part: that is no rate of Postgres's cores alone. No statement needs
   two accounts, so [several servers](shards.md) can share the books.
4. **A commit's wait.** A turn ends with a durable commit and a Kafka transaction. A disk or a replica that takes 10 ms
   for each makes turns longer, not dearer: more sends share a turn, so the pace holds and the latency grows as much.
5. **One hot account, or one partition.** Records of a partition are decided in order, by one lane: more workers do not
   help an account that makes more sends than one of them decides. The [soak](soak.md) has one with 5 % of all sends.
6. **Kafka.** {kafka_us:.0f} us a send at the least. Each turn writes a marker to every partition that it answered to:
   with 48 partitions and small turns about as many markers as answers, which the cells above include. Brokers are added
   as for any Kafka.
7. **Partitions by the thousand.** A sample of the lag of 2,000 partitions takes 0.4 s of CPU
   ([measured](operate.md#size)), and each rebalance opens all lanes of a worker anew.
8. **The disk.** Nothing prunes the journal, the proof of every credit: plan for the column above, times the years.
"""


def render(cells: Sequence[Mapping[str, Any]], beside: str) -> str:
    """Return the page of the cells measured."""
    usual = next((each for each in cells if each["partitions"] == _USUAL), cells[0])
    least = {name: _cost(usual["drain"]["cpu_us"], kinds) for name, kinds in _KINDS.items()}
    members = format_count(usual["workers"], "worker")
    busiest = format_count(max(each["workers"] for each in cells), "worker")
    place = {"partitions": usual["partitions"], "members": members, "busiest": busiest, "busy": _BUSY}
    when = sorted({each["at"][:10] for each in cells})
    lines = [_HEAD.format(when=f"on {' and '.join(when)}", beside=beside).rstrip("\n"), "", *_cells(cells)]
    lines += [_SHARES.format(**place).rstrip("\n"), "", *_by_process(usual)]
    lines += [_NEEDS.format(**place, most=max(map(int, usual["rates"]))).rstrip("\n"), *_needs(usual, least)]
    lines.append(
        _BEYOND.format(
            worker_us=least["workers"],
            worker_most=_round(1e6 / least["workers"]),
            postgres_us=least["Postgres"],
            postgres_most=_round(1e6 / least["Postgres"]),
            kafka_us=least["Kafka"],
            wal=usual["drain"]["wal_bytes"],
            both=usual["both"]["rate"],
            alone=usual["drain"]["rate"],
        ).rstrip("\n")
    )
    return "\n".join(lines) + "\n"


def _cells(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rates = sorted({int(rate) for each in cells for rate in each["rates"]})
    heads = "".join(f" at {rate:,} a second: CPU | p50, p99, ms |" for rate in rates)
    backlogs = " backlog of sends: a second | CPU | of both: a second | CPU |"
    yield f"| partitions | workers | idle, % of a core |{heads}{backlogs}"
    yield "|---|---|---|" + "---|---|" * (len(rates) + 2)
    for each in cells:
        idle = f"{sum(each['idle_percent'].values()):.1f}"
        steady = [_rate(each["rates"].get(str(rate))) for rate in rates]
        drained = [f"{each[name]['rate']:,} | {sum(each[name]['cpu_us'].values()):,.0f}" for name in ("drain", "both")]
        yield f"| {each['partitions']} | {each['workers']} | {idle} | {' | '.join([*steady, *drained])} |"


def _rate(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "- | -"
    return f"{sum(found['cpu_us'].values()):,.0f} | {found['p50_ms']:,.0f}, {found['p99_ms']:,.0f}"


def _by_process(cell: Mapping[str, Any]) -> Iterator[str]:
    yield "| | " + " | ".join(f"at {int(rate):,} a second" for rate in cell["rates"]) + " | a backlog |"
    yield "|---|" + "---|" * (len(cell["rates"]) + 1)
    for kind in cell["idle_percent"]:
        figures = [found["cpu_us"][kind] for found in cell["rates"].values()]
        last = cell["drain"]["cpu_us"].get(kind)
        yield (
            f"| {kind} | "
            + " | ".join(f"{each:,.0f}" for each in figures)
            + f" | {'-' if last is None else f'{last:,.0f}'} |"
        )


def _cost(cpu: Mapping[str, float], kinds: Sequence[str]) -> float:
    return sum(cpu.get(kind, 0.0) for kind in kinds)


def _needs(cell: Mapping[str, Any], least: Mapping[str, float]) -> Iterator[str]:
    rates = sorted(map(int, cell["rates"]))
    for load in _LOADS:
        rate = max((each for each in rates if each <= load), default=rates[0])
        highest = {name: _cost(cell["rates"][str(rate)]["cpu_us"], kinds) for name, kinds in _KINDS.items()}
        cores = [
            _range(load * (least[name] if load > rates[-1] else highest[name]) / 1e6, load * highest[name] / 1e6)
            for name in _KINDS
        ]
        senders = ceil(load * cell["rates"][str(rate)]["cpu_us"]["send"] / 1e6 / _BUSY)
        partitions = max(12, 3 * senders)
        disk = [_size(load * 86_400 * cell["drain"][name]) for name in ("database_bytes", "wal_bytes")]
        yield f"| {load:,} | {' | '.join(cores)} | {senders} | {partitions} | {' | '.join(disk)} |"


def _range(low: float, high: float) -> str:
    texts = [f"{each:.2g}" if each < 10 else f"{each:.0f}" for each in (low, high)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def _size(size: float) -> str:
    for unit in ("MB", "GB", "TB"):
        size /= 1000 if unit != "MB" else 1e6
        if size < 1000:
            break
    return f"{size:,.2g} {unit}" if size < 10 else f"{size:,.0f} {unit}"


def _round(figure: float) -> int:
    """Round down to two digits."""
    size = 10 ** max(0, len(str(int(figure))) - 2)
    return int(figure // size * size)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sizing_page", description=__doc__)
    parser.add_argument("--from", type=Path, default=FILE, dest="file", help="the file that the bench wrote")
    parser.add_argument("--beside", default="", help="what else ran on the machine, as a sentence")
    given = parser.parse_args()
    DOCUMENT.write_text(render(json.loads(given.file.read_text()), given.beside))
