"""The query of `--query`: conditions on runs, joined by `and`, as in `status=failed and error=model_timeout`."""

from __future__ import annotations

import re
from typing import Final

from pydantic import ValidationError

from perdure.errors import InvalidInputError
from perdure_api.schemas import RunFilter

FIELDS: Final = {"session": "session_id"} | {
    name: name for name in ("agent", "version", "status", "user", "org", "error")
}
_AND: Final = re.compile(r"\s+and\s+", re.IGNORECASE)
_CONDITION: Final = re.compile(r"""\s*(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S+))\s*""")


def parse_run_query(query: str) -> RunFilter:
    """Read a query.

    Raises:
        InvalidInputError: It is not understood; the message says what is.
    """
    wanted: dict[str, str] = {}
    for part in _AND.split(query):
        condition = _CONDITION.fullmatch(part)
        if condition is None:
            raise InvalidInputError(f"--query: {part.strip()!r} is no condition; write one as in status=failed")
        name, *values = condition.groups()
        if name not in FIELDS:
            raise InvalidInputError(f"--query: runs have no {name!r}; there are {', '.join(sorted(FIELDS))}")
        if FIELDS[name] in wanted:
            raise InvalidInputError(f"--query: {name!r} is there twice, and a run has one")
        wanted[FIELDS[name]] = next(value for value in values if value is not None)
    try:
        return RunFilter.model_validate(wanted)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"--query: {problem['loc'][0]}={problem['input']}: {problem['msg']}") from error
