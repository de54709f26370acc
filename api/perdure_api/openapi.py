"""The OpenAPI document, put right where what FastAPI and Pydantic generate is not what the API does."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from perdure_api.problems import MEDIA_TYPE
from perdure_api.scoped_route import SECURITY_SCHEMES


def corrected(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document, corrected in place."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    response["content"] = {MEDIA_TYPE: response["content"].pop("application/json")}
    document["components"]["securitySchemes"] = SECURITY_SCHEMES
    _correct_durations(document["components"]["schemas"])
    _correct_durations(document["paths"])
    return document


def _correct_durations(schema: Any) -> None:
    # JSON Schema's format `duration` (RFC 3339) has no fractions of a second, which ours have as ISO 8601 allows.
    if isinstance(schema, dict):
        if schema.get("format") == "duration":
            schema["format"] = "iso8601-duration"
        for part in schema.values():
            _correct_durations(part)
    elif isinstance(schema, list):
        for part in schema:
            _correct_durations(part)
