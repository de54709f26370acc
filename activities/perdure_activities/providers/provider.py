"""What a model provider is to the rest of Perdure: it writes messages in its dialect, and makes one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from perdure.activities import Finish
from perdure.agent import AgentSpec
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, JsonObject, Message


@dataclass(frozen=True)
class ProviderReply:
    """A complete reply: its finish marker was seen."""

    message: AssistantMessage
    finish: Finish
    model: str
    """The model that answered, as the provider names it."""
    detail: str = ""
    """The provider's words on a refusal or filter."""
    usage: Usage = field(default_factory=Usage)
    priced_usage: JsonObject = field(default_factory=dict)
    """The response as genai-prices reads it: `{"model": …, "usage": {…}}` in the provider's own form."""


@dataclass(frozen=True)
class PromptCache:
    """What a provider is to know so that its cache serves a run."""

    key: str
    """Names requests that begin alike, so that they reach the same cache. At most 64 characters, and no secret."""
    sent: int = 0
    """Bytes of the messages that the run's call before this one consisted of; 0 for the first."""


class Provider(Protocol):
    """One wire protocol of one vendor.

    `encode` turns one message into the JSON items of the request's message list, joined by commas, so that a
    conversation is the comma-joined bytes of its messages, each serialised once in its life. An empty result means
    that the message has nothing this provider would see.
    """

    wire: str
    """The name of the wire format; `OpaquePart`s of another one are left out."""
    price_id: str
    """The provider's id in genai-prices."""
    price_flavor: str
    """The API flavour in genai-prices."""

    def encode(self, message: Message) -> bytes:
        """Return the message as JSON items joined by commas."""
        ...

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Make one call, streaming, without retries of its own.

        Args:
            spec: Model, instructions, tools and sampling.
            messages: Comma-joined JSON items, as `encode` makes them.
            timeout: For the whole call.
            on_text: Called with each piece of text as it arrives.
            cache: Have the provider cache what later calls send again; None leaves everything about it out.

        Raises:
            ApplicationError: What Temporal is to do about a failure; see `perdure_activities.providers.posture`.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
