"""Deliveries: signed as the standard has it, redacted, final or tried again by what the receiver answers."""

from __future__ import annotations

import base64
import ipaddress
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from perdure.activities import call_digest
from perdure.approval import ApprovalRequirement
from perdure.contracts import RunError, RunResult, RunStatus, Totals
from perdure.notice import Delivered, Notice, RunFacts
from perdure.outgoing import Outgoing
from perdure.oversight import ApprovalRecord, PendingApproval
from perdure.redaction import SECRETS
from perdure_activities.deliveries import Deliveries
from perdure_activities.notice_body import MAX_SHOWN, Links
from tests.receiver import Receiver, receiving, status

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
OLDER = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
KEY = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"
NOW = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
LINKS = Links(public_url="https://agents.example/", ui_url="https://ui.example")
RUN = RunFacts(run_id="run-1", agent="support", version="2", user="ann", org="acme", requested_by="desk")


def asked(**changes: Any) -> Notice:
    """A notice of a question."""
    arguments = {"order": "1042", "card": "[secret]", "note": f"key {KEY}", "who": "<!channel> & <http://evil|me> ```"}
    approval = PendingApproval(
        approval_id="c2-1f0e9a77",
        tool="refund",
        arguments=arguments,
        digest=call_digest("refund", arguments),
        step=2,
        asked_at=NOW,
        deadline=NOW + timedelta(hours=4),
        reason="refund needs an approval (large refunds)",
        requirement=ApprovalRequirement(approvers=("manager", "finance"), quorum=2),
        secrets=("card",),
    )
    record = ApprovalRecord(kind="asked", at=NOW, approval_id=approval.approval_id, tool="refund")
    given = {"notice_id": "n-1", "url": "", "type": "approval.asked", "at": NOW, "run": RUN, "approval": approval}
    return Notice(**{**given, "record": record, **changes})


def ended(**changes: Any) -> Notice:
    """A notice of a run's end."""
    result = RunResult(
        status=RunStatus.FAILED,
        output=f"It is {KEY}.",
        error=RunError(type="model_refused", message="no"),
        totals=Totals(steps=3),
    )
    return Notice(
        **{"notice_id": "n-2", "url": "", "type": "run.ended", "at": NOW, "run": RUN, "result": result, **changes}
    )


async def send(receiver: Receiver, notice: Notice, *secrets: str, **options: Any) -> Delivered:
    """Run the activity once, against a receiver on loopback."""
    deliveries = Deliveries(
        outgoing=Outgoing(allowed=[ipaddress.ip_network("127.0.0.1/32")]),
        secrets=[SecretStr(secret) for secret in secrets or (SECRET,)],
        links=options.get("links", LINKS),
        redactor=SECRETS,
    )
    to = notice.model_copy(update={"url": options.get("url", receiver.url("/hook/T0/secret-path"))})
    try:
        delivered: Delivered = await ActivityEnvironment().run(deliveries.deliver, to)
        return delivered
    finally:
        await deliveries.close()


async def refusal(*answers: Any, **options: Any) -> ApplicationError:
    """Return why a delivery did not arrive."""
    async with receiving(*answers) as receiver:
        with pytest.raises(ApplicationError) as refused:
            await send(receiver, ended(), **options)
    return refused.value


async def test_a_webhook_is_signed_and_says_what_happened() -> None:
    """The standard's own library accepts it; the payload has type, time and data, redacted."""
    async with receiving() as receiver:
        delivered = await send(receiver, asked())

    [received] = receiver.received
    payload = received.verified(SECRET)
    assert delivered == Delivered(status=200, attempts=1)
    assert received.headers["webhook-id"] == "n-1"
    assert received.headers["content-type"] == "application/json"
    assert payload["type"] == "approval.asked"
    assert datetime.fromisoformat(payload["timestamp"]) == NOW
    assert payload["data"]["run_id"] == "run-1"
    assert payload["data"]["approval"]["arguments"]["card"] == "[secret]"
    assert payload["data"]["approval"]["arguments"]["note"] == "key [secret]"
    assert payload["data"]["links"] == {
        "record": "https://agents.example/v1/runs/run-1/approvals/c2-1f0e9a77",
        "console": "https://agents.example/console/approvals/run-1/c2-1f0e9a77",
        "ui": "https://ui.example/namespaces/default/workflows/run-1",
    }
    assert KEY not in received.body.decode()


