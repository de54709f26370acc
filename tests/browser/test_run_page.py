"""A run's page in a browser: it is live, it can be steered, and nothing that was said in a run does anything on it."""

from __future__ import annotations

from playwright.async_api import expect

from tests.api.conftest import Api
from tests.browser.conftest import Visitor
from tests.harness import answer, in_turns, wish

REFUND = ("refund", {"order": "A-1", "amount": 5})


async def test_a_run_is_watched_until_it_ends(api: Api, visitor: Visitor) -> None:
    """Steps appear as they happen, and the page says in the end how the run ended, without being loaded again."""
    run_id = await api.start(input="Is A-1 paid?")
    async with api.server() as (_, url, _):
        await visitor.page.goto(f"{url}/console/runs/{run_id}")
        await expect(visitor.page.locator("#status")).to_contain_text("running")
        async with api.worker(in_turns(wish(("look", {"order": "A-1"}), text="Let me see."), answer("It is paid."))):
            await expect(visitor.page.locator("#step-1")).to_contain_text("Let me see.")
            await expect(visitor.page.locator("#step-2")).to_contain_text("A-1 is paid")
            await expect(visitor.page.locator("#status")).to_contain_text("completed")
        await expect(visitor.page.locator("#outcome")).to_contain_text("It is paid.")
