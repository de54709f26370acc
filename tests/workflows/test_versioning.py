"""Versioned workers: two builds at once, and who goes on where."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import VersioningBehavior
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure import App
from perdure.codec import data_converter
from perdure.encryption import Keyring, new_key
from perdure.errors import InvalidInputError, SettingsError
from perdure.ledger.contracts import ledger_id
from perdure.messages import Message
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import RetryRequest
from perdure_workers.deployments import Deployment, Deployments
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workers.versioning import deployment_of
from perdure_workflows.agent_run import AgentRun
from tests.harness import Handle, InProcessModel, agent, answer, last_results, pending, serving, start, turn, wish
from tests.workflows.money import daily, terms

SOON = timedelta(seconds=20)
DRAINS_SOON = (
    'matching.wv.VersionDrainageStatusRefreshInterval="1s"',
    'matching.wv.VersionDrainageStatusVisibilityGracePeriod="1s"',
)
# Temporal's own workflows, which know the deployments, are as restless then, and slow.
RESTLESS = ("limit.historyCount.suggestContinueAsNew=40", 'history.continueAsNewMinInterval="10ms"')


@asynccontextmanager
async def serving_temporal(*dynamic_config: str) -> AsyncIterator[Client]:
    """Run a server."""
    options = [part for setting in dynamic_config for part in ("--dynamic-config-value", setting)]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(), *options],
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as env:
        yield env.client


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    """A client of a server."""
    async with serving_temporal() as client:
        yield client


@pytest.fixture
async def draining() -> AsyncIterator[Client]:
    """A client of a server that soon sees that a build is drained."""
    async with serving_temporal(*DRAINS_SOON) as client:
        yield client


@pytest.fixture
async def restless() -> AsyncIterator[Client]:
    """A client of a server that suggests to continue as new every few steps."""
    async with serving_temporal(*RESTLESS) as client:
        yield client


class Fleet:
    """Workers of one deployment, whose builds tell by what they do which one they are."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = f"shop-{uuid.uuid4().hex[:8]}"
        self.settings = Settings(task_queue=f"queue-{self.name}")
        self.deployments = Deployments(client)

    def app(self, build: str, *, size: int = 0) -> App:
        """Return a build of the app; both of its tools have queues of their own beside the run's, by their rates."""
        app = App()

        @app.tool(effect="once", approval="ask", rate="100/s")
        def pay(order: str) -> str:
            """Pay."""
            return f"paid by {build}"

        @app.tool(rate="100/s", max_result_bytes=1024 * 1024)
        def look(order: str) -> str:
            """Look."""
            return f"seen by {build} " + "x" * size

        app.add(agent(tools=("pay", "look")))
        return app

    def serving(
        self, build: str | None, script: Any = None, *, size: int = 0, client: Client | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Settings]:
        """Run a worker of a build; None is one that is not versioned."""
        version: dict[str, Any] = {"deployment_name": self.name, "build_id": build} if build else {}
        return serving(
            client or self.client,
            self.app(str(build), size=size),
            InProcessModel(script or asks(str(build))),
            task_queue=self.settings.task_queue,
            **version,
            **options,
        )

    async def start(self) -> Handle:
        """Start a run, as the API does: without knowing of builds."""
        return await start(self.client, self.app("any"), self.settings)

    async def get(self) -> Deployment:
        """Return the deployment as it stands."""
        return await self.deployments.get(self.name)

    async def set_current(self, build: str) -> None:
        """Have new runs go there, and wait until the task queue knows."""
        await self.deployments.set_current(self.name, build)

    async def approve(self, handle: Handle) -> None:
        """Approve what the run asks for."""
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})

    async def output(self, handle: Handle) -> str | None:
        """Return what a run said last, in whichever of its executions."""
        async with asyncio.timeout(SOON.total_seconds()):
            return (await self.client.get_workflow_handle_for(AgentRun.run, handle.id).result()).output

    async def build_of(self, workflow_id: str) -> tuple[str, VersioningBehavior.ValueType]:
        """Return where a workflow is, and how it stays there."""
        description = await self.client.get_workflow_handle(workflow_id).describe()
        info = description.raw_description.workflow_execution_info.versioning_info
        return info.deployment_version.build_id, info.behavior


