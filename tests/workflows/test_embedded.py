"""Perdure inside a user's own worker: one plugin on the client, or a clear error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.converter import DataConverter, PayloadCodec
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure import App
from perdure.errors import ConfigurationError
from perdure.settings import Settings
from perdure_workers import Perdure
from tests.harness import InProcessModel, agent, answer, in_turns, start, wish

QUEUE = "a-users-own-queue"


@workflow.defn(sandboxed=False)
class UsersOwn:
    """A workflow that has nothing to do with agents."""

    @workflow.run
    async def run(self, name: str) -> str:
        """Greet."""
        return f"hello {name}"


class Backwards(PayloadCodec):
    """A user's own codec, standing for encryption."""

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Hide what is said."""
        return [Payload(metadata={"encoding": b"backwards"}, data=p.SerializeToString()[::-1]) for p in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Undo it."""
        return [Payload.FromString(p.data[::-1]) for p in payloads]


def greeter() -> App:
    """An app with one tool."""
    app = App()

    @app.tool()
    def greet() -> str:
        """Greet."""
        return "hello"

    app.add(agent(tools=("greet",)))
    return app


async def connected(env: WorkflowEnvironment, **options: Any) -> Client:
    """A client of a user."""
    return await env.connect_client(**options)


async def test_agents_run_beside_a_users_own_workflows(env: WorkflowEnvironment) -> None:
    """One plugin on the client serves agents in a worker that the user wrote, under the user's own codec."""
    app, model = greeter(), InProcessModel(in_turns(wish(("greet", {})), answer("done")))
    plugin = Perdure(app, providers={"in-process": model})
    client = await connected(env, plugins=[plugin], data_converter=DataConverter(payload_codec=Backwards()))

    async with Worker(client, task_queue=QUEUE, workflows=[UsersOwn]):
        own = await client.execute_workflow(UsersOwn.run, "ann", id="a-users-own-run", task_queue=QUEUE)
        handle = await start(client, app, Settings(task_queue=QUEUE))
        result = await handle.result()
        first = await anext(handle.fetch_history_events())

    assert own == "hello ann"
    assert result.output == "done"
    [payload] = first.workflow_execution_started_event_attributes.input.payloads
    assert payload.metadata["encoding"] == b"backwards"


async def test_a_worker_whose_client_lacks_the_converter_is_refused(env: WorkflowEnvironment) -> None:
    """The error says where the plugin belongs, before any run fails on its input."""
    client = await connected(env)

    with pytest.raises(ConfigurationError, match=r"Client\.connect"):
        Worker(client, task_queue=QUEUE, plugins=[Perdure(greeter(), providers={})])
