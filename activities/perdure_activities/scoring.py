"""The activities of a scoring: `score_run` has a function or a model judge a run, `record_feedback` keeps what it says.

A scorer may be asked again for the same run, after a failure or a lost worker; the last word counts. What is kept is
idempotent: there is one feedback of a scorer on a run.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import structlog
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError

from perdure.app import App
from perdure.contracts import RunView, cut
from perdure.feedback import Feedback
from perdure.feedback_store import keep_feedback
from perdure.messages import AssistantMessage, Message, ToolMessage, UserMessage
from perdure.redaction import Redactor, ValueRedactor, redacted
from perdure.scored_run import Judgement, ScoredCall, ScoredRun, ScorerFunction, judgement
from perdure.scorer import ScorerSpec
from perdure.scoring import Scored, ScoringOrder
from perdure.secret_arguments import mask_arguments, secret_values
from perdure.settings import Price
from perdure_activities.breaker import Breaker
from perdure_activities.grader import Grader
from perdure_activities.heartbeat import heartbeats
from perdure_activities.providers.provider import Provider
from perdure_activities.transcripts import QUERY_TIMEOUT, Transcripts

MAX_ERROR_BYTES = 4096
log = structlog.get_logger(__name__)


class ScorerActivities:
    """Scorings of one worker process."""

    def __init__(
        self,
        app: App,
        *,
        providers: Mapping[str, Provider],
        transcripts: Transcripts,
        breaker: Breaker,
        prices: Mapping[str, Price],
        redactor: Redactor,
        threads: int,
    ) -> None:
        self._app = app
        self._transcripts = transcripts
        self._redactor = redactor
        self._grader = Grader(providers=providers, breaker=breaker, prices=prices)
        self._max_threads = threads
        self._threads = self._new_threads()

    def close(self) -> None:
        """Let the threads go; one that still runs ends with the process. Another worker of the plugin gets new ones."""
        threads, self._threads = self._threads, self._new_threads()
        threads.shutdown(wait=False, cancel_futures=True)

    def _new_threads(self) -> Executor:
        return ThreadPoolExecutor(self._max_threads, thread_name_prefix="scorer")  # why: see ToolActivities

    @activity.defn
    async def score_run(self, order: ScoringOrder) -> Scored:
        """Have a scorer judge a run."""
        scorer = order.scorer
        with heartbeats():
            run = await self._scored_run(order)
            try:
                async with asyncio.timeout(scorer.timeout.total_seconds()):
                    scored = await self._judge(run, scorer)
            except TimeoutError:
                why = f"scorer {scorer.name!r} took longer than {scorer.timeout.total_seconds():g} s"
                raise _counted(ApplicationError(why, type="scorer_timeout"), scorer) from None
            except ApplicationError as error:
                raise _counted(error, scorer) from None
        said = scored.judgement
        log.info("run_scored", run_id=run.run_id, scorer=scorer.name, score=said.score if said else None)
        return scored

    @activity.defn
    async def record_feedback(self, feedback: Feedback) -> None:
        """Keep what a scorer thinks, in the place of what it thought before."""
        await keep_feedback(activity.client(), feedback, task_queue=activity.info().task_queue)

    async def _judge(self, run: ScoredRun, scorer: ScorerSpec) -> Scored:
        if scorer.grading is None:
            return Scored(judgement=await self._ask(scorer.name, run))
        # The model's provider is told no more of a run than a webhook's receiver.
        return await self._grader.grade(await redacted(run, self._redactor), scorer)

    async def _ask(self, name: str, run: ScoredRun) -> Judgement | None:
        function = self._app.find_scorer(name)
        if function is None:
            raise ApplicationError(f"this worker has no scorer {name!r}", type="scorer_missing")
        try:
            return judgement(await self._call(function, run))
        except Exception as error:  # user code may raise anything
            log.warning("scorer_broke", run_id=run.run_id, scorer=name, error=type(error).__name__, exc_info=True)
            why = cut(f"{name} failed: {type(error).__name__}: {error}", MAX_ERROR_BYTES)
            raise ApplicationError(why, type="scorer_broke") from None

    async def _call(self, function: ScorerFunction, run: ScoredRun) -> object:
        if inspect.iscoroutinefunction(function):
            return await function(run)
        in_context = contextvars.copy_context().run
        result: object = await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(in_context, function, run)
        )
        return await result if inspect.isawaitable(result) else result

    async def _scored_run(self, order: ScoringOrder) -> ScoredRun:
        """Read the run from its workflow, as it has ended, without what tools declare as secret."""
        client = activity.client()
        handle: WorkflowHandle[Any, Any] = client.get_workflow_handle(order.run.run_id, run_id=order.execution_id)
        view: RunView = await handle.query("view", result_type=RunView, rpc_timeout=QUERY_TIMEOUT)
        messages = await self._transcripts.messages(handle, client, start=0, end=order.length)
        run = ScoredRun(
            **order.run.model_dump(include={"run_id", "agent", "version", "user", "org", "session_id"}),
            status=view.status,
            input=next((message.text for message in messages if isinstance(message, UserMessage)), ""),
            output=view.output,
            error=order.error,
            tool_calls=tuple(_calls(messages)),
            totals=view.totals,
        )
        return await _without_secrets(run, order.secrets)


def _counted(error: ApplicationError, scorer: ScorerSpec) -> ApplicationError:
    """Return a scorer's own failure, final if it was the last that its author lets it have."""
    return ApplicationError(
        error.message,
        *error.details,
        type=error.type,
        non_retryable=error.non_retryable or activity.info().attempt >= scorer.max_attempts,
        next_retry_delay=error.next_retry_delay,
    )


def _calls(messages: Sequence[Message]) -> Iterable[ScoredCall]:
    """Iterate over the calls in a transcript, with their results."""
    for message, following in pairwise(messages):
        if isinstance(message, AssistantMessage) and isinstance(following, ToolMessage):
            for call, result in zip(message.tool_calls, following.results, strict=False):
                yield ScoredCall(
                    tool=call.name, arguments=call.arguments, result=result.content, is_error=result.is_error
                )


async def _without_secrets(run: ScoredRun, secrets: Mapping[str, tuple[str, ...]]) -> ScoredRun:
    values = ValueRedactor(
        value for call in run.tool_calls for value in secret_values(call.arguments, secrets.get(call.tool, ()))
    )
    if not any(call.tool in secrets for call in run.tool_calls):
        return run
    calls = tuple(
        call.model_copy(update={"arguments": mask_arguments(call.arguments, secrets.get(call.tool, ()))})
        for call in run.tool_calls
    )
    return await redacted(run.model_copy(update={"tool_calls": calls}), values)