async def test_a_changed_body_is_not_accepted() -> None:
    """The signature is of the very bytes that were sent."""
    async with receiving() as receiver:
        await send(receiver, ended())

    [received] = receiver.received
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.body.replace(b"failed", b"passed"), received.headers)


async def test_receivers_can_change_over_to_another_secret() -> None:
    """While both are set, whoever knows either of them accepts the delivery."""
    async with receiving() as receiver:
        await send(receiver, ended(), SECRET, OLDER)

    [received] = receiver.received
    assert received.verified(SECRET) == received.verified(OLDER)


async def test_the_end_of_a_run_is_told_with_its_result() -> None:
    """Status, error, totals and output; the link is the run's."""
    async with receiving() as receiver:
        await send(receiver, ended())

    data = receiver.received[0].json["data"]
    assert data["result"]["status"] == "failed"
    assert data["result"]["error"] == {"type": "model_refused", "message": "no"}
    assert data["result"]["output"] == "It is [secret]."
    assert data["links"]["record"] == "https://agents.example/v1/runs/run-1"
    assert data["links"]["console"] == "https://agents.example/console/runs/run-1"


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 413, 422, 451, 301, 302, 307, 308])
async def test_answers_that_would_be_the_same_next_time_are_final(code: int) -> None:
    """Wrong, gone, or elsewhere: nothing is tried again."""
    error = await refusal(status(code, "Location: http://127.0.0.1/other", "Retry-After: 5"))

    assert error.type == "delivery_refused"
    assert error.non_retryable
    assert str(code) in error.message


@pytest.mark.parametrize("code", [408, 409, 425, 429, 500, 502, 503, 504])
async def test_answers_that_may_change_are_tried_again_when_the_receiver_says(code: int) -> None:
    """Its Retry-After decides, up to a day."""
    error = await refusal(status(code, "Retry-After: 7200"))
    long = await refusal(status(code, "Retry-After: 9999999"))
    plain = await refusal(status(code))

    assert not error.non_retryable
    assert error.next_retry_delay == timedelta(hours=2)
    assert long.next_retry_delay == timedelta(days=1)
    assert plain.next_retry_delay is None


async def test_a_receiver_that_is_away_is_tried_again_and_its_path_is_not_told() -> None:
    """The path of a webhook is often its secret, and errors stay in history."""
    async with receiving() as gone:
        pass
    error = await refusal(url=gone.url("/hook/T0/secret-path"))

    assert not error.non_retryable
    assert error.message == "127.0.0.1 was not reached: ConnectError"


async def test_an_address_inside_is_final() -> None:
    """Checked at each attempt: a name may have come to lead there since the run was started."""
    error = await refusal(url="https://169.254.169.254/latest/meta-data")

    assert error.type == "delivery_refused"
    assert error.non_retryable


async def test_nothing_is_sent_unsigned() -> None:
    """Without a secret the delivery waits until there is one."""
    deliveries = Deliveries(outgoing=Outgoing(), secrets=(), links=LINKS, redactor=SECRETS)

    with pytest.raises(ApplicationError, match="PERDURE_WEBHOOK_SECRETS") as refused:
        await ActivityEnvironment().run(deliveries.deliver, ended(url="https://hooks.example/"))

    assert not refused.value.non_retryable


def texts(message: dict[str, Any]) -> str:
    """All that a message shows."""
    return json.dumps(message["blocks"], ensure_ascii=False)


