"""What a model call costs, and when nobody can say."""

from __future__ import annotations

from decimal import Decimal

import pytest

from perdure.activities import Finish
from perdure.budget import PriceCeiling
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, JsonObject
from perdure.prices import PRICED_BY, price_ceilings
from perdure.settings import Price
from perdure_activities.pricing import price
from perdure_activities.providers import anthropic_messages, openai_chat, openai_responses
from perdure_activities.providers.anthropic_messages import AnthropicMessages
from perdure_activities.providers.openai_chat import OpenAIChat
from perdure_activities.providers.openai_responses import OpenAIResponses
from perdure_activities.providers.provider import Provider, ProviderReply
from perdure_activities.providers.registry import default_providers

ANTHROPIC_USAGE = {
    "input_tokens": 100,
    "cache_read_input_tokens": 5000,
    "cache_creation_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600},
    "output_tokens": 200,
}
RESPONSES_USAGE = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 600},
    "output_tokens": 100,
    "output_tokens_details": {"reasoning_tokens": 40},
    "total_tokens": 1100,
}
CHAT_USAGE = {
    "prompt_tokens": 1000,
    "prompt_tokens_details": {"cached_tokens": 600},
    "completion_tokens": 100,
    "total_tokens": 1100,
}


def reply_of(model: str, raw: JsonObject, usage: Usage, **more: object) -> ProviderReply:
    """Return a reply with this usage."""
    priced = {"model": model, "usage": raw, **more} if raw else {}
    message = AssistantMessage(parts=())
    return ProviderReply(message=message, finish=Finish.STOP, model=model, usage=usage, priced_usage=priced)


ANTHROPIC = reply_of("claude-sonnet-4-5-20250929", ANTHROPIC_USAGE, anthropic_messages.usage_of(ANTHROPIC_USAGE))
RESPONSES = reply_of("gpt-5-2025-08-07", RESPONSES_USAGE, openai_responses.usage_of(RESPONSES_USAGE))
CHAT = reply_of("gpt-5", CHAT_USAGE, openai_chat.usage_of(CHAT_USAGE))


@pytest.mark.parametrize(
    ("reply", "reference", "provider", "cost"),
    [
        # 100 × 3 + 5000 × 0.3 + 400 × 3.75 + 600 × 6 + 200 × 15, per million
        (ANTHROPIC, "anthropic:claude-sonnet-4-5", AnthropicMessages(), Decimal("0.0099")),
        # 400 × 1.25 + 600 × 0.125 + 100 × 10
        (RESPONSES, "openai:gpt-5", OpenAIResponses(), Decimal("0.001575")),
        (CHAT, "openai-chat:gpt-5", OpenAIChat(), Decimal("0.001575")),
    ],
)
def test_cached_tokens_cost_what_they_cost(
    reply: ProviderReply, reference: str, provider: Provider, cost: Decimal
) -> None:
    """Cache reads and writes are priced as such on each wire, and no token is counted twice."""
    assert price(reply, model_reference=reference, provider=provider, overrides={}) == cost


def test_usage_means_the_same_on_every_wire() -> None:
    """Input tokens include the cached ones, whether or not the provider's own number does."""
    assert ANTHROPIC.usage == Usage(
        input_tokens=6100, cache_read_tokens=5000, cache_write_tokens=1000, output_tokens=200
    )
    assert RESPONSES.usage == Usage(input_tokens=1000, cache_read_tokens=600, output_tokens=100)
    assert CHAT.usage == RESPONSES.usage


@pytest.mark.parametrize(
    "raw", [{}, {"input_tokens": None}, {"input_tokens": "7"}, {"input_tokens": -1}, {"input_tokens": True}]
)
def test_nonsense_is_no_usage(raw: JsonObject) -> None:
    """Numbers that are none count as nothing, and make no price."""
    reply = reply_of("gpt-5", raw, openai_responses.usage_of(raw))

    assert reply.usage == Usage()
    assert price(reply, model_reference="openai:gpt-5", provider=OpenAIResponses(), overrides={}) is None


@pytest.mark.parametrize(
    ("override", "cost"),
    [
        (Price(input=Decimal(1), output=Decimal(10)), Decimal("0.0081")),
        (
            Price(input=Decimal(1), output=Decimal(10), cache_read=Decimal("0.1"), cache_write=Decimal(2)),
            Decimal("0.0046"),
        ),
        (Price(input=Decimal(0), output=Decimal(0)), Decimal(0)),
    ],
)
def test_the_operators_price_comes_first(override: Price, cost: Decimal) -> None:
    """An override applies to each kind of token, cached ones at the input's price unless said, and may be free."""
    overrides = {"anthropic:claude-sonnet-4-5": override}

    priced = price(
        ANTHROPIC, model_reference="anthropic:claude-sonnet-4-5", provider=AnthropicMessages(), overrides=overrides
    )

    assert priced == cost


