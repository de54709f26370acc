"""From a typed function to a tool: its arguments model and JSON schema, out of signature and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Container, Iterable
from typing import Any, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, to_json

from perdure.caching import Caching
from perdure.errors import InvalidToolError
from perdure.messages import JsonObject
from perdure.resource import template_fields
from perdure.tool import NAME_PATTERN, Approval, Effect, Tool, ToolContext, ToolFunction, ToolOptions, ToolSpec

FIELD_PREFIX = "argument_"
"""Fields are not named as the parameters are: `copy` or `_id` would clash with what every Pydantic model has."""


def build_tool(
    function: ToolFunction,
    options: ToolOptions,
    *,
    reconcile: ToolFunction | None = None,
    on_cancel: ToolFunction | None = None,
) -> Tool:
    """Make a function a tool.

    Raises:
        InvalidToolError: The signature has no schema (untyped or variadic parameters, types Pydantic does not
            know), or the options contradict each other.
    """
    name = options.name or str(getattr(function, "__name__", ""))
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidToolError(
            f"a tool cannot be named {name!r} as {function!r} is: models take 1 to 64 of A-Z a-z 0-9 _ and -, so give "
            "name='…'"
        )
    if reconcile is not None and options.effect is not Effect.ONCE:
        raise InvalidToolError(
            f"tool {name!r} has effect={options.effect.value!r} and a reconcile probe; only a 'once' tool can lose "
            "an outcome, so drop the probe or declare effect='once'"
        )
    if options.cache is not None and options.effect is not Effect.READ:
        raise InvalidToolError(
            f"tool {name!r} has effect={options.effect.value!r} and a cache; only what a 'read' tool returns can stand "
            "for another call, so drop the cache or declare effect='read'"
        )
    docs = docstring_parser.parse(inspect.getdoc(function) or "")
    parameters = _parameters(function, name)
    _check_resource(options.resource, name, parameters)
    _check_secrets(options, name, parameters)
    arguments = _arguments_model(name, function, parameters, {p.arg_name: p.description or "" for p in docs.params})
    approval = options.approval or (Approval.ASK if options.effect is Effect.ONCE else Approval.ALLOW)
    spec = ToolSpec(
        name=name,
        description=options.description or _description(docs),
        input_schema=_json_schema(arguments, name),
        effect=options.effect,
        approval=Approval(approval),
        timeout=options.timeout,
        max_attempts=options.max_attempts if options.effect.repeatable else 1,
        max_result_bytes=options.max_result_bytes,
        has_reconcile=reconcile is not None,
        asks_always=options.approval == "ask",
        resource=options.resource,
        rate=options.rate,
        secrets=options.secrets,
        clean_up_timeout=options.on_cancel_timeout if on_cancel is not None else None,
    )
    return Tool(
        spec=spec,
        function=function,
        arguments=arguments,
        takes_context=_context_parameter(function) is not None,
        caching=None if options.cache is None else Caching(ttl=options.cache, version=options.version),
        reconcile=reconcile,
        on_cancel=on_cancel,
    )


def explain(error: ValidationError, tool: str, *, secrets: Iterable[str] = ()) -> str:
    """Say to the model which arguments are wrong and what would be right; values of secret ones are not repeated."""
    hidden = {path.partition(".")[0] for path in secrets}
    lines = [
        f"- {'.'.join(str(place) for place in problem['loc']) or 'arguments'}: "
        + (
            f"the value does not fit ({problem['type']})"
            if hidden.intersection(problem["loc"][:1])
            else _quoted(problem)
        )
        for problem in error.errors(include_url=False, include_context=False)
    ]
    return "\n".join([f"The arguments of {tool} do not fit its schema, so it did not run:", *lines])


def _quoted(problem: ErrorDetails) -> str:
    return problem["msg"] + (f" (got {problem['input']!r:.200})" if problem["type"] != "missing" else "")


def read_arguments(tool: Tool, arguments: JsonObject) -> BaseModel:
    """Validate arguments as the model wrote them: through JSON, strict about nothing JSON cannot say, like dates.

    Raises:
        ValidationError: They do not fit; `explain` says it to the model.
    """
    return tool.arguments.model_validate_json(to_json(arguments))


def write_result(result: object) -> str:
    """Write a tool's result as the model reads it: text as it is, anything else as JSON.

    Never fails: the call took effect, so a value JSON does not know is described rather than lost.
    """
    if isinstance(result, str):
        return result
    return to_json(result, fallback=repr, bytes_mode="base64", inf_nan_mode="strings").decode()


def by_parameter(arguments: BaseModel) -> dict[str, Any]:
    """Return validated arguments by the names of the function's parameters."""
    return {name.removeprefix(FIELD_PREFIX): getattr(arguments, name) for name in type(arguments).model_fields}


