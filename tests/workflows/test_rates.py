"""Rates of tools and providers: kept by the server over all workers, whatever the runs ask for."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import datetime, timedelta
from unittest.mock import patch

import pytest
import structlog.testing
from temporalio.api.enums.v1 import RateLimitSource, TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit, TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeTaskQueueRequest,
    DescribeTaskQueueResponse,
    UpdateTaskQueueConfigRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode, WorkflowService
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure import NOT_DONE, App, NotDone
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.messages import Message, UserMessage
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun
from perdure_workers import Perdure
from tests.harness import InProcessModel, agent, answer, in_turns, pending, serving, start, turn, wish


class Desk:
    """An app with a tool of a given rate, which notes whom and when it is called for."""

    def __init__(self, rate: str, **provider_rates: str) -> None:
        self.app = App(provider_rates={name.replace("_", "-"): value for name, value in provider_rates.items()})
        self.calls: list[tuple[float, str]] = []

        @self.app.tool(rate=rate)
        async def search(who: str) -> str:
            """Search."""
            self.calls.append((time.monotonic(), who))
            return f"found for {who}"

        self.app.add(agent(tools=("search",)))

    @property
    def took(self) -> float:
        """Seconds from the first call's beginning to the last one's."""
        return self.calls[-1][0] - self.calls[0][0]


def searching(count: int) -> InProcessModel:
    """A model that asks for so many searches at once, each for whoever the run is."""

    def script(messages: list[Message]) -> ProviderReply:
        first = messages[0]
        assert isinstance(first, UserMessage)
        return answer("done") if turn(messages) else wish(*[("search", {"who": first.text})] * count)

    return InProcessModel(script)


def queue_name() -> str:
    """Return the name of a task queue that nobody has."""
    return f"queue-{uuid.uuid4().hex[:12]}"


async def described(client: Client, task_queue: str) -> DescribeTaskQueueResponse:
    """Ask the server about the activities of a task queue."""
    return await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            report_config=True,
            report_stats=True,
        )
    )


async def rate_of(client: Client, task_queue: str) -> float:
    """Return the rate that the server keeps by its own configuration."""
    return (await described(client, task_queue)).config.queue_rate_limit.rate_limit.requests_per_second


async def set_rate(client: Client, task_queue: str, per_second: float) -> None:
    """Set a rate as an operator does, with `temporal task-queue config set`."""
    await client.workflow_service.update_task_queue_config(
        UpdateTaskQueueConfigRequest(
            namespace=client.namespace,
            identity="operator",
            task_queue=task_queue,
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
            update_queue_rate_limit=UpdateTaskQueueConfigRequest.RateLimitUpdate(
                rate_limit=RateLimit(requests_per_second=per_second), reason="the vendor is down"
            ),
        )
    )


async def test_a_tools_rate_holds_over_runs_and_workers(env: WorkflowEnvironment) -> None:
    """Thirty calls of six runs, served by two workers, take as long as five calls a second do.

    The server lets some more than a second's worth begin at once, hence the ten.
    """
    desk, queue = Desk("5/s"), queue_name()
    other = await env.connect_client(data_converter=data_converter())

    async with (
        serving(env.client, desk.app, searching(5), task_queue=queue) as settings,
        serving(other, desk.app, searching(5), task_queue=queue),
    ):
        handles = [await start(env.client, desk.app, settings) for _ in range(6)]
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert {result.status for result in results} == {RunStatus.COMPLETED}
    assert len(desk.calls) == 30
    assert desk.took >= (30 - 10) / 5


async def test_a_providers_rate_holds_its_model_calls_back(client: Client) -> None:
    """Ten runs of two model calls each take as long as four calls a second do."""
    app, calls = App(provider_rates={"in-process": "4/s"}), []

    @app.tool()
    def look() -> str:
        """Look."""
        return "seen"

    def script(messages: list[Message]) -> ProviderReply:
        calls.append(time.monotonic())
        return answer("done") if turn(messages) else wish(("look", {}))

    app.add(agent(tools=("look",)))
    async with serving(client, app, InProcessModel(script)) as settings:
        handles = [await start(client, app, settings) for _ in range(10)]
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert {result.output for result in results} == {"done"}
    assert len(calls) == 20
    assert calls[-1] - calls[0] >= (20 - 8) / 4


async def test_a_rate_below_one_a_second_is_kept_too(client: Client) -> None:
    """Of two calls at sixty an hour one begins at once, and the other one waits."""
    desk = Desk("60/h")

    async with serving(client, desk.app, searching(2)) as settings:
        handle = await start(client, desk.app, settings)
        queue = f"{settings.task_queue}.tool.search"
        await eventually(lambda: desk.calls, within=timedelta(seconds=20), what="the first call")

        async def waits() -> bool:
            return (await described(client, queue)).stats.approximate_backlog_count == 1

        await eventually(waits, within=timedelta(seconds=20), what="a waiting call")
        rate = await rate_of(client, queue)
        await handle.cancel()

    assert len(desk.calls) == 1
    assert rate == pytest.approx(1 / 60)


async def test_organisations_take_turns_within_a_rate(client: Client) -> None:
    """Behind the waiting calls of one organisation's runs, every other call is another organisation's."""
    desk = Desk("5/s")

    async with serving(client, desk.app, searching(12)) as settings:
        runs = Gateway(client, desk.app, settings)
        started = [await runs.runs.start(NewRun(agent="tester", input="acme", org="acme")) for _ in range(3)]
        await eventually(lambda: len(desk.calls) >= 10, within=timedelta(seconds=20), what="the flood")
        started.append(await runs.runs.start(NewRun(agent="tester", input="globex", org="globex")))
        await asyncio.gather(*(client.get_workflow_handle(run.run_id).result() for run in started))

    served = [who for _, who in desk.calls]
    assert len(served) == 4 * 12
    # In the order of their coming, the next 26 would be acme's.
    assert served[10:40].count("globex") >= 8


async def test_what_an_operator_has_set_stays(client: Client) -> None:
    """A provider that somebody has paused is still paused after a deployment, and the worker's log says so."""
    desk, queue = Desk("100/s"), queue_name()
    await set_rate(client, f"{queue}.tool.search", 0)

    with structlog.testing.capture_logs() as logged:
        async with serving(client, desk.app, searching(1), task_queue=queue) as settings:
            handle = await start(client, desk.app, settings)

            async def waits() -> bool:
                return (await described(client, f"{queue}.tool.search")).stats.approximate_backlog_count == 1

            await eventually(waits, within=timedelta(seconds=20), what="the waiting call")
            while_paused = len(desk.calls)
            await set_rate(client, f"{queue}.tool.search", 50)
            await handle.result()

    assert (while_paused, len(desk.calls)) == (0, 1)
    [told] = [line for line in logged if line["event"] == "rate_overridden"]
    assert (told["declared"], told["per_second"], told["set_by"]) == ("100/s", 0, "operator")