@pytest.mark.parametrize(
    ("reference", "provider"),
    [
        ("anthropic:claude-nobody-knows", AnthropicMessages()),
        ("openai:nobody-knows", OpenAIResponses()),
        ("openai-chat:llama-3.3-70b", OpenAIChat()),
        ("openai-chat:deepseek-chat", OpenAIChat()),
        ("openai-chat:claude-sonnet-4-5", OpenAIChat()),
    ],
)
def test_an_unknown_model_is_unpriced_not_free(reference: str, provider: Provider) -> None:
    """A model that is not the vendor's has no price, even when another vendor sells one of its name."""
    raw = CHAT_USAGE | ANTHROPIC_USAGE
    reply = reply_of(reference.partition(":")[2], raw, Usage(input_tokens=1000, output_tokens=100))

    assert price(reply, model_reference=reference, provider=provider, overrides={}) is None


def test_a_reply_without_usage_is_unpriced() -> None:
    """A server that reports no usage leaves nothing to price, by whatever price."""
    reply = reply_of("my-model", {}, Usage())
    overrides = {"openai-chat:my-model": Price(input=Decimal(1), output=Decimal(1))}

    assert price(reply, model_reference="openai-chat:my-model", provider=OpenAIChat(), overrides=overrides) is None


def test_a_gateways_name_for_a_model_does_not_hide_its_price() -> None:
    """When the name of the model that answered is unknown, the one that was asked for counts."""
    reply = reply_of("gateway/route-7", RESPONSES_USAGE, RESPONSES.usage)

    cost = price(reply, model_reference="openai:gpt-5", provider=OpenAIResponses(), overrides={})

    assert cost == Decimal("0.001575")


def test_a_dearer_service_tier_is_priced_as_such() -> None:
    """A response of the priority tier costs what that tier costs."""
    reply = reply_of("gpt-5", RESPONSES_USAGE, RESPONSES.usage, service_tier="priority")

    cost = price(reply, model_reference="openai:gpt-5", provider=OpenAIResponses(), overrides={})

    assert cost is not None
    assert cost > Decimal("0.001575")


PRIVATE = {"openai-chat:mine": Price(input=Decimal(1), output=Decimal(4), cache_write=Decimal(2))}


@pytest.mark.parametrize(
    ("reference", "ceiling"),
    [
        # Writing to the one-hour cache, with more than 200,000 tokens: 6 doubled; output in that tier.
        ("anthropic:claude-sonnet-4-5", PriceCeiling(input=Decimal(12), output=Decimal("22.5"))),
        # A project may have the service tier 'priority' as its default, at twice the price.
        ("openai:gpt-5", PriceCeiling(input=Decimal("2.5"), output=Decimal(20))),
        ("openai-chat:mine", PriceCeiling(input=Decimal(2), output=Decimal(4))),
    ],
)
def test_the_ceiling_is_the_dearest_that_tokens_can_have(reference: str, ceiling: PriceCeiling) -> None:
    """Cache writes, tiers of length and of service count with their highest price."""
    assert price_ceilings([reference], overrides=PRIVATE) == {reference: ceiling}


def test_a_model_without_a_price_has_no_ceiling() -> None:
    """Nothing is assumed of a model, or a provider, that nobody has a price for."""
    assert price_ceilings(["openai:my-own", "in-process:x", "anthropic:claude-mythos-1"], overrides={}) == {}


@pytest.mark.parametrize(
    ("reply", "reference"),
    [(ANTHROPIC, "anthropic:claude-sonnet-4-5"), (RESPONSES, "openai:gpt-5"), (CHAT, "openai-chat:gpt-5")],
)
def test_no_reply_costs_more_than_at_worst(reply: ProviderReply, reference: str) -> None:
    """What a call costs in the end is within what was to be kept free for it."""
    provider = default_providers()[reference.partition(":")[0]]

    [ceiling] = price_ceilings([reference], overrides={}).values()
    cost = price(reply, model_reference=reference, provider=provider, overrides={})

    assert cost is not None
    assert cost <= ceiling.cost(input_tokens=reply.usage.input_tokens, output_tokens=reply.usage.output_tokens)


def test_every_provider_has_its_prices() -> None:
    """The table of who is priced by whose list says what the providers themselves say."""
    assert {prefix: provider.price_id for prefix, provider in default_providers().items()} == PRICED_BY
