"""A tool's context for a test that calls the tool as the function it is."""

from __future__ import annotations

import threading

import structlog

from perdure.tool import ToolContext


def tool_context(
    *,
    run_id: str = "run-1",
    call_id: str = "call-1",
    attempt: int = 1,
    agent: str = "test",
    user: str | None = None,
    org: str | None = None,
    cancelled: bool = False,
) -> ToolContext:
    """Make a context; calls of the same run and call id have the same idempotency key.

    refund = await refund_order(tool_context(call_id="c7"), order_id="A-1001", amount=Decimal(5))
    """
    flag = threading.Event()
    if cancelled:
        flag.set()
    return ToolContext(
        run_id=run_id,
        call_id=call_id,
        idempotency_key=f"{run_id}:{call_id}",
        attempt=attempt,
        agent=agent,
        user=user,
        org=org,
        log=structlog.get_logger("perdure.tool").bind(run_id=run_id, call_id=call_id),
        _heartbeat=_no_heartbeat,
        _cancelled=flag,
    )


def _no_heartbeat(*details: object) -> None:
    """There is no server to beat for."""
