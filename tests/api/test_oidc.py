"""Tokens: whose count, what their claims mean, and what becomes of them when the issuer changes its keys or is away."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.warnings import InsecureKeyLengthWarning

from perdure.errors import IssuerUnreachableError
from perdure.principal import Scope
from perdure.testing import eventually
from perdure_api import oidc
from perdure_api.oidc import InvalidTokenError, Issuer
from tests.api.issuer import TestIssuer, key_pair, published, serving_issuer


@pytest.fixture
async def issuer() -> AsyncIterator[TestIssuer]:
    """An issuer with one RSA key."""
    async with serving_issuer() as issuer:
        yield issuer


async def test_a_token_says_who_calls(issuer: TestIssuer) -> None:
    """User, organisation, roles and scopes come from its claims; scopes of other services are none of ours."""
    api = Issuer(issuer.settings())

    principal = await api.principal(issuer.token(sub="bob", roles=["support", "night shift"], scope="runs:read email"))

    assert (principal.user, principal.org, principal.roles) == ("bob", "acme", ("support", "night shift"))
    assert (principal.scopes, principal.via, principal.credential) == ((Scope.RUNS_READ,), "oidc", issuer.url)


async def test_an_elliptic_key_signs_as_well() -> None:
    """ES256 is the other algorithm."""
    async with serving_issuer(algorithm="ES256") as issuer:
        principal = await Issuer(issuer.settings()).principal(issuer.token())

    assert principal.user == "ann"


async def test_claims_can_have_other_names(issuer: TestIssuer) -> None:
    """Names with a path or an address in them are found, and a fixed organisation needs no claim."""
    settings = issuer.settings(
        user_claim="email", roles_claim="realm_access.roles", scopes_claim="https://acme.example/scp", org="globex"
    )
    claims: dict[str, Any] = {
        "email": "bob@acme.example",
        "org": None,
        "realm_access": {"roles": ["support"]},
        "https://acme.example/scp": ["runs:write"],
    }

    principal = await Issuer(settings).principal(issuer.token(**claims))

    assert (principal.user, principal.org) == ("bob@acme.example", "globex")
    assert (principal.roles, principal.scopes) == (("support",), (Scope.RUNS_WRITE,))


async def test_a_token_never_has_every_role_or_a_scope_it_does_not_name(issuer: TestIssuer) -> None:
    """`*` is no role that an issuer gives, and a token without scopes has none."""
    principal = await Issuer(issuer.settings()).principal(issuer.token(roles=["*", "support"], scope=None))

    assert (principal.roles, principal.scopes) == (("support",), ())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"exp": int(time.time()) - 60}, "expired"),
    "not yet": ({"nbf": int(time.time()) + 600}, "not yet valid"),
    "another issuer": ({"iss": "https://evil.example"}, "issuer"),
    "another audience": ({"aud": "somebody else"}, "[Aa]udience"),
    "no expiry": ({"exp": None}, "exp"),
    "no audience": ({"aud": None}, "aud"),
    "no issuer": ({"iss": None}, "iss"),
    "no subject": ({"sub": None}, "sub"),
    "no organisation": ({"org": None}, "'org'"),
    "an organisation that is a query": ({"org": 'acme" OR "a" = "a'}, "'org'"),
    "an organisation that is a list": ({"org": ["acme"]}, "'org'"),
    "an empty organisation": ({"org": ""}, "'org'"),
    "roles of another kind": ({"roles": [1]}, "'roles'"),
}


@pytest.mark.parametrize(("claims", "said"), REFUSED.values(), ids=REFUSED)
async def test_a_token_that_lacks_something_is_refused(issuer: TestIssuer, claims: dict[str, Any], said: str) -> None:
    """Each refusal says what is missing or wrong."""
    with pytest.raises(InvalidTokenError, match=said):
        await Issuer(issuer.settings()).principal(issuer.token(**claims))


def unsigned(issuer: TestIssuer) -> str:
    """Return a token with the algorithm `none`."""
    parts = [{"alg": "none", "typ": "JWT", "kid": issuer.key_id}, jwt.decode(issuer.token(), options=NO_CHECK)]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), ""])


NO_CHECK: Any = {"verify_signature": False}


def signed_by_public_key(issuer: TestIssuer) -> str:
    """Return a token whose HMAC secret is the issuer's public key."""
    header = {"alg": "HS256", "typ": "JWT", "kid": issuer.key_id}
    assert isinstance(issuer.key, rsa.RSAPrivateKey)
    secret = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    payload = jwt.decode(issuer.token(), options=NO_CHECK)
    signing = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload))
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(signing, secret)
    return f"{signing.decode()}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def signed_by_another_key(issuer: TestIssuer) -> str:
    """Return a token that names the issuer's key and is signed by another."""
    payload = jwt.decode(issuer.token(), options=NO_CHECK)
    return jwt.encode(payload, key_pair("RS256", "another"), algorithm="RS256", headers={"kid": issuer.key_id})


def changed(issuer: TestIssuer) -> str:
    """Return a token whose claims were changed after it was signed."""
    header, _, signature = issuer.token().split(".")
    payload = {**jwt.decode(issuer.token(), options=NO_CHECK), "org": "globex"}
    return f"{header}.{base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip('=')}.{signature}"


