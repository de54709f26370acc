"""Standing grants: an approval that holds for calls to come, no wider than it was given, until it is taken back."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure import App
from perdure.events import ApprovalAsked, GrantChanged, ToolCalled
from perdure.grant import grant_id
from perdure.history import project, read_events
from perdure.messages import Message
from perdure.oversight import PendingApproval
from perdure.policy import Policy
from perdure.testing import eventually
from perdure_activities.grants import find_grant
from perdure_activities.providers.provider import ProviderReply
from tests.harness import Handle, InProcessModel, agent, answer, in_turns, pending, serving, start, turn, view, wish
from tests.workflows.test_requirements import approve, bank, policy, recorded


def paying(*payments: tuple[str, int]) -> InProcessModel:
    """A model that makes these payments one after the other."""

    def speak(messages: list[Message]) -> ProviderReply:
        done = turn(messages)
        if done == len(payments):
            return answer("done")
        account, amount = payments[done]
        return wish(("pay", {"account": account, "amount": amount}))

    return InProcessModel(speak)


async def run_until_asked(client: Client, app: App, settings: Any, rules: Policy, **fields: Any) -> Handle:
    """Start a run under a policy."""
    return await start(client, app, settings, policy=rules, **fields)


async def question(handle: Handle, number: int) -> PendingApproval:
    """Wait for the run's question of that number, 1 for the first."""

    async def asked() -> bool:
        # Read from history: a worker that keeps no runs is kept busy by Queries, each of which replays the run.
        events = project([await handle.fetch_history()])
        return sum(isinstance(event, ApprovalAsked) for event in events) >= number

    await eventually(asked, within=timedelta(seconds=20), what=f"question {number}")
    [question] = await pending(handle)
    return question


async def test_a_grant_for_the_run_covers_the_same_resource_and_no_other(client: Client) -> None:
    """The second payment to a1 runs unasked; the one to a2 is asked about, and so is the larger one to a1."""
    app, made = bank()
    async with serving(client, app, paying(("a1", 10), ("a1", 20), ("a2", 30), ("a1", 500))) as settings:
        handle = await start(client, app, settings, policy=policy())
        await approve(handle, await question(handle, 1), "ann", grant="run")
        second = await question(handle, 2)
        after_two = list(made)
        await approve(handle, second, "ann")
        third = await question(handle, 3)
        await approve(handle, third, "dora", "director")
        await handle.result()
        events = await read_events(client, handle.id)

    assert (second.arguments["account"], after_two) == ("a2", [10, 20])
    assert (third.arguments["amount"], third.rule, made) == (500, "large", [10, 20, 30, 500])
    [created] = [event for event in events if isinstance(event, GrantChanged)]
    calls = [event for event in events if isinstance(event, ToolCalled)]
    assert [bool(event.grant_id) for event in calls] == [False, True, False, False]
    assert (calls[1].grant_id, created.expires_at) == (created.grant_id, None)


async def test_a_grant_for_the_run_can_be_revoked(client: Client) -> None:
    """After the signal its calls are asked about again."""
    app, made = bank()
    async with serving(client, app, paying(("a1", 10), ("a2", 20), ("a1", 30))) as settings:
        handle = await start(client, app, settings, policy=policy())
        await approve(handle, await question(handle, 1), "ann", grant="run")
        second = await question(handle, 2)
        [grant] = (await view(handle)).grants
        await handle.signal("revoke", {"grant_id": "perdure-grant:none", "by": "bob"})
        await handle.signal("revoke", {"grant_id": grant.grant_id, "by": "bob"})
        await recorded(handle, "revoked")
        await approve(handle, second, "ann")
        third = await question(handle, 3)
        before = list(made)
        await approve(handle, third, "ann")
        await handle.result()

    assert (third.arguments["account"], before, made) == ("a1", [10, 20], [10, 20, 30])


