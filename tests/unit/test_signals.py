"""Signals as an event that asks a command to end."""

from __future__ import annotations

import os
import signal

import pytest

from perdure_workers.signals import SIGNALS, stop_signals


@pytest.mark.parametrize("number", SIGNALS)
async def test_each_signal_asks_to_stop(number: signal.Signals) -> None:
    """Ctrl-C, an orchestrator's request and a closed terminal alike end a command well."""
    with stop_signals() as stop:
        os.kill(os.getpid(), number)

        assert await stop.wait()


async def test_nohup_is_respected() -> None:
    """A hang-up that whoever started the command has set to be ignored stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals():
            inside = signal.getsignal(signal.SIGHUP)
        after = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert inside == after == signal.SIG_IGN
