"""Conditions of a rule on a call's arguments. Each holds, does not hold, or cannot be told.

What a model writes is not always what its tool will read: `" EUR"` may be stripped, `"5"` become a number. Where a
condition cannot be sure, it says so, and the policy then takes the narrower way.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from perdure.messages import Frozen, JsonObject
from perdure.resource import argument_at

Number = Annotated[Decimal, Field(allow_inf_nan=False)]
Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Verdict = bool | None
"""None: it cannot be told."""


class ArgumentCheck(Frozen):
    """What must hold of one argument; several operators must hold together."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, serialize_by_alias=True)

    eq: Scalar | None = None
    ne: Scalar | None = None
    lt: Number | None = None
    le: Number | None = None
    gt: Number | None = None
    ge: Number | None = None
    one_of: tuple[Scalar, ...] | None = Field(default=None, alias="in")
    none_of: tuple[Scalar, ...] | None = Field(default=None, alias="not_in")
    glob: StrictStr | None = None
    """A pattern with `*`, `?` and `[…]`, for texts."""
    present: StrictBool | None = None
    """Whether the argument is given at all."""

    @model_validator(mode="after")
    def _tests_something(self) -> ArgumentCheck:
        if all(operator is None for operator in self.__dict__.values()):
            raise ValueError("tests nothing; write a value, a list of values, or operators such as {le: 100}")
        return self

    def holds(self, value: Any) -> Verdict:
        """Return whether a value passes; None if that cannot be told."""
        checks: list[Verdict] = []
        if self.present is not None:
            checks.append((value is not None) == self.present)
        if self.eq is not None:
            checks.append(_equal(value, self.eq))
        if self.ne is not None:
            checks.append(_not(_equal(value, self.ne)))
        checks += [_compare(value, bound, sign) for bound, sign in self._bounds() if bound is not None]
        if self.one_of is not None:
            checks.append(_any(_equal(value, one) for one in self.one_of))
        if self.none_of is not None:
            checks.append(_not(_any(_equal(value, one) for one in self.none_of)))
        if self.glob is not None:
            checks.append(matches(self.glob, value) if isinstance(value, str) else None)
        return every(checks)

    def _bounds(self) -> tuple[tuple[Decimal | None, str], ...]:
        return (self.lt, "<"), (self.le, "<="), (self.gt, ">"), (self.ge, ">=")


def _read_check(value: Any) -> Any:
    """Take a bare value as one to equal, and a list as values to choose from."""
    if isinstance(value, list | tuple):
        return {"in": value}
    return value if isinstance(value, dict | ArgumentCheck) or value is None else {"eq": value}


Condition = dict[str, Annotated[ArgumentCheck, BeforeValidator(_read_check)]]
"""Checks by the dotted path of their argument, as in `{amount: {le: 100}, customer.country: [DE, AT]}`."""


def condition_holds(condition: Condition, arguments: JsonObject) -> Verdict:
    """Return whether all checks pass; None if one cannot be told and no other fails."""
    return every(check.holds(argument_at(arguments, path)) for path, check in condition.items())


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the conjunction: one False decides, and else what cannot be told leaves the whole untold."""
    seen = list(verdicts)
    return False if False in seen else None if None in seen else True


def matches(pattern: str, text: str) -> Verdict:
    """Match a glob; a text that would match in another case or with other spaces cannot be told."""
    if fnmatchcase(text, pattern):
        return True
    return None if fnmatchcase(_folded(text), _folded(pattern)) else False


def _equal(value: Any, wanted: Scalar) -> Verdict:
    if value is None:
        return None
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted if isinstance(value, bool) and isinstance(wanted, bool) else None
    if isinstance(wanted, int | float):
        number = _number(value)
        return None if number is None else number == Decimal(str(wanted))
    if not isinstance(value, str):
        return None
    return True if value == wanted else None if _folded(value) == _folded(wanted) else False


def _compare(value: Any, bound: Decimal, sign: str) -> Verdict:
    number = _number(value)
    if number is None:
        return None
    match sign:
        case "<":
            return number < bound
        case "<=":
            return number <= bound
        case ">":
            return number > bound
        case _:
            return number >= bound


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    seen = list(verdicts)
    return True if True in seen else None if None in seen else False


def _not(verdict: Verdict) -> Verdict:
    return None if verdict is None else not verdict


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()
