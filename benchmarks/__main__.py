"""`python -m benchmarks [names…] [--quick]`: measure, print Markdown, and end with 1 if a goal is missed."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from benchmarks.audit import measure_audit
from benchmarks.budget import measure_budget
from benchmarks.cpu import measure_cpu
from benchmarks.fairness import measure_fairness
from benchmarks.history import measure_history
from benchmarks.overhead import measure_overhead
from benchmarks.recovery import measure_recovery
from benchmarks.report import Report
from benchmarks.stream import measure_stream


class Benchmark(Protocol):
    """Measures one thing."""

    def __call__(self, *, quick: bool) -> Awaitable[Report]: ...


BENCHMARKS: Mapping[str, Benchmark] = {
    "history": measure_history,
    "cpu": measure_cpu,
    "overhead": measure_overhead,
    "recovery": measure_recovery,
    "audit": measure_audit,
    "fairness": measure_fairness,
    "budget": measure_budget,
    "stream": measure_stream,
}


async def measure(names: list[str], *, quick: bool, tell: Callable[[str], None]) -> bool:
    """Make the benchmarks of these names, and return whether all goals are met."""
    reports = []
    for name in names:
        report = await BENCHMARKS[name](quick=quick)
        tell(report.markdown())
        reports.append(report)
    return all(report.met for report in reports)


def main() -> int:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="default: all of them")
    parser.add_argument("--quick", action="store_true", help="a short run, to see that everything works")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    return 0 if asyncio.run(measure(names, quick=arguments.quick, tell=lambda text: print(text, flush=True))) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # the SDK's threads may abort an interpreter that is ending