def without_key_id(issuer: TestIssuer) -> str:
    """Return a token that does not say which key it is signed with."""
    return jwt.encode(jwt.decode(issuer.token(), options=NO_CHECK), issuer.key, algorithm="RS256")


FORGERIES = {
    unsigned: "alg value is not allowed",
    signed_by_public_key: "alg value is not allowed",
    signed_by_another_key: "Signature verification failed",
    changed: "Signature verification failed",
    without_key_id: "does not name its key",
}


@pytest.mark.parametrize(("forge", "said"), FORGERIES.items(), ids=lambda value: getattr(value, "__name__", ""))
async def test_a_forged_token_is_refused(issuer: TestIssuer, forge: Callable[[TestIssuer], str], said: str) -> None:
    """Neither `none`, nor the public key as a shared secret, nor another key or other claims get through."""
    with pytest.raises(InvalidTokenError, match=said):
        await Issuer(issuer.settings()).principal(forge(issuer))


async def test_a_published_secret_or_weak_key_signs_nothing(issuer: TestIssuer) -> None:
    """Of what the issuer publishes only public keys of a fair size count."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    secret = base64.urlsafe_b64encode(b"x" * 32).decode().rstrip("=")
    issuer.keys += [published(weak, "weak"), {"kty": "oct", "k": secret, "kid": "secret", "alg": "HS256"}]
    payload = jwt.decode(issuer.token(), options=NO_CHECK)
    with pytest.warns(InsecureKeyLengthWarning):
        by_weak = jwt.encode(payload, weak, algorithm="RS256", headers={"kid": "weak"})
    by_secret = jwt.encode(payload, b"x" * 32, algorithm="HS256", headers={"kid": "secret"})
    api = Issuer(issuer.settings())

    with pytest.raises(InvalidTokenError, match="below the minimum"):
        await api.principal(by_weak)
    with pytest.raises(InvalidTokenError, match="publish"):
        await api.principal(by_secret)


async def test_keys_are_fetched_once(issuer: TestIssuer) -> None:
    """However many tokens come at once and after each other, the issuer is asked for its documents once."""
    api = Issuer(issuer.settings())

    await asyncio.gather(*(api.principal(issuer.token()) for _ in range(20)))
    await api.principal(issuer.token())

    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_a_new_key_is_found_and_an_old_one_forgotten(issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rotation tokens of the new key count at the first look, and those of the old one no longer."""
    monkeypatch.setattr(oidc, "REFRESH_PAUSE", oidc.REFRESH_PAUSE * 0)
    api = Issuer(issuer.settings())
    old = issuer.token()
    await api.principal(old)

    issuer.rotate("second")
    principal = await api.principal(issuer.token())

    assert principal.user == "ann"
    with pytest.raises(InvalidTokenError, match="does not publish"):
        await api.principal(old)


async def test_unknown_keys_do_not_make_us_ask_all_the_time(issuer: TestIssuer) -> None:
    """Between two looks for a key that is not there some time passes, whatever tokens come."""
    api = Issuer(issuer.settings())
    await api.principal(issuer.token())

    for number in range(5):
        with pytest.raises(InvalidTokenError, match="does not publish"):
            await api.principal(issuer.token(headers={"kid": f"unknown {number}"}))

    assert issuer.asked.count("/keys") == 1


async def test_an_issuer_that_is_away_is_no_reason_to_refuse_its_tokens(issuer: TestIssuer) -> None:
    """Before its keys are known nobody can tell whether a token counts; afterwards its absence changes nothing."""
    api = Issuer(issuer.settings())
    issuer.broken = True
    with pytest.raises(IssuerUnreachableError, match="answered 500"):
        await api.principal(issuer.token())

    issuer.broken = False
    await api.principal(issuer.token())
    issuer.broken = True

    assert (await api.principal(issuer.token())).user == "ann"


async def test_a_slow_issuer_is_waited_for_once(issuer: TestIssuer) -> None:
    """Tokens that come while its keys are fetched wait for the same answer."""
    api = Issuer(issuer.settings())
    issuer.gate.clear()

    waiting = [asyncio.create_task(api.principal(issuer.token())) for _ in range(5)]
    await eventually(lambda: issuer.asked, what="the question")
    issuer.gate.set()
    principals = await asyncio.gather(*waiting)

    assert {principal.user for principal in principals} == {"ann"}
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:1/keys"])
async def test_nobody_at_the_address_is_an_issuer_that_is_away(issuer: TestIssuer, url: str) -> None:
    """A refused connection is told as such, of the issuer or of the address of its keys alone."""
    api = Issuer(issuer.settings(jwks_url=url))

    with pytest.raises(IssuerUnreachableError):
        await api.principal(issuer.token())


async def test_a_discovery_document_of_somebody_else_is_not_followed(issuer: TestIssuer) -> None:
    """Its keys are nobody's."""
    issuer.named = "https://evil.example"

    with pytest.raises(IssuerUnreachableError, match=r"evil\.example"):
        await Issuer(issuer.settings()).principal(issuer.token())


async def test_the_address_of_the_keys_can_be_set(issuer: TestIssuer) -> None:
    """Then no discovery document is needed."""
    issuer.named = "https://evil.example"

    principal = await Issuer(issuer.settings(jwks_url=f"{issuer.url}/keys")).principal(issuer.token())

    assert (principal.user, issuer.asked) == ("ann", ["/keys"])
