"""The inbox of what waits for a human, and the page on which one of them is decided."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import HTMLResponse, Response

from perdure.approval import same_person
from perdure.errors import ConflictError, InvalidInputError, PerdureError
from perdure.principal import Principal, Scope
from perdure_api.console.argument_form import fields, read
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import done, filled, note, speaker
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.dependencies import ApprovalId, Caller, Gateway, RunId
from perdure_api.schemas import MAX_BATCH, BatchItem, DecisionRequest, InboxFilter, RunDetail
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/approvals")


class Wanted(BaseModel):
    """The filters as the form sends them: what is left empty lets every approval pass."""

    tool: str = ""
    agent: str = ""
    role: str = ""
    user: str = ""
    kind: str = ""
    org: str = ""

    @property
    def filters(self) -> dict[str, str]:
        """Those that are set."""
        return {name: value.strip() for name, value in self.model_dump().items() if value.strip()}


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def inbox(wanted: Annotated[Wanted, Query()], request: Request, gateway: Gateway, caller: Caller) -> HTMLResponse:
    """Show what waits for a human, the oldest first."""
    asked = await gateway.approvals.pending(filled(InboxFilter, wanted.filters))
    agents = gateway.agents.list()
    return page(
        request,
        "inbox.html",
        asked=[(one, _hindrance(one, caller)) for one in asked],
        wanted=wanted,
        agents=sorted({agent.name for agent in agents}),
        tools=sorted({tool.name for agent in agents for tool in agent.tools}),
    )


@router.get("/{run_id}/{approval_id}", openapi_extra=requires(Scope.RUNS_READ))
async def show(
    run_id: RunId, approval_id: ApprovalId, request: Request, gateway: Gateway, caller: Caller
) -> HTMLResponse:
    """Show one question: what the model wants, and who may decide; or what became of it."""
    return await _show(request, gateway, caller, run_id, approval_id)


@router.post("/batch", openapi_extra=requires(Scope.APPROVALS_DECIDE), operation_id="decideMany")
async def decide_many(request: Request, gateway: Gateway, caller: Caller) -> Response:
    """Decide on all that are selected in the same way; each counts by itself."""
    form = await request.form()
    who = speaker(request, caller, form.get("decided_by"))
    chosen = [str(value).partition("/") for value in form.getlist("chosen")][:MAX_BATCH]
    decision = {"decision": form.get("decision"), "reason": form.get("reason") or "", "decided_by": who}
    items = [
        filled(BatchItem, {"run_id": run_id, "approval_id": approval_id, **decision})
        for run_id, _, approval_id in chosen
    ]
    outcomes = await gateway.approvals.decide_many(items)
    problems = [str(outcome) for outcome in outcomes if isinstance(outcome, PerdureError)]
    counted = len(outcomes) - len(problems)
    notice = (
        " · ".join([f"{counted} of {len(outcomes)} decisions counted", *problems]) if items else "Select some first."
    )
    return done(request, f"{home(request)}/approvals", notice, failed=bool(problems) or not items)


@router.post("/{run_id}/{approval_id}", openapi_extra=requires(Scope.APPROVALS_DECIDE), operation_id="decide")
async def decide(
    run_id: RunId, approval_id: ApprovalId, request: Request, gateway: Gateway, caller: Caller
) -> Response:
    """Decide on a question, if it is still the one that the page showed."""
    form = await request.form()
    try:
        decided = await gateway.approvals.decide(
            run_id, approval_id, await _decision(request, gateway, caller, run_id, approval_id)
        )
    except (InvalidInputError, ConflictError) as error:
        note(request, str(error), failed=True)
        return await _show(request, gateway, caller, run_id, approval_id, sent=form, status=HTTPStatus.CONFLICT)
    word = "Approved" if decided.decision == "approve" else "Rejected"
    if decided.missing:
        word += f"; {decided.missing} more must approve"
    return done(request, f"{home(request)}/runs/{run_id}", f"{word}.")


async def _decision(
    request: Request, gateway: Gateway, caller: Principal, run_id: str, approval_id: str
) -> DecisionRequest:
    form = await request.form()
    asked = _find(await gateway.runs.get(run_id), approval_id)
    given: dict[str, Any] = {
        "decision": form.get("decision"),
        "reason": form.get("reason") or "",
        "digest": form.get("digest"),
        "decided_by": speaker(request, caller, form.get("decided_by")),
    }
    if given["decision"] == "approve" and asked is not None:
        for name in ("outcome", "result", "amount_usd", "grant"):
            if value := form.get(name):
                given[name] = value
        if asked.kind == "call":
            arguments = read(form, asked.arguments, gateway.agents.argument_schema(asked.tool))
            if arguments != asked.arguments:
                given["arguments"] = arguments
    return filled(DecisionRequest, given)


async def _show(
    request: Request,
    gateway: Gateway,
    caller: Principal,
    run_id: str,
    approval_id: str,
    *,
    sent: Mapping[str, object] | None = None,
    status: int = HTTPStatus.OK,
) -> HTMLResponse:
    run = await gateway.runs.get(run_id)
    asked = _find(run, approval_id)
    if asked is None:
        record = await gateway.approvals.get(run_id, approval_id)
        return page(request, "approval_record.html", run=run, record=record, status=status)
    edited = await gateway.approvals.get(run_id, approval_id) if asked.edited_by else None
    return page(
        request,
        "approval.html",
        status=status,
        run=run,
        asked=asked,
        changes=() if edited is None else edited.changes,
        fields=fields(asked.arguments, gateway.agents.argument_schema(asked.tool)),
        hindrance=_hindrance(asked, caller),
        sent=sent or {},
    )


def _find(run: RunDetail, approval_id: str) -> Any:
    return next((asked for asked in run.pending_approvals if asked.approval_id == approval_id), None)


def _hindrance(asked: Any, caller: Principal) -> str:
    """Say why the caller cannot decide, as far as that is known before; empty if nothing is known against it."""
    if not caller.may(Scope.APPROVALS_DECIDE):
        return "You may look at it, not decide."
    if not asked.requirement.may_decide(caller.roles):
        return f"Only {' or '.join(asked.requirement.approvers)} may decide."
    if any(same_person(caller.user, one) for one in asked.not_from):
        return "Whoever had the run started cannot decide."
    if any(same_person(caller.user, vote.by) for vote in asked.votes):
        return "You have approved already; others must as well."
    return ""
