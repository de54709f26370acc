"""What a reply cost, by the prices of `perdure.prices`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from perdure.prices import cost_of
from perdure.settings import Price
from perdure_activities.providers.provider import Provider, ProviderReply


def price(
    reply: ProviderReply, *, model_reference: str, provider: Provider, overrides: Mapping[str, Price]
) -> Decimal | None:
    """Return the call's cost in US dollars, or None when nobody has a price for it.

    Args:
        reply: The reply, with the usage as its provider reported it.
        model_reference: The model as the agent names it: `openai-chat:my-model`.
        provider: The provider that was called.
        overrides: Prices by model reference, which come first.
    """
    return cost_of(
        reply.usage,
        reply.priced_usage,
        model_reference=model_reference,
        price_id=provider.price_id,
        price_flavor=provider.price_flavor,
        overrides=overrides,
    )
