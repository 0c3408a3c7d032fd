"""Canonical JSON (RFC 8785), and the digest that binds a verdict to the very plan."""

import hashlib
import json
from typing import Final, cast

import rfc8785
from pydantic import JsonValue

_LARGEST_EXACT: Final = 2**53 - 1
_write_plain: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False
).encode


def canonical_json(value: JsonValue) -> bytes:
    """``value`` in the canonical form of RFC 8785, in UTF-8.

    Raises:
        ValueError: A number is not finite, or an integer is outside ±(2⁵³ - 1), where JSON's
            numbers stop being exact.
    """
    if _is_plain(value):
        # The same bytes, several times as fast; every plan is written twice for its hash.
        return _write_plain(value).encode()
    try:
        return rfc8785.dumps(cast("dict[str, object]", value))  # type: ignore[arg-type]  # its type is narrower than what it takes
    except rfc8785.CanonicalizationError as error:
        raise ValueError(str(error)) from error


def _is_plain(value: JsonValue) -> bool:
    """Whether the standard library writes ``value`` as RFC 8785 does.

    It writes numbers with a fraction in another way, and sorts keys by code points instead of
    UTF-16 units, which is the same for ASCII.
    """
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return -_LARGEST_EXACT <= cast("int", value) <= _LARGEST_EXACT
    if kind is dict:
        entries = cast("dict[str, JsonValue]", value)
        return all(map(str.isascii, entries)) and all(map(_is_plain, entries.values()))
    return kind is list and all(map(_is_plain, cast("list[JsonValue]", value)))


def sha256_of(value: JsonValue) -> str:
    """SHA-256 over the canonical form, in lower-case hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()
