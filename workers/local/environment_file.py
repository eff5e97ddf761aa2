"""The file by which another terminal reaches a running `inmail up`: `source .inmail/env`."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.settings import Settings
from workers.local.processes import environment

__all__ = ["ENVIRONMENT_FILE", "environment_file"]

ENVIRONMENT_FILE: Final = "env"


@contextmanager
def environment_file(data_dir: Path, settings: Settings) -> Iterator[Path]:
    """Write the settings that reach this stack, as a shell reads them; remove the file at the end.

    Without the console's tokens: whoever reads the file may use Kafka and Postgres, and no more.

    Raises:
        OSError: when the file cannot be written.

    """
    path = data_dir / ENVIRONMENT_FILE
    lines = ["# Written by `inmail up`, and removed when it ends."]
    lines += [
        f"export {name}={shlex.quote(value)}"
        for name, value in sorted(environment(settings).items())
        if name.startswith("INMAIL_") and not name.startswith("INMAIL_CONSOLE_")
    ]
    if (folder := Path(sys.executable).parent).joinpath("inmail").is_file():
        lines.append(f'command -v inmail > /dev/null || export PATH={shlex.quote(str(folder))}:"$PATH"')
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
