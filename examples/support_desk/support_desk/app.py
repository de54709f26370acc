"""The support desk's tools and agents, as Perdure serves them."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import Field

from perdure import NOT_DONE, Agent, App, Limits, NotDone, ToolContext, ToolError
from support_desk.database import add_refund, add_reply, connect, find_order, find_refund, orders_of
from support_desk.shop import Order, OrderStatus, Refund, RefundPolicy, Reply

REFUND_WINDOW = timedelta(days=30)

INSTRUCTIONS = """\
You are the support desk of a coffee shop. A customer writes to you; you settle what they ask.

Look up the customer's orders and the refund policy of the order before you decide anything. Refund only what the policy
allows, and never more than the customer asked for. A person approves refunds that are not small; if they reject one, do
not try again: accept their decision and tell the customer. Send the customer exactly one reply, in friendly plain
words, when the matter is settled. Then end with a short summary for your colleagues that names the order and the
refund's id, if any.
"""

app = App(policy=Path(__file__).with_name("policy.yaml"))


@app.tool(effect="read", resource="customer:{customer_email}")
def find_orders(customer_email: str) -> list[Order]:
    """Find a customer's orders.

    Args:
        customer_email: The customer's e-mail address.
    """
    with connect() as connection:
        orders = orders_of(connection, customer_email)
    if not orders:
        raise ToolError(f"No customer with the address {customer_email!r} has an order.")
    return orders


@app.tool(effect="read", resource="order:{order_id}")
async def check_refund_policy(order_id: str) -> RefundPolicy:
    """Check whether an order may be refunded, and up to what amount.

    Args:
        order_id: The order, as in A-1001.
    """
    return _policy(await asyncio.to_thread(_order, order_id))


def refund_made(ctx: ToolContext, order_id: str, amount: Decimal, reason: str = "") -> Refund | NotDone:
    """Tell whether a refund whose worker died was paid: the call's idempotency key was stored with it."""
    del order_id, amount, reason  # the key alone identifies the call
    with connect() as connection:
        return find_refund(connection, ctx.idempotency_key) or NOT_DONE


@app.tool(effect="once", resource="order:{order_id}", timeout=30, reconcile=refund_made)
async def refund_order(
    ctx: ToolContext,
    order_id: str,
    amount: Annotated[Decimal, Field(gt=0, decimal_places=2)],
    reason: str = "",
) -> Refund:
    """Pay back a customer. A person approves a refund that is not small.

    Args:
        order_id: The order, as in A-1001.
        amount: Euros to pay back, at most what the policy allows.
        reason: Why, in a few words.
    """
    refund = await asyncio.to_thread(_pay_back, ctx.idempotency_key, order_id, amount, reason)
    ctx.log.info("refund_paid", refund_id=refund.refund_id)
    # The money has moved, and nobody but the payment provider knows: a crash here is what `reconcile` is for.
    await asyncio.sleep(float(os.environ.get("SUPPORT_DESK_REFUND_PAUSE") or 0))
    return refund


@app.tool(effect="idempotent", resource="mailbox:{customer_email}")
def send_reply(ctx: ToolContext, customer_email: str, text: str) -> Reply:
    """Send the customer a reply by e-mail.

    Args:
        customer_email: The customer's e-mail address.
        text: The reply, as the customer will read it.
    """
    with connect() as connection:
        if not orders_of(connection, customer_email):
            raise ToolError(f"{customer_email!r} is no customer's address; take the one the customer wrote from.")
        return add_reply(connection, key=ctx.idempotency_key, email=customer_email, text=text)


def _order(order_id: str) -> Order:
    with connect() as connection:
        order = find_order(connection, order_id)
    if order is None:
        raise ToolError(f"There is no order {order_id!r}; find_orders lists the customer's.")
    return order


def _policy(order: Order) -> RefundPolicy:
    remaining = order.amount - order.refunded
    until = order.delivered_at + REFUND_WINDOW if order.delivered_at else None
    if remaining <= 0:
        refundable, reason = False, "The order has been refunded already."
    elif order.status is OrderStatus.SHIPPED:
        refundable, reason = False, "The order is on its way; it can be refunded once it has arrived."
    elif until is not None and until < datetime.now(UTC):
        refundable, reason = False, f"Orders are refunded within {REFUND_WINDOW.days} days of delivery."
    else:
        refundable, reason = True, "The order is within the refund window."
    return RefundPolicy(
        order_id=order.order_id,
        refundable=refundable,
        max_amount=remaining if refundable else Decimal(0),
        reason=reason,
        refundable_until=until,
    )


def _pay_back(key: str, order_id: str, amount: Decimal, reason: str) -> Refund:
    with connect() as connection:
        order = find_order(connection, order_id)
        if order is None:
            raise ToolError(f"There is no order {order_id!r}, so nothing was refunded.")
        policy = _policy(order)
        if not policy.refundable:
            raise ToolError(f"Order {order_id} was not refunded: {policy.reason}")
        if amount > policy.max_amount:
            raise ToolError(f"{amount} is too much: at most {policy.max_amount} of order {order_id} can be refunded.")
        return add_refund(connection, key=key, order_id=order_id, amount=amount, reason=reason)


_TOOLS = ("find_orders", "check_refund_policy", "refund_order", "send_reply")
_LIMITS = Limits(max_steps=20, run_timeout=timedelta(days=1))

for _name, _model in (("support", "anthropic:claude-sonnet-5-5"), ("support-openai", "openai:gpt-6.1-terra")):
    app.add(
        Agent(
            name=_name,
            version="1",
            model=_model,
            instructions=INSTRUCTIONS,
            tools=_TOOLS,
            limits=_LIMITS,
            description="Settles what customers ask: finds orders, checks the policy, refunds, replies.",
        )
    )
