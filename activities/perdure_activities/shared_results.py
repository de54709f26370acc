"""Cached results that workers share, in Redis: JSON, signed. Imported only where that is set, its client is an extra.

cashews lets a stored value say by which of its methods it is signed, and one of them, a sum of bytes, is forged without
the secret in some thousand tries. So the signature is ours. Where history is encrypted, results are too.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cashews.backends.redis import Redis
from cashews.exceptions import UnSecureDataError
from cashews.picklers import PicklerType
from cashews.serialize import Signer, get_serializer
from google.protobuf.message import DecodeError
from temporalio.api.common.v1 import Payload

from perdure.encryption import Keyring
from perdure.errors import DecryptionError
from perdure.shared_redis import PATIENCE, connection_options

MAX_CONNECTIONS: Final = 20
SIGNATURE_BYTES: Final = hashlib.sha256().digest_size


class SharedResults(Redis):
    """A store of results."""

    def __init__(self, url: str, *, secret: str, keyring: Keyring | None) -> None:
        """Prepare; it connects when it is first used.

        Args:
            url: The Redis, as in `redis://localhost:6379/0`.
            secret: What values are signed with.
            keyring: What they are encrypted with; None: they are plain text.
        """
        serializer = get_serializer(pickle_type=PicklerType.JSON)
        serializer.set_signer(_Seal(secret, keyring))
        super().__init__(
            url,
            suppress=False,  # else the library logs a traceback for each command
            serializer=serializer,
            max_connections=MAX_CONNECTIONS,
            wait_for_connection_timeout=PATIENCE.total_seconds(),
            **connection_options(),
        )

    async def close(self) -> None:
        """Release the connections."""
        await self._client.aclose()  # its own way is deprecated by redis-py


class _Seal(Signer):
    """HMAC-SHA-256 over key and value, before the value, which is encrypted first."""

    def __init__(self, secret: str, keyring: Keyring | None) -> None:
        self._secret = secret.encode()
        self._keyring = keyring

    def sign(self, key: str, value: bytes) -> bytes:
        if self._keyring is not None:
            value = self._keyring.encrypt(Payload(data=value)).SerializeToString()
        return self._signature(key, value) + value

    def check_sign(self, key: str, value: bytes) -> bytes:
        signature, value = value[:SIGNATURE_BYTES], value[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._signature(key, value)):
            raise UnSecureDataError("its signature is not ours")
        return value if self._keyring is None else self._decrypted(self._keyring, value)

    @staticmethod
    def _decrypted(keyring: Keyring, value: bytes) -> bytes:
        try:
            return keyring.decrypt(Payload.FromString(value)).data
        except (DecryptionError, DecodeError) as error:  # from before there was a key, or of another worker's key
            raise UnSecureDataError(str(error)) from error

    def _signature(self, key: str, value: bytes) -> bytes:
        return hmac.digest(self._secret, key.encode() + b"\0" + value, "sha256")
