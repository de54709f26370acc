"""The activities of a what-if: the model is asked, everything else is answered from a recording.

There is no tool here, no probe, no webhook and no ledger, so none can be called.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from temporalio import activity

from perdure.activities import CallCheck, ModelCall, ModelReply, ToolCall, ToolOutcome
from perdure.grant import Grant
from perdure.messages import JsonObject
from perdure.oversight import Decision
from perdure.tool import Effect
from perdure_activities.model import ModelActivities
from perdure_workers.whatif.recording import Answered, Recording, Spoken

OnUnknown = Literal["stop", "error"]
NOT_KNOWN: Final = "The result of this call is not available: {why}."
"""What the model hears of a call that the recording does not know, if it is to go on all the same."""


@dataclass(frozen=True)
class Unknown:
    """A call that the recording has no answer for."""

    step: int
    tool: str
    arguments: JsonObject
    why: str


class Playback:
    """Answers one what-if run."""

    def __init__(self, recording: Recording, *, on_unknown: OnUnknown) -> None:
        self._recording = recording
        self._on_unknown = on_unknown
        self._made: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._given: dict[str, ToolOutcome] = {}
        """By call id: what was answered, for a second attempt."""
        self._model_calls = 0
        self._questions: dict[str, Answered | Unknown] = {}
        self.unknown: list[Unknown] = []
        self.stopped = asyncio.Event()
        """The run asks for what nobody knows, and is not to go on."""

    def model_activity(
        self, model: ModelActivities, speak: Callable[[Spoken], Awaitable[None]]
    ) -> Callable[[ModelCall], Awaitable[ModelReply]]:
        """Return the activity that asks the model; before a reply is handed over, people say what they said then."""

        @activity.defn
        async def call_model(call: ModelCall) -> ModelReply:
            """Have the model answer the transcript."""
            reply = await model.call_model(call)
            self._model_calls += 1
            for spoken in self._recording.spoken:
                if spoken.before_call == self._model_calls:
                    await speak(spoken)
            return reply

        return call_model

    @property
    def unsaid(self) -> int:
        """How many words of people the run ended before."""
        return sum(spoken.before_call > self._model_calls for spoken in self._recording.spoken)

    @activity.defn
    async def call_tool(self, call: ToolCall) -> ToolOutcome:
        """Return the recorded result."""
        if call.call_id not in self._given:
            self._given[call.call_id] = await self._result(call)
        return self._given[call.call_id]

    @activity.defn
    async def check_call(self, call: ToolCall) -> CallCheck:
        """Return what was found out about the arguments, and note what people are about to be asked."""
        name = self._recording.name(call.tool, call.arguments)
        answers = self._recording.answers.get(name, [])
        if call.call_id not in self._questions and answers:
            place = min(self._asked[name], len(answers) - 1)
            self._asked[name] += 1
            self._questions[call.call_id] = answers[place]
        elif call.call_id not in self._questions:
            why = f"nobody decided on such a call of {call.tool} in the recorded run"
            self._questions[call.call_id] = Unknown(call.step, call.tool, call.arguments, why)
        return self._recording.checks.get(name, CallCheck())

    @activity.defn
    async def record_grant(self, grant: Grant) -> None:
        """Record nothing: a what-if lets nothing run without asking but itself."""

    def answer_to(self, approval_id: str) -> Answered | Unknown | None:
        """Return what people said about a question of the what-if; None if it is about no call."""
        return self._questions.get(approval_id)

    def note(self, unknown: Unknown) -> None:
        """Note that nothing is known of a call; that ends the run, unless it is to go on all the same."""
        self.unknown.append(unknown)
        if self._on_unknown == "stop":
            self.stopped.set()

    async def _result(self, call: ToolCall) -> ToolOutcome:
        name = self._recording.name(call.tool, call.arguments)
        known = self._recording.results.get(name, [])
        place = self._made[name]
        self._made[name] += 1
        if place >= len(known) and known and call.effect != Effect.ONCE:
            place = len(known) - 1  # the same question again; who makes it may be given the same answer
        outcome = known[place] if place < len(known) else None
        if outcome is not None:
            return outcome.model_copy(update={"worker": "", "cached": False})
        why = self._why_unknown(call, known=len(known), place=place)
        self.note(Unknown(call.step, call.tool, call.arguments, why))
        if self.stopped.is_set():
            await asyncio.Event().wait()  # the run is being ended, and the model is not to hear more
        return ToolOutcome(content=NOT_KNOWN.format(why=why), is_error=True)

    def _why_unknown(self, call: ToolCall, *, known: int, place: int) -> str:
        if place < known:
            return f"nobody knew the outcome of this call of {call.tool} in the recorded run"
        if known:
            times = "once" if known == 1 else f"{known} times"
            return f"the recorded run made this call of {call.tool} {times}, and it is no call to be repeated"
        if self._recording.calls_to(call.tool):
            return f"the recorded run called {call.tool} with other arguments only"
        return f"the recorded run got no result of {call.tool}"


def as_decided(decision: Decision, *, recorded: str, asked: str) -> Decision:
    """Return a recorded decision for another question about the same call.

    Args:
        decision: As it came.
        recorded: The digest of the call that it was about.
        asked: The digest of the call that is asked about now.
    """
    digest = asked if decision.digest == recorded else decision.digest
    # Who decided may have been asked after a deadline only, which nobody waits for here.
    return decision.model_copy(update={"digest": digest, "roles": ("*",)})
