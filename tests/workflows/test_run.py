"""The loop: answers, tools in parallel, limits, ends, and a transcript that is valid whatever happens."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from perdure import App, Limits, ToolContext, ToolError
from perdure.activities import Finish
from perdure.contracts import RunResult, RunStatus
from perdure.messages import Message, OpaquePart, TextPart, ToolCallPart, UserMessage
from perdure_activities.providers.provider import ProviderReply
from tests.harness import (
    InProcessModel,
    agent,
    answer,
    assert_valid,
    in_turns,
    last_results,
    reply,
    serving,
    start,
    transcript,
    turn,
    view,
    wish,
)


def calculator(**changes: object) -> App:
    """An app with a few tools."""
    app = App()

    @app.tool()
    def add(a: int, b: Decimal = Decimal(1)) -> Decimal:
        """Add two numbers."""
        return a + b

    @app.tool()
    async def fail(reason: str) -> str:
        """Fail for good."""
        raise ToolError(reason)

    @app.tool(max_attempts=2)
    async def crash() -> str:
        """Have a bug."""
        raise KeyError("nowhere")

    app.add(agent(tools=("add", "fail", "crash"), **changes))
    return app


async def test_a_run_ends_with_the_models_answer_and_its_totals(client: Client) -> None:
    """The first reply without tool calls is the result."""
    app = calculator()
    model = InProcessModel(in_turns(wish(("add", {"a": 2})), answer("It is 3.")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings, text="2 + 1?")
        result = await handle.result()

    assert result.status is RunStatus.COMPLETED
    assert result.output == "It is 3."
    assert (result.totals.steps, result.totals.model_calls, result.totals.tool_calls) == (3, 2, 1)
    assert (result.totals.usage.input_tokens, result.totals.usage.output_tokens) == (20, 10)
    assert (result.totals.cost_usd, result.totals.unpriced_calls) == (Decimal(0), 2)
    assert model.seen[0] == [UserMessage(text="2 + 1?")]
    assert last_results(model.seen[1]) == ['"3"']


async def test_one_failing_call_does_not_lose_the_others(client: Client) -> None:
    """Every call of a reply is answered, in order, by what it came to."""
    app = calculator()
    calls: list[tuple[str, dict[str, object]]] = [
        ("add", {"a": 1}),
        ("fail", {"reason": "out of stock"}),
        ("crash", {}),
        ("add", {"a": "many"}),
        ("subtract", {"a": 1}),
        ("add", {"a": 4, "b": "0.50"}),
    ]
    model = InProcessModel(in_turns(wish(*calls), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        messages = await transcript(handle)

    one, failed, crashed, wrong, unknown, five = last_results(model.seen[1])
    assert (one, five) == ('"2"', '"4.50"')
    assert failed == "out of stock"
    assert "KeyError" in crashed
    assert "a: Input should be a valid integer" in wrong
    assert "'subtract'" in unknown
    assert "add, fail, crash" in unknown
    assert_valid(messages)


async def test_calls_of_one_reply_run_in_parallel(client: Client) -> None:
    """Two calls that wait for each other both finish."""
    app = App()
    met = asyncio.Barrier(2)

    @app.tool()
    async def meet() -> str:
        """Wait for another."""
        await met.wait()
        return "met"

    app.add(agent(tools=("meet",)))
    model = InProcessModel(in_turns(wish(("meet", {}), ("meet", {})), answer("both")))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.output == "both"


async def test_a_tool_is_retried_when_its_failure_says_so(client: Client) -> None:
    """ToolError(retry=True) is tried again before the model hears of it; retry=False is not."""
    app = App()
    attempts: list[int] = []

    @app.tool(effect="idempotent", max_attempts=3)
    async def flaky(ctx: ToolContext) -> str:
        """Work the second time."""
        attempts.append(ctx.attempt)
        if ctx.attempt < 2:
            raise ToolError("busy", retry=True)
        return ctx.idempotency_key

    app.add(agent(tools=("flaky",)))
    model = InProcessModel(in_turns(wish(("flaky", {})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()

    assert attempts == [1, 2]
    assert last_results(model.seen[1])[0].startswith(f"{handle.id}:c2-")


async def test_a_malformed_call_is_answered_and_never_run(client: Client) -> None:
    """Arguments that are no JSON object go back to the model as an error."""
    app = calculator()
    broken = ToolCallPart(id="x", name="add", malformed='{"a": 1')
    model = InProcessModel(in_turns(reply(broken, finish=Finish.TOOL_CALLS), answer("sorry")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()

    assert last_results(model.seen[1]) == ['The arguments of add are not a JSON object: {"a": 1']


async def test_a_run_keeps_what_it_has_at_its_step_limit(client: Client) -> None:
    """At max_steps the run ends, calls beyond it are answered, and the last words are the output."""
    app = calculator(limits=Limits(max_steps=3))
    model = InProcessModel(lambda _: wish(("add", {"a": 1}), ("add", {"a": 2}), ("add", {"a": 3}), text="adding"))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        messages = await transcript(handle)

    assert (result.status, result.output, result.totals.steps) == (RunStatus.MAX_STEPS, "adding", 3)
    assert last_results(messages)[:2] == ['"2"', '"3"']
    assert "limit of 3 steps" in last_results(messages)[2]
    assert_valid(messages)


async def test_a_run_out_of_time_ends_with_a_valid_transcript(env: WorkflowEnvironment) -> None:
    """The run's deadline cancels what runs, answers it, and keeps the rest."""
    app = App()
    cancelled = asyncio.Event()

    @app.tool()
    def quick() -> str:
        """Answer."""
        return "quick"

    @app.tool(timeout=3600)
    async def slow() -> str:
        """Take for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return ""

    app.add(agent(tools=("quick", "slow"), limits=Limits(run_timeout=timedelta(seconds=2))))
    model = InProcessModel(lambda _: wish(("quick", {}), ("slow", {}), text="trying"))

    async with serving(env.client, app, model) as settings:
        handle = await start(env.client, app, settings)
        result = await handle.result()
        messages = await transcript(handle)

    assert (result.status, result.output) == (RunStatus.TIMED_OUT, "trying")
    assert cancelled.is_set()
    assert last_results(messages) == ["quick", "This call has no result: the run reached its time limit."]
    assert_valid(messages)


async def test_cancel_reaches_a_running_tool_and_leaves_a_valid_transcript(client: Client) -> None:
    """A cancelled run stops its tools, answers every call, and says in its memo what it had."""
    app = App()
    running, stopped = asyncio.Event(), asyncio.Event()

    @app.tool(timeout=3600)
    async def slow(ctx: ToolContext) -> str:
        """Take for ever."""
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return ""

    app.add(agent(tools=("slow",)))
    model = InProcessModel(lambda _: wish(("slow", {}), ("slow", {})))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await running.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
        messages = await transcript(handle)
        memo = await (await handle.describe()).memo_value("result", type_hint=RunResult)

    assert isinstance(failure.value.cause, CancelledError)
    assert stopped.is_set()
    assert last_results(messages) == ["This call has no result: the run was cancelled."] * 2
    assert_valid(messages)
    assert (memo.status, memo.totals.model_calls) == (RunStatus.CANCELLED, 1)


async def test_cancel_reaches_a_running_model_call(client: Client) -> None:
    """The provider's stream is dropped when its run is cancelled."""
    app = calculator()
    asked, dropped = asyncio.Event(), asyncio.Event()

    async def never(messages: list[Message]) -> ProviderReply:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        return answer("")

    async with serving(client, app, InProcessModel(never)) as settings:
        handle = await start(client, app, settings)
        await asked.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        ended = await view(handle)

    assert dropped.is_set()
    assert ended.status is RunStatus.CANCELLED


