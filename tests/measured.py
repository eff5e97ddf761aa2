"""When and of which commit something was measured: what a page says of a run beside its result."""

import subprocess
from pathlib import Path

from infra.clock import utc_now

__all__ = ["day_and_commit"]


def day_and_commit() -> dict[str, str]:
    """Return today and the commit that is checked out; code is read as processes start, so change nothing meanwhile."""
    argv = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(argv, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    return {"day": f"{utc_now():%Y-%m-%d}", "commit": commit}
