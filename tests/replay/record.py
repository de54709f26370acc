"""Records the histories that `test_replay` replays: real runs on a real server, with a model scripted in Python.

    python -m tests.replay.record

A released history is never recorded anew: it is what proves that old runs go on under new code. Record another one
beside it, under a new name.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import Message as Proto
from temporalio.api.failure.v1 import Failure
from temporalio.client import Client, WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App, Limits, ScoredRun
from perdure.activities import Finish
from perdure.budget import Line, Place, PriceCeiling, Terms
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.guard import KEYS
from perdure.history import export, fetch_execution, fetch_executions, load
from perdure.ledger.contracts import ledger_id
from perdure.messages import Message, UserMessage
from perdure.notification import NotificationTarget
from perdure.oversight import PendingApproval
from perdure.policy import Permission, Policy, Rule
from perdure.priority import Priority
from perdure.settings import Price
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import ForkRequest, RetryRequest
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    in_turns,
    pending,
    serving,
    start,
    used,
    view,
    wish,
)
from tests.receiver import receiving, status

HISTORIES: Final = Path(__file__).parent / "histories"
LEDGERS: Final = Path(__file__).parent / "ledgers"
"""Histories of ledgers, which live longer than any run."""
IDENTITY: Final = "recorder"


def shop(**changes: Any) -> App:
    """An app with a reliable tool, one that needs a second attempt, and one that is lost the first time."""
    app = App()
    failed: set[str] = set()

    def fails_first(name: str) -> bool:
        first = name not in failed
        failed.add(name)
        return first

    @app.tool()
    def find_order(order_id: str) -> dict[str, str]:
        """Find an order."""
        return {"order_id": order_id, "total": "59.90", "state": "delivered"}

    @app.tool()
    def read_policy(page: int) -> str:
        """Read a page of the refund policy."""
        if fails_first("read_policy"):
            raise ConnectionResetError("the wiki does not answer")
        return "Damaged goods are refunded\nwithin 30 days."

    @app.tool(effect="once")
    def refund_order(order_id: str, amount: Decimal) -> str:
        """Pay back."""
        if fails_first("refund_order"):
            raise ConnectionResetError("the bank hung up")
        return f"refunded {amount} of {order_id}"

    app.add(agent(name="support", tools=("find_order", "read_policy", "refund_order"), **changes))
    return app


REFUND: Final = wish(("refund_order", {"order_id": "1042", "amount": "59.90"}))
Recording = Callable[[Client], Awaitable[Handle]]


async def everything(client: Client) -> Handle:
    """A run that meets a retry, a missing tool, approvals, decisions that do not count, and a lost effect."""
    app = shop()
    model = InProcessModel(
        in_turns(
            wish(
                ("find_order", {"order_id": "1042"}), ("read_policy", {"page": 1}), ("guess", {}), text="Let me look."
            ),
            wish(
                ("refund_order", {"order_id": "1042", "amount": "59.90"}),
                ("refund_order", {"order_id": "1042", "amount": "1000"}),
            ),
            answer("Your 59.90 are on their way."),
        )
    )
    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings, text="Order 1042 arrived broken, I want my money back.")
        small, large = await pending(handle, count=2)
        await handle.signal("approve", {"approval_id": "nothing-asked", "decided_by": "eve"})
        await handle.signal("approve", {"approval_id": small.approval_id, "decided_by": "ann", "reason": "fair"})
        await handle.signal("reject", {"approval_id": large.approval_id, "decided_by": "bob", "reason": "too much"})
        lost = await eventually(lambda: _outcome_question(handle))
        await handle.signal("approve", {"approval_id": lost.approval_id, "decided_by": "ann", "outcome": "retry"})
        await handle.result()
    return handle


async def cancelled(client: Client) -> Handle:
    """A run that is cancelled while a human is asked."""
    app = shop()
    async with serving(client, app, InProcessModel(in_turns(REFUND))) as settings:
        handle = await start(client, app, settings)
        await pending(handle)
        await handle.cancel()
        with suppress(WorkflowFailureError):
            await handle.result()
    return handle


async def failed(client: Client) -> Handle:
    """A run that the model's refusal ends."""
    app = shop()
    refusal = answer("I would rather not.", finish=Finish.REFUSAL, detail="against the rules")
    async with serving(client, app, InProcessModel(in_turns(refusal))) as settings:
        handle = await start(client, app, settings)
        with suppress(WorkflowFailureError):
            await handle.result()
    return handle


