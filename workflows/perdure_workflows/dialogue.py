"""The dialogue with the model: what it is asked, and what its reply means for the run."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import Finish, ModelCall, ModelReply, TailMessage, call_model
    from perdure.contracts import RunError
    from perdure.messages import Message, ToolCallPart, ToolResult, UserMessage
    from perdure_workflows.calls import opened
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.ending import RunFailsError
    from perdure_workflows.options import model_options
    from perdure_workflows.publication import Publication
    from perdure_workflows.purse import Purse
    from perdure_workflows.state import Call, RunArguments, RunState
    from perdure_workflows.transcript import Transcript, fitting

GO_ON = "Your reply was cut off at the output limit. Continue exactly where it stopped."
CUT_CALL = (
    "This call did not run: the reply was cut off at the output limit, and the call may be incomplete. "
    "Make it again, with less text around it."
)
MAX_REMEMBERED = 4096
"""Characters of a cut reply that an output guard is told when the reply goes on."""
FAILED_ENDS = {
    Finish.REFUSAL: "model_refused",
    Finish.CONTENT_FILTER: "content_filtered",
    Finish.BLOCKED: "output_blocked",
    Finish.CONTEXT_WINDOW: "context_window",
}
"""Finishes that end the run as failed, and the error's type."""


class Dialogue:
    """Speaks with the model. A reply is an answer, calls to be made, or words that are to be continued."""

    def __init__(
        self,
        arguments: RunArguments,
        state: RunState,
        transcript: Transcript,
        purse: Purse,
        publication: Publication,
    ) -> None:
        self._arguments = arguments
        self._state = state
        self._transcript = transcript
        self._purse = purse
        self._publication = publication
        self._spec_digest = arguments.spec.digest()

    def say(self, text: str) -> None:
        """Say something to the model as a user, with its next call."""
        message: Message = UserMessage(text=text)
        self._transcript.append(message)
        self._state.tail.append(TailMessage(message=message))

    def say_meanwhile(self, texts: list[str]) -> None:
        """Say what people said while it was busy; a final answer then was not the last word."""
        for text in texts:
            self.say(text)
            self._state.answer = None
            self._state.unfinished_text = ""

    async def ask(self) -> ModelReply:
        """Call the model with what it has not heard yet.

        Raises:
            RunFailsError: It does not reply, by whichever way it was tried.
        """
        step = self._next_step()
        self._publication.doing(f"**Step {step}**: the model `{self._purse.model}` is answering.")
        spec = self._arguments.spec
        call = ModelCall(
            step=step,
            agent=spec.name,
            version=spec.version,
            spec_digest=self._spec_digest,
            length=self._transcript.length,
            digest=self._transcript.digest,
            tail=tuple(fitting(self._state.tail)),
            timeout=self._arguments.limits.model_timeout,
            denied=self._state.denied,
            unfinished=self._state.unfinished_text[-MAX_REMEMBERED:] if spec.output_guard else "",
            model=self._purse.model if self._purse.downgraded else "",
            user=self._arguments.user,
            org=self._arguments.org,
            trace=self._arguments.trace,
        )
        self._state.denied = {}
        options = model_options(self._purse.spec, self._arguments.limits, step=step)
        try:
            return await workflow.execute_activity(call_model, call, **options)
        except ActivityError as error:
            raise_if_cancelled(error)
            raise RunFailsError(_why_no_reply(error)) from error

    def take(self, reply: ModelReply) -> None:
        """Take in a reply.

        Raises:
            RunFailsError: It refuses, was blocked, or cannot be gone on with.
        """
        message = reply.message
        self._state.totals = self._state.totals.with_model_call(
            reply.usage, cost_usd=reply.cost_usd, tool_calls=len(message.tool_calls)
        )
        self._transcript.append(message)
        self._purse.pay(reply)
        self._state.tail = []
        self._state.model_worker = reply.worker
        unfinished = self._state.unfinished_text
        text, self._state.unfinished_text = unfinished[: len(unfinished) - reply.withdrawn] + message.text, ""
        self._state.last_words = text or self._state.last_words
        self._state.calls = [self._open(part) for part in message.tool_calls]
        if self._state.calls:
            self._state.unfinished_text = ""  # these words led to calls, and are no part of the answer
        if reply.finish is Finish.BLOCKED:
            self._state.last_words = ""  # its beginning may have been said before the reply was cut
        if reply.finish in FAILED_ENDS:
            why = reply.detail or f"the model stopped: {reply.finish}"
            raise RunFailsError(RunError(type=FAILED_ENDS[reply.finish], message=why))
        self._state.mid_turn = reply.finish is Finish.PAUSE and not self._state.calls
        if reply.finish is Finish.LENGTH:
            self._go_on_after_cut(text, said=bool(message.text))
        elif not self._state.calls and not self._state.mid_turn:
            self._state.answer = text

    def _go_on_after_cut(self, text: str, *, said: bool) -> None:
        if self._state.calls:
            for call in self._state.calls:
                call.result = ToolResult(call_id=call.provider_id, content=CUT_CALL, is_error=True)
        elif said:
            self._state.unfinished_text = text
            self.say(GO_ON)
        else:
            limit = self._arguments.spec.max_output_tokens
            why = f"the model used up max_output_tokens={limit} without an answer; raise the limit"
            raise RunFailsError(RunError(type="model_output_limit", message=why))

    def _open(self, part: ToolCallPart) -> Call:
        return opened(part, step=self._next_step(), salt=self._arguments.salt)

    def _next_step(self) -> int:
        self._state.totals = self._state.totals.with_step()
        return self._state.totals.steps


def _why_no_reply(error: ActivityError) -> RunError:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return RunError(type=cause.type or "model_failed", message=cause.message)
    return RunError(type="model_timeout", message=f"the model call was lost each time it was tried: {cause or error}")
