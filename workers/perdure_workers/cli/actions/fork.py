"""`perdure runs fork`: go on from a step of a run, with something changed."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure.errors import InvalidInputError
from perdure.settings import load_settings
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import ForkRequest
from perdure_workers.cli.actions.connection import connected, operator
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.start import limits_of
from perdure_workers.cli.actions.typed import typed
from perdure_workers.loading import load_here


@dataclass(frozen=True)
class ForkOrder:
    """What the command line asks for, as it was typed."""

    step: int | None
    version: str | None
    model: str | None
    instructions: Path | None
    arguments: str | None
    result: str | None
    message: str | None
    limits: tuple[str, ...]
    """`NAME=VALUE` each."""


async def fork_run(run_id: str, order: ForkOrder, *, as_json: bool, app: str | None, address: str | None) -> None:
    """Start the fork and print its id.

    Raises:
        InvalidInputError: Something was typed that cannot be.
        PerdureError: There is no such run or step, or the app does not have the agent.
    """
    request = _request(order)
    settings = load_settings(app=app)
    loaded = load_here(settings)
    async with connected(settings, address=address) as client:
        gateway = Gateway(client, loaded, settings, principal=operator())
        started = await gateway.recovery.fork(run_id, request)
    if as_json:
        print_json(started)
        return
    sys.stdout.write(f"{started.run_id}\n")
    watch = f"it goes on from run {run_id}; follow it with: perdure runs watch {started.run_id}"
    console(stderr=True).print(watch, soft_wrap=True, markup=False)


def _request(order: ForkOrder) -> ForkRequest:
    given: dict[str, Any] = {
        "step": order.step,
        "version": order.version,
        "model": order.model,
        "instructions": _text(order.instructions),
        "arguments": _json("--arguments", order.arguments),
        "result": _json("--result", order.result),
        "message": order.message,
        "limits": limits_of(order.limits) or None,
    }
    return typed(ForkRequest, {name: value for name, value in given.items() if value is not None})


def _text(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"--instructions-file {path}: {error}") from error


def _json(option: str, text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{option} {text!r} is not JSON: {error}; a text stands in double quotes") from error
