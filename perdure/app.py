"""The registry a user's package fills: `App`, and how one is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError

from perdure.agent import MAX_SPEC_BYTES, Agent, AgentSpec
from perdure.errors import (
    AppLoadError,
    ConfigurationError,
    DuplicateNameError,
    InvalidToolError,
    UnknownAgentError,
    UnknownToolError,
)
from perdure.guard_pattern import compiled
from perdure.input_guard import InputCheck
from perdure.plan import PLAN_TOOL
from perdure.policy import Policy
from perdure.policy_file import GoverningPolicy, PolicySource
from perdure.policy_fit import checked_fit
from perdure.rate import Rate, RatedQueue, model_queue, tool_queue
from perdure.schema import build_tool
from perdure.scored_run import ScorerFunction
from perdure.scorer import ScorerSpec, repeated_name
from perdure.tool import DEFAULT_MAX_RESULT_BYTES, DEFAULT_TIMEOUT, Effect, Tool, ToolFunction, ToolOptions

ENTRY_POINT_GROUP = "perdure.apps"
_PROVIDER_RATES: Final = TypeAdapter(dict[str, Rate])

F = TypeVar("F", bound=ToolFunction)
C = TypeVar("C", bound=InputCheck)
S = TypeVar("S", bound=ScorerFunction)


class App:
    """Agents and tools of one package, registered in any order and checked when a worker or API starts."""

    def __init__(
        self,
        *,
        policy: Policy | Path | str | None = None,
        provider_rates: Mapping[str, str | Rate] | None = None,
    ) -> None:
        """Begin with neither.

        Args:
            policy: What governs the runs of the app's agents, or the file that it is read from when the app is checked;
                the setting `PERDURE_POLICY` takes its place. None: the tools' own declarations are all there is.
            provider_rates: How often all workers together may call a model provider: `{"anthropic": "50/s"}`.

        Raises:
            ConfigurationError: A rate cannot be read.
        """
        self._tools: dict[str, Tool] = {}
        self._agents: dict[tuple[str, str], Agent] = {}
        self._origins: dict[tuple[str, str], App] = {}
        """The apps that included agents came from."""
        self._policy = None if policy is None else PolicySource(policy)
        try:
            self._provider_rates = _PROVIDER_RATES.validate_python(dict(provider_rates or {}))
        except ValidationError as error:
            raise ConfigurationError(f"provider_rates are wrong: {error}") from error
        self._input_guards: list[tuple[str | None, InputCheck]] = []
        self._scorers: dict[str, tuple[ScorerSpec, ScorerFunction]] = {}

    def tool(
        self,
        *,
        effect: Effect | Literal["read", "egress", "idempotent", "once"] = Effect.READ,
        approval: Literal["ask", "allow"] | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        reconcile: ToolFunction | None = None,
        name: str | None = None,
        description: str | None = None,
        max_attempts: int = 3,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
        resource: str | None = None,
        rate: str | Rate | None = None,
        cache: timedelta | float | None = None,
        version: str = "1",
        secrets: Iterable[str] = (),
    ) -> Callable[[F], F]:
        """Register the decorated function as a tool and return it unchanged.

        Args:
            effect: What a call does outside; decides whether a lost attempt is made again (see `Effect`).
            approval: `ask` has a human decide before each call, whatever a policy allows. Default: what the policy
                says, and without one `ask` for a `once` tool, else `allow`.
            timeout: For one attempt, in seconds if it is a number.
            reconcile: For a `once` tool: tells after a lost attempt whether the call took effect. It is called with
                the tool's own parameters and returns the result, or `NOT_DONE`; it raises if it cannot tell.
            name: What the model calls; default: the function's name.
            description: What the model reads; default: the docstring without its parameter section.
            max_attempts: For a repeatable tool; a `once` tool always has one.
            max_result_bytes: A longer result is cut, with a marker that says so.
            resource: What a call touches, as policies name it: a template over the arguments, `order:{order_id}`.
            rate: How often all workers together may call it: `10/s`, `90/m`, `100/h`. Calls beyond it wait.
            cache: For a `read` tool: how long a result stands for other calls with the same arguments, in seconds if
                it is a number.
            version: Of the tool, for its cache; give it another one when the same arguments get other answers.
            secrets: Arguments, or paths into them (`card.number`), that events, approvals, logs and webhooks show as
                `[secret]`; the tool itself gets their values.

        Raises:
            InvalidToolError: The function cannot become a tool, or an option is out of range.
            DuplicateNameError: The app has a tool of that name already.
        """
        try:
            options = ToolOptions.model_validate(
                {
                    "name": name,
                    "description": description,
                    "effect": effect,
                    "approval": approval,
                    "timeout": timeout,
                    "max_attempts": max_attempts,
                    "max_result_bytes": max_result_bytes,
                    "resource": resource,
                    "rate": rate,
                    "cache": cache,
                    "version": version,
                    "secrets": tuple(secrets),
                }
            )
        except ValidationError as error:
            raise InvalidToolError(f"the options of tool {name or '(decorated)'!r} are wrong: {error}") from error

        def register(function: F) -> F:
            tool = build_tool(function, options, reconcile=reconcile)
            if tool.spec.name in self._tools:
                raise DuplicateNameError(f"the app already has a tool named {tool.spec.name!r}; give one another name=")
            self._tools[tool.spec.name] = tool
            return function

        return register

    def input_guard(self, *, agent: str | None = None) -> Callable[[C], C]:
        """Register the decorated function as a check of what people say to an agent, and return it unchanged.

            @app.input_guard(agent="support")
            def no_legal_advice(text: str, ctx: InputContext) -> None:
                if "sue" in text:
                    raise InputRefusedError("ask a lawyer")

        It runs before a run starts and before a message joins one; a plain function in a thread, with ten seconds. A
        check that breaks refuses.

        Args:
            agent: The agent's name, in all its versions; default: every agent.
        """

        def register(check: C) -> C:
            self._input_guards.append((agent, check))
            return check

        return register

    def input_guards(self, agent: str) -> list[InputCheck]:
        """Return the checks of what is said to an agent, in order of registration."""
        return [check for name, check in self._input_guards if name in (None, agent)]

    def scorer(
        self,
        *,
        name: str | None = None,
        sample: float = 1.0,
        timeout: timedelta | float = timedelta(minutes=1),
        max_attempts: int = 5,
    ) -> Callable[[S], S]:
        """Register the decorated function as a scorer and return it unchanged; agents name it in `scorers`.

            @app.scorer(sample=0.1)
            def found_the_order(run: ScoredRun) -> float:
                return any(call.tool == "find_order" and not call.is_error for call in run.tool_calls)

        It is asked when a run has ended, and what it returns is kept as feedback; a plain function in a thread.

        Args:
            name: Its feedback is by `scorer:NAME`; default: the function's name.
            sample: The part of an agent's runs that is judged, drawn by the run's id.
            timeout: For one attempt, in seconds if it is a number.
            max_attempts: After so many failures the run goes unjudged.

        Raises:
            ConfigurationError: An option is out of range.
            DuplicateNameError: The app has a scorer of that name already.
        """

        def register(function: S) -> S:
            called = name or getattr(function, "__name__", "")
            options = {"name": called, "sample": sample, "timeout": timeout, "max_attempts": max_attempts}
            try:
                spec = ScorerSpec.model_validate(options)
            except ValidationError as error:
                raise ConfigurationError(f"the options of scorer {called!r} are wrong: {error}") from error
            self._keep_scorer(spec, function)
            return function

        return register

    def _keep_scorer(self, spec: ScorerSpec, function: ScorerFunction) -> None:
        if spec.name in self._scorers:
            raise DuplicateNameError(f"the app already has a scorer named {spec.name!r}; give one another name=")
        self._scorers[spec.name] = (spec, function)

    def find_scorer(self, name: str) -> ScorerFunction | None:
        """Return the scorer of that name, or None."""
        found = self._scorers.get(name)
        return found[1] if found else None

    def add(self, agent: Agent) -> Agent:
        """Register an agent and return it.

        Raises:
            DuplicateNameError: The app has that version of the agent already.
        """
        key = (agent.name, agent.version)
        if key in self._agents:
            raise DuplicateNameError(
                f"the app already has agent {agent.name!r} version {agent.version!r}; "
                "a changed agent needs a new version"
            )
        self._agents[key] = agent
        return agent

    def include(self, other: App) -> None:
        """Take over another app's tools, scorers and agents, as when one worker serves several packages.

        A policy of this app governs the other's agents too. Without one, they keep that of the app they come from.

        Raises:
            DuplicateNameError: Both have a tool, a scorer, or a version of an agent, of one name, or rates of one
                provider.
            ConfigurationError: Both have a policy.
        """
        if self._policy is not None and other._policy is not None:
            raise ConfigurationError("both apps have a policy; give the app that includes the other none, or it alone")
        for provider, rate in other._provider_rates.items():
            if self._provider_rates.setdefault(provider, rate) != rate:
                raise DuplicateNameError(f"two apps have different rates for provider {provider!r}")
        for tool in other.tools():
            if tool.spec.name in self._tools:
                raise DuplicateNameError(f"two apps have a tool named {tool.spec.name!r}")
            self._tools[tool.spec.name] = tool
        for spec, scorer in other._scorers.values():
            self._keep_scorer(spec, scorer)
        for agent in other.agents():
            self.add(agent)
            self._origins[agent.name, agent.version] = other
        # Checks of every agent are of every agent of their own app.
        names = dict.fromkeys(agent.name for agent in other.agents())
        for name, check in other._input_guards:
            self._input_guards += [(one, check) for one in ([name] if name else names)]

    def govern(self, policy: Policy | Path | str) -> None:
        """Put a policy in the place of those that the app and what it includes came with: the operator's word."""
        self._policy = PolicySource(policy)

    def governing(self, agent: Agent) -> GoverningPolicy | None:
        """Return what governs an agent's runs.

        Raises:
            PolicyError: It cannot be read, or something in it is wrong.
        """
        if self._policy is not None:
            return self._policy.governing
        origin = self._origins.get((agent.name, agent.version))
        return origin.governing(agent) if origin else None

    def agents(self) -> Iterator[Agent]:
        """Iterate over the agents, in order of registration."""
        return iter(self._agents.values())

    def tools(self) -> Iterator[Tool]:
        """Iterate over the tools, in order of registration."""
        return iter(self._tools.values())

    def rated_queues(self, task_queue: str) -> list[RatedQueue]:
        """Return the task queues that the rates of tools and providers need beside that of the runs."""
        queues = [
            RatedQueue(tool_queue(task_queue, tool.spec.name), "tool", tool.spec.name, tool.spec.rate)
            for tool in self._tools.values()
            if tool.spec.rate is not None
        ]
        return queues + [
            RatedQueue(model_queue(task_queue, provider), "model", provider, rate)
            for provider, rate in self._provider_rates.items()
        ]

    def find_tool(self, name: str) -> Tool | None:
        """Return the tool of that name, or None."""
        return self._tools.get(name)

    def agent(self, name: str, version: str | None = None) -> Agent:
        """Return an agent; without a version, the one registered last.

        Raises:
            UnknownAgentError: There is none.
        """
        versions = [agent for agent in self._agents.values() if agent.name == name]
        if not versions:
            known = ", ".join(sorted({agent.name for agent in self._agents.values()})) or "none"
            raise UnknownAgentError(f"no agent is named {name!r}; this app has: {known}")
        if version is None:
            return versions[-1]
        for agent in versions:
            if agent.version == version:
                return agent
        known = ", ".join(agent.version for agent in versions)
        raise UnknownAgentError(f"agent {name!r} has no version {version!r}; it has: {known}")

    def resolve(self, agent: Agent) -> AgentSpec:
        """Freeze an agent with its tools' schemas, as a run's history will hold it.

        Raises:
            UnknownToolError: The agent names a tool that the app does not have.
            ConfigurationError: Instructions and schemas together are too large for a history, an output guard's
                pattern cannot be used, or the app does not have a scorer.
        """
        missing = [name for name in agent.tools if name not in self._tools]
        if missing:
            known = ", ".join(self._tools) or "none"
            raise UnknownToolError(
                f"agent {agent.name!r} names tools that the app does not have: {', '.join(missing)}; it has: {known}"
            )
        if len(set(agent.tools)) != len(agent.tools):
            raise DuplicateNameError(f"agent {agent.name!r} names a tool twice: {', '.join(agent.tools)}")
        if agent.plan and PLAN_TOOL.name in agent.tools:
            raise DuplicateNameError(
                f"agent {agent.name!r} has a tool {PLAN_TOOL.name!r} of the app's and, by plan=True, the runtime's; "
                "rename the app's"
            )
        spec = AgentSpec(
            name=agent.name,
            version=agent.version,
            model=agent.model,
            instructions=agent.instructions,
            tools=(*(self._tools[name].spec for name in agent.tools), *([PLAN_TOOL] if agent.plan else [])),
            max_output_tokens=agent.max_output_tokens,
            temperature=agent.temperature,
            on_reject=agent.on_reject,
            fallbacks=tuple(agent.fallbacks),
            on_outage=agent.on_outage,
            outage_message=agent.outage_message,
            prompt_caching=agent.prompt_caching,
            provider_rates=self._provider_rates,
            output_guard=tuple(agent.output_guard),
            on_budget=agent.on_budget,
            budget_model=agent.budget_model,
            scorers=self._scorers_of(agent),
        )
        _check_guards(agent)
        size = len(spec.model_dump_json().encode())
        if size > MAX_SPEC_BYTES:
            raise ConfigurationError(
                f"agent {agent.name!r} is {size:,} bytes with its instructions and tool schemas; "
                f"at most {MAX_SPEC_BYTES:,} fit in a run's history"
            )
        return spec

    def _scorers_of(self, agent: Agent) -> tuple[ScorerSpec, ...]:
        specs: list[ScorerSpec] = []
        for scorer in agent.scorers:
            if not isinstance(scorer, str):
                specs.append(scorer.spec())
            elif scorer in self._scorers:
                specs.append(self._scorers[scorer][0])
            else:
                known = ", ".join(self._scorers) or "none"
                raise ConfigurationError(
                    f"agent {agent.name!r} names scorer {scorer!r}, which the app does not have; it has: {known}"
                )
        if name := repeated_name(specs):
            raise DuplicateNameError(f"agent {agent.name!r} has two scorers named {name!r}")
        return tuple(specs)

    def check(self) -> tuple[str, ...]:
        """Resolve every agent and read every policy, so that a mistake stops the process and not a run at night.

        Returns:
            What is odd about the policies without being a mistake, for a log.

        Raises:
            ConfigurationError: As `resolve`; or the app has no agent.
            PolicyError: A policy cannot be read, or has a rule that can never match as it says.
        """
        if not self._agents:
            raise ConfigurationError("the app has no agent; add one with app.add(Agent(…))")
        for agent in self._agents.values():
            self.resolve(agent)
        names = {agent.name for agent in self._agents.values()}
        unknown = [name for name, _ in self._input_guards if name is not None and name not in names]
        if unknown:
            raise ConfigurationError(
                f"an input guard is for agent {unknown[0]!r}, which the app does not have; it has: {', '.join(names)}"
            )
        return self._remarks()

    def _remarks(self) -> tuple[str, ...]:
        if self._policy is None:
            origins = {id(origin): origin for origin in self._origins.values()}
            return tuple(remark for origin in origins.values() for remark in origin._remarks())
        agents = [self.resolve(agent) for agent in self._agents.values()]
        tools = [tool.spec for tool in self._tools.values()]
        return checked_fit(self._policy.governing, agents=agents, tools=tools)


