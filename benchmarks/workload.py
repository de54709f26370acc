"""The run that every benchmark makes: so many turns of a model call and a tool call, of given sizes.

The model's part of an agent's reference carries the plan, so that a reply is a pure function of the request, in process
and over HTTP alike, and whichever worker asks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from perdure import Agent, App
from perdure.activities import Finish
from perdure.agent import AgentSpec, Limits
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, Message, TextPart, ToolCallPart
from perdure.testing import Call, Script, ScriptedRequest, Turn
from perdure_activities.providers.provider import PromptCache, ProviderReply

AGENT = "worker-bee"
TOOL = "look_up"
FIXED = "fixed"
"""Prefix of the provider that answers in process."""
CALL_PREFIX = "call_"


@dataclass(frozen=True)
class Plan:
    """The shape of a run."""

    turns: int
    """Model calls that each ask for one tool call; a last model call then ends the run."""
    reply_bytes: int
    result_bytes: int

    @property
    def bytes_per_turn(self) -> int:
        """What a turn adds to the conversation, in words alone."""
        return self.reply_bytes + self.result_bytes

    def __str__(self) -> str:
        return f"{self.turns}-{self.reply_bytes}-{self.result_bytes}"

    @classmethod
    def parse(cls, model_name: str) -> Plan:
        """Read the plan out of a model's name."""
        return cls(*map(int, model_name.split("-")))


@lru_cache(maxsize=256)
def words(size: int, variant: int) -> str:
    """Return text of that many bytes without repetitions that a compressor could live on."""
    source = random.Random(f"{size} {variant}")
    text = ""
    while len(text) < size:
        text += "".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) + " "
    return text[:size]


def text_of_turn(plan: Plan, turn: int) -> str:
    """Return what the model says in that turn."""
    return words(plan.reply_bytes, turn % 32) if turn < plan.turns else "Done."


def script(request: ScriptedRequest) -> Turn:
    """Answer a request of the scripted model."""
    plan = Plan.parse(request.model)
    calls = [Call(TOOL, tool_arguments(plan, request.turn))] if request.turn < plan.turns else []
    return Turn(text_of_turn(plan, request.turn), calls=calls)


SCRIPT = Script(script)
"""For `python -m perdure.testing --script benchmarks.workload:SCRIPT`."""


def tool_arguments(plan: Plan, turn: int) -> dict[str, object]:
    """Return the arguments of the tool call of that turn."""
    return {"turn": turn, "size": plan.result_bytes}


class FixedModel:
    """A provider that answers in process: its cost is the runtime's own."""

    def __init__(self, *, reports_usage: bool = False) -> None:
        """Make one.

        Args:
            reports_usage: So that its calls have a price, where the settings have one for its model.
        """
        self._reports_usage = reports_usage

    wire = FIXED
    price_id = "none"
    price_flavor = "default"

    def encode(self, message: Message) -> bytes:
        """Write the message in our own form."""
        return message.model_dump_json().encode()

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Answer the turn after the one that the conversation ends with."""
        del timeout, on_text, cache
        plan = Plan.parse(spec.model_name)
        turn = _turn_after(messages)
        call = ToolCallPart(id=f"{CALL_PREFIX}{turn}", name=TOOL, arguments=tool_arguments(plan, turn))
        text = TextPart(text=text_of_turn(plan, turn))
        done = turn >= plan.turns
        usage = Usage(input_tokens=len(messages) // 4, output_tokens=plan.reply_bytes // 4)
        return ProviderReply(
            message=AssistantMessage(parts=(text,) if done else (text, call)),
            finish=Finish.STOP if done else Finish.TOOL_CALLS,
            model=spec.model_name,
            usage=usage,
            priced_usage={"usage": usage.model_dump()} if self._reports_usage else {},
        )

    async def close(self) -> None:
        """Nothing to release."""


def _turn_after(messages: bytes) -> int:
    """Read the last tool call's number; a conversation without one is at its first turn."""
    mark = f'"call_id":"{CALL_PREFIX}'.encode()
    place = messages.rfind(mark)  # copies nothing, as partition would
    if place < 0:
        return 0
    number = place + len(mark)
    return int(messages[number : messages.index(b'"', number)]) + 1


def app_for(plan: Plan, *, provider: str, tool: Callable[..., object]) -> tuple[App, Agent]:
    """Return an app of one agent that makes this run."""
    app = App()
    app.tool(name=TOOL, effect="idempotent")(tool)
    agent = Agent(
        name=AGENT,
        model=f"{provider}:{plan}",
        instructions="Look things up until you are told that it is enough.",
        tools=(TOOL,),
        limits=Limits(max_steps=2 * plan.turns + 1),
    )
    return app, app.add(agent)
