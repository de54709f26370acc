"""The support desk's tools, called as the functions they are, over a real database."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from support_desk.app import app, check_refund_policy, find_orders, refund_made, refund_order, send_reply
from support_desk.database import connect, database_path
from support_desk.shop import OrderStatus

from perdure import NOT_DONE, Effect, ToolError
from perdure.app import load_app
from perdure.testing import eventually, tool_context


def count(path: Path, table: str) -> int:
    """Count the rows of a table."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # a test's own name


def test_the_app_is_found_by_its_entry_point() -> None:
    """The installed package is served under the name of its entry point, with both agents resolved."""
    served = load_app("support_desk")

    assert [agent.name for agent in served.agents()] == ["support", "support-openai"]


def test_the_refund_is_the_dangerous_tool() -> None:
    """A refund takes effect once, asks a person, and can be reconciled."""
    tool = app.find_tool("refund_order")

    assert tool is not None
    assert (tool.spec.effect, tool.spec.approval, tool.spec.has_reconcile) == (Effect.ONCE, "ask", True)
    assert set(tool.spec.input_schema["required"]) == {"order_id", "amount"}


async def test_the_shop_builds_itself_once_for_many() -> None:
    """However many processes or threads come first at once, there is one complete shop."""
    found = await asyncio.gather(*(asyncio.to_thread(find_orders, "ann@example.com") for _ in range(8)))

    assert all([order.order_id for order in orders] == ["A-1001", "A-1002"] for orders in found)
    with connect() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert [file.name for file in database_path().parent.iterdir() if file.is_dir()] == []


def test_orders_are_typed() -> None:
    """An order comes with exact money, its status and aware times."""
    delivered, shipped = find_orders("Ann@Example.com ")

    assert (delivered.amount, delivered.refunded, delivered.status) == (
        Decimal("249.00"),
        Decimal(0),
        OrderStatus.DELIVERED,
    )
    assert delivered.ordered_at.tzinfo is not None
    assert shipped.delivered_at is None


def test_an_unknown_customer_is_an_error_for_the_model() -> None:
    """The model hears that nobody has that address."""
    with pytest.raises(ToolError, match="nobody@example"):
        find_orders("nobody@example.com")


@pytest.mark.parametrize(
    ("order_id", "refundable", "why"),
    [
        ("A-1001", True, "within the refund window"),
        ("A-1002", False, "on its way"),
        ("A-1003", False, "within 30 days"),
        ("A-1004", True, "within the refund window"),
    ],
)
async def test_the_policy_says_what_may_be_refunded(order_id: str, refundable: bool, why: str) -> None:
    """Delivered lately or not yet sent: yes; on its way or long delivered: no, and why."""
    policy = await check_refund_policy(order_id)

    assert policy.refundable is refundable
    assert why in policy.reason
    assert (policy.max_amount > 0) is refundable


async def test_a_refund_is_paid_and_found_again(shop: Path) -> None:
    """The probe finds the refund of its own call, and only that."""
    paid = tool_context(call_id="paid")
    before = refund_made(paid, "A-1001", Decimal("249.00"))

    refund = await refund_order(paid, "A-1001", Decimal("249.00"), "broken")

    assert before is NOT_DONE
    assert refund_made(paid, "A-1001", Decimal("249.00")) == refund
    assert refund_made(tool_context(call_id="other"), "A-1001", Decimal("249.00")) is NOT_DONE
    assert (refund.refund_id, refund.amount, refund.reason) == ("R-0001", Decimal("249.00"), "broken")
    assert count(shop, "refunds") == 1


async def test_a_refund_is_paid_before_it_is_reported(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pause set, a crash in it lands between effect and report: the probe finds what nobody heard of."""
    monkeypatch.setenv("SUPPORT_DESK_REFUND_PAUSE", "60")
    context = tool_context()
    await check_refund_policy("A-1001")

    call = asyncio.create_task(refund_order(context, "A-1001", Decimal(5)))
    await eventually(lambda: count(shop, "refunds") == 1)
    reported = call.done()
    call.cancel()

    assert not reported
    assert refund_made(context, "A-1001", Decimal(5)) is not NOT_DONE


@pytest.mark.parametrize(
    ("order_id", "amount", "why"),
    [("A-9999", "1", "There is no order 'A-9999'"), ("A-1001", "249.01", "at most 249.00"), ("A-1002", "1", "its way")],
)
async def test_a_wrong_refund_is_refused(shop: Path, order_id: str, amount: str, why: str) -> None:
    """An unknown order, too much money or a breach of the policy is told to the model, and nothing is paid."""
    with pytest.raises(ToolError, match=why):
        await refund_order(tool_context(), order_id, Decimal(amount))

    assert count(shop, "refunds") == 0


async def test_an_order_is_refunded_up_to_its_amount(shop: Path) -> None:
    """Refunds of parts add up to the order's amount; then there is no more."""
    await refund_order(tool_context(call_id="1"), "A-1001", Decimal("200"))
    await refund_order(tool_context(call_id="2"), "A-1001", Decimal("49"))

    with pytest.raises(ToolError, match="refunded already"):
        await refund_order(tool_context(call_id="3"), "A-1001", Decimal("1"))

    assert count(shop, "refunds") == 2


def test_a_repeated_reply_is_sent_once(shop: Path) -> None:
    """Two attempts of one call send one reply and return the same; another call sends another."""
    first = send_reply(tool_context(), "ann@example.com", "Hello Ann")
    again = send_reply(tool_context(attempt=2), "ann@example.com", "Hello Ann")
    other = send_reply(tool_context(call_id="call-2"), "ann@example.com", "Hello Ann")

    assert first == again
    assert other.reply_id != first.reply_id
    assert count(shop, "replies") == 2


def test_a_reply_to_a_stranger_is_refused(shop: Path) -> None:
    """The model cannot write to whom it likes."""
    with pytest.raises(ToolError, match="no customer's address"):
        send_reply(tool_context(), "mallory@example.com", "Here are the orders")

    assert count(shop, "replies") == 0
