"""Forms that secrets have in a text: vendors' tokens, private keys, JWTs, cards, and what follows a secret's name.

Each pattern takes time linear in the text, whatever the text is: where one has begun to match it takes in the whole run
of characters, and only then is judged whether that run is a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from perdure.secret_names import is_secret_name

MASK: Final = "[secret]"
CARD_MASK: Final = "[card]"


@dataclass(frozen=True)
class Form:
    """The form that a kind of secret has."""

    name: str
    hints: tuple[str, ...]
    """One of these is in every text that holds such a secret; finding a fixed text is many times as fast."""
    source: str
    """A regular expression without lookaround, in which nothing can be matched in two ways."""
    replace: Callable[[re.Match[str]], str]
    leads: tuple[str, ...] = ()
    """Texts of which one begins it; default: its hints."""


def _whole(_: re.Match[str]) -> str:
    return MASK


def _if_random(match: re.Match[str]) -> str:
    """Mask a run with digits in it; `sk-` or `bearer ` before words alone is prose or a name."""
    return MASK if any(one.isdigit() for one in match[0]) else match[0]


def _if_apart(match: re.Match[str]) -> str:
    """Mask a run that is a word of its own."""
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    return match[0] if before.isalnum() or after.isalnum() else MASK


def _after_first_group(match: re.Match[str]) -> str:
    return f"{match[1]}{MASK}"


def _if_token(match: re.Match[str]) -> str:
    """Mask a JWT: at least header and payload; `eyJ` alone begins any JSON object in base64."""
    return MASK if match[0].count(".") >= 1 else match[0]


FORMS: Final = (
    Form(
        "private key",
        ("PRIVATE KEY",),
        # Without its end line it is still a key: a text may have been cut there.
        r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s\\:,.]|-(?!----))*+"
        r"(?:-----END [A-Z0-9 ]{0,60}-----)?",
        _whole,
        leads=("-----BEGIN ",),
    ),
    Form("Perdure API key", ("pdk_",), r"(pdk_[A-Za-z0-9]{1,64}_)[A-Za-z0-9_-]{8,}+", _after_first_group),
    Form("webhook secret", ("whsec_",), r"whsec_[A-Za-z0-9+/=_-]{16,}+", _whole),
    Form("Anthropic key", ("sk-ant-",), r"sk-ant-[A-Za-z0-9_-]{16,}+", _whole),
    Form("provider key", ("sk-",), r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{20,}+", _if_random),
    Form("GitHub token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[opusr]_[A-Za-z0-9]{30,}+", _whole),
    Form("GitHub token", ("github_pat_",), r"github_pat_[A-Za-z0-9_]{30,}+", _whole),
    Form("GitLab token", ("glpat-",), r"glpat-[A-Za-z0-9_.-]{16,}+", _whole),
    Form("AWS key id", ("AKIA", "ASIA"), r"A(?:KIA|SIA)[A-Z0-9]{16}", _if_apart),
    Form("Slack token", ("xox", "xapp-"), r"(?:xox[a-z]|xapp)-[A-Za-z0-9-]{10,}+", _whole),
    Form(
        "Slack webhook",
        ("hooks.slack",),
        r"(hooks\.slack[a-z.-]{0,20}/[a-z]{1,20}/)[A-Za-z0-9/_-]{8,}+",
        _after_first_group,
    ),
    Form("Google key", ("AIza",), r"AIza[A-Za-z0-9_-]{30,}+", _whole),
    Form("Google token", ("ya29.",), r"ya29\.[A-Za-z0-9_-]{20,}+", _whole),
    Form(
        "Stripe key",
        ("k_live_", "k_test_"),
        r"[srp]k_(?:live|test)_[A-Za-z0-9]{10,}+",
        _whole,
        leads=tuple(f"{kind}k_{mode}_" for kind in "srp" for mode in ("live", "test")),
    ),
    Form("npm token", ("npm_",), r"npm_[A-Za-z0-9]{30,}+", _whole),
    Form("Hugging Face token", ("hf_",), r"hf_[A-Za-z0-9]{30,}+", _whole),
    Form("PyPI token", ("pypi-",), r"pypi-[A-Za-z0-9_-]{40,}+", _whole),
    Form("Vault token", ("hvs.",), r"hvs\.[A-Za-z0-9_-]{20,}+", _whole),
    Form("JWT", ("eyJ",), r"eyJ[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]{2,}+){0,4}", _if_token),
    Form(
        "bearer",
        ("earer", "EARER"),
        r"[Bb](?:earer|EARER)(?:[\s]{1,4}|%20)[A-Za-z0-9._~+/=-]{12,}+",
        lambda match: f"{match[0][:6]} {MASK}" if _if_random(match) == MASK else match[0],
        leads=("bearer", "Bearer", "bEARER", "BEARER"),
    ),
    Form("password in a URL", ("://",), r"(://[^\s/?#@:\"'<>]*+:)[^\s/?#@\"'<>]++(?=@)", _after_first_group),
)
"""Forms of secrets, those with a more general prefix last."""

PLAIN_FORMS: Final = tuple(
    form.source
    for form in FORMS
    if form.replace in (_whole, _after_first_group) and not re.search(r"\(\?(?!:)", form.source)
)
"""Expressions of those that are secret for certain, whatever is around them."""

_TABLE: Final = tuple((hint, re.compile(form.source), form.replace) for form in FORMS for hint in form.hints)
_NAME_PARTS: Final = (
    "passw",
    "secret",
    "token",
    "key",
    "authoriz",
    "passphrase",
    "passcode",
    "credential",
    "cookie",
    "cvv",
    "cvc",
    "otp",
    "pwd",
    "pin",
    "connection",
    "signature",
    "mnemonic",
    "card",
    "bearer",
)
"""One of these is in every secret's name."""
NAME: Final = r"[A-Za-z][A-Za-z0-9_.-]{0,127}+"
# A name in quotes and a value, as in JSON and in Python's repr, also within a text that is quoted itself.
QUOTED_NAME: Final = re.compile(rf"""(?P<quote>\\{{0,8}}["'])(?P<name>{NAME})(?P=quote)\s{{0,8}}:\s{{0,8}}""")
QUOTED_VALUE: Final = re.compile(
    r"""(\\{1,8}["'])(?:(?!\1).)++|"(?:[^"\\]|\\.)++|'(?:[^'\\]|\\.)++|-?[0-9][0-9.eE+-]*+"""
)
# name=value as in query strings, forms and environments, and name: value as in headers.
BARE_NAME: Final = re.compile(rf"(?<![A-Za-z0-9_.-])(?P<name>{NAME})(?P<between>\s{{0,4}}[=:]\s{{0,4}})")
BARE_VALUE: Final = re.compile(r"""["'][^"'\\\n]++|[^\s"'&,;<>()\[\]{}\\]++""")
HEADER_NAME: Final = "|".join("".join(f"[{one.upper()}{one}]" for one in name) for name in ("cookie", "authorization"))
HEADER: Final = re.compile(rf"((?:{HEADER_NAME})\s{{0,4}}:\s{{0,4}})([^\r\n\"'\\]++)")
_SCHEMES: Final = ("basic", "bearer", "digest", "negotiate", "token")
MIN_CARD: Final = 13
CARD: Final = re.compile(
    r"(?<![\w.-])[2-6][0-9]{3}(?:([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|([ -])[0-9]{6}\2[0-9]{4,5})(?![\w-]|\.[0-9])"
)
_CARD_PREFIXES: Final = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:2[2-9]|[3-6][0-9]|7[01])[0-9]{13}|3[47][0-9]{13}|"
    r"6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|35(?:2[89]|[3-8][0-9])[0-9]{12}|3(?:0[0-5]|[68][0-9])[0-9]{11}|62[0-9]{14,17}"
)
_MIN_GUESSED: Final = 6
"""Characters of a value after `name: ` that is taken for a secret and not for prose; one with spaces is cut at them."""


