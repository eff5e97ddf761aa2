"""The surfaces an operator looks at, each asked again and again, and what each says in a word a subject."""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NoReturn

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.states.members import Members
from tests.states.timeline import Timeline, Word, Words

__all__ = ["ALERTS", "COMMAND", "CONSOLE", "ENDPOINT", "FIRING", "LOG", "METRICS", "READYZ", "SURFACES", "Surfaces"]

COMMAND: Final = "inmail lag"
ENDPOINT: Final = "lag endpoint"
METRICS: Final = "metrics"
READYZ: Final = "readyz"
LOG: Final = "log"
CONSOLE: Final = "console"
ALERTS: Final = "alerts"
SURFACES: Final = (COMMAND, ENDPOINT, METRICS, READYZ, LOG, CONSOLE, ALERTS)

FIRING: Final = {"page": "firing", "ticket": "firing as a ticket"}

_PERIOD_SECONDS: Final = 1.0
_PAGE_PERIOD_SECONDS: Final = 2.0  # as an open page
_COMMAND_PERIOD_SECONDS: Final = 3.0  # it is a process of its own each time
_TIMEOUT_SECONDS: Final = 3.0
_METRICS: Final = (
    "inmail_dead_letters_total", "inmail_lag_books_readable", "inmail_lag_group_status", "inmail_ready",
)  # fmt: skip
_SILENT: Final = Word("no answer")
_ROUTINE: Final = frozenset({"health_served", "assigned", "worker_started", "lanes_open"})  # what a start logs


