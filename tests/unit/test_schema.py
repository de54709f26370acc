"""From a function to a tool: schema, validation, and what is refused at start-up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field, ValidationError

from perdure import NOT_DONE, App, ToolContext
from perdure.errors import DuplicateNameError, InvalidToolError
from perdure.schema import by_parameter, explain
from perdure.tool import Approval, Effect, Tool


class Colour(Enum):
    """An enum for arguments."""

    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    """A nested model."""

    street: str
    number: int | None = None


def registered(app: App) -> Tool:
    """Return the app's only tool."""
    [tool] = app.tools()
    return tool


def rich_tool() -> Tool:
    """A tool with every kind of parameter."""
    app = App()

    @app.tool()
    async def ship(
        ctx: ToolContext,
        order_id: int,
        price: Decimal,
        colour: Colour,
        to: Address,
        when: datetime | None = None,
        speed: Literal["slow", "fast"] = "slow",
        notes: Annotated[list[str], Field(max_length=2)] = [],  # noqa: B006  # pydantic copies defaults
        copy: int | str = 1,
    ) -> str:
        """Ship an order.

        It leaves today.

        Args:
            order_id: Which order.
            price: What it costs.
                In euros.

        Returns:
            The tracking number.
        """
        return ""

    return registered(app)


def test_the_schema_comes_from_signature_and_docstring() -> None:
    """Names, types, defaults and descriptions are the function's own; the context is not an argument."""
    spec = rich_tool().spec

    assert spec.name == "ship"
    assert spec.description == "Ship an order.\n\nIt leaves today.\n\nReturns: The tracking number."
    assert list(spec.input_schema["properties"]) == [
        "order_id",
        "price",
        "colour",
        "to",
        "when",
        "speed",
        "notes",
        "copy",
    ]
    assert spec.input_schema["required"] == ["order_id", "price", "colour", "to"]
    assert spec.input_schema["properties"]["price"]["description"] == "What it costs.\nIn euros."
    assert spec.input_schema["additionalProperties"] is False
    Draft202012Validator.check_schema(spec.input_schema)


def test_arguments_become_the_functions_types() -> None:
    """What a model writes as JSON arrives as Decimal, enum, datetime and model."""
    given = '{"order_id": 1, "price": 2.50, "colour": "red", "to": {"street": "Elm"}, "when": "2026-01-02T03:04:05Z"}'

    arguments = by_parameter(rich_tool().arguments.model_validate_json(given))

    assert arguments == {
        "order_id": 1,
        "price": Decimal("2.5"),
        "colour": Colour.RED,
        "to": Address(street="Elm"),
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "speed": "slow",
        "notes": [],
        "copy": 1,
    }


def test_a_refusal_says_what_would_be_right() -> None:
    """The model learns which argument is wrong, what it got and what would do."""
    tool = rich_tool()

    with pytest.raises(ValidationError) as refused:
        tool.arguments.model_validate({"order_id": "x", "colour": "green", "to": {}, "colour2": 1})
    said = explain(refused.value, "ship")

    assert "order_id: Input should be a valid integer" in said
    assert "(got 'x')" in said
    assert "colour: Input should be 'red' or 'blue'" in said
    assert "to.street: Field required" in said
    assert "price: Field required" in said
    assert "colour2: Extra inputs are not permitted" in said


@pytest.mark.parametrize(
    ("effect", "given", "expected"),
    [
        ("read", None, Approval.ALLOW),
        ("egress", None, Approval.ALLOW),
        ("idempotent", "ask", Approval.ASK),
        ("once", None, Approval.ASK),
        ("once", "allow", Approval.ALLOW),
    ],
)
def test_a_once_tool_asks_unless_told_otherwise(
    effect: Literal["read", "egress", "idempotent", "once"],
    given: Literal["ask", "allow"] | None,
    expected: Approval,
) -> None:
    """Effects that cannot be repeated are approved by a human by default."""
    app = App()

    @app.tool(effect=effect, approval=given)
    def act() -> None:
        """Act."""

    assert registered(app).spec.approval is expected


def test_a_once_tool_has_one_attempt() -> None:
    """max_attempts is for what may be repeated."""
    app = App()

    @app.tool(effect=Effect.ONCE, max_attempts=5)
    def act() -> None:
        """Act."""

    assert registered(app).spec.max_attempts == 1


def test_functions_that_cannot_be_tools_are_refused_by_name() -> None:
    """Untyped, variadic and unknown parameters, wrong options and misplaced probes stop the process at start-up."""
    app = App()

    def untyped(a) -> None: ...  # type: ignore[no-untyped-def]  # that is the point
    def variadic(*a: int) -> None: ...
    def positional(a: int, /) -> None: ...
    def strange(a: threading_lock) -> None: ...  # type: ignore[name-defined]  # noqa: F821
    def unserialisable(a: pytest.MonkeyPatch) -> None: ...
    def fine() -> None: ...
    def größe() -> None: ...

    refused: list[tuple[Callable[..., object], str]] = [
        (untyped, "'a' needs a type annotation"),
        (variadic, "'a' must be an ordinary named one"),
        (positional, "'a' must be an ordinary named one"),
        (strange, "annotations cannot be resolved"),
        (unserialisable, "MonkeyPatch"),
    ]
    for function, said in refused:
        with pytest.raises(InvalidToolError, match=said):
            app.tool()(function)
    with pytest.raises(InvalidToolError, match="only a 'once' tool"):
        app.tool(reconcile=lambda: NOT_DONE)(fine)
    with pytest.raises(InvalidToolError, match="timeout"):
        app.tool(timeout=-1)
    with pytest.raises(InvalidToolError, match="effect"):
        app.tool(effect="explode")  # type: ignore[arg-type]  # what a user without a type checker may write
    for function in (lambda: None, größe):
        with pytest.raises(InvalidToolError, match="cannot be named"):
            app.tool()(function)


def test_two_tools_of_one_name_are_refused() -> None:
    """The second registration says which name and what to do."""
    app = App()

    @app.tool()
    def find() -> None:
        """Find."""

    with pytest.raises(DuplicateNameError, match=r"'find'; give one another name="):
        app.tool(name="find")(lambda: None)


def test_a_function_stays_usable_as_a_function() -> None:
    """The decorator returns what it was given, so tools are tested without a runtime."""
    app = App()

    @app.tool()
    def double(a: int) -> int:
        """Double."""
        return 2 * a

    assert double(2) == 4
