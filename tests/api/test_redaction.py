"""What the API shows of secrets: nothing, whichever way one asks; the tool itself and the history have them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from perdure import App, ToolContext, ToolError
from perdure.history import fetch_executions
from tests.api.conftest import Api
from tests.harness import agent, answer, in_turns, wish

CARD = "9999-0000-SECRET-1"
KEY = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"
CALL = ("pay", {"card_number": CARD, "cvc": 4711815093, "amount": 5})


def bank(paid: list[tuple[str, int, int]]) -> App:
    """An app that pays by card after an approval."""
    app = App()

    @app.tool(effect="once", approval="ask", secrets=("card_number", "cvc"))
    async def pay(ctx: ToolContext, card_number: str, cvc: int, amount: int) -> str:
        """Pay."""
        paid.append((card_number, cvc, amount))
        if amount > 100:
            raise ToolError(f"the bank declined {card_number}")
        return f"paid {amount} with {card_number}"

    app.add(agent(tools=("pay",)))
    return app


@pytest.fixture
def paid() -> list[tuple[str, int, int]]:
    """The payments made."""
    return []


@pytest.fixture
async def api(client: Client, paid: list[tuple[str, int, int]]) -> AsyncIterator[Api]:
    """The API of the bank."""
    api = Api(client, app=bank(paid))
    async with api.http:
        yield api


async def everything(api: Api, run_id: str) -> str:
    """Return all that the API says of a run, but for the exported history."""
    paths = (f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/steps", f"/v1/runs/{run_id}/events", "/v1/approvals", "/v1/runs")
    streamed = await api.http.get(f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"})
    return "\n".join([json.dumps(await api.get(path)) for path in paths] + [streamed.text])


async def test_declared_secrets_are_shown_nowhere(api: Api, paid: list[tuple[str, int, int]]) -> None:
    """Arguments, results and the model's words that repeat them are masked; the tool gets the values."""
    script = in_turns(wish(CALL, text=f"I pay with {CARD}."), answer("Paid."))

    async with api.worker(script):
        run_id = await api.start()
        asked = await api.approval(run_id)
        waiting = json.dumps([await api.get("/v1/approvals"), await api.get(f"/v1/runs/{run_id}")])
        await api.http.post(
            f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json={"decision": "approve", "decided_by": "ann"}
        )
        await api.ended(run_id)
        said = await everything(api, run_id)

    assert asked["arguments"] == {"card_number": "[secret]", "cvc": "[secret]", "amount": 5}
    assert paid == [(CARD, 4711815093, 5)]
    assert CARD not in waiting + said
    assert "4711815093" not in waiting + said
    assert "paid 5 with [secret]" in said
    assert "I pay with [secret]." in said


async def test_memo_and_question_hold_masks_and_the_history_holds_the_values(api: Api, client: Client) -> None:
    """Lists and inboxes read the memo, so it has no secret; the call in the history is whole, for replay."""
    async with api.worker(in_turns(wish(CALL), answer("Paid."))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        memo = json.dumps(await (await client.get_workflow_handle(run_id).describe()).memo())
        await api.http.post(f"/v1/runs/{run_id}/cancel")
        await api.ended(run_id)
        [history] = await fetch_executions(client, run_id)
        stored = b"".join(event.SerializeToString() for event in history.events)

    assert "[secret]" in memo
    assert CARD not in memo
    assert asked["secrets"] == ["card_number", "cvc"]
    assert CARD.encode() in stored


async def test_approver_edits_around_the_masks(api: Api, paid: list[tuple[str, int, int]]) -> None:
    """Masks that come back are the call's own values, also where they would not fit the schema."""
    async with api.worker(in_turns(wish(CALL), answer("Paid."))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        decided = await api.http.post(
            f"/v1/runs/{run_id}/approvals/{asked['approval_id']}",
            json={"decision": "approve", "decided_by": "ann", "arguments": {**asked["arguments"], "amount": 3}},
        )
        await api.ended(run_id)
        said = await everything(api, run_id)

    assert decided.status_code == 200, decided.text
    assert paid == [(CARD, 4711815093, 3)]
    assert CARD not in said


async def test_a_changed_secret_is_told_without_its_values(api: Api, paid: list[tuple[str, int, int]]) -> None:
    """What an approver changed is kept; of a secret argument only that it was changed."""
    async with api.worker(in_turns(wish(CALL), answer("Paid."))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        await api.http.post(
            f"/v1/runs/{run_id}/approvals/{asked['approval_id']}",
            json={"decision": "approve", "decided_by": "ann", "arguments": {**asked["arguments"], "cvc": 8822}},
        )
        await api.ended(run_id)
        events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]
        said = await everything(api, run_id)

    [edited] = [event for event in events if event["kind"] == "approval.edited"]
    assert edited["changes"] == [{"path": "cvc", "before": '"[secret]"', "after": '"[secret]"'}]
    assert paid == [(CARD, 8822, 5)]
    assert "8822" not in said


async def test_failures_and_misfits_do_not_repeat_the_values(api: Api) -> None:
    """Neither the tool's own error nor the check of its arguments gives a secret away."""
    refused = wish(("pay", {"card_number": CARD, "cvc": f"no number {CARD}", "amount": 5}))

    async with api.worker(in_turns(refused, wish(("pay", {**CALL[1], "amount": 500})), answer("Sorry."))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        await api.http.post(
            f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json={"decision": "approve", "decided_by": "ann"}
        )
        await api.ended(run_id)
        said = await everything(api, run_id)

    assert "cvc: the value does not fit" in said
    assert "the bank declined [secret]" in said
    assert CARD not in said


async def test_digests_of_secret_arguments_cannot_be_guessed(api: Api) -> None:
    """Two runs that make the same call show different digests: a short secret is not found by trying all of them."""
    digests = []
    async with api.worker(in_turns(wish(CALL), answer("Paid."))):
        for _ in range(2):
            run_id = await api.start()
            asked = await api.approval(run_id)
            digests.append((asked["digest"], asked["approval_id"]))
            await api.http.post(f"/v1/runs/{run_id}/cancel")

    assert len({digest for digest, _ in digests}) == 2
    assert len({approval_id for _, approval_id in digests}) == 2


async def test_known_tokens_are_masked_in_inputs_and_answers(api: Api) -> None:
    """A key in the user's question or the model's answer leaves the API masked, in lists, runs and events alike."""
    async with api.worker(in_turns(answer(f"Your key is {KEY}."))):
        run_id = await api.start(input=f"What is {KEY}?", metadata={"api_key": "abc"})
        run = await api.ended(run_id)
        said = await everything(api, run_id)

    assert run["output"] == "Your key is [secret]."
    assert run["input"] == "What is [secret]?"
    assert KEY not in said
    assert '"api_key": "abc"' not in said
    assert run["run_id"] == run_id
