"""The resource that a call touches, as policies name it: a template over its arguments, filled in safely.

`order:{order_id}` names an order by an argument. `own:mailbox` names what belongs to the user on whose behalf the run
is: `mailbox:ann`. The template says of which kind a resource is, and an argument fills one place and no more:
characters that structure a resource are percent-encoded in it, so that no argument a model was talked into can pass for
another resource.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import Formatter
from typing import Final

from perdure.argument import Argument, find_argument
from perdure.messages import JsonObject
from perdure.reading import is_canonical_integer

OWN: Final = "own:"
_ESCAPED: Final = re.compile(r"[%:/*?\[\]\x00-\x1f\x7f]")
_KIND: Final = re.compile(r"(?:own:)?([a-z][a-z0-9_-]*)", re.ASCII)
_LITERAL: Final = re.compile(r"[A-Za-z0-9_.:/@+~-]*", re.ASCII)
_FIELD: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)


@dataclass(frozen=True)
class Resource:
    """What a call touches."""

    text: str
    sure: bool = True
    """False: an argument in it can be written in several ways, so that another text may be the same resource."""


def template_fields(template: str) -> tuple[str, ...]:
    """Return the arguments that a template names, as dotted paths.

    Raises:
        ValueError: It is no template of this kind.
    """
    fields: list[str] = []
    separated = True
    for literal, field, specification, conversion in Formatter().parse(template):
        separated = separated or ":" in literal or "/" in literal
        if not _LITERAL.fullmatch(literal):
            raise ValueError(f"{template!r} holds {literal!r}; beside arguments write letters, digits and ':/._-@+~'")
        if field is None:
            continue
        if specification or conversion or not _FIELD.fullmatch(field):
            raise ValueError(
                f"{template!r} is no resource template; write 'order:{{order_id}}', with names of arguments"
            )
        if not separated:
            raise ValueError(
                f"{template!r}: put ':' or '/' between two arguments, lest one be taken for part of another"
            )
        fields.append(field)
        separated = False
    _check_kind(template)
    return tuple(fields)


def kind_of(template: str) -> str:
    """Return the kind that a template names: `order` of `order:{order_id}`, `mailbox` of `own:mailbox`."""
    match = _KIND.match(template)
    return match[1] if match else ""


def resource_of(template: str, arguments: JsonObject, *, schema: JsonObject, user: str | None) -> Resource | None:
    """Fill a template in.

    Args:
        template: As a tool declares it.
        arguments: Of the call.
        schema: JSON schema of the tool's arguments; an empty one says nothing.
        user: On whose behalf the run is, for `own:`.

    Returns:
        None if an argument that the template names is missing, or may be read as another text than it is.
    """
    filled, sure = "", True
    for literal, field, _, _ in Formatter().parse(template):
        filled += literal
        if field is not None:
            argument = find_argument(arguments, field, schema=schema)
            text = _text(argument)
            if text is None:
                return None
            filled += escaped(text)
            sure = sure and not argument.type.text_format
    owned = own_resource(filled, user) if template.startswith(OWN) else filled
    return None if owned is None else Resource(owned, sure=sure)


def own_resource(text: str, user: str | None) -> str | None:
    """Turn `own:mailbox/inbox` into `mailbox:ann/inbox`; None if there is no user to own anything."""
    kind, slash, rest = text.removeprefix(OWN).partition("/")
    return f"{kind}:{escaped(user)}{slash}{rest}" if user else None


def escaped(text: str) -> str:
    """Percent-encode what structures a resource, or a glob of resources, so that a text stays within its place."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _text(argument: Argument) -> str | None:
    """Return what an argument puts into a resource; None if the tool may read something else from it."""
    value = argument.value
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value) if isinstance(value, str) or abs(value) < 10**100 else None
    if text is None or (isinstance(value, str) and argument.type.reads_numbers and not is_canonical_integer(text)):
        return None
    return text


def _check_kind(template: str) -> None:
    match = _KIND.match(template)
    rest = template[match.end() :] if match else ""
    if match is None or rest[:1] not in ("", "/" if template.startswith(OWN) else ":"):
        raise ValueError(
            f"{template!r} does not begin with a kind; write 'order:{{order_id}}', or 'own:mailbox' for the user's own"
        )
