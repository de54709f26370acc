"""Pictures of the console for the documentation, out of a real session: `-m tests.browser.screenshots FOLDER`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from playwright.async_api import Browser, async_playwright
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App
from perdure.codec import data_converter
from perdure.messages import AssistantMessage, Message
from perdure.settings import Price, Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.api.conftest import Api
from tests.browser.conftest import ARGUMENTS, CHROMIUM, PHONE
from tests.harness import InProcessModel, agent, answer, used, wish

MODEL: Final = "in-process:claude-sonnet"
DESK: Final = {"width": 1180, "height": 760}
LARGEST: Final = 150_000
"""Bytes of a picture."""
STORIES: Final = {
    "Refund order A-1001, it arrived broken.": (89.9, "ann@example.com"),
    "The grinder of order A-1007 is too loud. Can I return it?": (129.0, "bob@example.com"),
    "My subscription was charged twice in November.": (24.5, "eve@example.com"),
}


def desk() -> App:
    """A support desk whose refunds a person approves."""
    app = App()

    @app.tool()
    def find_orders(customer: str) -> dict[str, Any]:
        """Find a customer's orders."""
        return {"customer": customer, "orders": [{"id": "A-1001", "item": "espresso machine", "amount": 89.9}]}

    @app.tool(effect="once", approval="ask")
    def refund_order(order_id: str, amount: float, reason: str = "", notify: bool = True) -> dict[str, Any]:
        """Pay back a customer."""
        return {"refund": "R-2041", "order": order_id, "paid": amount}

    app.add(agent(name="support", model=MODEL, tools=("find_orders", "refund_order"), description="Settles requests."))
    app.add(agent(name="research", model=MODEL, description="Finds out and sums up."))
    return app


def play(messages: list[Message]) -> ProviderReply:
    """Speak as the support desk does."""
    text = messages[0].model_dump_json()
    amount, customer = next((told for story, told in STORIES.items() if story[:20] in text), (0.0, ""))
    turn = sum(isinstance(message, AssistantMessage) for message in messages)
    if not customer:
        said = answer("Three suppliers deliver within a week; the cheapest is Bergmann, at 4.10 a piece.")
    elif turn == 0:
        said = wish(("find_orders", {"customer": customer}), text="I will look at the customer's orders first.")
    elif turn == 1:
        call = {"order_id": "A-1001", "amount": amount, "reason": "arrived broken", "notify": True}
        words = "The order is within the refund window, and the photo shows the damage. I will pay it back."
        said = wish(("refund_order", call), text=words)
    else:
        said = answer("The refund R-2041 is on its way. The money arrives within three days.")
    return used(said, input_tokens=1840 + 420 * turn, output_tokens=118 + 30 * turn)


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Api, str]]:
    """Everything that runs, with some runs that have ended and some that wait."""
    async with await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=server_arguments(time_skipping=True),
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as environment:
        prices = {MODEL: Price.model_validate({"input": "3", "output": "15"})}
        settings = Settings(
            task_queue="pictures", prices=prices, ui_url="http://127.0.0.1:8233", shutdown_grace_seconds=0
        )
        api = Api(environment.client, app=desk(), settings=settings)
        plugin = Perdure(api.app, settings=settings, providers={"in-process": InProcessModel(play)})
        async with api.http, api.server() as (_, url, _), build_worker(environment.client, settings, plugin):
            yield api, url


async def prepare(api: Api) -> str:
    """Make the runs, and return the one whose page is shown."""
    runs = [await api.start(agent="support", input=story, user=customer) for story, (_, customer) in STORIES.items()]
    for text in ("Which suppliers deliver grinders within a week?", "Compare the prices of paper filters."):
        await api.ended(await api.start(agent="research", input=text, user="bob@example.com"))
    asked = [await api.approval(run_id) for run_id in runs]
    decision = {"decision": "approve", "decided_by": "carol", "reason": "the photo shows the damage"}
    path = f"/v1/runs/{runs[2]}/approvals/{asked[2]['approval_id']}"
    (await api.http.post(path, json=decision)).raise_for_status()
    await api.ended(runs[2])
    await api.listed(count=5)
    return runs[0]


async def take(browser: Browser, url: str, folder: Path, name: str, path: str, **options: Any) -> None:
    """Take one picture."""
    context = await browser.new_context(**{"viewport": DESK, **options})
    page = await context.new_page()
    await page.goto(f"{url}/console/{path}")
    if "approvals/" in path:
        await page.get_by_label("amount").fill("45")
        await page.get_by_label("Your name").fill("carol")
    await page.wait_for_load_state()
    file = folder / f"console-{name}.png"
    await page.screenshot(path=file)
    await context.close()
    assert file.stat().st_size < LARGEST, f"{file} is too large"


async def main(folder: Path) -> None:
    """Take all pictures."""
    async with stage() as (api, url), async_playwright() as playwright:
        shown = await prepare(api)
        [asked] = (await api.get(f"/v1/runs/{shown}"))["pending_approvals"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

        async def counted() -> bool:
            return "$0.0" in (await api.http.get("/console/usage")).text

        await eventually(counted, within=timedelta(seconds=20), what="the usage")
        approval = f"approvals/{shown}/{asked['approval_id']}"
        await take(browser, url, folder, "runs", "runs")
        await take(browser, url, folder, "run", f"runs/{shown}")
        await take(browser, url, folder, "run-dark", f"runs/{shown}", color_scheme="dark")
        await take(browser, url, folder, "approval", approval)
        await take(browser, url, folder, "inbox-dark", "approvals", color_scheme="dark")
        await take(browser, url, folder, "usage", "usage")
        await take(browser, url, folder, "phone", f"runs/{shown}", viewport=PHONE, device_scale_factor=2)
        await browser.close()


if __name__ == "__main__":
    where = Path(sys.argv[1]).absolute()
    where.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(where))
    sys.stdout.flush()
    os._exit(0)
