"""Takes away each documented right on Kafka, one at a time, and looks whether the error names it (`make rights`)."""

import asyncio
import sys
import tempfile
from pathlib import Path

from infra.kafka.rights import Operation
from tests.rights.site import COMMANDS, WORKERS, Site, names, open_site, prepare
from tests.versions.binaries import postgres_folder
from tests.workers.hanging import leave_marker_out
from workers.rights import rights_of


async def _sweep(site: Site) -> int:
    await prepare(site)
    failures = taken = 0
    for command in (*WORKERS, *COMMANDS):
        if command in COMMANDS:
            settings = site.user(command) if command in ("publish", "topics apply") else await site.add(command)
            said = await site.run(command, settings)
            if said.code != 0:
                failures += 1
                print(f"NO  {command}: with its documented rights it ended with {said.code}: {said.err or said.out}")
        for right in rights_of(command, site.administrator):
            if right.operation is Operation.CREATE:  # `prepare` has done without it
                continue
            hangs = right.operation is Operation.ALTER  # which is missed only where something is to be ended
            if hangs:
                await leave_marker_out(site.user("worker"), commit=True)
            async with site.without(command, right) as settings:
                said = await site.run(command, settings)
            if hangs:
                ended = await site.run(command, settings)
                assert "1 ended as committed" in ended.out, ended
            taken += 1
            good = names(command, right, settings, said)
            failures += not good
            print(f"{'yes' if good else 'NO '} {command}: {right}", flush=True)
            if not good:
                print(f"    {said.code}: {said.err.strip() or said.out.strip()}"[:1500])
    print(f"{taken} rights taken away, {failures} failures")
    return failures


def main() -> None:
    """Run the sweep; end with 1 where an error does not name what is missing."""
    with tempfile.TemporaryDirectory() as folder, open_site(Path(folder), postgres_folder("18", Path(folder))) as site:
        sys.exit(bool(asyncio.run(_sweep(site))))


if __name__ == "__main__":
    main()