async def retried(client: Client) -> Handle:
    """A run whose model breaks at its second step, and that is retried."""
    app, broken = shop(), [True]

    def script(messages: list[Message]) -> ProviderReply:
        if len(messages) > 1 and broken:
            broken.clear()
            raise ApplicationError("the model is gone", type="model_unknown", non_retryable=True)
        return wish(("find_order", {"order_id": "1042"})) if len(messages) == 1 else answer("It was delivered.")

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        with suppress(WorkflowFailureError):
            await handle.result()
        await Gateway(client, app, settings).recovery.retry(handle.id, RetryRequest(by="ann", reason="it is back"))
        again = client.get_workflow_handle_for(AgentRun.run, handle.id)
        await again.result()
    return again


async def forked(client: Client) -> Handle:
    """A run that goes on from a tool call of another one, with other arguments and a message."""
    app = shop()
    look = wish(("find_order", {"order_id": "1042"}), ("find_order", {"order_id": "1"}))
    async with serving(client, app, InProcessModel(in_turns(look, answer("Found.")))) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        request = ForkRequest(step=2, arguments={"order_id": "1043"}, message="Be brief.")
        started = await Gateway(client, app, settings).recovery.fork(origin.id, request)
        handle = client.get_workflow_handle_for(AgentRun.run, started.run_id)
        await handle.result()
    return handle


async def running(client: Client) -> Handle:
    """A run that still waits for a human."""
    app = shop()
    async with serving(client, app, InProcessModel(in_turns(REFUND))) as settings:
        handle = await start(client, app, settings)
        await pending(handle)
    return handle


async def continued(client: Client) -> Handle:
    """A run over several executions, on a server that asks for a new one every few steps."""
    app = shop()
    look = wish(("find_order", {"order_id": "1042"}), text="Once more.")
    async with serving(client, app, InProcessModel(in_turns(look, look, look, look, answer("Found.")))) as settings:
        handle = await start(client, app, settings)
        await handle.result()
    return handle


async def steered(client: Client) -> Handle:
    """A run that is paused while a human is asked, decided upon, spoken to and resumed, with signals in vain."""
    app = shop()
    look = wish(("find_order", {"order_id": "1042"}))
    rejected = wish(("refund_order", {"order_id": "1042", "amount": "1000"}))
    async with serving(client, app, InProcessModel(in_turns(rejected, look, answer("Then a voucher.")))) as settings:
        handle = await start(client, app, settings, text="Order 1042 arrived broken, I want my money back.")
        [asked] = await pending(handle)
        await handle.signal("pause", {"by": "ann", "reason": "the amount looks wrong"})
        await handle.signal("pause", {"by": "eve"})
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.signal("message", {"text": "Offer a voucher instead.", "from": "ann"})
        await handle.signal("message", {"text": ""})
        await handle.signal("resume", {"by": "bob"})
        await handle.result()
    return handle


async def planned(client: Client) -> Handle:
    """A run that plans, gives something that is no plan, and plans anew beside a call."""
    app = App()

    @app.tool()
    def find_order(order_id: str) -> str:
        """Find an order."""
        return f"{order_id} was delivered"

    app.add(agent(tools=("find_order",), plan=True))
    script = in_turns(
        wish(("update_plan", {"plan": [{"step": "find the order", "status": "in_progress"}]})),
        wish(("update_plan", {"plan": "find the order"})),
        wish(
            ("update_plan", {"plan": [{"step": "find the order", "status": "completed"}]}),
            ("find_order", {"order_id": "1042"}),
        ),
        answer("It was delivered."),
    )
    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings, text="Where is order 1042?")
        await handle.result()
    return handle


async def outage(client: Client) -> Handle:
    """A run whose second model answers at its first step, and none at its second, so that it apologises."""
    app, asked = App(), list[int]()

    @app.tool()
    def find_order(order_id: str) -> str:
        """Find an order."""
        return f"{order_id} was delivered"

    def second_of_three(messages: Sequence[Message]) -> ProviderReply:
        asked.append(len(messages))
        if len(asked) != 2:
            raise ApplicationError("Overloaded", type="model_overloaded")
        return wish(("find_order", {"order_id": "1042"}))

    app.add(
        agent(
            name="support",
            fallbacks=("in-process:spare",),
            tools=("find_order",),
            on_outage="answer",
            outage_message="Please call us.",
            limits=Limits(model_attempts=1),
        )
    )
    async with serving(client, app, InProcessModel(second_of_three)) as settings:
        handle = await start(client, app, settings, text="Where is order 1042?")
        await handle.result()
    return handle


