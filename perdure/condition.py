"""Conditions of a rule on a call's arguments. Each holds, does not hold, or cannot be told.

What a model writes is not always what its tool will read: `" EUR"` may be stripped, `"5"` become a number. Where a
condition cannot be sure, it says so, and the policy then takes the narrower way.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from perdure.argument import Argument, ArgumentType
from perdure.glob import matches_text
from perdure.pinned import Pinned
from perdure.reading import Verdict, every, is_canonical_integer, negated, number_of, same_text, some

Number = Annotated[Decimal, Field(allow_inf_nan=False)]


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("write a text, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("write a finite number")
    return value


Scalar = Annotated[StrictBool | StrictInt | StrictFloat | StrictStr, BeforeValidator(_plain)]
Scalars = Annotated[tuple[Scalar, ...], Field(min_length=1)]

_MAX_UUID: Final = 64


class ArgumentCheck(Pinned):
    """What must hold of one argument; several operators must hold together."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)

    eq: Scalar | None = None
    ne: Scalar | None = None
    lt: Number | None = None
    le: Number | None = None
    gt: Number | None = None
    ge: Number | None = None
    one_of: Scalars | None = Field(default=None, alias="in")
    none_of: Scalars | None = Field(default=None, alias="not_in")
    glob: Annotated[StrictStr, Field(max_length=256)] | None = None
    """A pattern with `*`, `?` and `[…]`, for texts."""
    present: StrictBool | None = None
    """Whether the argument is given at all."""

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, given: Any) -> Any:
        """Refuse an operator under both its names, of which only one would count."""
        for name, alias in (("one_of", "in"), ("none_of", "not_in")):
            if isinstance(given, dict) and name in given and alias in given:
                raise ValueError(f"give {alias!r} once")
        return given

    @model_validator(mode="after")
    def _tests_something(self) -> ArgumentCheck:
        if all(operator is None for operator in self.__dict__.values()):
            raise ValueError("tests nothing; write a value, a list of values, or operators such as {le: 100}")
        return self

    @property
    def bounds(self) -> tuple[tuple[str, Decimal], ...]:
        """The operators that compare numbers, with what they compare to."""
        written = (("lt", self.lt), ("le", self.le), ("gt", self.gt), ("ge", self.ge))
        return tuple((sign, bound) for sign, bound in written if bound is not None)

    @property
    def values(self) -> tuple[Scalar, ...]:
        """The values that the argument is compared to."""
        single = tuple(value for value in (self.eq, self.ne) if value is not None)
        return (*single, *(self.one_of or ()), *(self.none_of or ()))

    def holds(self, argument: Argument) -> Verdict:
        """Return whether an argument passes; None if that cannot be told."""
        return every(self._verdicts(argument))

    def _verdicts(self, argument: Argument) -> Iterator[Verdict]:
        value, kind = argument.value, argument.type
        if self.present is not None:
            yield argument.given if self.present else negated(argument.given)
        if value is None and (self.bounds or self.values or self.glob is not None):
            # A rule about an argument that the tool does not have is not about the tool.
            yield False if kind.taken is False else None
            return
        for sign, bound in self.bounds:
            yield _compare(value, sign, bound, kind)
        if self.eq is not None:
            yield _equal(value, self.eq, kind)
        if self.ne is not None:
            yield negated(_equal(value, self.ne, kind))
        if self.one_of is not None:
            yield some(_equal(value, one, kind) for one in self.one_of)
        if self.none_of is not None:
            yield negated(some(_equal(value, one, kind) for one in self.none_of))
        if self.glob is not None:
            yield _matches(value, self.glob, kind)


def _read_check(value: Any) -> Any:
    """Take a bare value as one to equal, and a list as values to choose from."""
    if value is None:
        raise ValueError("is null; for an argument that is not given write {present: false}")
    if isinstance(value, list | tuple):
        return {"in": value}
    return value if isinstance(value, dict | ArgumentCheck) else {"eq": value}


ArgumentPath = Annotated[str, Field(pattern=r"^[^.\s]+(\.[^.\s]+){0,9}$", max_length=200)]
Condition = dict[ArgumentPath, Annotated[ArgumentCheck, BeforeValidator(_read_check)]]
"""Checks by the dotted path of their argument, as in `{amount: {le: 100}, customer.country: [DE, AT]}`."""


def _equal(value: Any, wanted: Scalar, kind: ArgumentType) -> Verdict:
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted if isinstance(value, bool) and isinstance(wanted, bool) else None
    if isinstance(wanted, int | float):
        return _equal_number(value, number_of(wanted), kind)
    if not isinstance(value, str):
        return None
    if value == wanted:
        return True
    if kind.text_format == "uuid":
        return _same_uuid(value, wanted)
    return None if kind.text_format else same_text(value, wanted)


def _equal_number(value: Any, wanted: Decimal | None, kind: ArgumentType) -> Verdict:
    number = _number(value, kind)
    if number is None and isinstance(value, str) and is_canonical_integer(value):
        number = number_of(value)  # whoever takes it as a text reads no other number from '5', as from '05' or '1.000'
    if number is None or wanted is None or _blurred(number, wanted):
        return None
    return number == wanted


def _compare(value: Any, sign: str, bound: Decimal, kind: ArgumentType) -> Verdict:
    number = _number(value, kind)
    if number is None or _blurred(number, bound):
        return None
    match sign:
        case "lt":
            return number < bound
        case "le":
            return number <= bound
        case "gt":
            return number > bound
        case _:
            return number >= bound


def _matches(value: Any, pattern: str, kind: ArgumentType) -> Verdict:
    if not isinstance(value, str):
        return None
    verdict = matches_text(pattern, value)
    return None if verdict is False and kind.text_format else verdict


def _number(value: Any, kind: ArgumentType) -> Decimal | None:
    """Return the number that the tool will read, if it is known to read one: not so a text or a date."""
    read = kind.reads_numbers if isinstance(value, str) else kind.takes_numbers
    return number_of(value) if read else None


def _blurred(number: Decimal, other: Decimal) -> bool:
    """Whether a tool that computes in floating point would take two different numbers as one."""
    return number != other and float(number) == float(other)


def _same_uuid(text: str, wanted: str) -> Verdict:
    try:
        return None if len(text) > _MAX_UUID else uuid.UUID(text) == uuid.UUID(wanted)
    except ValueError:
        return None
