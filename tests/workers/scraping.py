"""What a scrape of a process finds."""

import asyncio
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __getitem__(self, key: str) -> float:
        return self.value(key)

    def value(self, name: str, labels: Mapping[str, str] | None = None, **more: str) -> float:
        """Return the sum of all samples of a name that have these labels; KeyError where there is none."""
        wanted = ((labels or {}) | more).items()
        found = [value for (each, has), value in self._samples.items() if each == name and wanted <= dict(has).items()]
        if not found:
            raise KeyError(name, dict(wanted))
        return sum(found)

    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {name for name, _ in self._samples}


async def scrape(port: int) -> Scrape:
    """Ask a process for its metrics."""

    def get() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            assert "text/plain; version=0.0.4; charset=utf-8" == answer.headers["Content-Type"]
            return str(answer.read().decode())

    return Scrape(await asyncio.to_thread(get))
