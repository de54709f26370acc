"""A run's page in a browser: it is live, it can be steered, and nothing that was said in a run does anything on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
import uvicorn
from playwright.async_api import Browser, Page, expect
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure import Limits
from perdure.activities import Finish
from perdure.deltas import MemoryBus
from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api, shop
from tests.browser.conftest import PHONE, Visitor, visit
from tests.harness import SpeakingModel, Stage, answer, in_turns, turn, wish

REFUND = wish(("refund", {"order": "A-1", "amount": 5}), text="I will refund it.")
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><hx-partial>"

expect.set_options(timeout=20_000)


@asynccontextmanager
async def listening(api: Api, port: int) -> AsyncIterator[str]:
    """Serve the API on a certain port."""
    server = uvicorn.Server(uvicorn.Config(api.asgi, log_level="error", timeout_graceful_shutdown=10))
    with socket.create_server(("127.0.0.1", port)) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started, what="the server")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await serving


async def test_a_run_is_started_watched_edited_approved_and_ends(api: Api, visitor: Visitor) -> None:
    """The whole way of a refund, in one tab: from the form, by a changed amount, to the answer."""
    page = visitor.page
    async with api.server() as (_, url, _), api.worker(in_turns(REFUND, answer("It is settled."))):
        await page.goto(f"{url}/console/start")
        await page.get_by_label("What it is to do").fill("Refund A-1, please.")
        await page.get_by_role("button", name="Start").click()

        await expect(page.locator("#status")).to_contain_text("waiting")
        await expect(page.locator("#step-1")).to_contain_text("I will refund it.")
        await page.get_by_role("link", name="Review and decide").click()
        await page.get_by_label("amount").fill("3")
        await expect(page.locator("[data-change]:visible")).to_have_text("5 3")
        await page.get_by_label("Your name").fill("ann")
        await page.get_by_role("button", name="Approve").click()

        await expect(page.locator("#status")).to_contain_text("completed")
        await expect(page.locator("#outcome")).to_contain_text("It is settled.")
        await expect(page.locator("#step-2")).to_contain_text("refunded 3 for A-1")
        await expect(page.locator("#step-2")).to_contain_text("by ann")


async def test_a_run_is_watched_until_it_ends(api: Api, visitor: Visitor) -> None:
    """Steps appear as they happen, and the page says in the end how the run ended, without being loaded again."""
    run_id = await api.start(input="Is A-1 paid?")
    async with api.server() as (_, url, _):
        await visitor.page.goto(f"{url}/console/runs/{run_id}")
        await expect(visitor.page.locator("#status")).to_contain_text("running")
        await expect(visitor.page.locator("[data-live]")).to_have_text("Live")
        async with api.worker(in_turns(wish(("look", {"order": "A-1"}), text="Let me see."), answer("It is paid."))):
            await expect(visitor.page.locator("#step-1")).to_contain_text("Let me see.")
            await expect(visitor.page.locator("#step-2")).to_contain_text("A-1 is paid")
            await expect(visitor.page.locator("#status")).to_contain_text("completed")
        await expect(visitor.page.locator("#outcome")).to_contain_text("It is paid.")


async def test_words_appear_while_the_model_says_them(client: Client, visitor: Visitor) -> None:
    """The text of a step grows on the page before the step ends, and is no longer there when its attempt has failed."""
    first, second = Stage("Order A-1 ", "was lost", broken=True), Stage("It is ", "paid.")
    attempts = iter((first, second))
    api = Api(client, deltas=MemoryBus())
    said = visitor.page.locator("#step-1-text")
    async with (
        api.http,
        api.server() as (_, url, _),
        api.worker(SpeakingModel(lambda messages, say: next(attempts).speak(messages, say))),
    ):
        run_id = await api.start(input="Is A-1 paid?")
        await visitor.page.goto(f"{url}/console/runs/{run_id}")
        await expect(visitor.page.locator("[data-live]")).to_have_text("Live")

        first.cues[0].set()
        await expect(said).to_have_text("Order A-1 ")
        first.cues[1].set()
        await expect(said).to_have_text("Order A-1 was lost")
        first.curtain.set()
        second.cues[0].set()
        await expect(said).to_have_text("It is ")
        await expect(visitor.page.locator("#status")).to_contain_text("running")

        second.cues[1].set()
        second.curtain.set()
        await expect(visitor.page.locator("#status")).to_contain_text("completed")
        await expect(said).to_have_text("It is paid.")


async def test_a_run_is_paused_told_something_and_resumed(api: Api, visitor: Visitor) -> None:
    """The buttons act without loading the page anew, and what came of it appears in the timeline."""
    page = visitor.page
    async with api.server() as (_, url, _), api.worker(in_turns(REFUND, answer("done"))):
        run_id = await api.start()
        await api.approval(run_id)
        await page.goto(f"{url}/console/runs/{run_id}")
        await expect(page.locator("[data-live]")).to_have_text("Live")

        await page.get_by_role("button", name="Pause").click()
        await expect(page.locator("#status")).to_contain_text("paused")
        await page.get_by_label("Message to the model").fill("Offer a voucher.")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#timeline")).to_contain_text("Offer a voucher.")
        await page.get_by_role("button", name="Resume").click()
        await expect(page.locator("#status")).to_contain_text("waiting")


async def test_the_page_goes_on_after_the_api_restarted(api: Api, visitor: Visitor) -> None:
    """The feed comes back by itself at another process, and shows what happened meanwhile, each step once."""
    page = visitor.page
    run_id = await api.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with listening(api, port) as url:
        await page.goto(f"{url}/console/runs/{run_id}")
        await expect(page.locator("[data-live]")).to_have_text("Live")

    async with api.worker(in_turns(wish(("look", {"order": "A-1"}), text="Let me see."), answer("It is paid."))):
        # The old application's connection to Temporal lives on in the new one.
        again = Api(api.temporal, app=api.app, settings=api.settings)
        async with listening(again, port):
            await expect(page.locator("#status")).to_contain_text("completed")
            await expect(page.locator("#timeline > li.step")).to_have_count(3)
            await expect(page.locator("#outcome")).to_contain_text("It is paid.")


async def test_markup_that_was_said_does_nothing(api: Api, visitor: Visitor) -> None:
    """A script in the input, in the model's words, in arguments and in a tool's result is shown as what it is."""
    page = visitor.page
    async with api.server() as (_, url, _):
        run_id = await api.start(input=EVIL, user="<b>ann</b>", metadata={"note": EVIL})
        await page.goto(f"{url}/console/runs/{run_id}")
        await expect(page.locator("[data-live]")).to_have_text("Live")
        async with api.worker(in_turns(wish(("look", {"order": EVIL}), text=EVIL), answer(EVIL))):
            await expect(page.locator("#status")).to_contain_text("completed")
        await expect(page.locator("#outcome")).to_contain_text("<script>document.title")
        await page.reload()
        await expect(page.locator("#step-2")).to_contain_text("<script>document.title")
        await page.goto(f"{url}/console/runs")

        assert await page.title() == "Runs · Perdure"
        assert await page.locator("main img, main script, main b").count() == 0


async def test_a_step_is_forked_and_both_runs_lead_to_the_other(api: Api, visitor: Visitor) -> None:
    """From the step's own link, by a changed argument, to the new run, and back by the link on its page."""
    page = visitor.page
    async with (
        api.server() as (_, url, _),
        api.worker(in_turns(wish(("look", {"order": "A-1"})), answer("It is paid."))),
    ):
        run_id = await api.start()
        await api.ended(run_id)
        await page.goto(f"{url}/console/runs/{run_id}")
        await page.locator("#step-2").get_by_role("link", name="Fork from step 2").click()
        await page.get_by_label("order").fill("B-2")
        await expect(page.locator("[data-change]:visible")).to_have_text("A-1 B-2")
        await page.get_by_role("button", name="Fork").click()

        await expect(page.locator("#step-2")).to_contain_text("B-2 is paid")
        await expect(page.locator("#notice")).to_contain_text("at step 2")
        fork = page.url.rpartition("/")[2]
        await page.get_by_role("link", name=run_id).click()
        await expect(page.get_by_role("link", name=fork)).to_be_visible()


