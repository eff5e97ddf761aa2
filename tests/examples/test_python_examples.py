"""The Python programs of `examples/`. `make examples` runs those of all languages."""

import asyncio
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.examples.story import (
    Sample,
    reading,
    send_before_its_grant_is_read,
    send_twice,
    send_with_an_id_of_its_own,
)
from tests.examples.workers_up import working
from tests.workers.conftest import cluster
from workers.jobs.billing import BillingJob
from workers.jobs.send import SendJob

__all__ = ["cluster"]  # a fixture

FOLDER = Path(__file__).parents[2] / "examples" / "python"
PYTHON = Sample(
    "python",
    (sys.executable, str(FOLDER / "send_inmail.py")),
    (sys.executable, str(FOLDER / "read_results.py")),
    retry_seconds=1,
)


@pytest.mark.whole
async def test_the_python_sender_tells_the_id_that_it_made(cluster: Settings) -> None:
    """Killed or timed out, it can be run again: nobody else knows which request it was."""
    await send_with_an_id_of_its_own(cluster, PYTHON, f"a-{uuid4().hex[:12]}")


@pytest.mark.whole
async def test_the_python_programs_send_once_send_again_and_act_once(cluster: Settings) -> None:
    """A request sent twice is charged and delivered once; one refused for now is sent again until it is final.

    Another body under an id that has its answer refuses nothing: what was charged and delivered stays so.
    """
    once, again = f"a-{uuid4().hex[:12]}", f"a-{uuid4().hex[:12]}"
    async with working(cluster, SendJob), reading(cluster, PYTHON, f"examples-{uuid4()}", once) as reader:
        refused = asyncio.Event()
        sending = asyncio.create_task(send_before_its_grant_is_read(cluster, [PYTHON], [again], refused))
        await asyncio.wait([sending, asyncio.create_task(refused.wait())], return_when=asyncio.FIRST_COMPLETED)
        async with working(cluster, BillingJob):
            await sending
            await send_twice(cluster, PYTHON, once)
            expected = [("deliver", "charged"), ("ignore", "key_conflict"), ("refuse", "insufficient_credits")]
            assert expected == await reader.until(expected[-1])