def asks(build: str) -> Any:
    """Return a script that pays after an approval, and then says which build's tool and model that was."""

    def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return wish(("pay", {"order": "A1"}))
        return answer(f"{last_results(messages)[0]}, told by {build}")

    return script


async def test_a_run_stays_with_its_build_while_new_ones_go_to_the_next(draining: Client) -> None:
    """Also its calls of tools whose queues are beside the run's; a build that has no run left is drained."""
    fleet = Fleet(draining)
    async with fleet.serving("v1"), fleet.serving("v2"):
        await fleet.set_current("v1")
        old = await fleet.start()
        await pending(old)
        await fleet.set_current("v2")
        new = await fleet.start()
        await pending(new)
        between = await fleet.get()
        await fleet.approve(old)
        await fleet.approve(new)
        said = [await fleet.output(old), await fleet.output(new)]

        async def drained() -> bool:
            build = (await fleet.get()).build("v1")
            return build is not None and build.status == "drained"

        assert await eventually(drained, within=SOON, what="the drainage of v1")

    assert said == ["paid by v1, told by v1", "paid by v2, told by v2"]
    assert (between.current, [build.build_id for build in between.builds if build.status == "draining"]) == (
        "v2",
        ["v1"],
    )


async def test_a_ramp_splits_new_runs(client: Client) -> None:
    """Half of them go to the new build, until the ramp ends."""
    fleet = Fleet(client)
    async with fleet.serving("v1", lambda _: answer("v1")), fleet.serving("v2", lambda _: answer("v2")):
        await fleet.set_current("v1")
        await fleet.deployments.ramp(fleet.name, "v2", percent=50)
        ramped = await fleet.get()
        runs = [await fleet.start() for _ in range(40)]
        said = Counter([await fleet.output(run) for run in runs])
        await fleet.deployments.ramp(fleet.name, "v2", percent=0)
        over = await fleet.get()
        after = Counter([await fleet.output(run) for run in [await fleet.start() for _ in range(10)]])

    assert {build.build_id: build.percent for build in ramped.builds} == {"v1": 50, "v2": 50}
    assert min(said["v1"], said["v2"]) >= 6
    assert (over.ramping, after) == (None, Counter(v1=10))


async def test_what_is_no_run_goes_on_with_the_current_build(client: Client) -> None:
    """The ledger of an organisation lives on when the build that began it is gone."""
    fleet = Fleet(client)
    org = f"org-{fleet.name}"
    async with fleet.serving("v1", lambda _: answer("v1")):
        await fleet.set_current("v1")
        run = await start(client, fleet.app("any"), fleet.settings, org=org, terms=terms(daily("50")))
        await fleet.output(run)
        before = await fleet.build_of(ledger_id(org))
        pinned = await fleet.build_of(run.id)
    async with fleet.serving("v2", lambda _: answer("v2")):
        await fleet.set_current("v2")
        run = await start(client, fleet.app("any"), fleet.settings, org=org, terms=terms(daily("50")))
        assert await fleet.output(run) == "v2"

        async def moved() -> bool:
            return (await fleet.build_of(ledger_id(org)))[0] == "v2"

        assert await eventually(moved, within=SOON, what="the ledger's next task")

    assert before == ("v1", VersioningBehavior.VERSIONING_BEHAVIOR_AUTO_UPGRADE)
    assert pinned == ("v1", VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)


@pytest.mark.parametrize("size", [0, 50_000], ids=["small", "larger than what is else carried"])
async def test_a_long_run_moves_on_with_its_next_execution(restless: Client, size: int) -> None:
    """It takes its conversation along, so that the build it began with is needed no more."""
    fleet = Fleet(restless)
    asked = asyncio.Event()
    go_on = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 4:
            asked.set()
            await go_on.wait()
        if turn(messages) < 12:
            return wish(("look", {"order": "A1"}))
        return answer(", ".join(sorted({word for m in messages for word in ("v1", "v2") if word in str(m)})))

    async with fleet.serving("v2", script, size=size):
        async with fleet.serving("v1", script, size=size):
            await fleet.set_current("v1")
            run = await fleet.start()
            await asyncio.wait_for(asked.wait(), SOON.total_seconds())
            await fleet.set_current("v2")
            go_on.set()

            async def moved() -> bool:
                return await fleet.build_of(run.id) == ("v2", VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)

            await eventually(moved, within=SOON, what="the next execution")
        said = await fleet.output(run)

    assert said == "v1, v2"


