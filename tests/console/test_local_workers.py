"""The console beside the workers that its program runs: how their processes stand, and stopping and starting them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from playwright.async_api import Browser
from pydantic import SecretStr

from infra.clock import utc_now
from infra.local.ports import reserve_port
from infra.settings import Settings, load_settings
from tests.console.browser import Tab, open_tab
from tests.console.scene import OPERATOR
from tests.console.test_guard import signed_in
from tests.console.views import find_shortcomings
from tests.workers.wire import eventually
from workers.console.local_workers import ControlError, ProcessState, WorkerAction, WorkerStatus
from workers.console.server import serve_console

pytestmark = pytest.mark.timeout(60)


class _Control:
    """Workers that are no processes."""

    def __init__(self) -> None:
        self.states = {
            "send": ProcessState.TRIPPED,
            "billing": ProcessState.RUNNING,
            "expiry": ProcessState.BACKING_OFF,
        }
        self.told: list[tuple[str, WorkerAction, bool]] = []

    def statuses(self) -> Sequence[WorkerStatus]:
        """Return how each stands."""
        return [self._status(name) for name in self.states]

    async def act(self, name: str, action: WorkerAction, *, let_through: bool = False) -> WorkerStatus:
        """Note what was asked, and do it."""
        if name not in self.states:
            raise ControlError(f"there is no worker {name}")
        self.told.append((name, action, let_through))
        self.states[name] = ProcessState.STOPPED if action is WorkerAction.STOP else ProcessState.RUNNING
        return self._status(name)

    def _status(self, name: str) -> WorkerStatus:
        state = self.states[name]
        error = "" if state is ProcessState.RUNNING else f"the last error of {name}"
        return WorkerStatus(name, state, utc_now(), Path(f"logs/{name}.log"), error=error, starts_in_seconds=4.0)


@pytest.fixture
def control() -> _Control:
    """Who runs the workers."""
    return _Control()


@pytest.fixture
async def beside(control: _Control) -> AsyncIterator[str]:
    """The address of a console beside workers, whose servers refuse every connection."""
    closed = reserve_port(None, "nobody")
    place = f"127.0.0.1:{closed.getsockname()[1]}"
    settings: Settings = load_settings(
        kafka_bootstrap_servers=place,
        database_url=f"postgresql://{place}/inmail",
        console_timeout_seconds=2,
        console_operator_token=SecretStr(OPERATOR),
    )
    async with serve_console(settings, reserve_port(None, "a test's console"), control) as address:
        yield address
    closed.close()


@pytest.fixture
async def overview(browser: Browser, beside: str) -> AsyncIterator[Tab]:
    """The overview of it."""
    async with open_tab(browser, beside) as opened:
        yield opened


async def test_a_worker_that_ended_is_shown_with_its_error_and_its_log(overview: Tab) -> None:
    """Also while no server answers, on both widths, and without a barrier."""
    expected = [
        "its circuit breaker ended it, and it stays ended: the last error of send; its log: logs/send.log",
        "the last error of expiry; it is started again in 4 s; its log: logs/expiry.log",
        "ended by the breaker",
        "Start, let all through",
        "Restart",
    ]

    assert [] == await find_shortcomings(overview, "#/", expected)


async def test_an_operator_stops_a_worker_and_starts_it_again(overview: Tab, control: _Control) -> None:
    """Asked once each time."""
    await overview.open_view("#/")
    await overview.sign_in(OPERATOR, "maria")
    await overview.click("Stop: billing worker")
    await overview.press("Stop")
    await overview.wait_for_text("an operator stopped it; what comes waits")
    await overview.click("Start, let all through: send worker")
    await overview.press("Start, let all through")

    async def told() -> bool:
        return len(control.told) == 2

    await eventually(told, "both")
    assert [("billing", WorkerAction.STOP, False), ("send", WorkerAction.START, True)] == control.told


async def test_what_makes_no_sense_is_refused(beside: str, control: _Control) -> None:
    """And nothing is done for somebody who is not signed in."""
    async with signed_in(beside, OPERATOR) as (client, headers):
        answers = []
        for path in ("send/stop", "sent/stop", "send/pause"):
            async with client.post(f"/api/workers/{path}", headers=headers, json={}) as answer:
                body = await answer.json()
                answers.append((answer.status, body["state"] if answer.status == 200 else body["error"]["code"]))
        client.cookie_jar.clear()
        async with client.post("/api/workers/send/start", headers=headers, json={}) as answer:
            answers.append((answer.status, (await answer.json())["error"]["code"]))

    assert [(200, "stopped"), (409, "refused"), (400, "bad_request"), (401, "sign_in")] == answers
    assert [("send", WorkerAction.STOP, False)] == control.told
