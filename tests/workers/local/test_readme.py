"""The README's block for a Kafka and a Postgres of one's own, run as it stands."""

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


def _block() -> str:
    """Return the commands, without the two addresses, which are the reader's own."""
    (block,) = re.findall(
        "<!-- a test runs this block -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return "".join(line for line in block.splitlines(keepends=True) if not line.startswith("export INMAIL_"))


def _answers(process: "subprocess.Popen[str]") -> list[str]:
    """Return what is printed up to the answer of the send; of a block that hangs, what there was until then."""
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
    """On an empty Kafka and an empty Postgres, as a newcomer has them: ten credits, one message, nine left."""
    with LocalStack() as stack:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("INMAIL_")}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "INMAIL_DATABASE_URL": stack.database_url,
        }
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", _block()],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            said = _answers(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    shown = [re.sub(" +", " ", line) for line in said]
    assert any("granted +10 balance 0 -> 10" in line for line in shown)
    assert any("charged -1 balance 10 -> 9" in line for line in shown), "".join(shown)