async def governed(client: Client) -> Handle:
    """A run that waits in line, reserves, gives back while a human is asked, is refused, and is allowed more."""
    app = shop(on_budget="ask", max_output_tokens=1000)
    look = used(wish(("find_order", {"order_id": "1042"})), input_tokens=900, output_tokens=100)
    rejected = used(wish(("refund_order", {"order_id": "1042", "amount": "1000"})), input_tokens=900, output_tokens=100)
    said = used(answer("It is on its way."), input_tokens=900, output_tokens=100)
    let_go = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if messages[0] == UserMessage(text="first"):
            await let_go.wait()
            return said
        return in_turns(look, rejected, look, said)(messages)  # type: ignore[return-value]  # it waits for nothing

    model = "in-process:scripted"
    terms = Terms(
        lines=(Line(budget="daily", per="day", subject="org", usd=Decimal("0.7")),),
        places=(Place(subject="org", most=1),),
        ceilings={model: PriceCeiling(input=Decimal(100), output=Decimal(100))},
    )
    prices = {model: Price(input=Decimal(100), output=Decimal(100))}
    async with serving(client, app, InProcessModel(script), prices=prices) as settings:
        first = await start(client, app, settings, text="first", org="acme", user="ann", terms=terms)
        await eventually(lambda: _status(first, RunStatus.RUNNING), what="the first run's place")
        handle = await start(client, app, settings, text="Where is it?", org="acme", user="ann", terms=terms)
        await eventually(lambda: _status(handle, RunStatus.QUEUED), what="the line")
        let_go.set()
        [refund] = await pending(handle)
        await handle.signal("reject", {"approval_id": refund.approval_id, "decided_by": "bob", "reason": "too much"})
        [budget] = await eventually(lambda: _asked_for_money(handle), what="the question for money")
        more = {"approval_id": budget.approval_id, "decided_by": "ann", "amount_usd": "2"}
        await handle.signal("approve", more)
        await handle.result()
    return handle


async def rated(client: Client) -> Handle:
    """A run whose model, and one of whose tools, have a rate, and which asks that tool the same question twice."""
    app = App(provider_rates={"in-process": "100/s"})
    app.include(shop())

    @app.tool(rate="100/s", cache=3600)
    def track_parcel(number: str) -> str:
        """Say where a parcel is."""
        return f"{number} is on its way"

    chosen = app.add(agent(name="courier", tools=("find_order", "track_parcel")))
    look = wish(("find_order", {"order_id": "1042"}), ("track_parcel", {"number": "7"}))
    again = wish(("track_parcel", {"number": "7"}))
    async with serving(client, app, InProcessModel(in_turns(look, again, answer("Tomorrow.")))) as settings:
        handle = await client.start_workflow(
            AgentRun.run,
            RunArguments(spec=app.resolve(chosen), input="Where is my parcel?", org="acme"),
            id=f"run-{uuid.uuid4().hex}",
            task_queue=settings.task_queue,
            priority=Priority.HIGH.keys(org="acme"),
        )
        await handle.result()
    return handle


async def notified(client: Client) -> Handle:
    """A run that tells two places: one takes it, the other is gone; its answer is guarded, an argument secret."""
    app = App()

    @app.tool(effect="once", approval="ask", secrets=("card",))
    def pay(card: str, amount: Decimal) -> str:
        """Pay."""
        return f"paid {amount}"

    app.add(agent(name="bank", tools=("pay",), output_guard=(KEYS,)))
    model = InProcessModel(in_turns(wish(("pay", {"card": "9999", "amount": "5"})), answer("Paid 5.")))
    options: dict[str, Any] = {
        "webhook_secrets": ["whsec_" + base64.b64encode(b"0" * 32).decode()],
        "callback_allowed_networks": ["127.0.0.1/32"],
    }
    async with receiving() as hook, receiving(status(410)) as gone:
        policy = Policy(
            notify=(NotificationTarget(url=gone.url(), on=("approval.asked", "approval.approved")),),
            rules=(Rule(tool=("pay",), permission=Permission.ASK),),
        )
        async with serving(client, app, model, **options) as settings:
            handle = await start(client, app, settings, callback_url=hook.url(), policy=policy, salt="0" * 32)
            [asked] = await pending(handle)
            await hook.told(1)
            await gone.told(1)
            await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
            await handle.result()
            await hook.told(2)
    return handle


