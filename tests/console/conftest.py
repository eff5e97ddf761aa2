"""One browser and one console on one cluster, for all tests of the console."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from infra.local.stack import LocalStack
from tests.conftest import _copy
from tests.console.browser import WIDE, Tab, open_browser, open_tab
from tests.console.scene import Scene, play_scene, serve_test_console


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The system's Chromium."""
    async with open_browser() as running:
        yield running


@pytest.fixture(scope="module")
async def scene(stack: LocalStack, template: str) -> AsyncIterator[Scene]:
    """The scene that all console tests share."""
    async with play_scene(await _copy(stack, template)) as played:
        yield played


@pytest.fixture(scope="module")
async def address(scene: Scene) -> AsyncIterator[str]:
    """The address of a console that shows the scene."""
    async with serve_test_console(scene.settings) as served:
        yield served


@pytest.fixture(scope="module")
async def _tab(browser: Browser, address: str) -> AsyncIterator[Tab]:
    async with open_tab(browser, address) as opened:
        yield opened


@pytest.fixture
async def tab(_tab: Tab) -> AsyncIterator[Tab]:
    """The tab that all tests share, reset as if just opened. A test fails if the page reports an error."""
    await _tab.page.context.clear_cookies()
    await _tab.page.goto("about:blank")
    await _tab.set_window(WIDE)
    yield _tab
    errors, _tab.errors = _tab.errors, []
    assert [] == errors