def _parameters(function: ToolFunction, name: str) -> dict[str, tuple[Any, inspect.Parameter]]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError) as error:
        raise InvalidToolError(f"tool {name!r}: its annotations cannot be resolved: {error}") from error
    context = _context_parameter(function)
    found: dict[str, tuple[Any, inspect.Parameter]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == context:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise InvalidToolError(f"tool {name!r}: parameter {parameter.name!r} must be an ordinary named one")
        if parameter.name not in hints:
            raise InvalidToolError(f"tool {name!r}: parameter {parameter.name!r} needs a type annotation")
        found[parameter.name] = (hints[parameter.name], parameter)
    return found


def _check_resource(template: str | None, name: str, parameters: Container[str]) -> None:
    if template is None:
        return
    try:
        unknown = [field for field in template_fields(template) if field.partition(".")[0] not in parameters]
    except ValueError as error:
        raise InvalidToolError(f"tool {name!r}: resource: {error}") from error
    if unknown:
        raise InvalidToolError(f"tool {name!r}: its resource {template!r} names {unknown[0]!r}, which is no parameter")


def _check_secrets(options: ToolOptions, name: str, parameters: Container[str]) -> None:
    first = {path: path.partition(".")[0] for path in options.secrets}
    unknown = [path for path, parameter in first.items() if parameter not in parameters]
    if unknown:
        raise InvalidToolError(f"tool {name!r}: its secrets name {unknown[0]!r}, which is no parameter")
    named = template_fields(options.resource) if options.resource else ()
    shown = [field for field in named if field.partition(".")[0] in first.values()]
    if shown:
        raise InvalidToolError(
            f"tool {name!r}: its resource names {shown[0]!r}, which is secret, and policies and records show resources"
        )


def _context_parameter(function: ToolFunction) -> str | None:
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None:
        return None
    annotation = first.annotation
    is_context = annotation is ToolContext or (
        isinstance(annotation, str) and annotation.rpartition(".")[2] == ToolContext.__name__
    )
    return first.name if is_context else None


def _arguments_model(
    name: str,
    function: ToolFunction,
    parameters: dict[str, tuple[Any, inspect.Parameter]],
    docs: dict[str, str],
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for parameter, (hint, declared) in parameters.items():
        default = ... if declared.default is inspect.Parameter.empty else declared.default
        if isinstance(default, FieldInfo):
            fields[FIELD_PREFIX + parameter] = (hint, default)
        else:
            fields[FIELD_PREFIX + parameter] = (hint, Field(default, description=docs.get(parameter) or None))
    try:
        return create_model(
            f"{name}_arguments",
            __config__=ConfigDict(extra="forbid", alias_generator=lambda field: field.removeprefix(FIELD_PREFIX)),
            __module__=getattr(function, "__module__", __name__),
            **fields,
        )
    except (PydanticUserError, TypeError, NameError) as error:
        raise InvalidToolError(f"tool {name!r}: {error}") from error


def _json_schema(arguments: type[BaseModel], name: str) -> JsonObject:
    try:
        schema = arguments.model_json_schema(mode="validation")
    except PydanticUserError as error:
        raise InvalidToolError(f"tool {name!r}: its arguments have no JSON schema: {error}") from error
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    schema.setdefault("properties", {})
    return schema


def _description(docs: docstring_parser.Docstring) -> str:
    parts = [docs.short_description, docs.long_description]
    returns = docs.returns.description if docs.returns and docs.returns.description else None
    if returns:
        parts.append(f"Returns: {returns}")
    return "\n\n".join(part for part in parts if part)
