"""A document that an operator writes, in YAML or TOML: its content, and in which line each of its parts is."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from perdure.errors import PolicyError
from perdure.messages import JsonObject
from perdure.toml_document import read_toml
from perdure.yaml_document import read_yaml

Place = tuple[str | int, ...]
"""Where a part of a document is: keys, and indexes from 0."""
M = TypeVar("M", bound=BaseModel)

_READERS: Final = {".yaml": read_yaml, ".yml": read_yaml, ".toml": read_toml}
_MAX_QUOTED: Final = 60


@dataclass(frozen=True)
class Document:
    """What was read from a file."""

    file: Path
    content: JsonObject
    lines: Mapping[Place, int]
    """The first is 1; of a value in a mapping, that of its key."""

    def line_of(self, place: Sequence[str | int]) -> int:
        """Return the line of a part, or of the nearest part around it that there is."""
        known = (tuple(place[:length]) for length in range(len(place), 0, -1))
        return next((self.lines[one] for one in known if one in self.lines), 1)

    def error(self, message: str, *, place: Sequence[str | int]) -> PolicyError:
        """Return the error that a part of the document is wrong."""
        return PolicyError(message, file=str(self.file), line=self.line_of(place))


def read_document(file: Path, *, max_bytes: int, bound: str) -> Document:
    """Read a file by its suffix: `.yaml`, `.yml` or `.toml`.

    Args:
        file: The file.
        max_bytes: The largest file that is read.
        bound: Why there is a limit, for the error.

    Raises:
        PolicyError: It cannot be read, is too large, or is no mapping in good YAML or TOML.
    """
    name = str(file)
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise PolicyError(f"cannot tell how to read this; name it {', '.join(_READERS)}", file=name)
    try:
        with file.open("rb") as opened:
            raw = opened.read(max_bytes + 1)
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", file=name) from error
    if len(raw) > max_bytes:
        raise PolicyError(f"is larger than {max_bytes:,} bytes; {bound}", file=name)
    content, lines = reader(_decoded(raw, name), name)
    return Document(file, content, lines)


def validated(document: Document, model: type[M]) -> M:
    """Return a document's content as a model.

    Raises:
        PolicyError: It does not fit; names the first line that is wrong, and how many more mistakes there are.
    """
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # Of a list whose items are wrong, Pydantic also says that it has too few of them.
        problems = [one for one in problems if one["type"] != "too_short" or not one["input"]] or problems
    # What is missing may only be misspelt, and then the misspelt key says more.
    misspelt = {one["loc"][:-1] for one in problems if one["type"] == "extra_forbidden"}
    likely = [one for one in problems if one["type"] != "missing" or one["loc"][:-1] not in misspelt]
    problem = min(likely, key=lambda one: document.line_of(one["loc"]))
    others = {document.line_of(one["loc"]) for one in problems} - {document.line_of(problem["loc"])}
    more = f" (and {len(others)} more mistake{'s'[: len(others) > 1]})" if others else ""
    raise document.error(f"{_describe(problem, model)}{more}", place=problem["loc"])


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return the hint that something was misspelt, if it looks so."""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def _decoded(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PolicyError("is not UTF-8", file=name, line=raw[: error.start].count(b"\n") + 1) from error


def _describe(problem: ErrorDetails, model: type[BaseModel]) -> str:
    *around, last = problem["loc"] or ("",)
    where = _written([*around, last])
    match problem["type"]:
        case "extra_forbidden":
            known = sorted(_keys(_model_at(model, around)))
            hint = did_you_mean(str(last), known)
            return f"{_written(around)}{last!r} means nothing here{hint}; known: {', '.join(known)}"
        case "missing":
            return f"{_written(around)}{last!r} is missing"
        case "value_error":
            return f"{where}{problem['msg'].removeprefix('Value error, ')}"
    given = repr(problem["input"])
    shown = given if len(given) <= _MAX_QUOTED else f"{given[:_MAX_QUOTED]}…"
    return f"{where}{problem['msg'][:1].lower()}{problem['msg'][1:]} (got {shown})"


def _written(place: Sequence[str | int]) -> str:
    """Write a place as people count: `rules[2].when: `."""
    text = "".join(f"[{one + 1}]" if isinstance(one, int) else f".{one}" for one in place)
    return f"{text.removeprefix('.')}: " if text else ""


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name


def _model_at(model: type[BaseModel], place: Sequence[str | int]) -> type[BaseModel]:
    """Return the model of a part of a document; keys of a dict and indexes have that of what is in them."""
    for name in place:
        field = model.model_fields.get(str(name))
        model = next(_models_in(field.annotation), model) if field else model
    return model


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
