"""Redaction: what must not be seen leaves this process as `[secret]`, in text and in JSON.

Two things give a secret away: the name it is kept under (`perdure.secret_names`) and the form it has
(`perdure.secret_forms`). Ids, digests and counts of our own are left alone. Personal data is another stage:
`perdure.personal_data`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from pydantic import BaseModel

from perdure.secret_forms import CARD_MASK, MASK, is_card_number, mask_forms
from perdure.secret_names import is_secret_name

TOO_DEEP: Final = "[nested too deep]"
TOO_MUCH: Final = "[left out: too many values]"
MAX_DEPTH: Final = 32
MAX_VALUES: Final = 50_000
"""Values of one JSON document that are looked at; the rest is left out."""
MIN_VALUE: Final = 4
"""Characters of the shortest declared secret that is looked for in other texts; shorter ones are anywhere."""
IDENTIFIERS: Final = frozenset(
    {
        "agent",
        "approval_id",
        "approvers",
        "by",
        "call_id",
        "decided_by",
        "delivery_id",
        "digest",
        "edited_by",
        "effect",
        "error_type",
        "execution_id",
        "grant_id",
        "id",
        "kind",
        "model",
        "name",
        "next_page_token",
        "not_from",
        "notice_id",
        "org",
        "provider_id",
        "question",
        "requested_by",
        "rule",
        "run_id",
        "schedule_id",
        "secrets",
        "sender",
        "session_id",
        "span_id",
        "tool",
        "tools",
        "trace",
        "trace_id",
        "traceparent",
        "type",
        "ui_url",
        "user",
        "version",
        "waiting_for",
        "worker",
    }
)
"""Fields of our models that name something; no redactor may take one for what it looks like. New ones are redacted."""

M = TypeVar("M", bound=BaseModel)


class Redactor(Protocol):
    """Takes out of a text what must not be seen."""

    def redact(self, text: str) -> str:
        """Return the text with masks in place of what was found."""
        ...


class SecretRedactor:
    """Masks secrets, by their form and by the name before them."""

    def redact(self, text: str) -> str:
        """Return the text with `[secret]` and `[card]` in place of secrets."""
        return mask_forms(text)


class Stages:
    """Several redactors, one after the other."""

    def __init__(self, *stages: Redactor) -> None:
        self._stages = stages

    def redact(self, text: str) -> str:
        """Return what the last stage leaves."""
        for stage in self._stages:
            text = stage.redact(text)
        return text


class ValueRedactor:
    """Masks certain texts wherever they are: the secret arguments of one call, in what is said about it."""

    def __init__(self, values: Iterable[str]) -> None:
        # A text may be repeated as JSON writes it; the longest comes first, as one may be a part of another.
        long = [value for value in values if len(value) >= MIN_VALUE]
        written = {json.dumps(value, ensure_ascii=plain)[1:-1] for value in long for plain in (True, False)}
        self._values = sorted({*long, *written}, key=len, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._values)

    def redact(self, text: str) -> str:
        """Return the text with `[secret]` in place of each of the values."""
        for value in self._values:
            text = text.replace(value, MASK)
        return text


SECRETS: Final = SecretRedactor()
"""The redactor that is always on."""

_IN_HAND: ContextVar[ValueRedactor | None] = ContextVar("perdure_secret_values", default=None)


def take_in_hand(values: Iterable[str]) -> None:
    """Have logs and spans of the current task mask these values until it ends, whatever they stand in.

    Not only until a call returns: Temporal's SDK logs a call's failure behind it, in the same task.
    """
    _IN_HAND.set(ValueRedactor(values))


def in_hand() -> ValueRedactor | None:
    """Return what masks the secret arguments of the call that is being served; None outside of one."""
    return _IN_HAND.get() or None


def redact_json(value: Any, redactor: Redactor = SECRETS) -> Any:
    """Return a JSON value with secrets masked: what is kept under a secret's name, and secrets within texts.

    Beyond `MAX_DEPTH` levels or `MAX_VALUES` values nothing is passed on unseen, but left out.
    """
    return _Walk(redactor).value(value, depth=0)


def redact_model(model: M, redactor: Redactor = SECRETS) -> M:
    """Return a model with secrets masked in all that is free text or JSON; ids, names and numbers stay as they are."""
    changes: dict[str, object] = {}
    for name in type(model).model_fields:
        if name not in IDENTIFIERS:
            value = getattr(model, name)
            shown = _shown(value, redactor)
            if shown is not value:
                changes[name] = shown
    return model.model_copy(update=changes) if changes else model


async def redacted(model: M, redactor: Redactor) -> M:
    """Return what `redact_model` does; a redactor that takes its time has a thread for it."""
    if redactor is SECRETS:
        return redact_model(model, redactor)
    return await asyncio.to_thread(redact_model, model, redactor)


def _shown(value: Any, redactor: Redactor) -> Any:
    match value:
        case Enum():
            return value
        case str():
            return redactor.redact(value)
        case BaseModel():
            return redact_model(value, redactor)
        case dict():
            return redact_json(value, redactor) if value else value
        case tuple() if value:
            shown = tuple(_shown(item, redactor) for item in value)
            return shown if any(new is not old for new, old in zip(shown, value, strict=True)) else value
        case _:
            return value


class _Walk:
    """One pass over a JSON value."""

    def __init__(self, redactor: Redactor) -> None:
        self._redact = redactor.redact
        self._left = MAX_VALUES

    def value(self, value: Any, *, depth: int) -> Any:
        self._left -= 1
        if self._left < 0:
            return TOO_MUCH
        match value:
            case str():
                return self._redact(value)
            case bool() | None | float():
                return value
            case int():
                return CARD_MASK if is_card_number(str(value)) else value
            case Mapping() | list() | tuple() if depth >= MAX_DEPTH:
                return TOO_DEEP
            case Mapping():
                return {self._name(name): self._named(name, inner, depth=depth) for name, inner in value.items()}
            case list() | tuple():
                return [self.value(inner, depth=depth + 1) for inner in value]
            case _:
                return value

    def _name(self, name: Any) -> Any:
        return self._redact(name) if isinstance(name, str) else name

    def _named(self, name: Any, value: Any, *, depth: int) -> Any:
        if isinstance(name, str) and is_secret_name(name) and _hides(value):
            return MASK
        return self.value(value, depth=depth + 1)


def _hides(value: Any) -> bool:
    """Whether a value under a secret's name tells anything: an empty one, a flag or a null does not."""
    return bool(value) and not isinstance(value, bool)