async def test_cancelling_a_run_that_is_out_of_time_changes_nothing(client: Client) -> None:
    """The run waits for what still runs, and ends as timed_out with everything in its record."""
    app = App()
    stopping, may_end = asyncio.Event(), asyncio.Event()

    @app.tool(timeout=7200)
    async def slow() -> str:
        """Take long to stop."""
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await may_end.wait()
        return ""

    app.add(agent(tools=("slow",)))
    limits = Limits(run_timeout=timedelta(seconds=2))

    async with serving(client, app, InProcessModel(lambda _: wish(("slow", {})))) as settings:
        handle = await start(client, app, settings, limits=limits)
        await stopping.wait()
        await handle.cancel()
        await view(handle)
        may_end.set()
        result = await handle.result()
        messages = await transcript(handle)

    assert result.status is RunStatus.TIMED_OUT
    assert_valid(messages)


async def test_a_reply_that_overtakes_the_cancellation_does_not_undo_it(client: Client) -> None:
    """What the model said at the last moment is kept and paid for, and the run still ends as cancelled."""
    app = calculator()
    asked = asyncio.Event()

    async def stubborn(messages: list[Message]) -> ProviderReply:
        if turn(messages) > 0:
            return answer("went on")
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return wish(("add", {"a": 1}))
        raise AssertionError

    async with serving(client, app, InProcessModel(stubborn)) as settings:
        handle = await start(client, app, settings)
        await asked.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
        ended, messages = await view(handle), await transcript(handle)

    assert isinstance(failure.value.cause, CancelledError)
    assert (ended.status, ended.totals.model_calls) == (RunStatus.CANCELLED, 1)
    assert last_results(messages) == ["This call has no result: the run was cancelled."]


async def test_a_final_model_error_fails_the_run_with_the_providers_words(client: Client) -> None:
    """What the provider refuses for good is the run's error, and the result is in its details."""
    app = calculator()

    def refuse(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return wish(("add", {"a": 1}), text="let me see")
        raise ApplicationError("max_tokens: too large", type="model_request_rejected", non_retryable=True)

    async with serving(client, app, InProcessModel(refuse)) as settings:
        handle = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()

    cause = failure.value.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.message) == ("model_request_rejected", "max_tokens: too large")
    result = RunResult.model_validate(cause.details[0])
    assert (result.status, result.output, result.totals.steps) == (RunStatus.FAILED, "let me see", 3)