async def test_a_retry_goes_on_with_the_current_build(client: Client) -> None:
    """What made the run fail may be mended there, and the build it failed on may be gone."""
    fleet = Fleet(client)

    def fails(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return wish(("look", {"order": "A1"}))
        raise ApplicationError("a bug", non_retryable=True)

    async with fleet.serving("v1", fails):
        await fleet.set_current("v1")
        run = await fleet.start()

        async def failed() -> bool:
            return (await run.describe()).close_time is not None

        await eventually(failed, within=SOON, what="the failure")
    async with fleet.serving("v2", lambda messages: answer(f"{last_results(messages)[0]}, told by v2")) as settings:
        await fleet.set_current("v2")
        await Gateway(client, fleet.app("v2"), settings).recovery.retry(run.id, RetryRequest(by="ann"))
        said = await fleet.output(run)
        where = await fleet.build_of(run.id)

    assert said == "seen by v1 , told by v2"
    assert where == ("v2", VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)


async def test_runs_from_before_versions_are_taken_over(client: Client) -> None:
    """Versioning can be switched on while runs are open: they go to the first build that is current."""
    fleet = Fleet(client)
    async with fleet.serving(None):
        run = await fleet.start()
        await pending(run)
    async with fleet.serving("v1"):
        await fleet.set_current("v1")
        await fleet.approve(run)

        assert await fleet.output(run) == "paid by v1, told by v1"


async def test_a_build_that_nobody_serves_cannot_be_made_current(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one of an unknown deployment; the error says what is known."""
    monkeypatch.setattr("perdure_workers.deployments.ROUTED_WITHIN", timedelta())
    fleet = Fleet(client)
    with pytest.raises(InvalidInputError, match=f"no deployment '{fleet.name}'"):
        await fleet.set_current("v1")
    async with fleet.serving("v1"):
        monkeypatch.undo()
        await fleet.set_current("v1")
        monkeypatch.setattr("perdure_workers.deployments.ROUTED_WITHIN", timedelta())

        with pytest.raises(InvalidInputError, match=r"no build 'v2'.* known are v1"):
            await fleet.deployments.ramp(fleet.name, "v2", percent=10)


async def test_a_stuck_run_is_moved_to_a_fixed_build(client: Client) -> None:
    """A build that cannot decode what the run was given fails each of its tasks; another one goes on with it."""
    key = new_key()
    config = client.config(active_config=True)
    config["data_converter"] = data_converter(keyring=Keyring({"a": key}))
    secret = Client(**config)
    fleet = Fleet(client)
    keyed: dict[str, Any] = {"client": secret, "encryption_keys": {"a": key}}
    async with fleet.serving("v1", **keyed):
        await fleet.set_current("v1")
        run = await start(secret, fleet.app("any"), fleet.settings)
        await pending(run)
    async with fleet.serving("v1"), fleet.serving("v2", **keyed):
        await fleet.approve(run)

        async def stuck() -> bool:
            return (await run.describe()).raw_description.pending_workflow_task.attempt > 1

        await eventually(stuck, within=SOON, what="the failing task")
        await fleet.deployments.wait_for(fleet.name, "v2")
        [found] = await fleet.deployments.open_runs(f"WorkflowId = '{run.id}'")
        await fleet.deployments.move(run.id, name=fleet.name, build_id="v2")
        async with asyncio.timeout(SOON.total_seconds()):
            result = await run.result()
        moved = await fleet.build_of(run.id)

    assert found.build_id == "v1"
    assert result.output == "paid by v2, told by v2"
    assert moved == ("v2", VersioningBehavior.VERSIONING_BEHAVIOR_PINNED)


@pytest.mark.parametrize("half", [{"deployment_name": "shop"}, {"build_id": "v1"}])
def test_half_a_version_is_refused(half: dict[str, str]) -> None:
    """A worker whose build nobody named would be taken for an old one for good."""
    with pytest.raises(SettingsError, match="set both, or neither"):
        deployment_of(Settings(**half))  # type: ignore[arg-type]  # mypy takes them for every field's
