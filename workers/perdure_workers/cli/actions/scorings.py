"""`perdure runs scorings`: which scorers have judged a run."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from perdure.figures import span
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.plain_text import line


async def list_scorings(run_id: str, *, as_json: bool, address: str | None) -> None:
    """Print the scorings of a run, the first first.

    Raises:
        PerdureError: There is no such run.
    """
    async with open_gateway(address=address) as gateway:
        found = await gateway.scorings.list(run_id)
    if as_json:
        print_json(list(found))
        return
    if not found:
        console().print("no scorer was asked about this run")
    for scoring in found:
        said = scoring.status.replace("_", " ")
        if scoring.status == "done":
            said = "no opinion" if scoring.score is None else f"{scoring.score:g}"
        tries = f" after {scoring.attempts} attempt{'' if scoring.attempts == 1 else 's'}" if scoring.attempts else ""
        why = f": {line(scoring.error.message)}" if scoring.error else ""
        again = scoring.next_attempt_at
        later = f"; tried again in {span(again - datetime.now(UTC))}" if again else ""
        console().print(Text(f"{line(scoring.scorer)}: {said}{tries}{why}{later}"), soft_wrap=True)