async def test_a_passing_model_error_is_retried_by_temporal(client: Client) -> None:
    """The attempt after an overload answers, and the run does not notice."""
    app = calculator()
    attempts = 0

    def overloaded(messages: list[Message]) -> ProviderReply:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ApplicationError("overloaded", type="model_overloaded", next_retry_delay=timedelta(milliseconds=10))
        return answer("here")

    async with serving(client, app, InProcessModel(overloaded)) as settings:
        result = await (await start(client, app, settings)).result()

    assert (attempts, result.output, result.totals.model_calls) == (2, "here", 1)


async def test_a_reply_cut_at_the_output_limit_is_continued(client: Client) -> None:
    """The pieces of an answer are one output."""
    app = calculator()
    model = InProcessModel(in_turns(answer("Once upon ", finish=Finish.LENGTH), answer("a time.")))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.output == "Once upon a time."


async def test_words_before_a_tool_call_are_no_part_of_the_answer(client: Client) -> None:
    """A reply that was cut and continued with a tool call is not repeated in front of the final answer."""
    app = calculator()
    model = InProcessModel(
        in_turns(answer("Let me th", finish=Finish.LENGTH), wish(("add", {"a": 1}), text="ink."), answer("It is 2."))
    )

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.output == "It is 2."


async def test_a_cut_reply_that_ended_in_a_call_is_not_part_of_the_answer(client: Client) -> None:
    """What was said before a tool was called belongs to its own turn."""
    app = calculator()
    model = InProcessModel(
        in_turns(
            answer("Let me ", finish=Finish.LENGTH),
            wish(("add", {"a": 1}), text="see."),
            answer("It is 2."),
        )
    )

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.output == "It is 2."


async def test_a_call_in_a_cut_reply_never_runs(client: Client) -> None:
    """A tool call that may be incomplete is answered as an error."""
    app = calculator()
    model = InProcessModel(in_turns(wish(("add", {"a": 1}), finish=Finish.LENGTH), answer("again")))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert "did not run" in last_results(model.seen[1])[0]
    assert result.output == "again"


async def test_a_reply_that_is_all_thought_fails_with_advice(client: Client) -> None:
    """A model that used up its tokens without a word would never end."""
    app = calculator()
    thought = OpaquePart(wire="in-process", data={"thinking": "…"})
    model = InProcessModel(lambda _: reply(thought, finish=Finish.LENGTH))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()

    assert "max_output_tokens" in str(failure.value.cause)


async def test_a_paused_turn_goes_on(client: Client) -> None:
    """The provider is called again with what it had said."""
    app = calculator()
    model = InProcessModel(in_turns(answer("searching", finish=Finish.PAUSE), answer("found")))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.output == "found"
    assert len(model.seen[1]) == 2


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        (Finish.REFUSAL, "model_refused"),
        (Finish.CONTENT_FILTER, "content_filtered"),
        (Finish.CONTEXT_WINDOW, "context_window"),
    ],
)
async def test_a_refusal_is_a_defined_end(client: Client, finish: Finish, kind: str) -> None:
    """A model that will not answer fails the run by name, and leaves no call open."""
    app = calculator()
    call = ToolCallPart(id="x", name="add", arguments={"a": 1})
    model = InProcessModel(lambda _: reply(TextPart(text="no"), call, finish=finish, detail="against policy"))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError) as failure:
            await handle.result()
        messages = await transcript(handle)

    assert isinstance(failure.value.cause, ApplicationError)
    assert (failure.value.cause.type, failure.value.cause.message) == (kind, "against policy")
    assert_valid(messages)


async def test_a_large_tool_result_is_cut_with_a_marker(client: Client) -> None:
    """A result over the tool's size cannot hang the run."""
    app = App()

    @app.tool(max_result_bytes=2000)
    def flood() -> str:
        """Return too much."""
        return "é" * 3_000_000

    app.add(agent(tools=("flood",)))
    model = InProcessModel(in_turns(wish(("flood", {})), answer("much")))

    async with serving(client, app, model) as settings:
        await (await start(client, app, settings)).result()

    content = last_results(model.seen[1])[0]
    assert len(content.encode()) <= 2000
    assert content.endswith("of 6,000,000 bytes left out …]")


async def test_a_large_reply_is_cut_and_the_run_goes_on(client: Client) -> None:
    """A reply over what a history takes neither hangs nor fails the run."""
    app = calculator()
    model = InProcessModel(in_turns(wish(("add", {"a": 1}), text="x" * 5_000_000), answer("y" * 5_000_000)))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert result.status is RunStatus.COMPLETED
    assert "cut by Perdure" in (result.output or "")
    assert len(result.output or "") < 1_100_000
