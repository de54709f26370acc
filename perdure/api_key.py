"""API keys: what is kept of one, and the text that its holder sends. The text itself is kept nowhere."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from perdure.messages import Frozen
from perdure.principal import Principal, Scopes

WORKFLOW_NAME: Final = "ApiKey"
WORKFLOW_ID_PREFIX: Final = "perdure-key:"
MEMO_RECORD: Final = "api_key"
"""Memo field: the `ApiKeyRecord`."""
PREFIX: Final = "pdk_"
"""What every key begins with, by which secret scanners and we tell it from other tokens."""
ID_PATTERN: Final = re.compile(r"[0-9a-f]{16}")
_TEXT: Final = re.compile(rf"{PREFIX}({ID_PATTERN.pattern})_([A-Za-z0-9_-]{{43}})")
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32


class ApiKeyRecord(Frozen):
    """What is kept of an API key: the input and the memo of its workflow, which lives as long as the key does."""

    key_id: str
    name: str
    digest: str
    """SHA-256 of the secret, in hex. The secret has 256 random bits, so nothing slower is needed."""
    user: str
    """Whom its holder acts as."""
    org: str | None
    """Whose runs are seen and started; None: of every organisation."""
    roles: tuple[str, ...] = ()
    scopes: Scopes = ()
    created_by: str
    created_at: datetime
    expires_at: datetime | None = None

    @property
    def principal(self) -> Principal:
        """Who calls with this key."""
        return Principal(
            user=self.user, org=self.org, roles=self.roles, scopes=self.scopes, via="key", credential=self.key_id
        )


@dataclass(frozen=True)
class KeyText:
    """A key as its holder sends it: `pdk_{key_id}_{secret}`."""

    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> KeyText:
        """Return a key that nobody else has."""
        return cls(secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> KeyText | None:
        """Read a key; None if the text cannot be one."""
        match = _TEXT.fullmatch(text)
        return cls(match[1], match[2]) if match else None

    @property
    def text(self) -> str:
        """What its holder sends."""
        return f"{PREFIX}{self.key_id}_{self.secret}"

    @property
    def digest(self) -> str:
        """What is kept of the secret."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def opens(self, record: ApiKeyRecord) -> bool:
        """Whether this is the key of which the record was kept; takes as long for a near miss as for a far one."""
        return hmac.compare_digest(self.digest, record.digest)


def workflow_id(key_id: str) -> str:
    """Return the id of the workflow that is the key's record."""
    return f"{WORKFLOW_ID_PREFIX}{key_id}"