async def test_feedback_and_calls_under_way_appear_beside_the_timeline(api: Api, visitor: Visitor) -> None:
    """They come by themselves, keep up to date while the run goes on, and what is said in them does nothing."""
    page, broken = visitor.page, True

    def script(messages: list[Message]) -> ProviderReply:
        if broken:
            raise ApplicationError(EVIL, type="model_overloaded")
        return answer("It is paid.")

    async with api.server() as (_, url, _), api.worker(script):
        run_id = await api.start()
        await page.goto(f"{url}/console/runs/{run_id}")
        await expect(page.locator("#beside")).to_contain_text("attempt 2")
        await expect(page.locator("#beside")).to_contain_text("<script>document.title")
        broken = False
        await expect(page.locator("#outcome")).to_contain_text("It is paid.")
        await expect(page.locator("#beside")).not_to_contain_text("Under way")

        await page.get_by_text("Say how good it was").click()
        await page.get_by_label("Score").select_option("0.75")
        await page.get_by_label("Comment").fill(EVIL)
        await page.get_by_label("Your name").fill("ann")
        await page.get_by_role("button", name="Keep it").click()
        await expect(page.locator("#beside")).to_contain_text("0.75")
        await expect(page.locator("#beside")).to_contain_text("<script>document.title")
        assert "owned" not in await page.title()


