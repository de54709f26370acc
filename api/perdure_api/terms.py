"""The terms of a run when it starts: which budgets and limits count it, and what its models cost at worst."""

from __future__ import annotations

import asyncio

from perdure.agent import Agent, Limits
from perdure.budget import Terms, dollars, terms_for
from perdure.errors import InvalidInputError
from perdure.policy import Policy
from perdure.prices import price_ceilings
from perdure.settings import Settings
from perdure_workflows.state import RunArguments


def check_cost_limit(given: Limits, agent: Agent) -> None:
    """Refuse a request that would let a run cost more than its agent's author allows.

    Raises:
        InvalidInputError: It would.
    """
    own = agent.limits.max_cost_usd
    if own is None or "max_cost_usd" not in given.model_fields_set:
        return
    if given.max_cost_usd is None or given.max_cost_usd > own:
        asked = "no limit" if given.max_cost_usd is None else dollars(given.max_cost_usd)
        raise InvalidInputError(
            f"limits.max_cost_usd: {asked} is more than the agent's own {dollars(own)}, which a request may only lower"
        )


async def with_terms(arguments: RunArguments, settings: Settings) -> RunArguments:
    """Return a run's input with the terms that its policy, its limits and the prices of the day make."""
    policy = arguments.policy or Policy()
    terms = terms_for(
        budgets=policy.budgets,
        concurrency=policy.concurrency,
        max_cost_usd=arguments.limits.max_cost_usd,
        org=arguments.org,
        user=arguments.user,
        agent=arguments.spec.name,
        ceilings={},
        unpriced=policy.unpriced,
        time_zone=policy.time_zone,
    )
    if terms.limits_money:  # else nobody asks what a call may cost, and the catalogue need not be loaded
        models = arguments.spec.priced_models
        ceilings = await asyncio.to_thread(price_ceilings, models, overrides=settings.prices)
        terms = terms.model_copy(update={"ceilings": ceilings})
    counts = settings.usage or terms != Terms(time_zone=policy.time_zone)
    return arguments.model_copy(update={"terms": terms if counts else None})
