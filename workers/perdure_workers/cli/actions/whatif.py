"""`perdure replay --model … --prompt-file …`: a run once more, offline, and the two side by side."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text
from temporalio.client import WorkflowHistory
from temporalio.exceptions import ApplicationError

from perdure.agent import ModelReference
from perdure.budget import dollars
from perdure.contracts import RunStatus, Totals
from perdure.errors import InvalidInputError, PerdureError
from perdure.events import ModelReplied, RunEnded, RunEvent
from perdure.history import export, project
from perdure.personal_data import load_redactor
from perdure.prices import price_ceilings
from perdure.settings import Settings, load_settings
from perdure_activities.providers.registry import default_providers, provider_for
from perdure_workers.cli.actions.connection import silence
from perdure_workers.cli.actions.output import ENDS, console, print_json
from perdure_workers.cli.actions.replay import histories_of
from perdure_workers.cli.ending import ExitCode
from perdure_workers.plain_text import bill, money, tokens
from perdure_workers.watching import Progress
from perdure_workers.whatif import OnUnknown, WhatIf, what_if
from perdure_workers.whatif.saved_test import SavedTest, check_place
from perdure_workers.whatif.side_by_side import show

MAX_COST: Final = Decimal(5)
"""US dollars that a what-if costs at most unless somebody says otherwise."""


_MODEL: Final[TypeAdapter[str]] = TypeAdapter(ModelReference)
TESTABLE: Final = ("completed", "stopped", "max_steps", "rejected")
"""Ends that the model's replies lead to again."""


@dataclass(frozen=True)
class Question:
    """What would be if."""

    model: str | None
    prompt_file: Path | None
    on_unknown: OnUnknown
    max_cost: str | None
    save_test: Path | None


async def replay_what_if(run: str, question: Question, *, as_json: bool, address: str | None) -> ExitCode:
    """Run a recorded run again with another model or prompt, show both, and return the exit code of its end.

    Raises:
        HistoryFileError: The file is no history of a run.
        InvalidInputError: An option's value cannot be used.
        RunNotFoundError: There is no such run, and no such file.
    """
    logging.getLogger().setLevel(logging.CRITICAL)
    silence()
    settings = load_settings()
    if question.model is not None:
        _check_model(question.model)
    prompt = None if question.prompt_file is None else _prompt(question.prompt_file)
    if question.save_test is not None:
        check_place(question.save_test)
    histories = await histories_of(run, address=address)
    terminal = console(stderr=True)
    limit = _limit(question, histories, settings, terminal)
    result = await _watched(histories, question, prompt, settings, limit, terminal)
    if question.save_test is not None and result.status not in TESTABLE:
        terminal.print(Text(f"wrote no test: the what-if ended as {result.status}"), soft_wrap=True)
    elif question.save_test is not None:
        saved = SavedTest(question.save_test, model=question.model, prompt=prompt, on_unknown=question.on_unknown)
        for file in saved.write(result, history=export(histories)):
            terminal.print(Text(f"wrote {file}"), soft_wrap=True)
    if as_json:
        print_json(result.comparison)
    else:
        show(result.comparison, console())
    if result.status == "stopped":
        return ExitCode.UNKNOWN_RESULT
    return ENDS[RunStatus(result.status)]


async def _watched(
    histories: list[WorkflowHistory],
    question: Question,
    prompt: str | None,
    settings: Settings,
    limit: Decimal | None,
    terminal: Console,
) -> WhatIf:
    progress = Progress()
    with terminal.status(Text("starting a server of its own")) as status:

        def told(event: RunEvent) -> None:
            progress.add(event)
            status.update(Text(progress.line, no_wrap=True, overflow="ellipsis"))

        result = await what_if(
            histories,
            model=question.model,
            prompt=prompt,
            on_unknown=question.on_unknown,
            max_cost=limit,
            prices=settings.prices,
            told=told,
            redactor=load_redactor(settings),
        )
    terminal.print(Text(progress.line), soft_wrap=True)
    return result


def _limit(
    question: Question, histories: list[WorkflowHistory], settings: Settings, terminal: Console
) -> Decimal | None:
    """Say what it may cost, and return the limit; None where none can be kept and nobody asked for one."""
    events = list(project(histories))
    started = next((event for event in events if event.kind == "run.started"), None)
    model = question.model or (started.model if started else "")
    totals = _totals(events)
    recorded = f"the recorded run: {totals.model_calls} model calls, {tokens(totals.usage)}, {bill(totals)}"
    ceiling = price_ceilings([model], overrides=settings.prices).get(model)
    if ceiling is None:
        if question.max_cost is not None:
            raise InvalidInputError(
                f"nobody has a price for {model!r}, so --max-cost cannot be kept; set one in PERDURE_PRICES"
            )
        terminal.print(Text(f"{recorded}; nobody has a price for {model}, so no limit is kept"), soft_wrap=True)
        return None
    limit = MAX_COST if question.max_cost is None else _dollars(question.max_cost)
    same = ceiling.cost(input_tokens=totals.usage.input_tokens, output_tokens=totals.usage.output_tokens)
    terminal.print(
        Text(f"{recorded}; as many tokens of {model}: up to {money(same)}; limit {dollars(limit)} (--max-cost)"),
        soft_wrap=True,
    )
    return limit


def _totals(events: list[RunEvent]) -> Totals:
    totals = Totals()
    for event in events:
        if isinstance(event, RunEnded):
            return event.totals
        if isinstance(event, ModelReplied):
            totals = totals.with_model_call(event.usage, cost_usd=event.cost_usd, tool_calls=len(event.tool_calls))
    return totals


def _check_model(reference: str) -> None:
    try:
        _MODEL.validate_python(reference)
        provider_for(reference.partition(":")[0], default_providers())
    except ValidationError as error:
        raise InvalidInputError(f"--model: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    except ApplicationError as error:
        raise InvalidInputError(f"--model: {error.message}") from error


def _dollars(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount <= 0:
        raise InvalidInputError(f"--max-cost is a number of US dollars above 0, as in 0.50, not {text!r}")
    return amount


def _prompt(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PerdureError(f"cannot read the prompt {str(file)!r}: {error}") from error
