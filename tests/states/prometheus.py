"""A Prometheus that scrapes the run: our configuration and rules as they are, with this machine's addresses."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Final

import yaml

from tests.workers.processes import free_port
from workers.local.processes import worker_of

__all__ = ["SOURCE", "configuration", "prometheus"]

SOURCE: Final = Path(__file__).parents[2] / "infra" / "prometheus"


def configuration(ports: Mapping[str, int]) -> str:
    """Return our configuration with loopback ports for its targets, each under the name that it has in compose.

    Where there are several workers of a kind, as there are with several Postgres servers, each is a target.
    """
    document = yaml.safe_load((SOURCE / "prometheus.yml").read_text())
    document["rule_files"] = [str(SOURCE / each) for each in document["rule_files"]]
    for job in document["scrape_configs"]:
        job["static_configs"] = [
            {"targets": [f"127.0.0.1:{ports[name]}"], "labels": {"instance": f"{name}:8080"}}
            for config in job["static_configs"]
            for target in config["targets"]
            for name in _named(target.partition(":")[0], ports)
        ]
    text: str = yaml.safe_dump(document)
    return text


def _named(kind: str, ports: Mapping[str, int]) -> list[str]:
    """Return the processes of a kind; there has to be one: a target without a process would end the run."""
    return [name for name in ports if worker_of(name) == kind] or [kind]


@contextmanager
def prometheus(ports: Mapping[str, int], folder: Path) -> Iterator[int | None]:
    """Run it until left; yield its port, or None where this machine has none (`make tools` installs it)."""
    if which("prometheus") is None:
        yield None
        return
    written = folder / "prometheus.yml"
    written.write_text(configuration(ports))
    port = free_port()
    command = ["prometheus", f"--config.file={written}", f"--storage.tsdb.path={folder / 'tsdb'}",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)
