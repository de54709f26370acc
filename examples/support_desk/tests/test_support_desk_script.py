"""The script of the support desk: it decides from what it was told, as a model would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support_desk.app import app
from support_desk.script import script

from perdure.messages import AssistantMessage, Message, TextPart, ToolCallPart, ToolMessage, ToolResult, UserMessage
from perdure.testing import Call, ScriptedRequest, Turn, run_tool, tool_context

TASK = "I am ann@example.com. Order A-1001 arrived broken, please refund it."


def answer(conversation: list[Message]) -> Turn:
    """Ask the script, and add its reply to the conversation."""
    turn = script.answer(ScriptedRequest(conversation))
    calls = (
        ToolCallPart(id=f"c{len(conversation)}-{index}", name=call.name, arguments=call.arguments)
        for index, call in enumerate(turn.calls)
    )
    conversation.append(AssistantMessage(parts=(TextPart(text=turn.text), *calls)))
    return turn


async def run_tools(conversation: list[Message], **instead: str) -> None:
    """Run the calls of the last reply, or take what is said instead, and add the results to the conversation."""
    reply = conversation[-1]
    assert isinstance(reply, AssistantMessage)
    results = [
        ToolResult(call_id=call.id, content=instead[call.name])
        if call.name in instead
        else await run_tool(app, call.name, call.arguments, context=tool_context(call_id=call.id))
        for call in reply.tool_calls
    ]
    conversation.append(ToolMessage(results=tuple(results)))


async def settle(task: str, **instead: str) -> tuple[list[list[str]], str]:
    """Play a conversation to its end; return the names of each turn's calls, and the last words."""
    conversation: list[Message] = [UserMessage(text=task)]
    called: list[list[str]] = []
    while (turn := answer(conversation)).calls:
        called.append([call.name for call in turn.calls])
        assert len(called) < 10
        await run_tools(conversation, **instead)
    return called, turn.text


def replies(path: Path) -> list[str]:
    """What customers were told."""
    with closing(sqlite3.connect(path)) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM replies")]


async def test_the_whole_conversation(shop: Path) -> None:
    """Orders and policy are looked up side by side, then come refund, reply, and a summary of what was done."""
    called, words = await settle(TASK)

    assert called == [["find_orders", "check_refund_policy"], ["refund_order"], ["send_reply"]]
    assert words == "Order A-1001 is refunded: 249.00 euros, refund R-0001. I told ann@example.com so in reply M-0001."
    assert "R-0001" in replies(shop)[0]


async def test_a_rejected_refund_is_told_to_the_customer(shop: Path) -> None:
    """After a rejection there is no second try: the customer gets a reply with the reason, and the summary says so."""
    called, words = await settle(TASK, refund_order="Rejected by bob: the warranty covers it")

    assert called == [["find_orders", "check_refund_policy"], ["refund_order"], ["send_reply"]]
    assert "was not refunded" in words
    assert "the warranty covers it" in replies(shop)[0]


async def test_an_edited_refund_is_reported_as_it_was_paid() -> None:
    """When a person changed the amount, the note about it does not hide the result, and the paid amount is quoted."""
    refund = (
        '{"refund_id": "R-0009", "order_id": "A-1001", "amount": "100.00", "reason": "", '
        '"refunded_at": "2026-01-01T00:00:00Z"}'
    )

    _, words = await settle(TASK, refund_order=f'[ann changed the arguments to {{"amount": "100"}}]\n{refund}')

    assert "100.00 euros, refund R-0009" in words


@pytest.mark.parametrize(
    ("task", "calls", "words"),
    [
        ("Where is my order?", [], "e-mail address"),
        ("I am nobody@example.com, refund me", [["find_orders"]], "nobody@example.com"),
        (
            "I am bob@example.com, refund A-1003",
            [["find_orders", "check_refund_policy"], ["send_reply"]],
            "Order A-1003 was not refunded. Orders are refunded within 30 days",
        ),
        (
            "I am ann@example.com, refund A-9999",
            [["find_orders", "check_refund_policy"], ["send_reply"]],
            "There is no order 'A-9999'",
        ),
        (
            "I am cid@example.com and want my money back",
            [["find_orders"], ["check_refund_policy"], ["refund_order"], ["send_reply"]],
            "Order A-1004 is refunded",
        ),
    ],
)
async def test_other_customers_are_settled_too(task: str, calls: list[list[str]], words: str) -> None:
    """No address, an unknown customer or order, a breach of the policy, no order named: each ends in sensible words."""
    called, said = await settle(task)

    assert called == calls
    assert words in said


def test_the_script_asks_for_what_the_policy_allows() -> None:
    """The amount of the refund comes from the policy's answer, not from the script."""
    conversation: list[Message] = [UserMessage(text=TASK)]
    answer(conversation)
    policy = '{"order_id": "A-1001", "refundable": true, "max_amount": "12.50", "reason": "yes"}'
    orders = (
        '[{"order_id": "A-1001", "customer": "Ann", "item": "x", "amount": "20", "status": "paid", '
        '"ordered_at": "2026-01-01T00:00:00Z"}]'
    )
    conversation.append(
        ToolMessage(
            results=(ToolResult(call_id="c1-0", content=orders), ToolResult(call_id="c1-1", content=policy)),
        )
    )

    turn = answer(conversation)

    arguments = {"order_id": "A-1001", "amount": "12.50", "reason": "the customer asked for it"}
    assert list(turn.calls) == [Call("refund_order", arguments)]
