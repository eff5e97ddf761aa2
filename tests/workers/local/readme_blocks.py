"""The README's blocks, and a shell that runs them as they stand."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ANSWERS", "BESIDE_UP", "OWN", "read_answers", "run_block"]

ROOT = Path(__file__).parents[3]
SECONDS = 90.0
ANSWERS = ("granted +10 balance 0 -> 10", "charged -1 balance 10 -> 9")  # of two topics, so in either order


def _block(comment: str) -> str:
    (block,) = re.findall(
        f"<!-- {re.escape(comment)} -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return str(block)


BESIDE_UP = _block("a test runs this block beside `inmail up`")
# Without the two addresses, which are the reader's own; and without the file that only `inmail up` writes.
OWN = "".join(
    line
    for line in (_block("a test runs this block, and then the lines above") + BESIDE_UP).splitlines(keepends=True)
    if not line.startswith(("export INMAIL_", "source "))
)


@contextmanager
def run_block(block: str, folder: Path, variables: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """Run a block in bash, at most 90 s, and leave none of its processes."""
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    bound = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    bound.start()
    try:
        yield process
    finally:
        bound.cancel()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_answers(process: "subprocess.Popen[str]") -> str:
    """Return what a block prints until both answers have come; of one that hangs, what there was until then."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += re.sub(" +", " ", line)
        if all(each in said for each in ANSWERS):
            break
    return said
