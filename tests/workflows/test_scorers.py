"""Scorers: asked when a run has ended, kept as feedback, never in the run's way, and seen when they fail."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure import App, Judgement, ModelScorer, ScoredRun
from perdure.activities import Finish
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.encryption import Keyring, new_key
from perdure.errors import ConfigurationError, DuplicateNameError
from perdure.feedback import MEMO_FEEDBACK, Feedback, feedback_id
from perdure.history import fetch_executions
from perdure.messages import Message
from perdure.scorer import ScorerSpec
from perdure.scoring import SCORING_PREFIX
from perdure.search_attributes import AGENT, ORIGIN, SCORE
from perdure.settings import Price
from perdure_activities.providers.provider import ProviderReply
from tests.harness import Handle, InProcessModel, Script, agent, answer, in_turns, serving, start, turn, used, wish

LOOK = wish(("look", {"order": "o1", "pin": "PIN-77-31"}))
GRADER = ModelScorer(name="kind", model="in-process:grader", prompt="Kind answers are good.", scale=5)


def desk(*scorers: Any, **changes: Any) -> App:
    """An app whose agent looks orders up; its scorers are still to be registered."""
    app = App()

    @app.tool(secrets=("pin",))
    def look(order: str, pin: str) -> str:
        """Look an order up."""
        return f"{order} is paid, opened with {pin}"

    app.add(agent(tools=("look",), scorers=scorers, **changes))
    return app


def scoring(client: Client, handle: Handle, name: str) -> WorkflowHandle[Any, Any]:
    """Return the scoring of the run's only execution."""
    return client.get_workflow_handle(f"{SCORING_PREFIX}{handle.first_execution_run_id}-{name}")


async def opinion(client: Client, handle: Handle, name: str) -> Feedback:
    """Wait for a scorer's feedback, and return it as it is kept."""
    await scoring(client, handle, name).result()
    described = await client.get_workflow_handle(feedback_id(handle.id, f"scorer:{name}")).describe()
    feedback: Feedback = await described.memo_value(MEMO_FEEDBACK, type_hint=Feedback)
    assert described.typed_search_attributes.get(ORIGIN) == handle.id
    assert described.typed_search_attributes.get(AGENT) == "tester"
    assert described.typed_search_attributes.get(SCORE) == feedback.score
    return feedback


async def children(client: Client, handle: Handle) -> int:
    """Return how many workflows the run has started."""
    histories = await fetch_executions(client, handle.id)
    initiated = EventType.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED
    return sum(event.event_type == initiated for history in histories for event in history.events)


async def test_a_function_judges_a_run_when_it_has_ended(client: Client) -> None:
    """It gets input, answer and tool calls, without what a tool declares as secret; its word is kept as feedback."""
    app = desk("looked")
    seen: list[ScoredRun] = []

    @app.scorer()
    def looked(run: ScoredRun) -> Judgement:
        seen.append(run)
        return Judgement(score=0.75, comment="looked it up")

    async with serving(client, app, InProcessModel(in_turns(LOOK, answer("It is paid.")))) as settings:
        handle = await start(client, app, settings, text="Is o1 paid?", org="acme", user="ann")
        await handle.result()
        feedback = await opinion(client, handle, "looked")

    [run] = seen
    [call] = run.tool_calls
    assert (run.run_id, run.input, run.output, run.status) == (handle.id, "Is o1 paid?", "It is paid.", "completed")
    assert (run.org, run.user, run.totals.model_calls) == ("acme", "ann", 2)
    assert (call.tool, call.arguments) == ("look", {"order": "o1", "pin": "[secret]"})
    assert call.result == "o1 is paid, opened with [secret]"
    assert (feedback.by, feedback.score, feedback.comment) == ("scorer:looked", 0.75, "looked it up")
    assert (feedback.org, feedback.user, feedback.version, feedback.cost_usd) == ("acme", "ann", "1", None)


def graded(*answers: str) -> Script:
    """Return a script that answers a run in one turn, and grades it with these words, one after the other."""
    left = list(answers)

    def script(messages: list[Message]) -> ProviderReply:
        said = json.dumps(messages[0].model_dump(mode="json"))
        if "how_it_ended" in said:
            return used(answer(left.pop(0)), input_tokens=1000, output_tokens=100)
        return (LOOK, answer("It is paid."))[turn(messages)]

    return script


async def test_a_model_grades_a_run(client: Client) -> None:
    """The grade becomes a score, its cost is kept, and no secret reaches the model; an unreadable answer is retried."""
    app = desk(GRADER)
    model = InProcessModel(graded("I liked it.", 'Well: {"grade": 4, "comment": "friendly"}'))
    prices = {"in-process:grader": Price(input=Decimal(1), output=Decimal(10))}

    async with serving(client, app, model, prices=prices) as settings:
        handle = await start(client, app, settings, text="Is o1 paid? key AKIAIOSFODNN7EXAMPLE")
        await handle.result()
        feedback = await opinion(client, handle, "kind")

    asked = model.seen[-1][0].model_dump_json()
    assert (feedback.by, feedback.score, feedback.comment) == ("scorer:kind", 0.75, "friendly")
    assert feedback.cost_usd == Decimal("0.002")
    assert "It is paid." in asked
    assert "PIN-77" not in asked
    assert "AKIA" not in asked


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('{"grade": 9}', "gave the grade 9, which is not from 1 to 5"),
        ("Splendid.", "gave no grade"),
        ('{"grade": "high"}', "gave no grade"),
    ],
)
async def test_a_model_that_gives_no_grade_fails_the_scoring_alone(client: Client, said: str, why: str) -> None:
    """The run has ended well, there is no feedback, and the scoring says why."""
    app = desk(GRADER.model_copy(update={"max_attempts": 1}))
    async with serving(client, app, InProcessModel(graded(said))) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        with pytest.raises(WorkflowFailureError) as failed:
            await scoring(client, handle, "kind").result()

    assert result.status is RunStatus.COMPLETED
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "grade_unreadable"
    assert why in failed.value.cause.message


