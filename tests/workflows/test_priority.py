"""Which of many waiting runs go on first: the urgent ones, and among equals those of an organisation with few."""

from __future__ import annotations

import uuid

import pytest
from temporalio import activity
from temporalio.client import Client

from perdure import App, ToolContext, ToolError
from perdure.messages import Message, UserMessage
from perdure.priority import Priority
from perdure.settings import Settings
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import InProcessModel, agent, answer, in_turns, serving, wish

WAITING = 20


def only_agent() -> App:
    """An app of one agent without tools."""
    app = App()
    app.add(agent())
    return app


@pytest.mark.parametrize(
    "last",
    [
        NewRun(agent="tester", input="last", org="acme", priority=Priority.HIGH),
        NewRun(agent="tester", input="last", org="globex"),
    ],
    ids=["urgent", "of another organisation"],
)
async def test_the_run_that_comes_last_need_not_wait_for_all_before_it(client: Client, last: NewRun) -> None:
    """Behind twenty runs of an organisation, an urgent one or one of another organisation is served among the first."""
    app = only_agent()
    served: list[str] = []

    def note(messages: list[Message]) -> ProviderReply:
        [asked] = messages
        assert isinstance(asked, UserMessage)
        served.append(asked.text)
        return answer("done")

    settings = Settings(
        task_queue=f"queue-{uuid.uuid4().hex[:12]}",
        max_concurrent_activities=1,
        max_concurrent_workflow_tasks=2,
        shutdown_grace_seconds=0,
    )
    runs = Gateway(client, app, settings)
    for number in range(WAITING):
        await runs.runs.start(NewRun(agent="tester", input=f"{number}", org="acme"))
    started = await runs.runs.start(last)
    plugin = Perdure(app, settings=settings, providers={"in-process": InProcessModel(note)})
    async with build_worker(client, settings, plugin):
        await client.get_workflow_handle(started.run_id).result()

    assert served.index("last") < WAITING / 2


async def test_a_runs_calls_have_its_keys(client: Client) -> None:
    """Temporal orders the calls of a run as it does the run; the run says its priority.

    A call that starts at once, on the worker that asked for it, has waited in no queue and bears none.
    """
    app = App()
    keys = []

    @app.tool()
    def note(ctx: ToolContext) -> str:
        """Note the keys of the second attempt, which comes from the queue."""
        if ctx.attempt == 1:
            raise ToolError("not yet", retry=True)
        keys.append(activity.info().priority)
        return "noted"

    app.add(agent(tools=("note",)))
    model = InProcessModel(in_turns(wish(("note", {})), answer("done")))
    async with serving(client, app, model) as settings:
        runs = Gateway(client, app, settings)
        new = NewRun(agent="tester", input="go", org="acme", priority=Priority.LOW)
        run_id = (await runs.runs.start(new)).run_id
        await client.get_workflow_handle(run_id).result()

    assert keys == [Priority.LOW.keys(org="acme")]
    assert (await runs.runs.get(run_id)).priority is Priority.LOW