async def test_a_slack_message_asks_and_leads_to_where_people_decide() -> None:
    """Tool, who asks, why, arguments, deadline and the button; a plain text for what shows no blocks."""
    async with receiving() as receiver:
        await send(receiver, asked(format="slack"))

    [received] = receiver.received
    message = received.json
    shown = texts(message)
    page = "https://agents.example/console/approvals/run-1/c2-1f0e9a77"
    assert message["text"] == f"support asks: may refund run? {page}"
    assert message["blocks"][-1]["elements"][0]["url"] == page
    assert "webhook-signature" not in received.headers
    for said in (
        "*Asked for by*\\ndesk",
        "*On behalf of*\\nann",
        "manager, finance",
        "2 more",
        "1042",
        "large refunds",
    ):
        assert said in shown
    assert f"<!date^{int((NOW + timedelta(hours=4)).timestamp())}^" in shown
    assert "[secret]" in shown
    assert KEY not in shown


async def test_a_slack_message_makes_no_link_or_mention_of_what_a_model_wrote() -> None:
    """Control characters of Slack's are taken for what they are, and a code block is not ended from within."""
    async with receiving() as receiver:
        await send(receiver, asked(format="slack"))

    shown = texts(receiver.received[0].json)
    assert "<!channel>" not in shown
    assert "<http://evil" not in shown
    assert "&lt;!channel&gt; &amp; &lt;http://evil|me&gt; '''" in shown


async def test_a_slack_message_stays_within_slacks_limits() -> None:
    """Large arguments are cut, and every block is of a size that is taken."""
    notice = asked(format="slack")
    assert notice.approval is not None
    large = notice.approval.model_copy(update={"arguments": {"text": "<&>`" * 20_000}})
    async with receiving() as receiver:
        await send(receiver, notice.model_copy(update={"approval": large}))

    message = receiver.received[0].json
    assert all(len(block["text"]["text"]) <= 3000 for block in message["blocks"] if "text" in block)
    assert len(message["blocks"][2]["text"]["text"]) <= MAX_SHOWN + 6
    assert all(len(item["text"]) <= 2000 for block in message["blocks"] for item in block.get("fields", ()))


@pytest.mark.parametrize(
    ("type_", "kind", "title"),
    [
        ("approval.escalated", "escalated", "support still asks: may refund run? Nobody decided in time."),
        ("approval.approved", "approved", "support: refund is approved by bob"),
        ("approval.rejected", "rejected", "support: refund is rejected by bob"),
        ("approval.expired", "expired", "support: refund is expired by bob"),
    ],
)
async def test_slack_messages_say_what_became_of_a_question(type_: str, kind: Any, title: str) -> None:
    """Each occasion has its sentence; without a public address there is no link."""
    record = ApprovalRecord(kind=kind, at=NOW, approval_id="c2-1", tool="refund", decided_by="bob", reason="fair")
    async with receiving() as receiver:
        await send(receiver, asked(format="slack", type=type_, record=record, approval=None), links=Links())

    assert receiver.received[0].json["text"] == title


async def test_slack_messages_ask_for_more_money() -> None:
    """A question about a budget is about no tool; what became of it is told too."""
    notice = asked(format="slack")
    assert notice.approval is not None
    question = notice.approval.model_copy(update={"kind": "budget", "tool": ""})
    record = ApprovalRecord(kind="asked", at=NOW, approval_id="budget-1")
    answered = record.model_copy(update={"kind": "approved", "decided_by": "bob"})
    async with receiving() as receiver:
        await send(receiver, notice.model_copy(update={"approval": question, "record": record}), links=Links())
        await send(
            receiver,
            asked(format="slack", type="approval.approved", record=answered, approval=None),
            links=Links(),
        )

    titles = [received.json["text"] for received in receiver.received]
    assert titles == ["support asks: may it cost more?", "support: more money is approved by bob"]


async def test_a_slack_message_tells_a_runs_end() -> None:
    """With its error and the last words, redacted."""
    async with receiving() as receiver:
        await send(receiver, ended(format="slack"))

    message = receiver.received[0].json
    assert message["text"] == "support: the run is failed https://agents.example/console/runs/run-1"
    assert "model_refused: no" in texts(message)
    assert "It is [secret]." in texts(message)