async def test_a_scorer_that_breaks_is_asked_again_and_then_left(client: Client) -> None:
    """As often as its author lets it; the run is not touched."""
    app = desk("broken", "moody")
    asked: list[str] = []

    @app.scorer(max_attempts=2)
    async def broken(run: ScoredRun) -> float:
        asked.append("broken")
        raise LookupError("no such customer")

    @app.scorer(max_attempts=2)
    async def moody(run: ScoredRun) -> float:
        asked.append("moody")
        if asked.count("moody") == 1:
            raise ConnectionError
        return 1

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        feedback = await opinion(client, handle, "moody")
        with pytest.raises(WorkflowFailureError) as failed:
            await scoring(client, handle, "broken").result()
        described = await scoring(client, handle, "broken").describe()

    assert result.status is RunStatus.COMPLETED
    assert feedback.score == 1
    assert (asked.count("broken"), asked.count("moody")) == (2, 2)
    assert described.status is WorkflowExecutionStatus.FAILED
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "scorer_broke"
    assert "LookupError: no such customer" in failed.value.cause.message


@pytest.mark.parametrize(("opinion", "kept"), [(None, False), (True, True), (0.5, True)])
async def test_a_scorer_may_have_no_opinion(client: Client, opinion: float | None, *, kept: bool) -> None:
    """None gives no feedback; a number is a score."""
    app = desk("picky")

    @app.scorer(max_attempts=1)
    def picky(run: ScoredRun) -> float | None:
        return opinion

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        scored = await scoring(client, handle, "picky").result()

    assert (scored["judgement"] is not None) is kept


async def test_a_scorer_has_its_time(client: Client) -> None:
    """One that hangs is given up, a plain function too."""
    app = desk("slow")

    @app.scorer(max_attempts=1, timeout=0.2)
    async def slow(run: ScoredRun) -> float:
        await asyncio.Event().wait()
        return 1

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        with pytest.raises(WorkflowFailureError) as failed:
            await scoring(client, handle, "slow").result()

    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "scorer_timeout"


async def test_a_run_that_failed_goes_unjudged(client: Client) -> None:
    """There is no answer to judge."""
    app = desk("looked")

    @app.scorer()
    def looked(run: ScoredRun) -> float:
        return 1

    script = in_turns(answer("No.", finish=Finish.REFUSAL))
    async with serving(client, app, InProcessModel(script)) as settings:
        refused = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError):
            await refused.result()

    assert await children(client, refused) == 0


async def test_an_agent_without_scorers_gives_no_command_for_them(client: Client) -> None:
    """Its runs are what they were before there were scorers, their input included."""
    app = desk()
    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
    spec = app.resolve(next(app.agents()))

    assert await children(client, handle) == 0
    assert "scorers" not in spec.model_dump_json()


async def test_only_the_sample_is_judged(client: Client) -> None:
    """Which runs are in it goes by their ids, so that it is the same in every replay and for every worker."""
    spec = ScorerSpec(name="rare", sample=0.25)
    ids = [f"run-{number}" for number in range(4000)]
    drawn = [run_id for run_id in ids if spec.judges(run_id)]
    app = desk("rare")

    @app.scorer(sample=0.25)
    def rare(run: ScoredRun) -> float:
        return 1

    left_out = next(run_id for run_id in (f"sampled-{number}" for number in range(99)) if not spec.judges(run_id))
    taken = next(run_id for run_id in (f"sampled-{number}" for number in range(99)) if spec.judges(run_id))
    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handles = [await start(client, app, settings, run_id=run_id) for run_id in (left_out, taken)]
        await asyncio.gather(*(handle.result() for handle in handles))

    assert 900 < len(drawn) < 1100
    assert all(ScorerSpec(name="all").judges(run_id) for run_id in ids)
    assert [await children(client, handle) for handle in handles] == [0, 1]


async def test_what_a_scorer_says_is_encrypted(env: WorkflowEnvironment) -> None:
    """As everything that is said in a run."""
    converter = data_converter(keyring=Keyring({"k": new_key()}, current="k"))
    client = await env.connect_client(data_converter=converter)
    app = desk("looked")

    @app.scorer()
    def looked(run: ScoredRun) -> Judgement:
        return Judgement(score=0.5, comment="confidential remark")

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        feedback = await opinion(client, handle, "looked")
        raw = await scoring(client, handle, "looked").fetch_history()

    assert feedback.comment == "confidential remark"
    assert "confidential" not in str(raw.to_json())


def test_what_cannot_be_a_scorer_is_refused() -> None:
    """When the app is put together, and not when a run ends."""
    app = desk("unknown")
    with pytest.raises(ConfigurationError, match="names scorer 'unknown', which the app does not have"):
        app.check()
    with pytest.raises(ConfigurationError, match="less than or equal to 1"):
        app.scorer(sample=2)(lambda run: 1)
    app = desk("kind", GRADER)
    app.scorer(name="kind")(lambda run: 1)
    with pytest.raises(DuplicateNameError, match="two scorers named 'kind'"):
        app.check()
    with pytest.raises(DuplicateNameError, match="already has a scorer named 'kind'"):
        app.scorer(name="kind")(lambda run: 1)
