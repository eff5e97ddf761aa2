"""The README's blocks, run as they stand: beside `inmail up`, and on a Kafka and a Postgres of one's own."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.local.stack import LocalStack

ROOT = Path(__file__).parents[3]
SECONDS = 90.0


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
def _bash(block: str, folder: Path, environment: dict[str, str]) -> "Iterator[subprocess.Popen[str]]":
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
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


ANSWERS = ("granted +10 balance 0 -> 10", "charged -1 balance 10 -> 9")  # of two topics, so in either order


def _read_to(process: "subprocess.Popen[str]", *expected: str) -> str:
    """Return what is printed until all that is expected has been; of a block that hangs, what there was until then."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += re.sub(" +", " ", line)
        if all(each in said for each in expected):
            break
    return said


def _environment() -> dict[str, str]:
    """Return a newcomer's variables: no folder of PATH has the command, only the virtual environment does."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
    folders = [each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "inmail").exists()]
    return variables | {"PATH": os.pathsep.join(folders)}


def _set_up(folder: Path) -> None:
    """Let a folder have the virtual environment of the tests, as if `make setup` had made it there."""
    (folder / ".venv").symlink_to(sys.prefix)


def test_the_block_beside_up_leads_to_the_first_charged_send(tmp_path: Path) -> None:
    """What a newcomer pastes into a second terminal: ten credits, one message, nine left."""
    up = f"exec {sys.executable} -m workers.cli up --data .inmail"
    with _bash(up, tmp_path, _environment() | {"PYTHONPATH": str(ROOT)}) as running:
        _read_to(running, "Ctrl-C drains")
        with _bash(BESIDE_UP, tmp_path, _environment()) as process:
            said = _read_to(process, *ANSWERS)

    assert [] == [each for each in ANSWERS if each not in said], said


@pytest.mark.whole
def test_the_block_leads_to_the_first_charged_send(tmp_path: Path) -> None:
    """On an empty Kafka and an empty Postgres, the block gives ten credits, sends one message and leaves nine."""
    with LocalStack() as stack:
        addresses = {
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "INMAIL_DATABASE_URL": stack.database_url,
        }
        _set_up(tmp_path)
        with _bash(OWN, tmp_path, _environment() | addresses) as process:
            said = _read_to(process, *ANSWERS)

    assert [] == [each for each in ANSWERS if each not in said], said
