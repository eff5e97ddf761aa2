"""The README's block for an existing Kafka and Postgres, run unchanged."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from infra.local.stack import LocalStack

ROOT = Path(__file__).parents[3]
SECONDS = 90.0


def _read_block() -> str:
    """Return the README's commands without the two addresses, which the reader replaces."""
    (block,) = re.findall(
        "<!-- a test runs this block -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return "".join(line for line in block.splitlines(keepends=True) if not line.startswith("export INMAIL_"))


def _read_answers(process: "subprocess.Popen[str]") -> list[str]:
    """Return the output up to the answer of the send, or all output if the block hangs."""
    bound = threading.Timer(SECONDS, os.killpg, (process.pid, signal.SIGKILL))
    bound.start()
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if "send.decided" in line:
            break
    bound.cancel()
    return lines


def test_the_block_leads_to_the_first_charged_send(tmp_path: Path) -> None:
    """On an empty Kafka and an empty Postgres, the block gives ten credits, sends one message and leaves nine."""
    with LocalStack() as stack:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "INMAIL_DATABASE_URL": stack.database_url,
        }
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", _read_block()],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            said = _read_answers(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    shown = [re.sub(" +", " ", line) for line in said]
    assert any("granted +10 balance 0 -> 10" in line for line in shown)
    assert any("charged -1 balance 10 -> 9" in line for line in shown), "".join(shown)
