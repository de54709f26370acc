"""Agents as authors write them, and the frozen form a run is pinned to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from perdure.budget import Usd
from perdure.guard import MAX_GUARDS, Guard
from perdure.messages import Frozen, is_empty
from perdure.model_reference import ModelReference as ModelReference
from perdure.outage import APOLOGY, MAX_APOLOGY, OnOutage
from perdure.rate import Rate
from perdure.scorer import MAX_SCORERS, ModelScorer, ScorerSpec
from perdure.tool import ToolSpec

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
MAX_INPUT_BYTES = 512 * 1024
"""The largest input a run takes; Temporal refuses an input of 2 MiB, which also carries the agent."""
MAX_SPEC_BYTES = 512 * 1024
"""The largest agent (instructions and tool schemas together) that a run's history carries."""
MAX_FALLBACKS = 4
"""Each model of a chain gets half of the time that those before it have left."""


OnBudget = Literal["stop", "ask", "downgrade"]


class Limits(BaseModel):
    """What a run may use up before it is ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_steps: int = Field(default=100, ge=1, le=100_000)
    """Model calls and tool calls together; at the limit the run ends as `max_steps` and keeps what it has."""
    run_timeout: timedelta = Field(default=timedelta(days=7), gt=timedelta(0), le=timedelta(days=365))
    """Wall-clock time from start to end, waiting for people included."""
    model_timeout: timedelta = Field(default=timedelta(minutes=10), gt=timedelta(0), le=timedelta(hours=2))
    """One attempt of one model call, at all models of the agent together."""
    model_attempts: int = Field(default=10, ge=1, le=1000)
    """Attempts of one model call, with growing pauses between them; an agent that parks has no limit of them."""
    approval_timeout: timedelta | None = Field(default=None, gt=timedelta(0), le=timedelta(days=365))
    """After this an approval nobody decided is rejected; without it a run waits as long as it may run."""
    max_parallel_tools: int = Field(default=16, ge=1, le=64)
    """Tool calls of one reply that run at the same time; the rest wait their turn."""
    max_cost_usd: Usd | None = None
    """A model call that could cost more, with all before it, is not made; a request may lower this and not raise it."""


class Agent(BaseModel):
    """An agent: a model, its instructions, and the tools it may call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME_PATTERN)
    version: str = Field(default="1", pattern=NAME_PATTERN)
    model: ModelReference
    """`provider:model`; the providers are `anthropic`, `openai` (Responses) and `openai-chat` (Chat Completions)."""
    fallbacks: Annotated[Sequence[ModelReference], AfterValidator(tuple), Field(max_length=MAX_FALLBACKS)] = ()
    """Models that are asked in turn when the ones before them do not answer; each step begins with `model` again."""
    on_outage: OnOutage = "fail"
    """When no model answers: the run fails after its attempts, waits for one (`park`), or answers `outage_message`."""
    outage_message: str = Field(default=APOLOGY, min_length=1, max_length=MAX_APOLOGY)
    """The run's output if it ends by `on_outage="answer"`."""
    prompt_caching: bool = True
    """Have the provider cache what the next call sends again; off for a gateway that refuses such requests."""
    instructions: str = ""
    """The system prompt."""
    tools: Annotated[Sequence[str], AfterValidator(tuple)] = ()
    """Names of the app's tools."""
    limits: Limits = Limits()
    max_output_tokens: int = Field(default=8192, ge=1)
    """Tokens of one reply; a longer one is continued, and a tool call cut by it never runs."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """Sampling temperature; None leaves it to the provider (some models refuse the parameter)."""
    on_reject: Literal["continue", "stop"] = "continue"
    """After a rejected approval: the model hears the reason and goes on, or the run ends as `rejected`."""
    output_guard: Annotated[Sequence[Guard], AfterValidator(tuple), Field(max_length=MAX_GUARDS)] = ()
    """What must not leave in an answer, applied in this order; `perdure.guard.KEYS` knows vendors' tokens."""
    max_input_bytes: int = Field(default=MAX_INPUT_BYTES, ge=1, le=MAX_INPUT_BYTES)
    """Of a run's input, and of a message to it, in UTF-8."""
    on_budget: OnBudget = "stop"
    """When a budget has no room for the next model call: the run ends as `out_of_budget`, a human is asked for more, or
    the run goes on with `budget_model` and ends only when that does not fit either."""
    budget_model: ModelReference | None = None
    """The cheaper model of `on_budget="downgrade"`."""
    scorers: Annotated[Sequence[str | ModelScorer], AfterValidator(tuple), Field(max_length=MAX_SCORERS)] = ()
    """Who judges its runs when they have ended: names of the app's scorers, and models that grade."""
    plan: bool = False
    """Give it the tool `update_plan`, by which it shows people what it means to do and how far it is."""
    description: str = ""
    """One line for people choosing an agent."""

    @model_validator(mode="after")
    def _names_models_that_differ(self) -> Agent:
        models = (self.model, *self.fallbacks)
        if len(set(models)) != len(models):
            raise ValueError(f"a model is named twice: {', '.join(models)}; each is asked once in an attempt")
        if (self.on_budget == "downgrade") != (self.budget_model is not None):
            raise ValueError('budget_model goes with on_budget="downgrade", and the other way round')
        return self


class AgentSpec(Frozen):
    """An agent resolved with its tools' schemas: what a run is pinned to when it starts."""

    name: str
    version: str
    model: ModelReference
    instructions: str = ""
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int = 8192
    temperature: float | None = None
    on_reject: Literal["continue", "stop"] = "continue"
    fallbacks: tuple[ModelReference, ...] = ()
    on_outage: OnOutage = "fail"
    outage_message: str = APOLOGY
    prompt_caching: bool = True
    provider_rates: dict[str, Rate] = Field(default_factory=dict)
    """How often all workers together may call these providers; calls to them have task queues of their own."""
    output_guard: tuple[Guard, ...] = ()
    on_budget: OnBudget = "stop"
    budget_model: ModelReference | None = None
    scorers: tuple[ScorerSpec, ...] = Field(default=(), exclude_if=is_empty)

    def tool(self, name: str) -> ToolSpec | None:
        """Return the tool of that name, if the agent has it."""
        return next((tool for tool in self.tools if tool.name == name), None)

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """All models that may answer, in the order in which they are asked."""
        return (self.model, *self.fallbacks)

    def asking(self, model: ModelReference) -> AgentSpec:
        """Return the spec of a call to one model alone."""
        if model == self.model and not self.fallbacks:
            return self
        return self.model_copy(update={"model": model, "fallbacks": ()})

    @property
    def priced_models(self) -> tuple[ModelReference, ...]:
        """Every model that a run may come to pay for."""
        return (*self.models, *([self.budget_model] if self.budget_model else []))

    @property
    def graders(self) -> tuple[ModelReference, ...]:
        """The models that grade its runs."""
        return tuple(scorer.grading.model for scorer in self.scorers if scorer.grading)

    @property
    def provider(self) -> str:
        """The part of the model reference before the colon."""
        return self.model.partition(":")[0]

    @property
    def model_name(self) -> str:
        """The part of the model reference that the provider knows."""
        return self.model.partition(":")[2]

    def digest(self) -> str:
        """Identify the spec: two specs of one digest make the same requests."""
        dumped = self.__pydantic_serializer__.to_json(self, exclude_defaults=True)
        return hashlib.sha256(dumped).hexdigest()