async def test_a_retry_while_the_page_was_cut_off_leaves_no_step_of_before(api: Api, visitor: Visitor) -> None:
    """A page whose feed comes back after a retry has each step once, and what was withdrawn behind a fold."""
    page, broken = visitor.page, True
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    looked = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return wish(("look", {"order": "A-1"}), text="Let me see.")
        await looked.wait()
        return answer("", finish=Finish.REFUSAL, detail="no") if broken else answer("It is paid.")

    async with api.worker(script):
        run_id = await api.start()
        async with listening(api, port) as url:
            await page.goto(f"{url}/console/runs/{run_id}")
            await expect(page.locator("#step-3")).to_be_visible()
        looked.set()
        await api.ended(run_id)
        broken = False
        (await api.http.post(f"/v1/runs/{run_id}/retry", json={"by": "ann"})).raise_for_status()
        again = Api(api.temporal, app=api.app, settings=api.settings)
        async with listening(again, port):
            await expect(page.locator("#outcome")).to_contain_text("It is paid.")
            assert await page.locator("#timeline > li.step").evaluate_all("all => all.map(one => one.id)") == [
                "step-1",
                "step-2",
                "step-3",
            ]
            await page.get_by_text("Withdrawn by a retry").click()
            await expect(page.locator(".past")).to_contain_text("Model")


