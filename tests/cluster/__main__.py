"""`make cluster`: kills brokers of a cluster of three, and Postgres, under load. Exits 1 when a promise was broken.

With `--databases 2` it kills Postgres servers and workers, and moves numbers from one server to the other.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from infra.local.stack import LocalStack
from tests.cluster.judge import ALLOWED_SECONDS, POSTGRES, Answers, Kill
from tests.cluster.kills import random_servers, run
from tests.cluster.servers import Disturbance, random_events, run_servers
from tests.measured import day_and_commit
from workers.local.up import stack_settings

FILE = Path(__file__).parents[2] / "build" / "cluster.json"
SERVERS_FILE = FILE.with_name("cluster-databases.json")
BROKERS = 3
_DOWN_SECONDS = 3.0
QUORUM = {"controller.quorum.fetch.timeout.ms": "1000"}  # Kafka's default is 2 s


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="kills, each fifth of Postgres; with --databases, acts")
    parser.add_argument("--databases", type=int, default=1, help="Postgres servers that share the books")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=120.0, help="sends a second")
    parser.add_argument("--partitions", type=int, default=12, help="of each topic")
    parser.add_argument("--members", type=int, default=2, help="of each worker")
    parser.add_argument("--logs", type=Path, help="a folder that keeps the workers' logs")
    parser.add_argument(
        "--session-ms", type=int, default=0, help="the brokers' session timeout; the stack's by default"
    )
    return parser.parse_args()


def main() -> None:
    """Run, print, write."""
    given = _arguments()
    if given.databases > 1:
        sys.exit(not _run_servers(given))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a killed broker is meant to be missed
    hurried = dict(QUORUM)
    if given.session_ms:
        hurried["broker.session.timeout.ms"] = str(given.session_ms)
    options, began = _options(given), monotonic()

    def report(kill: Kill) -> None:
        print(f"{monotonic() - began:6.0f} s: killed {_name(kill)}", flush=True)

    with (
        LocalStack(brokers=BROKERS, broker_settings=hurried, report=lambda line: print(line, flush=True)) as stack,
        tempfile.TemporaryDirectory(prefix="inmail-cluster-") as logs,
    ):
        settings = stack_settings(stack, topic_partitions=given.partitions, log_format="json")
        choose = random_servers(given.seed, BROKERS)
        result = asyncio.run(
            run(
                stack,
                settings,
                given.logs or Path(logs),
                choose,
                given.rounds,
                given.rate,
                given.members,
                report=report,
            )
        )
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(result.summary() | options | {"seconds": monotonic() - began}, indent=1) + "\n")
    limit = result.session_seconds + ALLOWED_SECONDS
    for kill in result.kills:
        late = kill.node != POSTGRES and kill.pause > limit
        print(
            f"{_name(kill)}: sends paused for {kill.pause:.1f} s, Kafka for {kill.kafka_pause:.1f} s"
            f"{f': more than {limit:.0f} s' if late else ''}"
        )
    _print_answers(result)
    print(f"longest pause {result.longest:.1f} s, allowed {result.session_seconds:.0f} + {ALLOWED_SECONDS:.0f} s")
    sys.exit(not result.passed)


def _options(given: argparse.Namespace) -> dict[str, object]:
    """Return what the page says of a run beside its result: its settings, its day and its commit."""
    asked = {name: getattr(given, name) for name in ("rate", "partitions", "members", "seed")}
    return asked | day_and_commit()


def _run_servers(given: argparse.Namespace) -> bool:
    """Run with several Postgres servers, print, write; return whether every promise was kept."""
    options, began = _options(given), monotonic()

    def report(seen: Disturbance) -> None:
        print(f"{monotonic() - began:6.0f} s: {seen.what}", flush=True)

    events = list(random_events(given.seed, given.rounds, given.databases, given.partitions, given.members))
    with (
        LocalStack(databases=given.databases, report=lambda line: print(line, flush=True)) as stack,
        tempfile.TemporaryDirectory(prefix="inmail-cluster-") as logs,
    ):
        settings = stack_settings(stack, topic_partitions=given.partitions, log_format="json")
        result = asyncio.run(
            run_servers(
                stack,
                settings,
                given.logs or Path(logs),
                events,
                rate=given.rate,
                members=given.members,
                down_seconds=_DOWN_SECONDS,
                report=report,
            )
        )
    told = {"passed": result.passed, "exact": result.exact, **asdict(result), **options}
    told |= {"down_seconds": _DOWN_SECONDS, "seconds": monotonic() - began}
    SERVERS_FILE.parent.mkdir(exist_ok=True)
    SERVERS_FILE.write_text(json.dumps(told, indent=1) + "\n")
    for seen in result.disturbances:
        print(f"{seen.what}: its numbers paused for {seen.pause:.1f} s, the others for {seen.others:.1f} s")
    _print_answers(result)
    return result.passed


def _print_answers(result: Answers) -> None:
    print(
        f"{result.sends:,} sends, {result.unanswered} unanswered, {result.doubled} answered twice,"
        f" {result.unbilled} billing events wrong, audit: {', '.join(result.audit) or 'sound'}"
    )


def _name(kill: Kill) -> str:
    if kill.node == POSTGRES:
        return "Postgres"
    led = f"which led {kill.led} partition{'' if kill.led == 1 else 's'} of sends"
    return f"broker {kill.node}, {led}" + (" and was the controller" if kill.was_controller else "")


if __name__ == "__main__":
    main()