def _check_guards(agent: Agent) -> None:
    names = [guard.name for guard in agent.output_guard]
    if len(set(names)) != len(names):
        raise DuplicateNameError(f"agent {agent.name!r} has two output guards of one name: {', '.join(names)}")
    for guard in agent.output_guard:
        try:
            compiled(guard.pattern)
        except ValueError as error:
            raise ConfigurationError(
                f"agent {agent.name!r}: the pattern of output guard {guard.name!r} cannot be used: {error}"
            ) from error


def load_app(reference: str | None = None, *, policy: Path | None = None) -> App:
    """Load and check an app.

    Args:
        reference: `package.module:attribute`, or the name of an entry point of the group `perdure.apps`; None takes
            the entry points of all installed packages together.
        policy: A file that governs it in place of the policies it came with.

    Raises:
        AppLoadError: Nothing is there, it cannot be imported, or it is no `App`.
        ConfigurationError: The app is wrong (see `App.check`).
    """
    if reference is not None and ":" in reference:
        app = _import(reference)
    else:
        points = entry_points(group=ENTRY_POINT_GROUP)
        chosen = [point for point in points if reference is None or point.name == reference]
        if not chosen:
            known = ", ".join(sorted(point.name for point in points)) or "none"
            raise AppLoadError(
                f"no app {reference!r}: name it as 'package.module:app'; installed entry points: {known}"
                if reference
                else "no app: give --app package.module:app (or PERDURE_APP), or install a package with an entry "
                f"point in the group {ENTRY_POINT_GROUP!r}"
            )
        app = App()
        for point in chosen:
            app.include(_load_entry_point(point))
    if policy is not None:
        app.govern(policy)
    app.check()
    return app


def _import(reference: str) -> App:
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise AppLoadError(f"app {reference!r}: importing {module_name!r} failed: {error}") from error
        raise AppLoadError(
            f"app {reference!r}: there is no module {module_name!r}; install its package or run from its folder"
        ) from error
    except Exception as error:
        raise AppLoadError(f"app {reference!r}: importing {module_name!r} failed: {error!r}") from error
    app = getattr(module, attribute, None)
    if not isinstance(app, App):
        what = "has no attribute" if app is None else f"has a {type(app).__name__}, not an App, as"
        raise AppLoadError(f"app {reference!r}: {module_name!r} {what} {attribute!r}")
    return app


def _load_entry_point(point: EntryPoint) -> App:
    try:
        app = point.load()
    except ConfigurationError:
        raise
    except Exception as error:
        raise AppLoadError(f"entry point {point.name!r} ({point.value}) does not load: {error!r}") from error
    if not isinstance(app, App):
        raise AppLoadError(f"entry point {point.name!r} ({point.value}) is a {type(app).__name__}, not an App")
    return app