async def test_a_rate_that_the_app_changes_is_changed(client: Client) -> None:
    """The next worker brings the new rate; one that declares what holds already asks for nothing."""
    queue = queue_name()

    async def worker_with(rate: str) -> tuple[float, datetime]:
        desk = Desk(rate)
        async with serving(client, desk.app, searching(1), task_queue=queue) as settings:
            await (await start(client, desk.app, settings)).result()
        kept = (await described(client, f"{queue}.tool.search")).config.queue_rate_limit
        return kept.rate_limit.requests_per_second, kept.metadata.update_time.ToDatetime()

    first, again, changed = await worker_with("5/s"), await worker_with("5/s"), await worker_with("42/m")

    assert first[0] == 5
    assert again == first
    assert changed[0] == pytest.approx(0.7)


async def test_a_server_without_such_a_configuration_goes_by_what_workers_say(client: Client) -> None:
    """The worker warns and serves; the rate that it polls with holds."""
    refusal = RPCError("unknown method UpdateTaskQueueConfig", RPCStatusCode.UNIMPLEMENTED, b"")
    desk = Desk("5/s")

    with (
        patch.object(WorkflowService, "update_task_queue_config", side_effect=refusal),
        structlog.testing.capture_logs() as logged,
    ):
        async with serving(client, desk.app, searching(15)) as settings:
            result = await (await start(client, desk.app, settings)).result()
            effective = (await described(client, f"{settings.task_queue}.tool.search")).effective_rate_limit

    assert result.status is RunStatus.COMPLETED
    assert effective.rate_limit_source == RateLimitSource.RATE_LIMIT_SOURCE_WORKER
    assert effective.requests_per_second == 5
    assert desk.took >= (15 - 10) / 5
    [told] = [line for line in logged if line["event"] == "rate_not_kept_by_server_config"]
    assert (told["rate"], told["error"]) == ("5/s", "unknown method UpdateTaskQueueConfig")


async def test_only_what_calls_the_tools_system_waits_for_its_rate(client: Client) -> None:
    """A call and the probe after it go to the tool's queue; model, and the check before an approval, do not."""
    app = App()

    async def probe(order: str) -> NotDone:
        """Nothing was done."""
        return NOT_DONE

    attempts = []

    @app.tool(effect="once", approval="ask", rate="100/s", reconcile=probe)
    async def pay(order: str) -> str:
        """Pay."""
        attempts.append(order)
        if len(attempts) == 1:
            raise RuntimeError("the connection broke")
        return "paid"

    app.add(agent(tools=("pay",)))
    async with serving(
        client, app, InProcessModel(in_turns(wish(("pay", {"order": "1"})), answer("done")))
    ) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.result()
        history = await handle.fetch_history()

    scheduled = [
        event.activity_task_scheduled_event_attributes
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    own = settings.task_queue
    assert [(one.activity_type.name, one.task_queue.name.removeprefix(own)) for one in scheduled] == [
        ("call_model", ""),
        ("check_call", ""),
        ("call_tool", ".tool.pay"),
        ("reconcile_call", ".tool.pay"),
        ("call_tool", ".tool.pay"),
        ("call_model", ""),
    ]


async def test_a_users_own_worker_serves_rated_queues_and_stops_in_one_grace(env: WorkflowEnvironment) -> None:
    """With the plugin on the client, a worker that the user wrote serves them, and all stop together."""
    app, begun, grace = App(), [], 3
    holding = asyncio.Event()

    async def hold(where: str) -> str:
        begun.append(where)
        await holding.wait()
        return where

    @app.tool(rate="100/s")
    async def hold_there() -> str:
        """Hold a place in the rated queue."""
        return await hold("rated")

    @app.tool()
    async def hold_here() -> str:
        """Hold a place in the run's own queue."""
        return await hold("own")

    app.add(agent(tools=("hold_here", "hold_there")))
    model = InProcessModel(lambda messages: wish(("hold_here", {}), ("hold_there", {})))
    plugin = Perdure(app, settings=Settings(), providers={"in-process": model})
    client = await env.connect_client(plugins=[plugin])
    queue = queue_name()

    async with Worker(client, task_queue=queue, graceful_shutdown_timeout=timedelta(seconds=grace)):
        handle = await start(client, app, Settings(task_queue=queue))
        await eventually(lambda: len(begun) == 2, within=timedelta(seconds=20), what="both calls")
        stopping = time.monotonic()
    took = time.monotonic() - stopping
    await handle.terminate()

    assert sorted(begun) == ["own", "rated"]
    assert grace <= took < 2 * grace
