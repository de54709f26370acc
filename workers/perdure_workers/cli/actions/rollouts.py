"""`perdure agents rollout`: which versions an agent's runs start with."""

from __future__ import annotations

import getpass
from collections.abc import Sequence

from rich.console import Console

from perdure.errors import InvalidInputError
from perdure.settings import load_settings
from perdure_api.gateway import Gateway
from perdure_api.rollout_schemas import AgentRollout, NewRollout, RolloutEnd, RolloutFilter
from perdure_workers.cli.actions.connection import connected, operator
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.table import percent, print_table
from perdure_workers.cli.actions.typed import typed
from perdure_workers.loading import load_here
from perdure_workers.plain_text import line


async def roll_out(
    name: str,
    weights: Sequence[str],
    *,
    clear: bool,
    org: str | None,
    by: str | None,
    as_json: bool,
    app: str | None,
    address: str | None,
) -> None:
    """Set a rollout, end it, or only look at it; and print what holds then.

    Raises:
        PerdureError: Something was typed that cannot be, the app does not load, or no server answers.
    """
    request = _request(weights, clear=clear, org=org, by=by or getpass.getuser())
    settings = load_settings(app=app)
    loaded = load_here(settings)
    async with connected(settings, address=address) as client:
        rollouts = Gateway(client, loaded, settings, principal=operator()).rollouts
        match request:
            case NewRollout():
                found = await rollouts.set(name, request)
            case RolloutEnd():
                found = await rollouts.clear(name, request)
            case _:
                found = await rollouts.of(name, request)
    if as_json:
        print_json(found)
    else:
        print_rollout(found, console())


def print_rollout(found: AgentRollout, out: Console) -> None:
    """Print what part of new users each version gets, and by whose word."""
    rollout = found.rollout
    weights = rollout.weights if rollout else {}
    gone = [version for version in weights if version not in found.shares]
    rows = [
        (version, str(weights.get(version, "–")), percent(share), "newest" if version == found.newest else "")
        for version, share in found.shares.items()
    ]
    rows += [(version, str(weights[version]), "–", "gone") for version in gone]
    print_table(("version", "weight", "new users", ""), rows, out)
    if rollout is None:
        said = "no rollout: runs start with the newest version"
    else:
        whose = f"organisation {line(rollout.org)}" if rollout.org else "every organisation"
        said = f"set by {line(rollout.created_by)} at {rollout.created_at:%Y-%m-%d %H:%M} UTC, for {whose}"
    out.print(said, style="dim", soft_wrap=True, markup=False)


def _request(
    weights: Sequence[str], *, clear: bool, org: str | None, by: str
) -> NewRollout | RolloutEnd | RolloutFilter:
    if clear and weights:
        raise InvalidInputError("--clear ends the rollout; leave the weights out, or --clear")
    if weights:
        return typed(NewRollout, {"org": org, "by": by, "weights": _weights(weights)})
    return typed(RolloutEnd, {"org": org, "by": by}) if clear else typed(RolloutFilter, {"org": org})


def _weights(texts: Sequence[str]) -> dict[str, str]:
    weights: dict[str, str] = {}
    for text in texts:
        version, _, weight = text.partition("=")
        if not version or not weight:
            raise InvalidInputError(f"{text!r}: write VERSION=WEIGHT, as in 1.1=10")
        if version in weights:
            raise InvalidInputError(f"version {version!r} has two weights")
        weights[version] = weight
    return weights
