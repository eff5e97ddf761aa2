"""The README's block for a Kafka and a Postgres of one's own, run as it stands. `test_one_up.py` runs the other."""

import sys
from pathlib import Path

import pytest

from infra.local.stack import LocalStack
from tests.workers.local.readme_blocks import ANSWERS, OWN, read_answers, run_block
from tests.workers.local.running_up import outside_variables


@pytest.mark.whole
def test_the_block_leads_to_the_first_charged_send(tmp_path: Path) -> None:
    """On an empty Kafka and an empty Postgres, the block gives ten credits, sends one message and leaves nine."""
    (tmp_path / ".venv").symlink_to(sys.prefix)  # as if `make setup` had made it there
    with LocalStack() as stack:
        addresses = {
            "INMAIL_KAFKA_BOOTSTRAP_SERVERS": stack.kafka_bootstrap_servers,
            "INMAIL_DATABASE_URL": stack.database_url,
        }
        with run_block(OWN, tmp_path, outside_variables() | addresses) as process:
            said = read_answers(process)

    assert [] == [each for each in ANSWERS if each not in said], said
