"""Every panel of the dashboards, asked of a real Prometheus that scrapes a real run."""

import asyncio
import json
import math
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.settings import Settings
from schemas.catalogue import BILLING_EVENTS, SEND_REQUESTS
from tests.tools import tool
from tests.workers.api.served import serving
from tests.workers.processes import free_port
from tests.workers.scraping import everyone
from tests.workers.wire import eventually, promotion, publish, send

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "infra" / "prometheus"


def _configuration(ports: dict[str, int]) -> dict[str, Any]:
    """Return the configuration that is shipped, with the targets of this run, and in a hurry."""
    found = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    found["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    found["rule_files"] = [str(PROMETHEUS / pattern) for pattern in found["rule_files"]]
    for static in found["scrape_configs"][0]["static_configs"]:
        static["targets"] = [f"127.0.0.1:{ports[target.split(':')[0]]}" for target in static["targets"]]
    return found


@contextmanager
def _prometheus(folder: Path, ports: dict[str, int]) -> Iterator[int]:
    """Run Prometheus; yield its port."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_configuration(ports)))
    port = free_port()
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield port
        finally:
            process.terminate()


async def _ask(port: int, expression: str) -> list[float]:
    """Return the values of a query now; none where Prometheus does not answer yet."""

    def get() -> list[float]:
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{query}", timeout=5) as answer:
                return [float(each["value"][1]) for each in json.load(answer)["data"]["result"]]
        except OSError:
            return []

    return [value for value in await asyncio.to_thread(get) if not math.isnan(value)]


def _queries() -> dict[str, str]:
    """Return the queries of the rendered dashboards, by dashboard, panel and number."""
    return {
        f"{path.stem}: {panel['title']} {target['refId']}": target["expr"]
        for path in sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    }


@pytest.mark.whole
async def test_every_panel_shows_something_of_a_run(cluster: Settings, account: str, tmp_path: Path) -> None:
    """Credits given and spent, and one record that nobody can read: the only alert is of that one."""
    unanswered = _queries()
    assert len(unanswered) > 20
    api = free_port()
    async with everyone(cluster) as ports, serving(cluster, health_port=api) as client:
        with _prometheus(tmp_path, ports | {"api": api}) as port:

            async def all_are_scraped() -> bool:
                return [7.0] == await _ask(port, 'sum(up{job="inmail"})') and [5.0] == await _ask(
                    port, "sum(inmail_ready)"
                )

            await eventually(all_are_scraped, "all scraped and ready")
            await publish(cluster, BILLING_EVENTS, [promotion(account, 5)])
            await publish(cluster, SEND_REQUESTS, [*(send(account) for _ in range(3)), (account.encode(), b"{")])

            async def all_are_answered() -> bool:
                await client.get(f"/v1/accounts/{account}/balance")
                for name, expression in list(unanswered.items()):
                    if await _ask(port, expression):
                        del unanswered[name]
                return not unanswered

            try:
                await eventually(all_are_answered, "every panel")
            except AssertionError:
                raise AssertionError(f"these show nothing: {unanswered}") from None

            async def a_ticket_is_written() -> bool:
                return [1.0] == await _ask(port, 'ALERTS{alertname="InmailDeadLetters", alertstate="firing"}')

            await eventually(a_ticket_is_written, "the alert of the dead letter")
            firing = await _ask(port, 'ALERTS{alertstate="firing"}')

    assert [1.0] == firing
