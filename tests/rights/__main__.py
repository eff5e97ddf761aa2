"""Takes away each documented right, one at a time, and looks whether the error names it (`make rights`)."""

import asyncio
import sys
import tempfile
from pathlib import Path

from infra.kafka.rights import Operation
from tests.rights.console import CONSOLES, ask_console, names_in_console
from tests.rights.privileges import PRIVILEGES, lacks_without, names_privilege, run_with_all
from tests.rights.site import COMMANDS, GOOD, WORKERS, Site, names, open_site, prepare
from tests.versions.binaries import postgres_folder
from tests.workers.command import Said
from tests.workers.hanging import leave_marker_out
from workers.commands.running import Exit
from workers.rights import RIGHTS, rights_of

_MOST = 1_500  # characters of what was said


class _Count:
    """How many rights were taken away, and how often the error did not name what was missing."""

    def __init__(self) -> None:
        self.taken = self.failures = 0

    def note(self, command: str, right: object, said: object, *, good: bool) -> None:
        """Count one that was taken away."""
        self.taken += 1
        self.failures += not good
        print(f"{'yes' if good else 'NO '} {command}: {right}", flush=True)
        if not good:
            print(f"    {_without_good_lines(said)}"[:_MOST])

    def fail(self, command: str, said: object) -> None:
        """Count a command that failed with all that is documented."""
        self.failures += 1
        print(f"NO  {command}: with its documented rights: {_without_good_lines(said)}"[:_MOST], flush=True)


def _without_good_lines(said: object) -> object:
    """Return what was said, of `inmail doctor` without the lines of what is well."""
    if not isinstance(said, Said):
        return said
    return said._replace(out="".join(line for line in said.out.splitlines(True) if not line.startswith("ok ")))


async def _sweep_commands(site: Site, count: _Count) -> None:
    for command in (*WORKERS, *COMMANDS):
        if command in COMMANDS:
            settings = site.user(command) if command in ("publish", "topics apply") else await site.add(command)
            said = await site.run(command, settings)
            if said.code != GOOD.get(command, Exit.DONE):
                count.fail(command, said)
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
            count.note(command, right, said, good=names(command, right, settings, said))


async def _sweep_consoles(site: Site, count: _Count) -> None:
    for command in CONSOLES:
        settings = await site.add(command)
        for right in rights_of(command, site.administrator):
            given = await ask_console(site, command, right, settings)
            if given.error.get("code", "refused") != "refused":  # there may be nothing to do
                count.fail(f"{command}, {right}", given)
            async with site.without(command, right):
                said = await ask_console(site, command, right, settings)
            count.note(command, right, said, good=names_in_console(right, settings, said))


async def _sweep_privileges(site: Site, count: _Count) -> None:
    for command, kind in PRIVILEGES.items():
        if command in RIGHTS:  # on Kafka
            await site.add(command)
        for privilege in kind.privileges:
            said = await lacks_without(site, command, privilege)
            count.note(command, privilege, said, good=names_privilege(command, privilege, said))
        said = await run_with_all(site, command)
        if said.code not in kind.good:
            count.fail(command, said)


async def _sweep(site: Site) -> int:
    await prepare(site)
    count = _Count()
    await _sweep_commands(site, count)
    await _sweep_consoles(site, count)
    await _sweep_privileges(site, count)
    print(f"{count.taken} rights taken away, {count.failures} failures")
    return count.failures


def main() -> None:
    """Run the sweep; end with 1 where an error does not name what is missing."""
    with tempfile.TemporaryDirectory() as folder, open_site(Path(folder), postgres_folder("18", Path(folder))) as site:
        sys.exit(bool(asyncio.run(_sweep(site))))


if __name__ == "__main__":
    main()
