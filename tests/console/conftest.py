"""One browser and one console on one cluster, for all tests of the console."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from infra.local.stack import LocalStack
from tests.conftest import _copy
from tests.console.browser import WIDE, Tab, a_browser, a_tab
from tests.console.scene import Scene, a_console, a_scene


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with a_browser() as running:
        yield running


@pytest.fixture(scope="module")
async def scene(stack: LocalStack, template: str) -> AsyncIterator[Scene]:
    """What there is to be seen."""
    async with a_scene(await _copy(stack, template)) as played:
        yield played


@pytest.fixture(scope="module")
async def address(scene: Scene) -> AsyncIterator[str]:
    """Where the console is that shows it."""
    async with a_console(scene.settings) as served:
        yield served


@pytest.fixture(scope="module")
async def _tab(browser: Browser, address: str) -> AsyncIterator[Tab]:
    async with a_tab(browser, address) as opened:
        yield opened


@pytest.fixture
async def tab(_tab: Tab) -> AsyncIterator[Tab]:
    """The one page of all tests, as if it had just been opened. It must not have complained of anything."""
    await _tab.page.context.clear_cookies()
    await _tab.page.goto("about:blank")
    await _tab.look(WIDE)
    yield _tab
    complaints, _tab.complaints = _tab.complaints, []
    assert [] == complaints