class Surfaces:
    """Asks all of them, and notes what they say."""

    def __init__(self, members: Members, prometheus: int | None, timeline: Timeline) -> None:
        self._members = members
        self._prometheus = prometheus
        self._timeline = timeline
        self._client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS))
        self._letters: dict[str, float] = {}  # dead letters by surface
        self._known: dict[str, float] = {}  # of them, those from before the state at hand
        self._read_to: dict[str, int] = {}  # the log of each worker, in bytes
        self._logged: dict[str, Word] = {}  # since the state at hand began

    def rebase(self) -> None:
        """From now on only new dead letters are told of."""
        self._known = dict(self._letters)
        self._logged = {}

    async def watch(self) -> NoReturn:
        """Ask until cancelled."""
        askers: dict[str, Callable[[], Awaitable[Words]]] = {
            ENDPOINT: self._endpoint,
            METRICS: self._metrics,
            READYZ: self._readyz,
            LOG: self._log,
        }
        if self._prometheus is not None:
            askers[ALERTS] = self._alerts
        try:
            async with asyncio.TaskGroup() as group:
                for surface, asker in askers.items():
                    group.create_task(self._again(surface, asker, _PERIOD_SECONDS))
                group.create_task(self._again(COMMAND, self._command, _COMMAND_PERIOD_SECONDS))
                group.create_task(self._again(CONSOLE, self._console, _PAGE_PERIOD_SECONDS))
        finally:
            await self._client.close()
        raise AssertionError("they go on until cancelled")

    async def _again(self, surface: str, ask: Callable[[], Awaitable[Words]], period: float) -> NoReturn:
        while True:
            self._timeline.note(surface, await ask())
            await asyncio.sleep(period)

    async def _command(self) -> Words:
        """Run `inmail lag --json`: an observer that has seen nothing before."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "workers.cli", "lag", "--json",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=self._members.environment,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                out, trouble = await process.communicate()
        except TimeoutError:
            return {"command": Word("no answer")}
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            return {"command": Word(f"exit {process.returncode}", trouble.decode()[-200:].strip())}
        books = {"books": Word("not readable", trouble.decode().strip())} if trouble else {}
        return _groups(json.loads(out)) | books

    async def _endpoint(self) -> Words:
        status, text = await self._get("lag", "/lag")
        if status != 200:
            return {"observer": Word(f"answers {status}", text.strip()) if status else _SILENT}
        body = json.loads(text)
        books = {"books": Word("not readable", body["trouble"])} if body["trouble"] else {}
        return _groups(body["groups"]) | books

    async def _metrics(self) -> Words:
        """Read what a scrape finds: lag from its observer, readiness and dead letters from each worker."""
        found: dict[str, Word] = {}
        letters = 0.0
        status, text = await self._get("lag", "/metrics")
        if status != 200:
            found["observer"] = Word(f"answers {status}") if status else _SILENT
        for name, labels, value in _samples(text if status == 200 else ""):
            if name == "inmail_lag_group_status" and value:
                found[labels["consumergroup"]] = Word(labels["inmail_lag_group_status"])
            elif name == "inmail_lag_books_readable":
                found["books"] = Word("readable" if value else "not readable", f"{name} {value:.0f}")
        for worker in self._members.workers:
            status, text = await self._get(worker, "/metrics")
            found[worker] = _SILENT
            for name, _, value in _samples(text if status == 200 else ""):
                if name == "inmail_ready":
                    found[worker] = Word("ready" if value else "not ready", f"{name} {value:.0f}")
                elif name == "inmail_dead_letters_total":
                    letters += value
        return found | self._new_letters(METRICS, letters, "inmail_dead_letters_total")

    async def _readyz(self) -> Words:
        found = {}
        for worker in self._members.workers:
            status, text = await self._get(worker, "/readyz")
            if not status:
                found[worker] = _SILENT
            else:
                body = json.loads(text)
                found[worker] = Word("ready" if body["ready"] else "not ready", "; ".join(body["reasons"]))
        return found

    async def _log(self) -> Words:
        """Read what the workers have logged since: each event of a worker once, with the first of its sentences."""
        for worker in self._members.workers:
            text = await asyncio.to_thread(self._members.log(worker).read_bytes)
            written = text[self._read_to.get(worker, 0) : text.rfind(b"\n") + 1]
            self._read_to[worker] = self._read_to.get(worker, 0) + len(written)
            for line in written.decode().splitlines():
                event, said = _logged(line)
                if event not in _ROUTINE:
                    self._logged.setdefault(f"{worker} {event}", Word("logged", said))
        return dict(self._logged)

    async def _console(self) -> Words:
        """Ask what an open page asks."""
        status, text = await self._get("console", "/api/overview")
        return self._overview(json.loads(text)) if status == 200 else {"console": _SILENT}

    def _overview(self, seen: Mapping[str, Any]) -> Words:
        found = {
            part["name"]: Word(
                "ok" if part["status"] == "ok" else f"{part['status']}, {part['cause']}",
                " → ".join(filter(None, (part["text"], part["do"]))),
            )
            for part in seen["health"]
        }
        headline = seen["headline"]
        kind, title = headline["kind"], re.sub(r"\d[\d,]*", "N", headline["title"])
        whole = headline["title"] if title != headline["title"] else ""
        told = " → ".join(filter(None, (whole, headline["text"], headline["do"])))
        found["headline"] = Word("ok" if kind == "ok" else f"{kind}, {title}", told)
        worst = seen["lag"]["worst"]
        if worst is not None:
            since = "since when is not said" if worst["since"] is None else f"since {worst['since']}"
            found[worst["group"]] = Word(worst["status"], f"{worst['reason']} ({since}) → {worst['do']}")
        return found | self._new_letters(CONSOLE, seen["changes"]["dead_letters"], "the list of dead letters grows")

    async def _alerts(self) -> Words:
        status, text = await self._get_port(self._prometheus or 0, "/api/v1/alerts")
        if status != 200:
            return {"prometheus": _SILENT}
        found = {}
        for alert in json.loads(text)["data"]["alerts"]:
            labels = alert["labels"]
            names = ("consumergroup", "instance", "worker", "topic")
            about = next((labels[name] for name in names if name in labels), "")
            word = FIRING[labels["severity"]] if alert["state"] == "firing" else alert["state"]
            found[f"{labels['alertname']} {about}".strip()] = Word(word, alert["annotations"]["summary"])
        return found

    def _new_letters(self, surface: str, count: float, said: str) -> dict[str, Word]:
        self._letters[surface] = count
        return {"dead letters": Word("some" if count > self._known.setdefault(surface, count) else "none", said)}

    async def _get(self, member: str, path: str) -> tuple[int, str]:
        return await self._get_port(self._members.ports[member], path)

    async def _get_port(self, port: int, path: str) -> tuple[int, str]:
        """Return status and body; 0 where nobody answers."""
        try:
            async with self._client.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""


def _groups(groups: list[dict[str, Any]]) -> dict[str, Word]:
    return {each["group"]: Word(each["status"], each["reason"]) for each in groups}


def _logged(line: str) -> tuple[str, str]:
    """Return a line's event and what it says of it; a line that is no JSON is a process' last word."""
    try:
        entry = json.loads(line)
    except ValueError:
        return "says", line
    detail = ("error", "holder", "reason", "drained")
    return entry["event"], "; ".join(f"{name}: {entry[name]}" for name in detail if name in entry)


def _samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Return the samples that are looked at; the others are not parsed: it would warm the machine that is measured."""
    lines = [line for line in text.splitlines() if line.startswith(_METRICS)]
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
    ]