async def scored(client: Client) -> Handle:
    """A run that one scorer judges, one breaks on, and one leaves out, and that tells somebody of its end."""
    app = App()

    @app.scorer(max_attempts=1)
    def answered(run: ScoredRun) -> bool:
        return bool(run.output)

    @app.scorer(max_attempts=1)
    def broken(run: ScoredRun) -> float:
        raise LookupError("no such customer")

    @app.scorer(sample=1e-9)
    def rare(run: ScoredRun) -> float:
        return 1

    app.add(agent(name="support", scorers=("answered", "broken", "rare")))
    options: dict[str, Any] = {
        "webhook_secrets": ["whsec_" + base64.b64encode(b"0" * 32).decode()],
        "callback_allowed_networks": ["127.0.0.1/32"],
    }
    async with (
        receiving() as hook,
        serving(client, app, InProcessModel(in_turns(answer("Hello."))), **options) as settings,
    ):
        handle = await start(client, app, settings, callback_url=hook.url())
        await handle.result()
        await hook.told(1)
    return handle


RECORDINGS: Final[dict[str, Recording]] = {
    "everything": everything,
    "cancelled": cancelled,
    "failed": failed,
    "retried": retried,
    "forked": forked,
    "running": running,
    "continued": continued,
    "steered": steered,
    "planned": planned,
    "outage": outage,
    "rated": rated,
    "notified": notified,
    "governed": governed,
    "scored": scored,
}
SUGGESTING: Final = (
    "--dynamic-config-value",
    "limit.historyCount.suggestContinueAsNew=20",
    "--dynamic-config-value",
    'history.continueAsNewMinInterval="10ms"',
)


async def record(names: Sequence[str]) -> None:
    """Record these, and a departed twin of the first."""
    for name in names:
        async with await WorkflowEnvironment.start_time_skipping_v2(
            ts_config=TimeSkippingConfig(enabled=False),
            dev_server_existing_path=find_temporal(),
            dev_server_extra_args=[*server_arguments(time_skipping=True), *(SUGGESTING if name == "continued" else ())],
            dev_server_log_level="error",
            data_converter=data_converter(),
            identity=IDENTITY,
        ) as env:
            handle = await RECORDINGS[name](env.client)
            histories = await fetch_executions(env.client, handle.id)
            if name == "governed":
                ledger = env.client.get_workflow_handle(ledger_id("acme"))
                execution_id = (await ledger.describe()).run_id
                _write(name, [await fetch_execution(env.client, ledger.id, execution_id)], folder=LEDGERS)
        _write(name, histories)
    if "everything" in names:
        _write("departed", depart(load((HISTORIES / "everything.json").read_text())))


def depart(histories: list[WorkflowHistory]) -> list[WorkflowHistory]:
    """Turn the rejection of a call into its approval: today's code would make the call, the history does not."""
    for event in histories[0].events:
        signal = event.workflow_execution_signaled_event_attributes
        if signal.signal_name == "reject":
            signal.signal_name = "approve"
    return histories


async def _outcome_question(handle: Handle) -> PendingApproval:
    questions = [asked for asked in (await view(handle)).pending_approvals if asked.kind == "outcome"]
    assert questions
    return questions[0]


async def _status(handle: Handle, status: RunStatus) -> bool:
    return (await view(handle)).status is status


async def _asked_for_money(handle: Handle) -> list[PendingApproval]:
    return [asked for asked in (await view(handle)).pending_approvals if asked.kind == "budget"]


def _write(name: str, histories: list[WorkflowHistory], *, folder: Path = HISTORIES) -> None:
    for history in histories:
        for event in history.events:
            _forget_stack_traces(event)
    path = folder / f"{name}.json"
    path.write_text(export(histories) + "\n")
    print(f"{path.name}: {sum(len(history.events) for history in histories)} events")


def _forget_stack_traces(message: Proto) -> None:
    """Leave out what tells of the recording machine's directories."""
    if isinstance(message, Failure):
        message.stack_trace = ""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for item in (value,) if isinstance(value, Proto) else value:
            _forget_stack_traces(item)


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1:] or list(RECORDINGS)))
    sys.stdout.flush()
    os._exit(0)  # the SDK may abort while the interpreter goes down
