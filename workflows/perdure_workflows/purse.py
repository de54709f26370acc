"""The run's money: what the next model call costs at worst, whether it fits, and what the ledger is told.

A run's own budgets it judges itself. Those that it shares it reserves from, in blocks, so that most calls send nothing.
What it says is cumulative, for one holder: the run from its start on, or from a reset on, as what came before a reset
is stated by the execution that was left behind. Sub-agents, when there are any, are to speak as the holder that their
root run is, and so draw on what that has reserved.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import ModelReply
    from perdure.agent import AgentSpec
    from perdure.budget import MARGIN_TOKENS, MIN_OUTPUT_TOKENS, BudgetRecord, PriceCeiling, Refusal, Terms
    from perdure.ledger.contracts import (
        Enter,
        LedgerAnswer,
        ModelUse,
        OpenLedger,
        Raise,
        Reserve,
        Settle,
        ledger_id,
        open_ledger,
        used_since,
    )
    from perdure_workflows.alarm import Alarm
    from perdure_workflows.cancellation import is_cancelled, raise_if_cancelled
    from perdure_workflows.options import opening_options
    from perdure_workflows.signals import NO_PAYLOAD, read_signal
    from perdure_workflows.state import RunArguments, RunState
    from perdure_workflows.transcript import Transcript

BLOCK_CALLS = 4
"""A block is for so many calls at worst, which is many more as they turn out."""
ANSWER_PATIENCE = timedelta(minutes=15)
"""The ledger answers a reservation within ten minutes; if not, it may have lost it, and is asked once more."""
PLACE_PATIENCE = timedelta(hours=1)
"""The same for a place, which it may truly not have for days."""
LAST_TRIES = 2
"""How often a statement is made that nobody waits for; the ledger inquires after runs that it does not hear of."""
REST = timedelta(seconds=5)
FOREIGN_TOKENS = 2
"""No model makes more than so many tokens of what is one to another."""
_NOT_FOUND = "ExternalWorkflowExecutionNotFound"
_PATCH = "cancelled-at-rest"
"""Runs that were cancelled while they gave money back, and did not hear of it, replay as they went."""


class Purse:
    """What a run has used, holds and may still use."""

    def __init__(self, arguments: RunArguments, state: RunState, transcript: Transcript) -> None:
        self._arguments = arguments
        self._run = state
        self._state = state.purse
        self._transcript = transcript
        self._terms = arguments.terms or Terms()
        self._spec_size = len(arguments.spec.model_dump_json().encode()) if self._terms.limits_money else 0
        self._request_id = ""
        self._answer: LedgerAnswer | None = None
        self._was_reset = False
        self._alarm = Alarm("the ledger's answer")
        if arguments.state is None:
            self._state.queued = bool(self._terms.places)
            self._state.began_at = workflow.now()
        if arguments.terms is not None:
            workflow.register_random_seed_callback(self._notice_reset)
            self._watching = asyncio.create_task(self._watch_for_resets())

    @property
    def queued(self) -> bool:
        """Whether the run waits for its place among the open ones."""
        return self._state.queued

    @property
    def downgraded(self) -> bool:
        """Whether the run goes on with its cheaper model."""
        return self._state.downgraded

    @property
    def model(self) -> str:
        """The model to call first."""
        return self.spec.model

    @property
    def spec(self) -> AgentSpec:
        """The agent, with the models of which one answers the next call."""
        spec = self._arguments.spec
        return spec.asking(spec.budget_model) if self._state.downgraded and spec.budget_model else spec

    @property
    def unpriced_model(self) -> str | None:
        """A model that must not be called, as nobody has a price for it."""
        if self._arguments.terms is None or self._terms.unpriced == "flag":
            return None
        return next((model for model in self.spec.models if model not in self._terms.ceilings), None)

    async def enter(self) -> None:
        """Wait for a place among the open runs."""
        while self._state.queued:
            self._ask()
            await self._tell("enter", Enter(**self._statement(), request_id=self._request_id))
            answer = await self._hear(patience=PLACE_PATIENCE)
            self._state.queued = answer is None or answer.kind != "admitted"

    async def cover(self) -> Refusal | None:
        """See to it that the next model call is paid for, or return the budget that has no room for it."""
        need = self._worst_case()
        if refusal := self._beyond_own(need):
            return refusal
        self._begin_anew_if_reset()
        while self._terms.lines and self._state.held < need:
            self._ask()
            request = Reserve(
                **self._statement(),
                request_id=self._request_id,
                minimum=need,
                wanted=BLOCK_CALLS * need,
                raises=tuple(self._state.raises),
            )
            self._state.held = Decimal(0)
            await self._tell("reserve", request)
            self._state.raises = []
            answer = await self._hear(patience=ANSWER_PATIENCE)
            if answer is not None and answer.kind == "refused":
                return answer.refusal
            if answer is not None and answer.kind == "reserved":
                self._state.held = answer.usd
            self._begin_anew_if_reset()
        return None

    def pay(self, reply: ModelReply) -> None:
        """Count a reply that is in the transcript by now."""
        if self._arguments.terms is None:
            return
        state, model = self._state, reply.reference or self.model
        state.used = {**state.used, model: state.used.get(model, ModelUse()).with_reply(reply)}
        state.held = max(Decimal(0), state.held - (reply.cost_usd or Decimal(0)))
        usage = reply.usage
        state.known_model, state.known_size = model, self._transcript.size
        # Its words may be sent back otherwise than they came, in as many tokens as they have bytes.
        reported = usage.input_tokens + max(usage.output_tokens, self._transcript.last_size)
        state.known_tokens = reported if usage.input_tokens else 0

    def add(self, refusal: Refusal, amount: Decimal, *, by: str, approval_id: str) -> None:
        """Put more into the budget that had no room."""
        if refusal.per == "run":
            self._state.raised[refusal.budget] = self._state.raised.get(refusal.budget, Decimal(0)) + amount
        else:
            raised = Raise(
                budget=refusal.budget, subject=refusal.subject, usd=amount, by=by[:80], approval_id=approval_id
            )
            self._state.raises.append(raised)
        self.record(kind="raised", budget=refusal.budget, amount_usd=amount, by=by[:80])

    def downgrade(self) -> bool:
        """Go on with the cheaper model; return False if that is what the run does already."""
        if self._state.downgraded or self._arguments.spec.budget_model is None:
            return False
        self._state.downgraded = True
        self.record(kind="downgraded", model=self.model)
        return True

    def record(self, **fields: Any) -> None:
        """Have the memo tell what happened."""
        self._state.unpublished.append(BudgetRecord(at=workflow.now(), **fields))

    async def rest(self) -> None:
        """Give back what is held, while only humans are waited for."""
        self._begin_anew_if_reset()
        if self._arguments.terms is not None and (self._state.held or self._has_news()):
            await self._settle(ended=False)
            if is_cancelled() and workflow.patched(_PATCH):
                raise asyncio.CancelledError

    async def close(self) -> None:
        """Give everything back, as the run ends. A run that goes on all the same has it again when it speaks next."""
        self._begin_anew_if_reset()
        if self._arguments.terms is not None and (self._state.has_spoken or self._has_news()):
            await self._settle(ended=True)

    def receive(self, payload: RawValue = NO_PAYLOAD) -> None:
        """Take the ledger's answer, if it is one to what was asked last."""
        try:
            answer = read_signal(payload, LedgerAnswer)
        except ValueError as error:
            workflow.logger.warning("ignored an answer of the ledger: %s", error)
            return
        if answer.request_id and answer.request_id == self._request_id:
            self._answer = answer

    def _worst_case(self) -> Decimal:
        """Return what the next call can cost, by the dearest of the models of which one answers it."""
        ceilings = self._terms.ceilings
        costs = (self._cost(model, ceilings[model]) for model in self.spec.models if model in ceilings)
        return max(costs, default=Decimal(0))

    def _cost(self, model: str, ceiling: PriceCeiling) -> Decimal:
        output = max(self._arguments.spec.max_output_tokens, MIN_OUTPUT_TOKENS)
        return ceiling.cost(input_tokens=self._most_input(model) + MARGIN_TOKENS, output_tokens=output)

    def _most_input(self, model: str) -> int:
        """Return how many tokens the next call's input is at most: no text has more of them than bytes."""
        state, size = self._state, self._transcript.size
        everything, new = self._spec_size + size, size - state.known_size
        if not state.known_tokens:
            return everything
        if model == state.known_model:
            return state.known_tokens + new
        return min(everything, FOREIGN_TOKENS * state.known_tokens + new)

    def _beyond_own(self, need: Decimal) -> Refusal | None:
        spent = self._run.totals.cost_usd
        for cap in self._terms.caps:
            most = cap.usd + self._state.raised.get(cap.budget, Decimal(0))
            if spent + need > most:
                return Refusal(budget=cap.budget, per="run", cap_usd=most, spent_usd=spent, needed_usd=need)
        return None

    def _has_news(self) -> bool:
        return bool(used_since(self._state.used, self._state.known))

    async def _settle(self, *, ended: bool) -> None:
        self._state.held = Decimal(0)
        await self._tell("settle", Settle(**self._statement(), ended=ended), tries=LAST_TRIES)
        if ended:
            self._state.has_spoken = False

    def _statement(self) -> dict[str, Any]:
        """Return what every message says."""
        self._begin_anew_if_reset()
        self._state.holder = self._state.holder or workflow.uuid4().hex
        run, info = self._arguments, workflow.info()
        return {
            "holder": self._state.holder,
            "run_id": info.workflow_id,
            "execution_id": info.run_id,
            "began_at": self._state.began_at,
            "user": run.user,
            "agent": run.spec.name,
            "used": self._state.used,
            "known": self._state.known,
            "lines": self._terms.lines,
            "places": self._terms.places,
            "time_zone": self._terms.time_zone,
        }

    def _notice_reset(self, _: int) -> None:
        # The SDK calls this outside of the workflow's context, when a reset gives the run another seed.
        self._was_reset = True

    async def _watch_for_resets(self) -> None:
        # Not in the callback, and not at the next reply: the task that a reset does again may bring one that the
        # execution left behind had as well, and has stated. It is taken in before this goes on.
        while True:
            await workflow.wait_condition(lambda: self._was_reset)
            self._begin_anew_if_reset()

    def _begin_anew_if_reset(self) -> None:
        """Become another holder, which has used and holds nothing."""
        if self._was_reset:
            self._was_reset = False
            self._state.holder, self._state.has_spoken = "", False
            self._state.held, self._state.used, self._state.known = Decimal(0), {}, {}

    def _ask(self) -> None:
        self._request_id, self._answer = workflow.uuid4().hex, None

    async def _hear(self, *, patience: timedelta) -> LedgerAnswer | None:
        """Wait for the answer; None if it is time to ask again, or another holder has to."""
        due, holder = workflow.now() + patience, self._state.holder

        def is_over() -> bool:
            return self._answer is not None or self._state.holder != holder or workflow.now() >= due

        while not is_over():
            self._alarm.set(due)
            await workflow.wait_condition(lambda: is_over() or self._alarm.rang)
        return self._answer if self._state.holder == holder else None

    async def _tell(self, signal: str, message: Enter | Reserve | Settle, *, tries: int | None = None) -> None:
        """Say something to the ledger. What is begun is said to its end, also by a run that is cancelled meanwhile."""
        telling = asyncio.create_task(self._signal(signal, message, tries=tries))
        while not telling.done():
            with suppress(asyncio.CancelledError):
                await workflow.wait_condition(telling.done)
        if telling.result():
            self._state.known, self._state.has_spoken = message.used, True
        if not isinstance(message, Settle):
            raise_if_cancelled()

    async def _signal(self, signal: str, message: Enter | Reserve | Settle, *, tries: int | None) -> bool:
        org, tried = self._arguments.org, 0
        while tries is None or tried < tries:
            tried += 1
            try:
                await workflow.get_external_workflow_handle(ledger_id(org)).signal(signal, message)
            except ApplicationError as error:
                if error.type == _NOT_FOUND:
                    await workflow.execute_activity(open_ledger, OpenLedger(org=org), **opening_options())
                else:
                    workflow.logger.warning("the ledger did not hear %s: %s", signal, error)
                    await workflow.sleep(REST, summary="before the ledger is told again")
            else:
                return True
        return False
