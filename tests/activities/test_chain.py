"""The chain of an agent's models: who is asked, for how long, and what Temporal is told when nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from perdure.activities import SkippedModel
from perdure.agent import AgentSpec
from perdure.outage import is_outage
from perdure_activities.breaker import Breaker, CircuitBreakers, Unguarded
from perdure_activities.chain import Answer, Deadline, Failure, first_answer, verdict
from perdure_activities.providers.posture import BY_TYPE
from perdure_activities.providers.provider import Provider, ProviderReply
from tests.harness import InProcessModel, answer

MODELS = ("p:first", "p:second", "p:third")
MINUTE = timedelta(minutes=1)
Behaviour = Callable[[timedelta], Awaitable[ProviderReply]]


def says(text: str) -> Behaviour:
    """A model that answers."""

    async def reply(left: timedelta) -> ProviderReply:
        return answer(text)

    return reply


def fails(error_type: str, *, message: str = "no", delay: timedelta | None = None) -> Behaviour:
    """A model that fails as the posture table has it."""

    async def fail(left: timedelta) -> ProviderReply:
        raise error(error_type, message=message, delay=delay)

    return fail


def error(error_type: str, *, message: str = "no", delay: timedelta | None = None) -> ApplicationError:
    """An error as the posture table makes it."""
    posture = BY_TYPE.get(error_type)
    return ApplicationError(
        message, type=error_type, non_retryable=posture is None or not posture.retried, next_retry_delay=delay
    )


async def asked(
    behaviours: Mapping[str, Behaviour],
    *,
    breaker: Breaker | None = None,
    timeout: timedelta = MINUTE,
    order: list[str] | None = None,
    left: list[float] | None = None,
    attempt: int = 1,
) -> Answer:
    """Ask a chain of models that behave so."""
    spec = AgentSpec(name="a", version="1", model=MODELS[0], fallbacks=tuple(behaviours)[1:])

    async def ask(spec: AgentSpec, provider: Provider, *, deadline: Deadline) -> ProviderReply:
        if order is not None:
            order.append(spec.model)
        if left is not None:
            left.append(deadline.left.total_seconds())
        return await behaviours[spec.model](deadline.left)

    return await first_answer(
        [spec.asking(model) for model in spec.models],
        ask,
        providers={"p": InProcessModel(lambda messages: answer(""))},
        breaker=breaker or Unguarded(),
        timeout=timeout,
        attempt=attempt,
    )


async def test_the_first_model_that_answers_ends_the_search() -> None:
    """Those before it are named with what kept them, those after it are not asked."""
    order: list[str] = []

    found = await asked(
        {
            MODELS[0]: fails("model_overloaded", message="Overloaded"),
            MODELS[1]: says("second"),
            MODELS[2]: says("third"),
        },
        order=order,
    )

    assert order == list(MODELS[:2])
    assert found.reply.message.text == "second"
    assert found.spec.models == (MODELS[1],)
    assert found.skipped == (SkippedModel(model=MODELS[0], error_type="model_overloaded", why="Overloaded"),)


@pytest.mark.parametrize("error_type", [*filter(None, BY_TYPE), "model_reply_too_large"])
async def test_the_next_model_is_asked_where_it_may_know_better(error_type: str) -> None:
    """Any trouble that is the first model's own; a rejected request is not, and would be hidden by an answer."""
    chain = {MODELS[0]: fails(error_type), MODELS[1]: says("second")}
    posture = BY_TYPE.get(error_type)

    if posture is not None and posture.next_model:
        assert (await asked(chain)).reply.message.text == "second"
    else:
        with pytest.raises(ApplicationError) as caught:
            await asked(chain)
        assert (caught.value.type, caught.value.message) == (error_type, "no")


async def test_a_model_whose_provider_the_worker_lacks_is_passed_over() -> None:
    """An agent may name a provider that only some workers have."""
    spec = AgentSpec(name="a", version="1", model="elsewhere:m", fallbacks=("p:m",))

    async def ask(spec: AgentSpec, provider: Provider, *, deadline: Deadline) -> ProviderReply:
        return answer("here")

    found = await first_answer(
        [spec.asking(model) for model in spec.models],
        ask,
        providers={"p": InProcessModel(lambda messages: answer(""))},
        breaker=Unguarded(),
        timeout=MINUTE,
        attempt=1,
    )

    assert found.spec.model == "p:m"
    assert [skipped.error_type for skipped in found.skipped] == ["model_configuration"]


async def test_a_model_that_hangs_leaves_time_for_the_others() -> None:
    """Each but the last gets half of what is left, and all of it together is no longer than one attempt may take."""

    async def hangs(left: timedelta) -> ProviderReply:
        await asyncio.sleep(left.total_seconds())
        raise error("model_timeout")

    left: list[float] = []
    began = asyncio.get_running_loop().time()
    found = await asked(
        {MODELS[0]: hangs, MODELS[1]: hangs, MODELS[2]: says("third")}, timeout=timedelta(seconds=2), left=left
    )

    assert found.reply.message.text == "third"
    assert left == pytest.approx([1, 0.5, 0.5], abs=0.2)
    assert asyncio.get_running_loop().time() - began < 2


