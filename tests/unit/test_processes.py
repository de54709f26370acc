"""Child processes: forwarded, noticed when they die, stopped in order, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from perdure.errors import ProcessError
from perdure.testing import eventually
from perdure_workers.processes import ProcessGroup
from tests.children import alive

GRACE = timedelta(seconds=5)
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def python(code: str) -> list[str]:
    """Return the command line of a Python program."""
    return [sys.executable, "-c", code]


async def test_lines_of_a_child_are_forwarded_under_its_name() -> None:
    """Every line arrives, the last one also without a line break, and odd bytes don't stop the rest."""
    lines: list[tuple[str, str]] = []
    code = "import sys; sys.stdout.buffer.write(b'one\\n\\xff\\nlast'); sys.stderr.write('')"

    async with ProcessGroup(forward=lambda name, line: lines.append((name, line))) as group:
        child = await group.start("talker", python(code))
        await child.wait()

    assert lines == [("talker", "one"), ("talker", "\N{REPLACEMENT CHARACTER}"), ("talker", "last")]


async def test_a_line_without_end_is_forwarded_in_pieces() -> None:
    """A child that never breaks its line neither stalls nor fills our memory."""
    lines: list[str] = []

    async with ProcessGroup(forward=lambda _, line: lines.append(line)) as group:
        child = await group.start("talker", python("print('x' * 1_000_000)"))
        await child.wait()

    assert sum(map(len, lines)) == 1_000_000
    assert max(map(len, lines)) < 200_000


async def test_the_first_death_is_told_with_exit_code_and_last_lines() -> None:
    """A child that dies is named with how it ended and what it said last."""
    async with ProcessGroup() as group:
        await group.start("steady", python(SLEEP))
        await group.start("broken", python("print('no disk'); raise SystemExit(7)"))

        death = await (await group.first_death()).death()

    assert str(death) == "broken ended with exit code 7; the last it said:\nno disk"


async def test_a_child_that_dies_before_it_is_ready_is_reported_at_once() -> None:
    """Waiting for readiness ends with the child, not with the time limit."""

    async def never() -> bool:
        return False

    async with ProcessGroup() as group:
        child = await group.start("broken", python("raise SystemExit('cannot bind')"))

        with pytest.raises(ProcessError, match="exit code 1; the last it said:\ncannot bind"):
            await child.wait_until(never, within=timedelta(seconds=30))


async def test_what_a_dead_child_said_last_is_told_without_its_colours() -> None:
    """An error message holds no escape sequences, wherever it is printed or kept."""
    async with ProcessGroup() as group:
        child = await group.start("red", python(r"print('\x1b[31mno\x1b[0m way')"))

        told = await child.death()

    assert str(told) == "red ended with exit code 0; the last it said:\nno way"


async def test_a_child_that_never_gets_ready_is_given_up() -> None:
    """Readiness has a time limit, and the error carries the child's last lines."""

    async def never() -> bool:
        return False

    async with ProcessGroup() as group:
        child = await group.start("slow", python(SLEEP))
        await eventually(lambda: child.tail == "up")

        with pytest.raises(ProcessError, match=r"slow is not ready after 0\.2 s; the last it said:\nup"):
            await child.wait_until(never, within=timedelta(seconds=0.2))


async def test_children_stop_in_the_reverse_order_of_their_start() -> None:
    """The one started last, which depends on the others, is asked first."""
    order: list[str] = []

    async with ProcessGroup() as group:
        for name in ("server", "api", "worker"):
            await group.start(name, python(SLEEP))
        await group.stop(grace=GRACE, told=lambda child: order.append(child.name))

    assert order == ["worker", "api", "server"]


async def test_a_child_that_ignores_the_request_is_killed_after_its_grace() -> None:
    """Nothing outlasts its grace."""
    async with ProcessGroup() as group:
        child = await group.start("stubborn", python(STUBBORN))
        await eventually(lambda: child.tail == "up")

        code = await child.stop(grace=timedelta(seconds=0.2))

    assert code == -signal.SIGKILL


async def test_leaving_the_group_kills_what_children_have_started_themselves() -> None:
    """A tool's own subprocess does not survive the group."""
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"

    async with ProcessGroup() as group:
        child = await group.start("parent", python(f"{code}; import time; time.sleep(60)"))
        await eventually(lambda: child.tail != "")
        grandchild = int(child.tail.split()[0])

    await eventually(lambda: not alive(grandchild))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
async def test_children_die_with_a_parent_that_is_killed_outright() -> None:
    """SIGKILL of the command leaves no orphan."""
    code = f"""
import asyncio, sys
from perdure_workers.processes import ProcessGroup
from perdure.testing import eventually
from tests.children import alive

async def main():
    async with ProcessGroup() as group:
        child = await group.start("orphan", [sys.executable, "-c", {SLEEP!r}])
        print(child.pid, flush=True)
        await child.wait()

asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(*python(code), stdout=subprocess.PIPE)
    assert parent.stdout is not None
    orphan = int(await parent.stdout.readline())

    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()

    await eventually(lambda: not alive(orphan))


async def test_a_program_that_does_not_exist_is_reported_with_its_path() -> None:
    """A missing program is named."""
    async with ProcessGroup() as group:
        child = await group.start("ghost", ["/no/such/program"])

        assert "cannot start '/no/such/program'" in str(await child.death())
