"""What the shop's tools tell the model: orders, the refund policy, refunds, replies."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from pydantic import BaseModel


class OrderStatus(StrEnum):
    """Where an order is."""

    PAID = "paid"
    SHIPPED = "shipped"
    DELIVERED = "delivered"


class Order(BaseModel):
    """An order of one item."""

    order_id: str
    customer: str
    item: str
    amount: Decimal
    """Euros."""
    status: OrderStatus
    ordered_at: datetime
    delivered_at: datetime | None = None
    refunded: Decimal = Decimal(0)
    """Euros paid back so far."""


class RefundPolicy(BaseModel):
    """Whether an order may be refunded, and up to what."""

    order_id: str
    refundable: bool
    max_amount: Decimal
    reason: str
    refundable_until: datetime | None = None


class Refund(BaseModel):
    """Money paid back."""

    refund_id: str
    order_id: str
    amount: Decimal
    reason: str
    refunded_at: datetime


class Reply(BaseModel):
    """A reply that was sent to a customer."""

    reply_id: str
    to: str
    sent_at: datetime
