"""`perdure encryption new-key`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from perdure.encryption import new_key, read_key
from perdure.errors import InvalidInputError
from perdure_workers.cli.actions.output import console


def print_new_key(key_id: str | None) -> None:
    """Print a new key as JSON to standard output, and what to know of it to standard error.

    Raises:
        InvalidInputError: The id cannot be one.
    """
    key_id = key_id or f"{datetime.now(UTC):%Y-%m-%d}"
    key = new_key()
    try:
        read_key(key_id, key)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    sys.stdout.write(json.dumps({key_id: key.get_secret_value()}) + "\n")
    console(stderr=True).print(
        f"This is PERDURE_ENCRYPTION_KEYS, or one more entry of it; set PERDURE_ENCRYPTION_KEY_ID to {key_id!r}. Keep "
        "the key: it is stored nowhere, and what it encrypted is lost without it.",
        soft_wrap=True,
    )
