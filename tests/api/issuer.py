"""An OpenID Connect issuer on loopback: a discovery document, a set of keys, and tokens signed with them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.types import Receive, Scope, Send

from perdure.settings import Oidc
from perdure.testing import eventually

AUDIENCE: Final = "perdure"
ALL: Final = "runs:read runs:write approvals:decide agents:write usage:read audit:read codec:decode openid"

Algorithm = Literal["RS256", "ES256"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def key_pair(algorithm: Algorithm, name: str) -> PrivateKey:
    """Return the key pair of a name, the same in all tests, as it takes a while to make one."""
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def published(key: PrivateKey, key_id: str) -> dict[str, Any]:
    """Return the public half of a key as an issuer publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        jwk = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**jwk, "kid": key_id, "use": "sig"}


@dataclass
class TestIssuer:
    """What the issuer publishes, and how often it was asked; a test may change all of it."""

    __test__ = False
    url: str
    algorithm: Algorithm = "RS256"
    key_id: str = "first"
    key: PrivateKey = field(init=False)
    keys: list[dict[str, Any]] = field(init=False)
    named: str = field(init=False)
    """Who the discovery document says it is of."""
    asked: list[str] = field(default_factory=list)
    """Paths of the requests."""
    codes: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    """Codes of logins, each with its challenge (RFC 7636) and the tokens that it is good for."""
    broken: bool = False
    """Whether it answers 500."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, answers wait."""

    def __post_init__(self) -> None:
        self.named = self.url
        self.gate.set()
        self.rotate(self.key_id)

    def rotate(self, key_id: str) -> None:
        """Sign with a new key from now on, and publish it alone."""
        self.key, self.key_id = key_pair(self.algorithm, key_id), key_id
        self.keys = [published(self.key, key_id)]

    def settings(self, **changes: Any) -> Oidc:
        """Return the settings of an API that takes its tokens."""
        return Oidc.model_validate({"issuer": self.url, "audience": AUDIENCE, **changes})

    def token(self, *, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a token of ann of acme with all scopes, but for these claims; one that is None is left out."""
        now = int(time.time())
        given = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ann",
            "org": "acme",
            "scope": ALL,
            "iat": now,
            "exp": now + 300,
            **claims,
        }
        payload = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(payload, self.key, algorithm=self.algorithm, headers={"kid": self.key_id, **(headers or {})})

    async def _redeemed(self, receive: Receive) -> dict[str, str] | None:
        """Return the tokens of the code that a request names, if it also proves that it asked for it."""
        sent = dict(parse_qsl((await receive()).get("body", b"").decode()))
        challenge, tokens = self.codes.pop(sent.get("code", ""), ("", {}))
        proof = base64.urlsafe_b64encode(hashlib.sha256(sent.get("code_verifier", "").encode()).digest())
        return tokens if proof.rstrip(b"=").decode() == challenge else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        self.asked.append(scope["path"])
        await self.gate.wait()
        documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.named,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            },
            "/keys": {"keys": self.keys},
            "/token": await self._redeemed(receive) if scope["path"] == "/token" else None,
        }
        document = documents.get(scope["path"])
        status = 500 if self.broken else 200 if document else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})


@asynccontextmanager
async def serving_issuer(*, algorithm: Algorithm = "RS256") -> AsyncIterator[TestIssuer]:
    """Run an issuer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        issuer = TestIssuer(f"http://127.0.0.1:{listener.getsockname()[1]}", algorithm=algorithm)
        config = uvicorn.Config(issuer, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started, what="the issuer")
            yield issuer
        finally:
            issuer.gate.set()
            server.should_exit = True
            await serving
