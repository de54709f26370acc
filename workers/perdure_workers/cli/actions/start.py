"""`perdure run`: start a run, and wait for it if asked to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from perdure.errors import InvalidInputError
from perdure.personal_data import load_redactor
from perdure.settings import load_settings
from perdure.telemetry import traced
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun, StartedRun
from perdure_workers.cli.actions.connection import connected, operator
from perdure_workers.cli.actions.following import wait_for
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.ending import ExitCode
from perdure_workers.loading import load_here


@dataclass(frozen=True)
class Order:
    """What the command line asks for, as it was typed."""

    agent: str
    """`NAME` or `NAME@VERSION`."""
    input: str
    """`-` is standard input."""
    key: str | None
    session: str | None
    user: str | None
    org: str | None
    roles: tuple[str, ...] | None
    priority: str
    limits: tuple[str, ...]
    """`NAME=VALUE` each, as `metadata`."""
    metadata: tuple[str, ...]
    callback_url: str | None = None


async def start(order: Order, *, wait: bool, as_json: bool, app: str | None, address: str | None) -> ExitCode | None:
    """Start a run and print its id; with `wait`, follow it to its end.

    Raises:
        InvalidInputError: Something was typed that cannot be.
        PerdureError: The app does not load, the agent is unknown, or no server answers.
    """
    new = new_run(order)
    settings = load_settings(app=app)
    loaded = load_here(settings)
    redactor = load_redactor(settings)
    async with connected(settings, address=address) as client, traced("perdure", redactor=redactor):
        gateway = Gateway(client, loaded, settings, principal=operator())
        started = await gateway.runs.start(new, idempotency_key=order.key)
        if not wait:
            _print_started(started, as_json=as_json)
            return None
        console(stderr=True).print(f"run {started.run_id}", soft_wrap=True)
        return await wait_for(client, started.run_id, redactor=redactor, as_json=as_json)


def new_run(order: Order) -> NewRun:
    """Return the run that was typed.

    Raises:
        InvalidInputError: It cannot be one.
    """
    name, _, version = order.agent.partition("@")
    try:
        return NewRun.model_validate(
            {
                "agent": name,
                "version": version or None,
                "input": sys.stdin.read() if order.input == "-" else order.input,
                "user": order.user,
                "org": order.org,
                "session_id": order.session,
                **({} if order.roles is None else {"roles": order.roles}),
                "priority": order.priority,
                "limits": limits_of(order.limits),
                "metadata": dict(_pairs("--metadata", order.metadata)),
                "callback_url": order.callback_url,
            }
        )
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(place) for place in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise InvalidInputError(f"this cannot be started: {problems}") from error


def limits_of(texts: Iterable[str]) -> dict[str, str | int | float]:
    """Return limits as they were typed, `NAME=VALUE` each.

    Raises:
        InvalidInputError: One is not typed so.
    """
    return {name: _number(value) for name, value in _pairs("--limit", texts)}


def _pairs(option: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    pairs = [(name.strip(), value) for name, _, value in (text.partition("=") for text in texts)]
    for text, (name, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise InvalidInputError(f"{option} {text!r}: write NAME=VALUE")
    return pairs


def _number(text: str) -> str | int | float:
    """Return a number where one was written, as durations are seconds or ISO 8601."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _print_started(started: StartedRun, *, as_json: bool) -> None:
    if as_json:
        print_json(started)
        return
    sys.stdout.write(f"{started.run_id}\n")
    if not started.created:
        console(stderr=True).print("this key has started that run before; nothing new was started", soft_wrap=True)
