"""Canonical JSON (RFC 8785), and the digest that binds a verdict to the very plan."""

import hashlib
from typing import cast

import rfc8785
from pydantic import JsonValue


def canonical_json(value: JsonValue) -> bytes:
    """``value`` in the canonical form of RFC 8785, in UTF-8.

    Raises:
        ValueError: A number is not finite, or an integer is outside ±(2⁵³ - 1), where JSON's
            numbers stop being exact.
    """
    try:
        return rfc8785.dumps(cast("dict[str, object]", value))  # type: ignore[arg-type]  # its type is narrower than what it takes
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def sha256_of(value: JsonValue) -> str:
    """SHA-256 over the canonical form, in lower-case hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