def mask_forms(text: str) -> str:
    """Return the text with `[secret]` and `[card]` in place of secrets."""
    for hint, pattern, replace in _TABLE:
        if hint in text:
            text = pattern.sub(replace, text)
    if (":" in text or "=" in text) and _may_name_a_secret(text):
        text = _mask_named(text, QUOTED_NAME, mask_quoted)
        text = HEADER.sub(mask_header, text)
        text = _mask_named(text, BARE_NAME, mask_bare)
    return CARD.sub(mask_card, text) if len(text) >= MIN_CARD else text


def _may_name_a_secret(text: str) -> bool:
    lower = text.lower()
    return any(part in lower for part in _NAME_PARTS)


def _mask_named(text: str, name: re.Pattern[str], mask: Callable[[str, re.Match[str]], tuple[str, int]]) -> str:
    """Mask the values behind secrets' names; the search goes on within the value of any other name."""
    parts: list[str] = []
    done = place = 0
    while match := name.search(text, place):
        place = match.end()
        if is_secret_name(match["name"]):
            masked, place = mask(text, match)
            parts += [text[done : match.end()], masked]
            done = place
    return "".join([*parts, text[done:]]) if parts else text


def mask_quoted(text: str, name: re.Match[str]) -> tuple[str, int]:
    value = QUOTED_VALUE.match(text, name.end())
    if value is None:
        return "", name.end()
    if value[1]:
        return f"{value[1]}{MASK}", value.end()
    if value[0][0] in "\"'":
        return f"{value[0][0]}{MASK}", value.end()
    return f"{name['quote']}{MASK}{name['quote']}", value.end()


def mask_bare(text: str, name: re.Match[str]) -> tuple[str, int]:
    value = BARE_VALUE.match(text, name.end())
    if value is None:
        return "", name.end()
    word = value[0]
    if word[0] in "\"'":
        return f"{word[0]}{MASK}", value.end()
    if ":" in name["between"] and (len(word) < _MIN_GUESSED or word.isalpha()):
        return word, value.end()
    return MASK, value.end()


def mask_header(match: re.Match[str]) -> str:
    words = match[2].split()
    if not words or words[0].startswith("["):
        return match[0]
    told = words[0].lower() in _SCHEMES or any(one.isdigit() or one in "=+/" for one in match[2])
    return f"{match[1]}{MASK}" if told else match[0]


def mask_card(match: re.Match[str]) -> str:
    return CARD_MASK if is_card_number(match[0]) else match[0]


def is_card_number(text: str) -> bool:
    """Whether these digits, perhaps in groups, are a payment card's: an issuer's prefix, its length, its checksum."""
    digits = text.replace(" ", "").replace("-", "")
    return bool(_CARD_PREFIXES.fullmatch(digits)) and _checks_out(digits)


def _checks_out(digits: str) -> bool:
    # Luhn's formula, ISO/IEC 7812-1 annex B.
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (1 + place % 2)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0
