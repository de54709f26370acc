"""`perdure keys create`, `list` and `revoke`."""

from __future__ import annotations

import getpass
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.text import Text

from perdure.errors import InvalidInputError
from perdure.principal import Scope
from perdure.settings import load_settings
from perdure_api.keys import DEFAULT_SCOPES, ApiKeys, KeyFilter, ListedKey, NewKey, Revocation
from perdure_workers.cli.actions.connection import connected
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.plain_text import line

M = TypeVar("M", bound=BaseModel)

ALL_ORGS = "(all)"
_IN_WORDS = {"expires": "write a time such as 90d or 12h, more than 0 and at most 3650d"}
"""What would be right, where the checks' own words do not say it."""


@dataclass(frozen=True)
class WantedKey:
    """What the command line asks for, as it was typed."""

    name: str
    org: str | None
    all_orgs: bool
    user: str | None
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    expires: str | None


class MadeKey(BaseModel):
    """What `keys create --json` prints."""

    key: str
    """What its holder sends."""
    key_id: str
    name: str
    user: str
    org: str | None
    roles: tuple[str, ...]
    scopes: tuple[Scope, ...]
    expires_at: datetime | None


async def create_key(wanted: WantedKey, *, by: str | None, as_json: bool, address: str | None) -> None:
    """Make a key, and print it alone on standard output.

    Raises:
        InvalidInputError: Something was typed that cannot be.
        PerdureError: No server answers.
    """
    new = _new_key(wanted)
    async with _keys(address) as keys:
        key, record = await keys.create(new, by=by or getpass.getuser())
    if as_json:
        print_json(MadeKey(key=key.text, **record.model_dump(include=set(MadeKey.model_fields))))
        return
    sys.stdout.write(f"{key.text}\n")
    whose = "all organisations" if record.org is None else record.org
    until = f"until {record.expires_at:%Y-%m-%d %H:%M} UTC" if record.expires_at else "until it is revoked"
    scopes = ", ".join(record.scopes)
    console(stderr=True).print(
        f"key {record.key_id} of {record.user}, {whose}: {scopes}; works {until}. It is not shown again.",
        soft_wrap=True,
        markup=False,
    )


async def list_keys(*, org: str | None, as_json: bool, address: str | None) -> None:
    """Print keys, the newest first.

    Raises:
        InvalidInputError: There can be no such organisation.
        PerdureError: No server answers.
    """
    wanted = _checked(KeyFilter, {"org": org})
    async with _keys(address) as keys:
        found = await keys.list(wanted)
    if as_json:
        print_json(found)
    elif found:
        _print_table(found, console())
    else:
        console().print("no keys" if org else "no keys yet; make one with: perdure keys create --name NAME --org ORG")


async def revoke_key(key_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """End a key for good.

    Raises:
        PerdureError: There is no such key, or it has ended, or no server answers.
    """
    revocation = _checked(Revocation, {"by": by or getpass.getuser(), "reason": reason})
    async with _keys(address) as keys:
        record = await keys.revoke(key_id, revocation)
    console().print(
        f"revoked key {key_id}, {line(record.name)}; an API that has just seen it may take it for some seconds more",
        soft_wrap=True,
        markup=False,
    )


@asynccontextmanager
async def _keys(address: str | None) -> AsyncIterator[ApiKeys]:
    settings = load_settings()
    async with connected(settings, address=address) as client:
        yield ApiKeys(client, task_queue=settings.task_queue)


def _new_key(wanted: WantedKey) -> NewKey:
    if (wanted.org is None) != wanted.all_orgs:
        raise InvalidInputError(
            "say whose runs the key is for: --org ORG, or --all-orgs for an operator, and not both of them"
        )
    return _checked(
        NewKey,
        {
            "name": wanted.name,
            "org": wanted.org,
            "user": wanted.user,
            "roles": wanted.roles,
            "scopes": wanted.scopes or DEFAULT_SCOPES,
            "expires": wanted.expires,
        },
    )


def _checked(model: type[M], typed: dict[str, Any]) -> M:
    try:
        return model.model_validate(typed)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = str(problem["loc"][0])
        option = {"roles": "role", "scopes": "scope"}.get(field, field)
        said = _IN_WORDS.get(field, problem["msg"].removeprefix("Value error, "))
        raise InvalidInputError(f"--{option} {problem['input']!r}: {said}") from error


def _print_table(keys: Sequence[ListedKey], out: Console) -> None:
    """Print one line for each key, on a terminal cut at its width, and whole elsewhere."""
    rows = [("key", "name", "state", "org", "user", "roles", "scopes", "created", "expires")]
    rows += [
        (
            key.key_id,
            line(key.name),
            line(f"{key.state} {key.ended_because}".rstrip()),
            ALL_ORGS if key.org is None else line(key.org),
            line(key.user),
            line(",".join(key.roles)) or "-",
            ",".join(key.scopes),
            f"{key.created_at:%Y-%m-%d}",
            f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "-",
        )
        for key in keys
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        style = "dim" if place == 0 or keys[place - 1].state != "active" else ""
        if out.is_terminal:
            out.print(Text(text, style=style), no_wrap=True, overflow="ellipsis")
        else:
            out.print(Text(text, style=style), soft_wrap=True)
