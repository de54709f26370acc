"""The OpenAPI document: complete, true under fuzzing, and the same as the written reference."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from perdure import Agent, App
from perdure.settings import Settings
from perdure_api.application import create_app
from perdure_api.problems import STATUSES
from perdure_api.scoped_route import FIELD
from tests.api.conftest import Api
from tests.harness import answer, in_turns, wish

REFERENCE = Path(__file__).parents[2] / "docs" / "api.md"
EXAMPLES = 40
"""Requests of each operation and mode."""
CHECKED = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    app = App()
    app.add(Agent(name="a", model="in-process:scripted"))
    return create_app(app, Settings()).openapi()


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path and description of every operation."""
    return [
        (method.upper(), path, operation)
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_is_described() -> None:
    """Each has an id of its own, a summary, a description, and says what it answers."""
    found = operations()

    ids = [operation["operationId"] for _, _, operation in found]
    assert len(found) >= 13
    assert len(set(ids)) == len(ids)
    for method, path, operation in found:
        assert operation["summary"], (method, path)
        assert operation["description"], (method, path)
        assert all(response["description"] for response in operation["responses"].values()), (method, path)


def test_problems_and_durations_are_called_what_they_are() -> None:
    """Errors are problem+json everywhere, and no duration claims a format that has no fractions of a second."""
    refusals = [
        response
        for _, _, operation in operations()
        for status, response in operation["responses"].items()
        if int(status) >= 400
    ]

    assert {tuple(response["content"]) for response in refusals} == {("application/problem+json",)}
    assert '"format": "duration"' not in json.dumps(document())


def test_every_request_body_has_an_example() -> None:
    """A reader sees what to send."""
    for method, path, operation in operations():
        body = operation.get("requestBody", {})
        if body.get("required"):
            assert body["content"]["application/json"]["schema"] or body["content"]["application/json"]["examples"], (
                path
            )
            assert "examples" in str(body), (method, path)


def test_the_reference_has_every_operation_and_problem() -> None:
    """docs/api.md names each call, and each kind of problem with its status."""
    text = REFERENCE.read_text()

    documented = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^\s`?]*)", text))
    scopes = dict(re.findall(r"^\| `([A-Z]+ /[^\s`?]*)` \| (?:`([^`]*)`|–) \|", text, flags=re.MULTILINE))
    assert documented == {(method, path) for method, path, _ in operations()}
    assert scopes == {f"{method} {path}": operation.get(FIELD, "") for method, path, operation in operations()}
    for error, status in STATUSES.items():
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", error.__name__.removesuffix("Error")).lower()
        assert f"| `{name}` | {status.value} |" in text, name


@pytest.mark.timeout(900)  # some thousand requests
async def test_no_request_breaks_the_api_or_gets_an_undocumented_answer(api: Api) -> None:
    """Valid and invalid requests of every operation, on a real run that waits: no 5xx, and only what is declared."""
    async with api.worker(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("done"))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        async with api.server() as (_, url, _):
            known = {"run_id": run_id, "approval_id": asked["approval_id"], "agent": "tester", "name": "tester"}
            answers = await asyncio.to_thread(fuzz, url, known)

    assert set(answers) == {operation["operationId"] for _, _, operation in operations()}
    # A check that looks at refusals alone is green whatever the routes do.
    assert {"listRuns", "getRun", "listSteps", "listEvents", "exportHistory", "listApprovals", "startRun"} <= {
        name for name, statuses in answers.items() if any(status < 300 for status in statuses)
    }


def fuzz(url: str, known: dict[str, str]) -> dict[str, set[int]]:
    """Send generated requests to every operation, check the answers, and return the statuses by operation id."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    answers: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        raw = operation.definition.raw
        statuses = fuzz_operation(operation, schemathesis.GenerationMode.POSITIVE, known)
        if "parameters" in raw or "requestBody" in raw:  # else there is nothing to get wrong
            statuses |= fuzz_operation(operation, schemathesis.GenerationMode.NEGATIVE, known)
        answers[str(raw["operationId"])] = statuses
    return answers


def fuzz_operation(operation: Any, mode: schemathesis.GenerationMode, known: dict[str, str]) -> set[int]:
    """Send requests that fit the schema, or that do not, and return the statuses."""
    statuses: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Case[Any], real: bool) -> None:
        if real:
            _name_what_exists(case, known)
        case.query.pop("wait", None)  # up to a minute each
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKED)

    check()
    return statuses


def _name_what_exists(case: Case[Any], known: dict[str, str]) -> None:
    """Replace ids that nothing has by those of the run that waits; random ones never get past a 404."""
    for name in case.path_parameters.keys() & known.keys():
        case.path_parameters[name] = known[name]
    if isinstance(case.body, dict) and "agent" in case.body:
        case.body = {**case.body, "agent": known["agent"], "version": None}
