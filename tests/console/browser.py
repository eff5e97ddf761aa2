"""The system's Chromium, driven by Playwright, with checks of page errors and accessibility."""

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from playwright.async_api import TimeoutError as LateError

from tests.tools import tool

__all__ = ["Tab", "open_browser", "open_tab"]

WIDE: Final = 1280
NARROW: Final = 390

# Accessibility checks: WCAG 2.2 A and AA, and axe's best practices.
_AXE: Final = files("axe_playwright_python").joinpath("axe.min.js").read_text()

_CUT_TEXTS: Final = """() => [...document.querySelectorAll('svg text')].filter((text) => {
    const [inner, outer] = [text, text.closest('svg')].map((each) => each.getBoundingClientRect());
    return inner.left < outer.left || inner.right > outer.right;
}).map((text) => text.textContent)"""


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Start Chrome or Chromium. Ubuntu's Chromium is a snap, with a sandbox that may refuse to be driven."""
    found = tool("google-chrome", "chromium", "chromium-browser")
    options = ["--disable-gpu", "--disable-gpu-compositing"]  # which would be played by the processor, and drawn twice
    if not os.getuid():
        options.append("--no-sandbox")  # Chromium refuses its sandbox to root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=options)
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """A browser page with all errors and warnings that it reported."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self._record(message.type, message.text))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))

    def _record(self, kind: str, text: str) -> None:
        # The browser also logs each error response; the tests check responses themselves.
        if kind in {"error", "warning"} and "Failed to load resource" not in text:
            self.errors.append(text)

    async def set_window(self, width: int, scheme: Any = "light") -> None:
        """Set the window's width and the colour scheme."""
        await self.page.set_viewport_size({"width": width, "height": 850})
        await self.page.emulate_media(color_scheme=scheme)

    async def press(self, name: str) -> None:
        """Press a button of the dialog."""
        await self.page.locator("dialog").get_by_role("button", name=name).click()

    async def open_view(self, path: str) -> None:
        """Open a view: inside the open page, if that is the console's."""
        if self.page.url.startswith(self.address):
            await self.page.evaluate("location.hash = '#/nowhere'")
            await self.wait_for_text("There is no such view")
        await self.page.goto(f"{self.address}/{path}")

    async def wait_for_text(self, text: str, selector: str = "main") -> None:
        """Wait until a text is visible.

        Raises:
            AssertionError: when it is not there in time; the message has what is there.

        """
        try:
            await self.page.locator(selector, has_text=text).first.wait_for(timeout=45_000)
        except LateError as error:
            shown = await self.page.locator(selector).all_inner_texts()
            raise AssertionError(f"{text!r} is not shown in {selector}; what is there: {shown}") from error

    async def read_problem(self) -> str:
        """Return why the dialog's action was refused, once it is shown."""
        problem = self.page.locator("dialog .problem-line").filter(has_text=re.compile(r"\S"))
        await problem.wait_for(timeout=45_000)
        return await problem.inner_text()

    async def read_text(self, selector: str = "main") -> str:
        """Return the visible text."""
        return await self.page.inner_text(selector)

    async def click(self, name: str, role: Any = "button") -> None:
        """Click a button or a link by its name."""
        await self.page.get_by_role(role, name=name).first.click()

    async def sign_in(self, token: str, name: str = "") -> None:
        """Sign in through the dialog."""
        await self.click("Sign in")
        await self.page.get_by_label("Token").fill(token)
        await self.page.get_by_label("Your name").fill(name)
        await self.press("Sign in")
        await self.page.locator("dialog").wait_for(state="detached")

    async def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(
            await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        )

    async def cut_texts(self) -> list[str]:
        """Return the texts of charts that leave their chart at a side."""
        return list(await self.page.evaluate(_CUT_TEXTS))

    async def accessibility_violations(self) -> list[str]:
        """Return the violations that axe finds."""
        if not await self.page.evaluate("'axe' in window"):  # half a megabyte: once for a page that stays open
            await self.page.evaluate(_AXE)
        found: Mapping[str, Any] = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        return [f"{each['id']}: {[node['target'] for node in each['nodes']][:3]}" for each in found["violations"]]


@asynccontextmanager
async def open_tab(browser: Browser, address: str, **options: Any) -> AsyncIterator[Tab]:
    """Open a tab with its own cookies and settings, without loading a page."""
    wanted: dict[str, Any] = {"viewport": {"width": WIDE, "height": 900}, "timezone_id": "Europe/Berlin"} | options
    context: BrowserContext = await browser.new_context(**wanted)
    try:
        yield Tab(await context.new_page(), address)
    finally:
        await context.close()
