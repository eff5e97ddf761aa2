"""Programs that tests need and that are no Python packages: `make tools` installs them where it can."""

import os
import shutil

import pytest


def tool(*names: str) -> str:
    """Return where a program is, by the first of its names that there is.

    Without it the test is skipped; on CI it fails, so that nobody misses it for long.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        reason = (
            f"{names[0]} is missing: run `make tools` as root, or install what infra/local/debian-packages.txt names"
        )
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found
