"""`perdure policy check` and `perdure policy test`: the policy asked, without a server and without a call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from perdure.app import App
from perdure.errors import InvalidInputError
from perdure.explanation import Explanation, explain_decision, lines_of
from perdure.messages import Frozen, JsonObject
from perdure.policy_table import Failure, facts, read_table
from perdure.schema import explain as explain_arguments
from perdure.schema import read_arguments
from perdure.settings import load_settings
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.ending import ExitCode
from perdure_workers.loading import load_here
from perdure_workers.plain_text import block, call, line


@dataclass(frozen=True)
class Question:
    """A call, as it was typed."""

    agent: str
    tool: str
    roles: tuple[str, ...]
    user: str | None
    arguments: str
    """JSON."""


class CheckedCall(Frozen):
    """What `policy check --json` prints."""

    agent: str
    tool: str
    roles: tuple[str, ...]
    user: str | None
    arguments: JsonObject
    policy: str | None
    """Where it was read from; None: it was made in Python, or there is none."""
    decision: Explanation
    misfit: str | None
    """Why the tool would not take the arguments, whatever the policy says."""


class TableReport(Frozen):
    """What `policy test --json` prints."""

    cases: int
    failures: tuple[JsonObject, ...]


async def explain(question: Question, *, policy: Path | None, as_json: bool, app: str | None) -> None:
    """Print what the policy says of a call, and why.

    Raises:
        InvalidInputError: The arguments are no JSON object, or the agent has no such tool.
        PerdureError: The app does not load, the policy is wrong, or the agent is unknown.
    """
    arguments = _object(question.arguments)
    loaded = _load(app, policy)
    governing, judged = facts(
        loaded,
        agent=question.agent,
        tool=question.tool,
        roles=question.roles,
        user=question.user,
        arguments=arguments,
    )
    document = governing.document if governing else None
    checked = CheckedCall(
        agent=question.agent,
        tool=question.tool,
        roles=question.roles,
        user=question.user,
        arguments=arguments,
        policy=str(document.file) if document else None,
        decision=explain_decision(governing, judged),
        misfit=_misfit(loaded, question.tool, arguments),
    )
    if as_json:
        print_json(checked)
        return
    out = console()
    where = checked.policy or ("made in Python" if governing else "none; the tool's own declaration holds")
    decided, *why = lines_of(checked.decision)
    out.print(Text(call(question.tool, arguments), style="bold"), soft_wrap=True)
    out.print(Text(line(decided), style=_STYLES[checked.decision.permission]), soft_wrap=True)
    for text in (f"policy: {where}", *why, *([f"but: {checked.misfit}"] if checked.misfit else [])):
        out.print(Text(block(text)), soft_wrap=True)


async def run_table(file: Path, *, policy: Path | None, as_json: bool, app: str | None) -> ExitCode:
    """Print the cases that come out otherwise, and fail if there is one.

    Raises:
        PerdureError: The table or the policy is wrong, or the app does not load.
    """
    table = read_table(file)
    failures = table.failures(_load(app, policy))
    if as_json:
        print_json(TableReport(cases=len(table.cases), failures=tuple(_as_json(one) for one in failures)))
    else:
        out = console()
        if failures:
            out.print(_table(failures))
        passed = f"{len(table.cases) - len(failures)} of {len(table.cases)} cases as expected"
        out.print(Text(passed, style="red" if failures else "green"))
    return ExitCode.FAILED if failures else ExitCode.OK


_STYLES = {"allow": "green", "ask": "bold yellow", "deny": "bold red"}


def _load(app: str | None, policy: Path | None) -> App:
    loaded = load_here(load_settings(app=app, policy=policy))
    for remark in loaded.check():
        console(stderr=True).print(Text(f"note: {line(remark)}", style="yellow"), soft_wrap=True)
    return loaded


def _object(text: str) -> JsonObject:
    try:
        arguments = json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"--args {text!r} is not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InvalidInputError(f"--args {text!r} is no object; write '{{\"amount\": 5}}'")
    return arguments


def _misfit(app: App, name: str, arguments: JsonObject) -> str | None:
    tool = app.find_tool(name)
    if tool is None:
        return None
    try:
        read_arguments(tool, arguments)
    except ValidationError as error:
        return explain_arguments(error, name)
    return None


def _table(failures: list[Failure]) -> Table:
    table = Table("where", "case", "call", "expected", "got", box=None, header_style="bold", pad_edge=False)
    for failure in failures:
        case, got = failure.case, failure.explanation
        expected = f"{case.expect} by {case.rule!r}" if case.rule else str(case.expect)
        table.add_row(
            *(
                Text(line(text))
                for text in (
                    failure.place,
                    failure.name,
                    call(case.tool, case.arguments),
                    expected,
                    f"{got.permission} by {got.rule!r}",
                )
            )
        )
    return table


def _as_json(failure: Failure) -> JsonObject:
    return {
        "place": failure.place,
        "name": failure.name,
        "case": failure.case.model_dump(mode="json"),
        "decision": failure.explanation.model_dump(mode="json"),
    }
