"""The model providers that a worker has, by the part of a model reference before the colon."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import Final

from temporalio.exceptions import ApplicationError

from perdure_activities.providers.anthropic_messages import AnthropicMessages
from perdure_activities.providers.openai_chat import OpenAIChat
from perdure_activities.providers.openai_responses import OpenAIResponses
from perdure_activities.providers.posture import CONFIGURATION
from perdure_activities.providers.provider import Provider

_SDKS: Final[Mapping[str, tuple[str, str]]] = {
    "anthropic": ("anthropic", "AsyncAnthropic"),
    "openai": ("openai", "AsyncOpenAI"),
    "openai-chat": ("openai", "AsyncOpenAI"),
}


def default_providers() -> dict[str, Provider]:
    """Return one of each provider; nothing is imported or connected before its first call."""
    return {"anthropic": AnthropicMessages(), "openai": OpenAIResponses(), "openai-chat": OpenAIChat()}


def provider_for(prefix: str, providers: Mapping[str, Provider]) -> Provider:
    """Return the provider of that prefix.

    Raises:
        ApplicationError: There is none; final, as retrying does not add one.
    """
    provider = providers.get(prefix)
    if provider is None:
        raise ApplicationError(
            f"there is no model provider {prefix!r}: a model reference starts with one of "
            f"{', '.join(sorted(providers))}",
            type=CONFIGURATION.type,
            non_retryable=True,
        )
    return provider


def preload(prefixes: Iterable[str]) -> None:
    """Import the SDKs of these providers: seconds of CPU that a worker spends in a thread before its first call."""
    for module, client in {_SDKS[prefix] for prefix in prefixes if prefix in _SDKS}:
        getattr(importlib.import_module(module), client)
