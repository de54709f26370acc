"""The resource that a call touches, as policies name it: a template over its arguments, filled in safely.

`order:{order_id}` names an order by an argument. `own:mailbox` names what belongs to the user on whose behalf the run
is: `mailbox:ann`. An argument fills one place and no more: characters that structure a resource are percent-encoded in
it, so that no argument a model was talked into can pass for another resource.
"""

from __future__ import annotations

import re
from string import Formatter
from typing import Any, Final

from perdure.messages import JsonObject

OWN: Final = "own:"
_STRUCTURE: Final = re.compile(r"[%:/*?\[\]\x00-\x1f\x7f]")
_FIELD: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


def template_fields(template: str) -> tuple[str, ...]:
    """Return the arguments that a template names, as dotted paths.

    Raises:
        ValueError: It is no template of this kind.
    """
    parsed = list(Formatter().parse(template))
    for _, field, specification, conversion in parsed:
        if specification or conversion or (field is not None and not _FIELD.fullmatch(field)):
            raise ValueError(
                f"{template!r} is no resource template; write 'order:{{order_id}}', with names of arguments"
            )
    fields = tuple(field for _, field, _, _ in parsed if field is not None)
    if not template or (not fields and not template.startswith(OWN) and "{" in template):
        raise ValueError(f"{template!r} is no resource template; write 'order:{{order_id}}'")
    return fields


def resource_of(template: str, arguments: JsonObject, *, user: str | None) -> str | None:
    """Fill a template in; None if an argument that it names is missing or no text or number.

    Args:
        template: As a tool declares it.
        arguments: Of the call.
        user: On whose behalf the run is, for `own:`.
    """
    filled = ""
    for literal, field, _, _ in Formatter().parse(template):
        filled += literal
        if field is not None:
            value = argument_at(arguments, field)
            if isinstance(value, bool) or not isinstance(value, str | int):
                return None
            filled += escaped(str(value))
    return own_resource(filled, user) if filled.startswith(OWN) else filled


def own_resource(text: str, user: str | None) -> str | None:
    """Turn `own:mailbox/inbox` into `mailbox:ann/inbox`; None if there is no user to own anything."""
    kind, slash, rest = text.removeprefix(OWN).partition("/")
    return None if user is None else f"{kind}:{escaped(user)}{slash}{rest}"


def argument_at(arguments: JsonObject, path: str) -> Any:
    """Return the argument at a dotted path; None if there is none."""
    value: Any = arguments
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def escaped(text: str) -> str:
    """Percent-encode what structures a resource, or a glob of resources, so that a text stays within its place."""
    return _STRUCTURE.sub(lambda found: f"%{ord(found[0]):02X}", text)
