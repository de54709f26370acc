"""The key of a cached result: the same for calls that ask the same, another one for all that do not."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, Secret, SecretStr

from perdure import App
from perdure.caching import cache_key
from perdure.errors import InvalidToolError
from perdure.messages import JsonObject
from perdure.schema import read_arguments
from perdure.tool import Tool

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


class Login(BaseModel):
    """What a badly written tool takes, and does not write out again."""

    password: str = Field(exclude=True, default="")
    token: Secret[int] | None = None


def tool_of(function: Any) -> Tool:
    """Return a cached tool."""
    app = App()
    app.tool(cache=60, name="look")(function)
    tool = app.find_tool("look")
    assert tool is not None
    return tool


def look(
    amount: Decimal,
    where: dict[str, Any] | None = None,
    secret: SecretStr | None = None,
    login: Login | None = None,
    deep: Annotated[list[Login], Field(max_length=9)] = [],  # noqa: B006  # the schema's default
) -> str:
    """Look."""
    return ""


LOOK = tool_of(look)


def key_of(
    arguments: JsonObject, *, tool: Tool = LOOK, version: str = "1", tenant: tuple[str | None, ...] = ("acme",)
) -> str:
    """Return the key of a call."""
    return cache_key(
        tool=tool.spec.name,
        version=version,
        schema=tool.spec.input_schema,
        tenant=tenant,
        given=arguments,
        arguments=read_arguments(tool, arguments),
    )


def test_the_same_question_has_the_same_key() -> None:
    """However the model writes it: numbers as text, defaults left out, fields in another order."""
    written: list[JsonObject] = [
        {"amount": 5, "where": {"city": "Ulm", "shop": 1}},
        {"where": {"shop": 1, "city": "Ulm"}, "amount": "5"},
        {"amount": "5", "where": {"city": "Ulm", "shop": 1}, "secret": None, "login": None},
    ]

    assert len({key_of(arguments) for arguments in written}) == 1


@given(where=st.dictionaries(st.text(), JSON), other=st.dictionaries(st.text(), JSON))
def test_another_question_has_another_key(where: JsonObject, other: JsonObject) -> None:
    """Whatever the arguments hold."""
    first, second = key_of({"amount": 1, "where": where}), key_of({"amount": 1, "where": other})

    assert (first == second) == (repr(_sorted(where)) == repr(_sorted(other)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"secret": "a"}, {"secret": "b"}),
        ({"login": {"password": "a"}}, {"login": {"password": "b"}}),
        ({"login": {"token": 1}}, {"login": {"token": 2}}),
        ({"deep": [{"password": "a"}]}, {"deep": [{"password": "b"}]}),
    ],
)
def test_what_a_type_does_not_write_out_still_counts(one: JsonObject, other: JsonObject) -> None:
    """A secret writes itself as stars, another field not at all: two of them are two questions."""
    assert key_of({"amount": 1, **one}) != key_of({"amount": 1, **other})


def test_a_changed_tool_and_another_tenant_have_other_keys() -> None:
    """A version, other parameters, another organisation or user: none gets what was kept for another."""

    def changed(amount: Decimal, where: dict[str, Any] | None = None, more: int = 0) -> str:
        """Look."""
        return ""

    asked = {"amount": 1}
    keys = {
        key_of(asked),
        key_of(asked, version="2"),
        key_of(asked, tool=tool_of(changed)),
        key_of(asked, tenant=("globex",)),
        key_of(asked, tenant=(None,)),
        key_of(asked, tenant=("acme", "ann", "tester")),
        key_of(asked, tenant=("acme", "bob", "tester")),
    }

    assert len(keys) == 7


@pytest.mark.parametrize("effect", ["egress", "idempotent", "once"])
def test_only_reads_can_be_cached(effect: Any) -> None:
    """A call that does something outside is never answered from memory; the mistake shows when the app is loaded."""
    app = App()

    with pytest.raises(InvalidToolError, match="cache"):
        app.tool(effect=effect, cache=60)(look)
    with pytest.raises(InvalidToolError, match="cache"):
        app.tool(cache=0)


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return sorted((key, _sorted(inner)) for key, inner in value.items())
    return [_sorted(inner) for inner in value] if isinstance(value, list) else value
