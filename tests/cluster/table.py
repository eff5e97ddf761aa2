"""Renders `docs/cluster.md` from what the last `make cluster` wrote: `python -m tests.cluster.table`."""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from tests.cluster.__main__ import FILE, SERVERS_FILE
from tests.cluster.judge import ALLOWED_SECONDS, POSTGRES
from tests.cluster.servers_page import render_servers

__all__ = ["DOCUMENT", "render"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "cluster.md"
_A_CHARACTER = 0.5  # seconds of a pause

_HEAD = """# Three brokers, and two of each worker

    inmail up --data cluster --brokers 3 --workers 2

runs a cluster of three brokers on this machine, each of them broker and controller (KRaft), and two members of each
worker beside one ticker; `source cluster/env` is for other terminals. Every topic has three replicas, of which two have
to have a record before it counts (`INMAIL_TOPIC_REPLICATION=3`, `min.insync.replicas=2`), and so have the groups'
offsets and the transactions' states. A broker that ends is named and started again as a worker is; `inmail workers stop
broker-2 --data cluster` hands its partitions over first, and is refused where no majority would answer then. With the
default, one broker and one of each worker, nothing differs: the same files, names and ports. A directory that holds the
data of one broker is refused for three, and the other way round.

## What happens when one is killed

`make cluster` kills brokers with -9 under load, one at a time and at random, in each fifth round Postgres instead, and
starts each again. Sends pause until the controller has missed the broker's heartbeats for `broker.session.timeout.ms`:
until then the broker counts as in sync, so that nothing can be acknowledged by all replicas in sync, whoever leads a
partition. That is Kafka's own pause, which every producer has that waits for all replicas. What comes on top is ours.
The goal, from an answer to the next in the worst partition, is the session timeout and {allowed:.0f} s.

A transaction that is under way when a broker is lost has to last that long. So `INMAIL_TRANSACTION_SECONDS` (15) has
to be well above the session timeout (Kafka's default is 9 s, the local stack sets 6 s for three brokers): a transaction
that runs out of time is given up, and its lanes are opened again, which loses nothing and takes longer.

A broker that is the controller too takes the controller with it. The two others elect another one first, after
`controller.quorum.fetch.timeout.ms`, and only then does the session of the broker begin to run out. `make cluster`
sets 1 s instead of Kafka's 2 s, as a cluster may whose controllers run beside its brokers. `inmail up` leaves it at
2 s: on a starved machine (a load of 60 on two cores) a quorum with 1 s elects one controller after the other, to no
end.
"""

_PROMISES = """
## What the run found

{sends:,} sends at {rate:.0f} a second, {partitions} partitions of each topic, {members} of each worker, seed {seed}.
The run of {day}, commit {commit}.

| promise | broken |
|---|---|
| each send has an answer | {unanswered} |
| and no more than one | {doubled} |
| each billing event has exactly one | {unbilled} |
| the audit's checks | {audit} |
| sends pause for at most {limit} by the kill of a broker | {late} of {kills} kills{kafka_late} |

The longest pause was {longest:.1f} s, the median {median:.1f} s, and {kafka:.1f} s of Kafka's own. Ours on top was at
most {most_ours:.1f} s, the median {ours:.1f} s.{beside}

| # | killed | led | pause of sends | of Kafka alone | ours on top of Kafka's own | |
|---|---|---|---|---|---|---|
"""

_FOOT = """
*led*: partitions of `inmail.send-requests` that the broker led. *of Kafka alone*: the longest time in which a partition
of `inmail.send-requests` took nothing from the load's own producer. Each character of a bar is {character} s: `▓` Kafka
alone, `░` what came on top. Where Postgres is killed, requests are taken all the while and answered later.
"""
_END = """
`make test` kills a broker so, and `make test-all` Postgres and one of two servers too; `python -m tests.crash
--brokers 3`, or with `--databases 2`, is the [crash matrix](crash-matrix.md) on such a cluster. This page is rendered
from runs by `make cluster-render`.
"""


def render(result: dict[str, Any], beside: str = "") -> str:
    """Return the page for the result of a run, and what else kept the machine busy, if anything."""
    kills = result["kills"]
    brokers = [kill for kill in kills if kill["node"] != POSTGRES]
    limit = result["session_seconds"] + ALLOWED_SECONDS
    late = [kill for kill in brokers if kill["pause"] > limit]
    of_kafka = sum(kill["kafka_pause"] > limit for kill in late)
    promises = _PROMISES.format(
        **{name: result[name] for name in ("sends", "rate", "partitions", "members", "seed", "longest")},
        **{name: result[name] for name in ("unanswered", "doubled", "unbilled", "day", "commit")},
        audit=", ".join(result["audit"]) or 0,
        limit=f"{limit:.0f} s ({result['session_seconds']:.0f} + {ALLOWED_SECONDS:.0f})",
        late=len(late),
        kafka_late=f"; {of_kafka} of them Kafka's own: it alone took longer" if late else "",
        kills=len(brokers),
        median=median(kill["pause"] for kill in brokers),
        kafka=median(kill["kafka_pause"] for kill in brokers),
        ours=median(map(_ours, brokers)),
        most_ours=max(map(_ours, brokers)),
        beside=f" {beside}" if beside else "",
    )
    rows = [_row(number, kill) for number, kill in enumerate(kills, 1)]
    head = _HEAD.format(allowed=ALLOWED_SECONDS)
    return head + promises + "\n".join(rows) + "\n" + _FOOT.format(character=_A_CHARACTER)


def _ours(kill: dict[str, Any]) -> float:
    """Return for how long sends paused beyond what Kafka took, in seconds."""
    return max(0.0, float(kill["pause"] - kill["kafka_pause"]))


def _row(number: int, kill: dict[str, Any]) -> str:
    name = "Postgres" if kill["node"] == POSTGRES else f"broker {kill['node']}"
    name += ", the controller" if kill["was_controller"] else ""
    led = "" if kill["node"] == POSTGRES else kill["led"]
    ours = _ours(kill)
    bar = "▓" * round((kill["pause"] - ours) / _A_CHARACTER) + "░" * round(ours / _A_CHARACTER)
    return f"| {number} | {name} | {led} | {kill['pause']:.1f} s | {kill['kafka_pause']:.1f} s | {ours:.1f} s | {bar} |"


def main() -> None:
    """Render the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.table", description=__doc__)
    parser.add_argument("--beside", default="", help="a sentence about what else ran on the machine")
    parser.add_argument("--beside-databases", default="", help="the same of the run with several Postgres servers")
    given = parser.parse_args()
    brokers = render(json.loads(FILE.read_text()), given.beside)
    servers = render_servers(json.loads(SERVERS_FILE.read_text()), given.beside_databases)
    DOCUMENT.write_text(brokers + servers + _END)


if __name__ == "__main__":
    main()
