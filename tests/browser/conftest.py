"""A real browser in front of the console: Debian's Chromium, driven by Playwright's own asyncio interface.

Its pages fail the test that has them when a script fails, or when the policy of the page has to stop something.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from temporalio.client import Client

from tests.api.conftest import Api

CHROMIUM: Final = "/usr/bin/chromium"
ARGUMENTS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What the console of the browser says of a server that is away, which the page itself tells its reader.
AWAY: Final = ("ERR_", "Failed to fetch")
PATIENCE_MS: Final = 20_000
PHONE: Final = {"width": 360, "height": 740}


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser; without one these tests fail, as what they promise is then not known."""
    program = shutil.which("chromium") or CHROMIUM
    try:
        async with async_playwright() as playwright:
            launched = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
            yield launched
            await launched.close()
    except Exception as error:
        if "executable" in str(error):
            pytest.fail(f"there is no {program}; on Debian: apt-get install chromium")
        raise


@dataclass
class Visitor:
    """Somebody with a browser, and what went wrong on their pages."""

    context: BrowserContext
    page: Page
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.troubles.append(f"script: {error}"))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        if message.type == "error" and not any(away in message.text for away in AWAY):
            self.troubles.append(f"console: {message.text}")


@asynccontextmanager
async def visit(browser: Browser, **options: Any) -> AsyncIterator[Visitor]:
    """Open a page; in the end there must have been no trouble on it."""
    context = await browser.new_context(**options)
    visitor = Visitor(context, await context.new_page())
    try:
        yield visitor
    finally:
        await context.close()
    assert visitor.troubles == []


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Api]:
    """The shop's API; nobody serves its runs unless the test starts a worker."""
    api = Api(client)
    async with api.http:
        yield api


@pytest.fixture
async def visitor(browser: Browser) -> AsyncIterator[Visitor]:
    """Somebody with a browser."""
    async with visit(browser) as visitor:
        yield visitor