async def test_earlier_steps_of_a_long_run_are_fetched(client: Client, visitor: Visitor) -> None:
    """The button puts a hundred more above the others, also for who uses the keyboard, until all are there."""
    api, page = Api(client, app=shop(limits=Limits(max_steps=500))), visitor.page
    calls = wish(*[("look", {"order": f"A-{place}"}) for place in range(124)])
    async with api.http, api.server() as (_, url, _), api.worker(in_turns(calls, answer("Done."))):
        run_id = await api.start()
        await api.ended(run_id)
        await page.goto(f"{url}/console/runs/{run_id}")
        await expect(page.locator("#timeline > li.step")).to_have_count(100)
        await page.keyboard.press("e")
        await expect(page.locator("#timeline > li.step")).to_have_count(126)

        assert await page.locator("#timeline > li.step").first.get_attribute("id") == "step-1"
        await expect(page.locator("#earlier")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_can_be_read_on_a_phone(api: Api, browser: Browser, scheme: str) -> None:
    """Nothing is wider than the screen, every control has a name, and texts stand out from what is behind them."""
    long = "W" * 300
    async with (
        visit(browser, viewport=PHONE, color_scheme=scheme, is_mobile=True, has_touch=True) as visitor,
        api.server() as (_, url, _),
        api.worker(in_turns(wish(("look", {"order": long}), text=long), REFUND, answer(long))),
    ):
        run_id = await api.start(input=long)
        asked = await api.approval(run_id)
        page = visitor.page
        approval = f"approvals/{run_id}/{asked['approval_id']}"
        new = {"name": f"w{'w' * 60}", "run": {"agent": "tester", "input": long}, "when": {"cron": "0 9 1 1 *"}}
        schedule = f"schedules/{(await api.http.post('/v1/schedules', json=new)).json()['schedule_id']}"
        (await api.http.post(f"/v1/runs/{run_id}/feedback", json={"comment": long, "by": long[:60]})).raise_for_status()
        for path in (
            "runs",
            f"runs/{run_id}",
            f"runs/{run_id}/fork?step=2",
            f"runs/{run_id}/beside",
            "approvals",
            "approvals?agent=none",
            approval,
            "start",
            "runs?status=failed&agent=none",
            "schedules",
            schedule,
            "agents",
        ):
            await page.goto(f"{url}/console/{path}", wait_until="networkidle" if path == "agents" else "load")
            for summary in await page.locator("summary:visible").all():
                await summary.click()
            assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
            assert await unnamed(page) == [], path
            assert await faint(page) == [], path
        await api.http.delete(f"/v1/{schedule}")


async def test_lists_and_help_work_by_keyboard(api: Api, visitor: Visitor) -> None:
    """j goes to the next run, Enter opens it, ? shows what else there is, and the first Tab skips the menu."""
    page = visitor.page
    run_id = await api.start(input="Is A-1 paid?", user=f"user-{api.settings.task_queue}")
    user = f"user-{api.settings.task_queue}"
    await api.listed(user=user)
    async with api.server() as (_, url, _):
        await page.goto(f"{url}/console/runs?user={user}")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
        await page.keyboard.press("?")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await page.wait_for_url(f"**/console/runs/{run_id}", timeout=timedelta(seconds=20).total_seconds() * 1000)


async def unnamed(page: Page) -> list[str]:
    """Return the controls of a page that have no name for who does not see them."""
    found: list[str] = await page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a, summary")]
            .filter(one => one.checkVisibility())
            .filter(one => !(one.labels?.length || one.ariaLabel || one.textContent.trim()))
            .map(one => one.outerHTML)"""
    )
    return found


async def faint(page: Page) -> list[str]:
    """Return the texts of a page whose contrast is below 4.5 (WCAG 2.2, 1.4.3), by its formula."""
    found: list[str] = await page.evaluate(
        """() => {
            const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const rgba = (colour) => {
                canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                return [...canvas.getImageData(0, 0, 1, 1).data];
            };
            const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
                .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
            const behind = (one) => {
                for (let at = one; at; at = at.parentElement) {
                    const colour = rgba(getComputedStyle(at).backgroundColor);
                    if (colour[3] === 255) return colour;
                }
                return [255, 255, 255];
            };
            const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            const faint = [];
            while (walker.nextNode()) {
                const one = walker.currentNode.parentElement;
                if (!walker.currentNode.data.trim() || !one.checkVisibility() || one.closest("[disabled]")) continue;
                const [a, b] = [light(rgba(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
                const ratio = (a + 0.05) / (b + 0.05);
                if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${one.outerHTML.slice(0, 120)}`);
            }
            return faint;
        }"""
    )
    return found
