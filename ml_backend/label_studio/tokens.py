"""Which kind of token an API key is, and what to tell a person whose key is refused (fact 14)."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

import orjson

TokenKind = Literal["personal", "access", "legacy"]

HOW_TO_GET_ONE = (
    "Create a personal access token in Label Studio under Account & Settings > Personal Access Token "
    "and set LABEL_STUDIO_API_KEY to it"
)


def kind_of(key: str) -> TokenKind:
    """Personal access tokens are JWT refresh tokens; what is no JWT can only be a legacy token. Verifies nothing."""
    parts = key.split(".")
    if len(parts) in (2, 3):  # two: the signature was cut off, as Label Studio's own list of tokens shows them
        try:
            claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (binascii.Error, ValueError):
            return "legacy"
        if isinstance(claims, dict):
            return "access" if claims.get("token_type") == "access" else "personal"
    return "legacy"


def problem_with(key: str) -> str | None:
    """What is wrong with a key as far as its text alone can tell, or None."""
    if not key:
        return f"LABEL_STUDIO_API_KEY is empty. {HOW_TO_GET_ONE}."
    if not (key.isascii() and key.isprintable()) or " " in key:
        return f"LABEL_STUDIO_API_KEY holds characters that no token has. {HOW_TO_GET_ONE}."
    kind = kind_of(key)
    if kind == "access":
        return f"LABEL_STUDIO_API_KEY is an access token, which lives five minutes only. {HOW_TO_GET_ONE}."
    if kind == "personal" and key.count(".") == 1:
        return (
            "LABEL_STUDIO_API_KEY is a personal access token without its last part: Label Studio shows the whole token "
            f"only once, when it is created. {HOW_TO_GET_ONE}."
        )
    return None


def refusal(kind: TokenKind, detail: str) -> str:
    """What to tell a person when Label Studio answered 401; ``detail`` is Label Studio's own sentence."""
    said = f" (it says: {detail})" if detail else ""
    if kind == "personal":
        return (
            "Label Studio refuses LABEL_STUDIO_API_KEY, a personal access token: it was revoked, has expired, or "
            f"belongs to another Label Studio{said}. {HOW_TO_GET_ONE}."
        )
    if "legacy" in detail:
        return (
            "LABEL_STUDIO_API_KEY is a legacy token, and this Label Studio has legacy tokens switched off"
            f"{said}. {HOW_TO_GET_ONE}; or let an administrator allow legacy tokens under Organization > "
            "API Tokens Settings."
        )
    return f"Label Studio does not know LABEL_STUDIO_API_KEY{said}. {HOW_TO_GET_ONE}."
