"""`perdure runs deliveries` and `redeliver`: whom a run has told what, and telling it again."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from perdure.figures import span
from perdure_api.delivery_schemas import RunDelivery
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.plain_text import line


async def list_deliveries(run_id: str, *, as_json: bool, address: str | None) -> None:
    """Print the deliveries of a run, the first first.

    Raises:
        PerdureError: There is no such run.
    """
    async with open_gateway(address=address) as gateway:
        found = await gateway.deliveries.list(run_id)
    if as_json:
        print_json(list(found))
    elif not found:
        console().print("this run has told nobody anything")
    else:
        for delivery in found:
            _print(delivery)


async def redeliver(run_id: str, delivery_id: str, *, as_json: bool, address: str | None) -> None:
    """Have a delivery that was given up tried again.

    Raises:
        PerdureError: There is no such run or delivery, or it has not failed.
    """
    async with open_gateway(address=address) as gateway:
        begun = await gateway.deliveries.redeliver(run_id, delivery_id)
    if as_json:
        print_json(begun)
    else:
        _print(begun)


def _print(delivery: RunDelivery) -> None:
    told = f"{delivery.delivery_id}  {delivery.about} to {line(delivery.host)}: {became(delivery, datetime.now(UTC))}"
    console().print(Text(told), soft_wrap=True)


def became(delivery: RunDelivery, now: datetime) -> str:
    """Say in a few words how far a delivery has come."""
    said: str = "under way" if delivery.status == "under_way" else delivery.status
    if delivery.attempts:
        said += f" after {delivery.attempts} attempt{'' if delivery.attempts == 1 else 's'}"
    if delivery.answered is not None:
        said += f", answered {delivery.answered}"
    if delivery.error is not None:
        said += f": {line(delivery.error.message)}"
    if delivery.next_attempt_at is not None:
        said += f"; tried again in {span(delivery.next_attempt_at - now)}"
    return said
