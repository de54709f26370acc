"""Logs: what they must never show."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import structlog
from perdure.settings import Settings
from perdure.telemetry import configure_logging

configure_logging(Settings(log_format="{form}"))

def pay(card):
    raise ConnectionResetError("connection lost")

try:
    pay("".join(["4111", "1111"]))
except ConnectionResetError:
    structlog.get_logger("shop").warning("tool_raised", exc_info=True)
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_logged_exception_shows_no_values_of_variables(form: str) -> None:
    """A traceback says where it happened, and nothing of the data that was being handled."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)], capture_output=True, text=True, check=True
    )

    assert "connection lost" in ended.stderr
    assert "in pay" in ended.stderr
    assert "41111111" not in ended.stderr
