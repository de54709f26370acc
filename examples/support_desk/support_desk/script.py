"""What the scripted model answers at the support desk, when no vendor's key is at hand.

It decides as a model would, from the results it was given, and so handles a rejected refund, an unknown customer or an
order past its refund window as well.
"""

from __future__ import annotations

import re
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from perdure.messages import ToolResult
from perdure.testing import Call, Script, ScriptedRequest, Turn
from support_desk.shop import Order, Refund, RefundPolicy, Reply

T = TypeVar("T")

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ORDER_ID = re.compile(r"\bA-\d{4,}\b")


def answer(request: ScriptedRequest) -> Turn:
    """Take the next step that the conversation asks for."""
    email = _EMAIL.search(request.input)
    if email is None:
        return Turn("Please tell me the e-mail address of your order, so that I can look it up.")
    named = _ORDER_ID.search(request.input)
    if (found := request.result("find_orders")) is None:
        return _look_up(email.group(), named.group() if named else None)
    orders = _read(found, TypeAdapter(list[Order]))
    if not orders:
        return Turn(f"I could not find an order to settle this with. {_words(found)}")
    order_id = named.group() if named else orders[0].order_id
    if (checked := request.result("check_refund_policy")) is None:
        return Turn(calls=[Call("check_refund_policy", {"order_id": order_id})])
    return _settle(request, email.group(), order_id, checked)


script = Script(answer)


def _look_up(email: str, order_id: str | None) -> Turn:
    calls = [Call("find_orders", {"customer_email": email})]
    if order_id is not None:
        calls.append(Call("check_refund_policy", {"order_id": order_id}))
    return Turn("Let me look at your orders and at our refund policy.", calls=calls)


def _settle(request: ScriptedRequest, email: str, order_id: str, checked: ToolResult) -> Turn:
    policy = _read(checked, TypeAdapter(RefundPolicy))
    refunded = request.result("refund_order")
    replied = request.result("send_reply")
    if policy is not None and policy.refundable and refunded is None:
        arguments = {"order_id": order_id, "amount": str(policy.max_amount), "reason": "the customer asked for it"}
        return Turn("The policy allows a refund, so I ask for one.", calls=[Call("refund_order", arguments)])
    refund = None if refunded is None else _read(refunded, TypeAdapter(Refund))
    refused = policy.reason if policy is not None and refunded is None else _words(refunded or checked)
    if replied is None:
        return Turn(calls=[Call("send_reply", {"customer_email": email, "text": _letter(order_id, refund, refused)})])
    reply = _read(replied, TypeAdapter(Reply))
    told = f"I told {reply.to} so in reply {reply.reply_id}." if reply else f"No reply was sent: {_words(replied)}"
    if refund is None:
        return Turn(f"Order {order_id} was not refunded. {refused} {told}")
    return Turn(f"Order {order_id} is refunded: {refund.amount} euros, refund {refund.refund_id}. {told}")


def _letter(order_id: str, refund: Refund | None, refused: str) -> str:
    if refund is None:
        return f"We are sorry: we cannot refund order {order_id}. {refused}"
    return f"We have refunded {refund.amount} euros for order {order_id}. Your refund's number is {refund.refund_id}."


def _read(result: ToolResult, kind: TypeAdapter[T]) -> T | None:
    """Read a result; None if it is an error. Not every format says which results are errors, so its form decides."""
    # A note of the runtime, such as who changed the arguments, comes on a line of its own before the result.
    for text in (result.content, result.content.partition("\n")[2]):
        try:
            return kind.validate_json(text)
        except ValidationError:
            continue
    return None


def _words(result: ToolResult) -> str:
    return result.content.strip().splitlines()[0] if result.content.strip() else "No reason was given."
