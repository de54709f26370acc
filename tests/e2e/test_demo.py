"""The demo, played as a newcomer plays it: as a program, with and without somebody at the terminal."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.children import alive, descendants

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-m", "perdure_workers.cli", "demo")
LIMIT = 120


def paid(folder: Path) -> int:
    """Return how many refunds the demo's shop has made."""
    with closing(sqlite3.connect(folder / ".perdure" / "demo" / "shop.db")) as shop:
        (count,) = shop.execute("SELECT count(*) FROM refunds").fetchone()
    return int(count)


def play_at_terminal(folder: Path, answers: dict[bytes, bytes | signal.Signals]) -> tuple[int, str]:
    """Play at a terminal; answer each prompt once, with a line or a signal. Return exit code and what was shown."""
    terminal, its_side = pty.openpty()
    with subprocess.Popen(COMMAND, cwd=folder, stdin=its_side, stdout=its_side, stderr=its_side) as program:
        os.close(its_side)
        shown, waiting, end = b"", dict(answers), time.monotonic() + LIMIT
        while time.monotonic() < end:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # Linux reports the other side's end as an error
                break
            for prompt in [prompt for prompt in waiting if prompt in shown]:
                answer = waiting.pop(prompt)
                if isinstance(answer, signal.Signals):
                    program.send_signal(answer)
                else:
                    os.write(terminal, answer)
    os.close(terminal)
    return program.returncode, shown.decode()


def test_the_demo_crosses_an_approval_and_a_crash_by_itself(tmp_path: Path) -> None:
    """Without a terminal the demo approves, kills its worker, finishes, proves one refund, and leaves no process."""
    before = descendants(os.getpid())

    ended = subprocess.run(
        COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, stdin=subprocess.DEVNULL
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "scripted" in ended.stdout
    assert "approves this by itself" in ended.stdout
    assert "SIGKILL" in ended.stdout
    assert "✓ the refund happened exactly once" in ended.stdout
    assert "✗" not in ended.stdout
    assert "Temporal Web UI  http://127.0.0.1:" in ended.stdout
    assert paid(tmp_path) == 1
    assert not [pid for pid in descendants(os.getpid()) - before if alive(pid)]


def test_a_human_who_rejects_gets_no_refund(tmp_path: Path) -> None:
    """At a terminal the demo asks; after a no the run goes on without the refund, and it waits before it ends."""
    code, shown = play_at_terminal(tmp_path, {b"[y/n]": b"n\n", b"press Enter": b"\n"})

    assert code == 0, shown
    assert "✓ nothing was refunded" in shown
    assert paid(tmp_path) == 0


def test_ctrl_c_at_the_question_ends_the_demo(tmp_path: Path) -> None:
    """Whoever leaves in the middle is let go, with the exit code of an interruption and no process left."""
    before = descendants(os.getpid())

    code, shown = play_at_terminal(tmp_path, {b"[y/n]": signal.SIGINT})

    assert code == 130, shown
    assert not [pid for pid in descendants(os.getpid()) - before if alive(pid)]


def test_a_demo_without_its_example_app_says_how_to_install_it(tmp_path: Path) -> None:
    """Without the example app nothing starts, and the one line says what to install."""
    code = (
        "import importlib.metadata\n"
        "importlib.metadata.entry_points = lambda **wanted: ()\n"
        "from perdure_workers.cli import main\n"
        "main()\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "pip install ./examples/support_desk" in ended.stderr
    assert list(tmp_path.iterdir()) == []
