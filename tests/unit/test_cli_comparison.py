"""What `perdure agents compare` prints."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal

from rich.console import Console

from perdure_api.comparison_schemas import Scores, VersionComparison, VersionRecord
from perdure_api.proportion import wilson
from perdure_api.run_statistics import RunStatistics
from perdure_workers.cli.actions.comparison import print_comparison


def test_versions_are_lines_of_a_table() -> None:
    """Scorers have a column each, what is not known is a dash, and it is said where only a part is compared."""
    known = VersionRecord(
        version="1.0",
        registered=True,
        share=1,
        ended=1500,
        statistics=RunStatistics(
            runs=1000,
            judged=1000,
            success_rate=0.914,
            duration_p50_seconds=8.2,
            duration_p95_seconds=31,
            tool_calls=250,
            tool_failure_rate=0.012,
        ),
        success=wilson(914, 1000),
        cost_mean_usd=Decimal("0.0212"),
        feedback=Scores(count=61, mean=0.784),
        scorers={"helpful": Scores(count=92, mean=0.71)},
    )
    new = VersionRecord(version="1.1", registered=True, share=0, ended=0, statistics=RunStatistics())
    now = datetime.now(UTC)
    written = io.StringIO()

    print_comparison(
        VersionComparison(agent="a", since=now, until=now, versions=(known, new), verdict="Wait."),
        Console(file=written, width=200),
    )

    assert [" ".join(one.split()) for one in written.getvalue().splitlines()] == [
        "version runs success 95 % interval p50 p95 tools failed cost a run feedback helpful",
        "1.0 1,000 91.4% 89.5% to 93.0% 8.2 s 31.0 s 1.2% of 250 $0.0212 0.78 of 61 0.71 of 92",
        "1.1 0 – – – – – – – –",
        "Wait.",
        "1,500 runs of 1.0 ended; 1,000 are compared",
    ]
