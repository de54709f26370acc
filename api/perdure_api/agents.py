"""The app's agents, and the workers that serve them."""

from __future__ import annotations

import builtins
import contextlib

from perdure.errors import UnknownAgentError
from perdure.messages import JsonObject
from perdure_api.pollers import Pollers, count_pollers
from perdure_api.reach import Reach
from perdure_api.schemas import AgentSummary, AgentTool


class Agents:
    """What runs can be started with."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    def list(self) -> builtins.list[AgentSummary]:
        """Return the app's agents, in order of registration."""
        return [
            AgentSummary(
                name=agent.name,
                version=agent.version,
                model=agent.model,
                fallbacks=tuple(agent.fallbacks),
                description=agent.description,
                tools=tuple(
                    AgentTool.model_validate(tool.model_dump(include=set(AgentTool.model_fields)))
                    for tool in self._reach.app.resolve(agent).tools
                ),
                limits=agent.limits,
                default=self._reach.app.agent(agent.name) is agent,
            )
            for agent in self._reach.app.agents()
        ]

    def argument_schema(self, tool: str) -> JsonObject | None:
        """Return the JSON schema of a tool's arguments; None if only workers know the tool."""
        found = self._reach.app.find_tool(tool)
        return found.spec.input_schema if found else None

    def instructions(self, agent: str, version: str) -> str:
        """Return the system prompt of an agent; empty if the app does not have that version of it."""
        with contextlib.suppress(UnknownAgentError):
            return self._reach.app.agent(agent, version).instructions
        return ""

    async def pollers(self) -> Pollers:
        """Return how many workers ask Temporal for this task queue's work.

        Raises:
            ServerUnreachableError: Temporal does not answer.
        """
        return await count_pollers(self._reach.client, self._reach.settings.task_queue, rated=self.rated_queues())

    def rated_queues(self) -> builtins.list[str]:
        """Return the queues of tools and providers that have a rate."""
        return [rated.name for rated in self._reach.app.rated_queues(self._reach.settings.task_queue)]
