"""YAML as operators mean it: texts, numbers, true and false; no tags, no dates, no `yes` and `no`, no key twice.

PyYAML reads the YAML of 2005, where the country `NO` is false, `12:30` is 750 and `010` is 8. In a policy each of these
would be a rule about something else.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from perdure.errors import PolicyError
from perdure.messages import JsonObject

MAX_PARTS: Final = 20_000
"""Aliases make more of a document than its bytes."""
MAX_DEPTH: Final = 40
_PREFIX: Final = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Composes nodes with the tags of YAML 1.2's JSON schema."""

    yaml_implicit_resolvers: Any = {}  # noqa: RUF012  # PyYAML's name for a table of the class


for _kind, _pattern, _first in (
    ("null", r"(?:|~|null)", ["", "~", "n"]),
    ("bool", r"(?:true|false)", ["t", "f"]),
    ("int", r"-?(?:0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", list("-0123456789")),
):
    _Loader.add_implicit_resolver(f"{_PREFIX}{_kind}", re.compile(rf"^{_pattern}$"), _first)


def read_yaml(text: str, file: str) -> tuple[JsonObject, dict[tuple[str | int, ...], int]]:
    """Read a document, and the line of each of its parts.

    Args:
        text: The document.
        file: Its name, for errors.

    Raises:
        PolicyError: It is no YAML of this kind, or no mapping.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(filter(None, (error.context, error.problem)))
        raise PolicyError(f"is no YAML: {what}", file=file, line=mark.line + 1 if mark else None) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise PolicyError(f"holds a character that YAML does not take: {error.reason}", file=file, line=line) from error
    except RecursionError as error:
        raise PolicyError("is nested too deep", file=file) from error
    if not isinstance(node, yaml.MappingNode):
        raise PolicyError("is empty" if node is None else "holds no mapping, as in 'rules: …'", file=file, line=1)
    reading = _Reading(file)
    content: JsonObject = reading.value(node, ())
    return content, reading.lines


class _Reading:
    """Turns nodes into values, and remembers their lines."""

    def __init__(self, file: str) -> None:
        self.lines: dict[tuple[str | int, ...], int] = {}
        self._file = file
        self._parts = 0

    def value(self, node: yaml.Node, place: tuple[str | int, ...]) -> Any:
        self._parts += 1
        self.lines.setdefault(place, node.start_mark.line + 1)
        if self._parts > MAX_PARTS or len(place) > MAX_DEPTH:
            raise self._error("is too large or nested too deep, its aliases followed", node)
        match node:
            case yaml.MappingNode(tag=tag) if tag == f"{_PREFIX}map":
                return self._mapping(node, place)
            case yaml.SequenceNode(tag=tag) if tag == f"{_PREFIX}seq":
                return [self.value(item, (*place, index)) for index, item in enumerate(node.value)]
            case yaml.ScalarNode():
                return self._scalar(node)
        raise self._error(f"has the tag {_short(node.tag)}; write plain values", node)

    def _mapping(self, node: yaml.MappingNode, place: tuple[str | int, ...]) -> JsonObject:
        content: JsonObject = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_PREFIX}str":
                raise self._error("has a key that is no text; put it in quotes", key_node)
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in content:
                raise self._error(f"has {key!r} twice, first in line {self.lines[(*place, key)]}", key_node)
            self.lines[(*place, key)] = line
            content[key] = self.value(value_node, (*place, key))
        return content

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        try:
            match node.tag.removeprefix(_PREFIX):
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text]
                case "int":
                    return int(text)
                case "float":
                    return float(text)
        except (ValueError, KeyError) as error:
            raise self._error(f"has {text[:40]!r}, which is no {_short(node.tag)}", node) from error
        raise self._error(f"has the tag {_short(node.tag)}; write plain values", node)

    def _error(self, message: str, node: yaml.Node) -> PolicyError:
        return PolicyError(message, file=self._file, line=node.start_mark.line + 1)


def _short(tag: str) -> str:
    return tag.replace(_PREFIX, "!!")
