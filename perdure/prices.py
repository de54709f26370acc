"""What models cost: by the operator's own prices, else by those that genai-prices ships. Not for workflow code.

A model without a price, or a server that reports no usage, is unpriced: None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from perdure.budget import MILLION, PriceCeiling
from perdure.contracts import Usage
from perdure.messages import JsonObject
from perdure.settings import Price

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice

PRICED_BY: Final[Mapping[str, str]] = {"anthropic": "anthropic", "openai": "openai", "openai-chat": "openai"}
"""The id in genai-prices of each provider that comes with Perdure, by its prefix in model references."""
SERVICE_TIER: Final = "service_tier"
"""The part of a price's context that a provider's own configuration decides, whatever a request says."""
INPUT_PRICES: Final = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")
OUTPUT_PRICES: Final = ("output_mtok",)


def load_catalogue() -> None:
    """Load genai-prices' catalogue, half a second of CPU, before the first call has to."""
    from genai_prices.data_snapshot import get_snapshot

    get_snapshot()


def cost_of(
    usage: Usage,
    priced_usage: JsonObject,
    *,
    model_reference: str,
    price_id: str,
    price_flavor: str,
    overrides: Mapping[str, Price],
) -> Decimal | None:
    """Return a call's cost in US dollars, or None when nobody has a price for it.

    Args:
        usage: The tokens.
        priced_usage: The response as genai-prices reads it; empty when the server reported no usage.
        model_reference: The model as the agent names it: `openai-chat:my-model`.
        price_id: The provider's id in genai-prices.
        price_flavor: The API flavour in genai-prices.
        overrides: Prices by model reference, which come first.
    """
    if not priced_usage:
        return None
    override = overrides.get(model_reference)
    if override is not None:
        return _by_override(usage, override)
    return _by_catalogue(priced_usage, model_reference.partition(":")[2], price_id=price_id, price_flavor=price_flavor)


def price_ceilings(model_references: Iterable[str], *, overrides: Mapping[str, Price]) -> dict[str, PriceCeiling]:
    """Return the most that these models can cost, by reference; one that nobody has a price for is left out."""
    ceilings = ((reference, _price_ceiling(reference, overrides)) for reference in model_references)
    return {reference: ceiling for reference, ceiling in ceilings if ceiling is not None}


def _price_ceiling(model_reference: str, overrides: Mapping[str, Price]) -> PriceCeiling | None:
    override = overrides.get(model_reference)
    if override is not None:
        inputs = (override.input, override.cache_read, override.cache_write)
        return PriceCeiling(input=max(price for price in inputs if price is not None), output=override.output)
    provider, _, model = model_reference.partition(":")
    found = _in_catalogue(model, PRICED_BY.get(provider))
    if found is None:
        return None
    ceiling = PriceCeiling(input=_dearest(found, INPUT_PRICES), output=_dearest(found, OUTPUT_PRICES))
    # The catalogue lists models without their prices too.
    return ceiling if ceiling.input or ceiling.output else None


def _in_catalogue(model: str, price_id: str | None) -> ModelInfo | None:
    from genai_prices.data_snapshot import get_snapshot

    if price_id is None:
        return None
    try:
        return get_snapshot().find_provider_model(model, None, price_id, None)[1]
    except LookupError:
        return None


def _dearest(model: ModelInfo, keys: Iterable[str]) -> Decimal:
    found = [amount for price in _prices(model) for key in keys for amount in _amounts(getattr(price, key))]
    return max(found, default=Decimal(0))


def _prices(model: ModelInfo) -> Iterator[ModelPrice]:
    """Yield every price that a call may turn out to have from now on: at any hour, and in any service tier."""
    from genai_prices.types import ModelPrice, StartDateConstraint

    if isinstance(model.prices, ModelPrice):
        yield model.prices
    else:
        now = datetime.now(UTC)
        for conditional in reversed(model.prices):  # the last one whose condition holds is taken
            yield conditional.prices
            constraint = conditional.constraint
            if constraint is None or (isinstance(constraint, StartDateConstraint) and constraint.active(now)):
                break  # those before it are the prices of old
    yield from (variant.prices for variant in model.price_variants or () if set(variant.when) == {SERVICE_TIER})


def _amounts(price: object) -> Iterator[Decimal]:
    """Yield an amount, or those of all tiers."""
    from genai_prices.types import TieredPrices

    if isinstance(price, Decimal):
        yield price
    elif isinstance(price, TieredPrices):
        yield price.base
        yield from (tier.price for tier in price.tiers)


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


def _by_catalogue(priced_usage: JsonObject, configured: str, *, price_id: str, price_flavor: str) -> Decimal | None:
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    for model in _names(priced_usage, configured):
        cost = _cost(snapshot, {**priced_usage, "model": model}, price_id=price_id, price_flavor=price_flavor)
        if cost is not None:
            return cost
    return None


def _names(priced_usage: JsonObject, configured: str) -> Iterator[str]:
    """Yield the model that answered, then the one that was asked for, as gateways rename models."""
    answered = priced_usage.get("model")
    if isinstance(answered, str) and answered and answered != configured:
        yield answered
    yield configured


def _cost(snapshot: DataSnapshot, response: JsonObject, *, price_id: str, price_flavor: str) -> Decimal | None:
    tier = response.get(SERVICE_TIER)
    context = {SERVICE_TIER: tier} if isinstance(tier, str) and tier else None
    try:
        usage = snapshot.extract_usage(response, provider_id=price_id, api_flavor=price_flavor)
        total = usage.calc_price(price_context=context).total_price
    except (LookupError, ValueError):
        # No such model, or no usage that could be read.
        return None
    # The catalogue lists models without their prices too; their sum is 0, which is not a price.
    return total if total > 0 else None
