"""What a model call costs: by the operator's own prices, else by those that genai-prices ships.

A model without a price, or a server that reports no usage, is unpriced: None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from perdure.contracts import Usage
from perdure.messages import JsonObject
from perdure.settings import Price
from perdure_activities.providers.provider import Provider, ProviderReply

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot

MILLION: Final = Decimal(1_000_000)


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
    if not reply.priced_usage:
        return None
    override = overrides.get(model_reference)
    if override is not None:
        return _by_override(reply.usage, override)
    return _by_catalogue(reply.priced_usage, model_reference.partition(":")[2], provider)


def load_catalogue() -> None:
    """Load genai-prices' catalogue, half a second of CPU, before the first call has to."""
    from genai_prices.data_snapshot import get_snapshot

    get_snapshot()


def _by_override(usage: Usage, price_of: Price) -> Decimal:
    cache_read = price_of.input if price_of.cache_read is None else price_of.cache_read
    cache_write = price_of.input if price_of.cache_write is None else price_of.cache_write
    uncached = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
    total = (
        uncached * price_of.input
        + usage.cache_read_tokens * cache_read
        + usage.cache_write_tokens * cache_write
        + usage.output_tokens * price_of.output
    )
    return total / MILLION


def _by_catalogue(priced_usage: JsonObject, configured: str, provider: Provider) -> Decimal | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    for model in _names(priced_usage, configured):
        cost = _cost(snapshot, {**priced_usage, "model": model}, provider)
        if cost is not None:
            return cost
    return None


def _names(priced_usage: JsonObject, configured: str) -> Iterator[str]:
    """Yield the model that answered, then the one that was asked for, as gateways rename models."""
    answered = priced_usage.get("model")
    if isinstance(answered, str) and answered and answered != configured:
        yield answered
    yield configured


def _cost(snapshot: DataSnapshot, response: JsonObject, provider: Provider) -> Decimal | None:
    tier = response.get("service_tier")
    context = {"service_tier": tier} if isinstance(tier, str) and tier else None
    try:
        usage = snapshot.extract_usage(response, provider_id=provider.price_id, api_flavor=provider.price_flavor)
        total = usage.calc_price(price_context=context).total_price
    except (LookupError, ValueError):
        # No such model, or no usage that could be read.
        return None
    # The catalogue lists models without their prices too; their sum is 0, which is not a price.
    return total if total > 0 else None
