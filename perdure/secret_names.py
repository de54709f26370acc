"""Names that secrets are kept under: `api_key`, `X-Api-Key`, `dbPassword`, but not `max_tokens` or `session_id`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

MAX_NAME: Final = 128
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_WHOLE_NAMES: Final = frozenset(
    {
        "authorization",
        "bearer",
        "cardcvc",
        "cookie",
        "credential",
        "cvc",
        "cvv",
        "otp",
        "pincode",
        "pwd",
        "setcookie",
        "xamzsignature",
        "xgoogsignature",
    }
)
_HARMLESS_TOKENS: Final = frozenset({"page", "next", "previous", "continuation", "cursor", "sync"})
_ENDINGS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "secrets",
    "credentials",
    "apikey",
    "accesskey",
    "accountkey",
    "secretkey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "authkey",
    "authorization",
    "connectionstring",
    "cardnumber",
    "cvv",
    "mnemonic",
)


@lru_cache(maxsize=4096)
def is_secret_name(name: str) -> bool:
    """Whether a value kept under this name is a secret: `api_key`, `X-Api-Key`, `dbPassword`, but not `max_tokens`."""
    words = [word.lower() for word in _WORD.findall(name.rpartition(".")[2][-MAX_NAME:])]
    joined = "".join(words)
    if joined in _WHOLE_NAMES:
        return True
    last, before = (words[-1] if words else ""), (words[-2] if len(words) > 1 else "")
    if last in ("token", "tokens"):
        # `tokens` alone are counted, and of the single ones those of pages are no secrets.
        return last == "token" and before not in _HARMLESS_TOKENS
    return any(joined.endswith(ending) for ending in _ENDINGS)
