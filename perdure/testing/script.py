"""Scripts: what a scripted model answers, as a pure function of the conversation it is shown."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.errors import ConfigurationError
from perdure.messages import AssistantMessage, JsonObject, Message, ToolMessage, ToolResult, UserMessage
from perdure.testing.fault import Fault


@dataclass(frozen=True)
class Call:
    """A tool call that the model makes."""

    name: str
    arguments: JsonObject = field(default_factory=dict)
    malformed: str | None = None
    """Sent as the arguments instead, as it is: for what a model sends that is no JSON object."""


@dataclass(frozen=True)
class Turn:
    """One reply of the model."""

    text: str = ""
    calls: Sequence[Call] = ()
    finish: Finish | None = None
    """Why the model stops; None: `TOOL_CALLS` with calls, else `STOP`. A vendor that has no word for a reason is
    not made to say it: `PAUSE` is Anthropic's alone, and OpenAI answers `CONTEXT_WINDOW` with an error."""
    detail: str = ""
    """The vendor's words on a refusal."""
    thinking: str = ""
    """Reasoning shown to the client; Chat Completions has no field for it."""
    usage: Usage | None = None
    """None: about one token for four bytes, with a cache that works."""
    delay: timedelta = timedelta(0)
    """Time before the first byte."""
    faults: Sequence[Fault] = ()
    """What happens to the first attempts, one each; the attempt after them is answered."""


class ScriptedRequest:
    """What the model is asked, in no vendor's dialect.

    The server makes these; make one yourself to test a script function without a server:

        turn = script.answer(ScriptedRequest([UserMessage(text="Where is my order?")]))
    """

    def __init__(
        self,
        messages: Sequence[Message] | Callable[[], Sequence[Message]],
        *,
        model: str = "scripted",
        instructions: str = "",
        tools: Sequence[str] = (),
        turn: int | None = None,
        wire: str = "anthropic",
        body: JsonObject | None = None,
    ) -> None:
        """Describe a request.

        Args:
            messages: The conversation, or what reads it when a script first looks: most turns of a long run need
                only their index.
            model: The model asked for.
            instructions: The system prompt.
            tools: Names of the tools offered.
            turn: Index of the reply asked for; default: how many replies the conversation has.
            wire: `anthropic`, `openai` (Responses) or `openai-chat` (Chat Completions).
            body: The request as it came.
        """
        self._read = messages if callable(messages) else lambda: messages
        self._turn = turn
        self.model = model
        self.instructions = instructions
        self.tools = tuple(tools)
        self.wire = wire
        self.body = body or {}

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        return tuple(self._read())

    @cached_property
    def turn(self) -> int:
        """Index of the reply asked for: how many replies of the model the conversation has."""
        if self._turn is not None:
            return self._turn
        return sum(isinstance(message, AssistantMessage) for message in self.messages)

    @property
    def input(self) -> str:
        """What the user asked first."""
        return next((message.text for message in self.messages if isinstance(message, UserMessage)), "")

    def result(self, tool: str) -> ToolResult | None:
        """Return the latest result of a call to that tool, if there was one.

        Chat Completions and Responses have no field for an error, so `is_error` is known over Anthropic only.
        """
        found: ToolResult | None = None
        names: dict[str, str] = {}
        for message in self.messages:
            if isinstance(message, AssistantMessage):
                names = {call.id: call.name for call in message.tool_calls}
            elif isinstance(message, ToolMessage):
                found = next((each for each in message.results if names.get(each.call_id) == tool), found)
        return found


ScriptFunction = Callable[[ScriptedRequest], Turn]


class Script:
    """What a scripted model answers: a list of turns, or a function that makes the turn a request asks for.

    A script holds no state, so retried, crashed and concurrent runs each get what belongs to their conversation:

        Script([Turn(calls=[Call("find_order", {"order_id": 7})]), Turn("Your order has left.")])

    With a list, the turn is picked by the number of replies in the conversation.
    """

    def __init__(self, turns: Sequence[Turn] | ScriptFunction) -> None:
        self._turns = turns if callable(turns) else tuple(turns)

    def answer(self, request: ScriptedRequest) -> Turn:
        """Return the turn that answers a request.

        Raises:
            ConfigurationError: The script is a list, and the conversation is past its end.
        """
        if callable(self._turns):
            return self._turns(request)
        if request.turn >= len(self._turns):
            raise ConfigurationError(
                f"the script has {len(self._turns)} turns, and the conversation asks for turn {request.turn + 1}; "
                "add a turn, or end the conversation with a turn that has no calls"
            )
        return self._turns[request.turn]


def load_script(reference: str) -> Script:
    """Load a script from `package.module:attribute`: a `Script`, a list of turns, or a function.

    Raises:
        ConfigurationError: Nothing is there, or it is no script.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigurationError(f"{reference!r} is no script; write 'package.module:attribute'")
    try:
        found: object = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigurationError(f"script {reference!r}: importing {module_name!r} failed: {error}") from error
    except AttributeError as error:
        raise ConfigurationError(f"script {reference!r}: {module_name!r} has no attribute {attribute!r}") from error
    if isinstance(found, Script):
        return found
    if callable(found):
        return Script(found)
    if isinstance(found, Sequence) and all(isinstance(turn, Turn) for turn in found):
        return Script(found)
    raise ConfigurationError(
        f"script {reference!r} is a {type(found).__name__}; it must be a Script, a list of Turns, or a function"
    )
