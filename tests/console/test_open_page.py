"""A page that stays open, while the console starts again."""

import pytest
from playwright.async_api import Browser
from pydantic import SecretStr

from tests.console.browser import open_tab
from tests.console.scene import READER, Scene, serve_test_console

pytestmark = pytest.mark.timeout(90)


async def test_a_page_asks_for_the_token_again_after_the_console_started_again(browser: Browser, scene: Scene) -> None:
    """Sessions end with the console: the page shows the sign-in without a reload, and is live again after it."""
    changes = {"console_reader_token": SecretStr(READER)}
    async with serve_test_console(scene.settings, **changes) as address:
        port = int(address.rpartition(":")[2])
        opened = open_tab(browser, address)
        tab = await opened.__aenter__()
        await tab.open_view("#/")
        await tab.sign_in(READER)
        await tab.wait_for_text("Live", "#connection")
    try:
        await tab.wait_for_text("Connection lost", "#connection")
        async with serve_test_console(scene.settings, port, **changes):
            await tab.wait_for_text("Sign in with a token to read this console")
            assert "Not signed in" == await tab.read_text("#connection")
            assert "Sign in" == await tab.read_text("#identity")
            await tab.sign_in(READER)
            await tab.wait_for_text("Live", "#connection")
            await tab.wait_for_text("Flow in")
    finally:
        await opened.__aexit__(None, None, None)