async def test_a_grant_for_an_hour_covers_other_runs_of_the_same_user(client: Client) -> None:
    """Another run for the same user pays unasked; one for somebody else, or of another organisation, asks."""
    app, _ = bank()
    org = f"org-{uuid.uuid4().hex[:8]}"
    async with serving(client, app, paying(("a1", 10))) as settings:
        first = await start(client, app, settings, policy=policy(), user="carl", org=org)
        await approve(first, await question(first, 1), "ann", grant="1h")
        await first.result()
        same = await start(client, app, settings, policy=policy(), user="carl", org=org)
        await same.result()
        other = await start(client, app, settings, policy=policy(), user="dave", org=org)
        foreign = await start(client, app, settings, policy=policy(), user="carl", org="elsewhere")
        stricter = await start(client, app, settings, policy=policy(approvers=["manager"]), user="carl", org=org)
        asked = [await question(handle, 1) for handle in (other, foreign, stricter)]
        for handle in (other, foreign, stricter):
            await handle.cancel()

    assert len(asked) == 3


async def test_a_revoked_or_expired_grant_is_none(env: WorkflowEnvironment, client: Client) -> None:
    """Terminating its workflow ends it at once; so does its time."""
    app, _ = bank()
    org = f"org-{uuid.uuid4().hex[:8]}"
    name = grant_id(org=org, agent="tester", user=None, tool="pay", resource="account:a1")
    async with serving(client, app, paying(("a1", 10))) as settings:
        for _ in range(2):
            handle = await start(client, app, settings, policy=policy(), org=org)
            await approve(handle, await question(handle, 1), "ann", grant=3600)
            await handle.result()
            standing = await find_grant(client, name)
            assert standing is not None
            assert standing.expires_at is not None
            assert standing.expires_at - standing.at == timedelta(hours=1)
            await client.get_workflow_handle(name).terminate(reason="revoked by bob")
            assert await find_grant(client, name) is None
        handle = await start(client, app, settings, policy=policy(), org=org)
        await approve(handle, await question(handle, 1), "ann", grant="1s")
        await handle.result()

        async def over() -> bool:
            return await find_grant(client, name) is None

        await eventually(over, what="the grant's end")


async def test_with_several_approvers_all_must_want_the_grant(client: Client) -> None:
    """One who approves this call alone has not granted the next."""
    app, made = bank()
    rules = policy(quorum=2)
    async with serving(client, app, paying(("a1", 10), ("a1", 20), ("a1", 30))) as settings:
        handle = await start(client, app, settings, policy=rules)
        first = await question(handle, 1)
        await approve(handle, first, "ann", grant="run")
        await approve(handle, first, "bob")
        second = await question(handle, 2)
        await approve(handle, second, "ann", grant="run")
        await approve(handle, second, "bob", grant="run")
        await handle.result()

    assert made == [10, 20, 30]


async def test_a_grant_is_for_its_resource_without_a_policy_too(client: Client) -> None:
    """The tool's template says what a call touches, whoever asks for the approval."""
    app, made = bank()
    async with serving(client, app, paying(("a1", 10), ("a1", 20), ("a2", 30))) as settings:
        handle = await start(client, app, settings)
        await approve(handle, await question(handle, 1), "ann", grant="run")
        second = await question(handle, 2)
        after_two = list(made)
        await handle.signal("reject", {"approval_id": second.approval_id, "decided_by": "ann"})
        await handle.result()

    assert (second.arguments["account"], second.resource) == ("a2", "account:a2")
    assert (after_two, made) == ([10, 20], [10, 20])


@pytest.mark.parametrize("accounts", [("01", "02"), ("1", "02"), ("01", "1")])
async def test_a_grant_does_not_hold_for_what_cannot_be_told(client: Client, accounts: tuple[str, str]) -> None:
    """Calls of which nobody is sure what they touch look alike: a grant for one of them is none for the others."""
    app, made = App(), list[int]()

    @app.tool(effect="once", resource="account:{account}")
    def pay(account: int) -> str:
        """Pay."""
        made.append(account)
        return "paid"

    app.add(agent(tools=("pay",)))
    model = InProcessModel(
        in_turns(*(wish(("pay", {"account": account})) for account in accounts), answer("done")),
    )
    asks = Policy.model_validate({"rules": [{"tool": "pay", "permission": "ask"}]})
    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings, policy=asks)
        await approve(handle, await question(handle, 1), "ann", grant="run")
        second = await question(handle, 2)
        await handle.signal("reject", {"approval_id": second.approval_id, "decided_by": "ann"})
        await handle.result()

    assert made == [int(accounts[0])]
