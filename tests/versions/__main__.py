"""Runs the system on each version of Kafka and of Postgres, and renders docs/versions.md (`make versions`)."""

import asyncio
import json
import sys
from typing import Any

from infra.clock import utc_now
from tests.versions.binaries import KAFKA, POSTGRES
from tests.versions.table import DOCUMENT, FILE, render
from tests.versions.trial import OWN_KAFKA, OWN_POSTGRES, run_trial


async def _run() -> list[dict[str, Any]]:
    pairs = [*((kafka, OWN_POSTGRES) for kafka in KAFKA), *((OWN_KAFKA, major) for major in POSTGRES)]
    trials = []
    for kafka, postgres in dict.fromkeys(pairs):
        if sys.argv[1:] and not {kafka, postgres} & {*sys.argv[1:]}:
            continue
        trial = await run_trial(kafka, postgres)
        print(f"Kafka {kafka}, Postgres {postgres}: {trial.verdict}", file=sys.stderr, flush=True)
        trials.append(trial._asdict())
    return trials


def main() -> None:
    """Run all trials, keep what they found, and render the page."""
    found = {"day": f"{utc_now():%Y-%m-%d}", "trials": asyncio.run(_run())}
    if sys.argv[1:]:  # some versions only
        return
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, indent=2) + "\n")
    DOCUMENT.write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()