async def test_a_model_that_fails_at_once_leaves_the_others_nearly_all_the_time() -> None:
    """The halves are of what is left, not of the whole; the only model has all of it."""
    left: list[float] = []
    await asked({MODELS[0]: fails("model_connection"), MODELS[1]: says("second")}, left=left)
    await asked({MODELS[0]: says("first")}, left=left)

    assert left == pytest.approx([30, 60, 60], abs=1)


async def test_a_model_whose_circuit_is_open_is_passed_over_without_a_call() -> None:
    """The failures of one attempt save the next one the wait."""
    breaker = CircuitBreakers(window=4, failure_rate=0.5, open_for=MINUTE, probes=1)
    order: list[str] = []
    chain = {MODELS[0]: fails("model_timeout"), MODELS[1]: says("second")}

    found = [await asked(chain, breaker=breaker, order=order) for _ in range(3)]

    assert order == [MODELS[0], MODELS[1], MODELS[1], MODELS[1]]
    assert [answer.skipped[0].error_type for answer in found] == ["model_timeout", "circuit_open", "circuit_open"]


async def test_an_error_that_is_no_models_is_let_through() -> None:
    """A transcript that cannot be read is asked for again, not made up for by another model."""

    async def cannot_read(left: timedelta) -> ProviderReply:
        raise LookupError("no transcript")

    with pytest.raises(LookupError):
        await asked({MODELS[0]: cannot_read, MODELS[1]: says("second")})


def told(*errors: ApplicationError, attempt: int = 1, parks: bool = False) -> ApplicationError:
    """The verdict on a chain in which everyone failed so."""
    failures = [Failure(model, error) for model, error in zip(MODELS, errors, strict=False)]
    return verdict(failures, attempt=attempt, parks=parks)


def test_when_nobody_answers_the_most_hopeful_error_counts_and_names_all() -> None:
    """What can be tried again the soonest decides when, whatever is final for the others."""
    seen = told(
        error("model_authentication", message="bad key"),
        error("model_rate_limited", message="slow down", delay=timedelta(seconds=40)),
        error("model_rate_limited", message="later", delay=timedelta(seconds=20)),
    )

    assert (seen.type, seen.non_retryable, seen.next_retry_delay) == (
        "model_rate_limited",
        False,
        timedelta(seconds=20),
    )
    assert seen.message == "no model answered: p:first: bad key; p:second: slow down; p:third: later"


def test_when_all_errors_are_final_so_is_the_attempt() -> None:
    """Temporal does not try again what nothing can come of."""
    seen = told(error("model_quota_exhausted"), error("model_authentication"))

    assert (seen.type, seen.non_retryable) == ("model_quota_exhausted", True)


def test_a_fallback_that_rejects_the_request_does_not_make_an_outage_final() -> None:
    """The first model may be back in a minute, and its request was fine."""
    seen = told(error("model_overloaded"), error("model_request_rejected", message="no such parameter"))

    assert (seen.type, seen.non_retryable) == ("model_overloaded", False)
    assert "no such parameter" in seen.message


@given(types=st.lists(st.sampled_from([*filter(None, BY_TYPE), "model_reply_too_large"]), min_size=1, max_size=3))
def test_a_run_that_parks_gives_up_only_what_is_about_its_request(types: list[str]) -> None:
    """A key can be replaced and an account topped up while it waits; what is final otherwise stays so."""
    errors = [error(each) for each in types]

    assert told(*errors, parks=True).non_retryable == (not any(is_outage(each) for each in types))
    assert told(*errors).non_retryable == all(error.non_retryable for error in errors)


def test_an_open_circuit_costs_a_run_no_patience() -> None:
    """Ten attempts that are all refused wait longer than the one call may take that tries the model meanwhile."""
    pauses = []
    for attempt in range(1, 10):
        refused = told(error("circuit_open", delay=timedelta(seconds=2)), attempt=attempt)
        assert refused.next_retry_delay is not None
        pauses.append(refused.next_retry_delay)

    assert timedelta(seconds=5) <= pauses[0] <= timedelta(seconds=6.25)
    assert sum(pauses, timedelta()) > timedelta(minutes=10)
    longer = told(error("circuit_open", delay=timedelta(minutes=5)), attempt=1).next_retry_delay
    assert longer is not None
    assert longer >= timedelta(minutes=5)


def test_an_error_is_no_larger_for_naming_many() -> None:
    """History keeps one message of bounded size, whatever the gateways wrote."""
    assert len(told(*(error("model_overloaded", message="x" * 10_000) for _ in MODELS)).message) < 4_200
