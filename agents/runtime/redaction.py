"""Takes secrets out of text that leaves the process: log lines, dead letters, reasons of failures.

What an exception says of itself may repeat an address with its password, a header, or a setting.
Known values are taken out wherever they stand, those of settings and those that an executor has
revealed (:mod:`agents.runtime.revealed`); beyond those, what has the shape of a secret: the
password in a URL, what follows ``Bearer``, and values under names such as ``password`` or
``api_key``. A secret that nobody told us and that looks like any other word is not found.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from agents.runtime.revealed import KNOWN, REDACTED
from agents.runtime.settings import Settings

__all__ = ["REDACTED", "is_secret_name", "learn", "learn_values", "redacted"]

_SHORTEST: Final = 4
"""A known secret that is shorter stands in too many words to be taken out of them."""
# All repetitions have bounds: text may be long, and must not take time that grows with its square.
_NAMES: Final = r"password|passwd|secret|token(?!s)|api[_-]?key|authorization|dsn"
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)
_CREDENTIALS_IN_URL: Final = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]{0,30}://[^:/@\s]{0,200}):(?!\[redacted\]@)[^/\s]{1,500}@",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    # A word that follows by chance has neither digits nor capitals, and is not that long.
    r"\b(?P<before>(?i:bearer|basic)\s{1,4})"
    r"(?=[\w.~+/=-]{0,500}[0-9A-Z=]|[\w.~+/=-]{20})[\w.~+/=-]{6,}"
)
_NAMED: Final = re.compile(
    rf"""(?P<before>(?:{_NAMES})[\w.-]{{0,30}}["']?\s{{0,4}}[=:]\s{{0,4}})"""
    r"""(?!\[redacted\]|(?:bearer|basic)\s)"""
    r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&'"\])}]+)""",
    re.IGNORECASE,
)
_known: tuple[str, ...] = ()


def learn(settings: Settings) -> None:
    """Take the secrets of ``settings`` for those of this process, in place of any others."""
    values = (getattr(settings, name) for name in type(settings).model_fields)
    learn_values(each.get_secret_value() for each in values if isinstance(each, SecretStr))


def learn_values(secrets: Iterable[str]) -> None:
    """Take ``secrets`` for those of this process, in place of any others.

    Of a URL its password is the secret, be it as it stands there or decoded.
    """
    global _known  # noqa: PLW0603  # a secret is one for the whole process, wherever text comes from
    found: set[str] = set()
    for secret in secrets:
        if "://" in secret:
            # `urlsplit` refuses a password with brackets; the shape of a URL is taken out anyway.
            try:
                password = urlsplit(secret).password or ""
            except ValueError:
                continue
            found |= {password, unquote(password)}
        else:
            found.add(secret)
    # Longest first: one may be part of another.
    _known = tuple(sorted((s for s in found if len(s) >= _SHORTEST), key=len, reverse=True))


def is_secret_name(name: str) -> bool:
    """Whether a value under ``name`` is a secret, whatever it is."""
    return _SECRET_NAME.search(name) is not None


def redacted(text: str) -> str:
    """``text`` without the secrets that can be found in it."""
    text = KNOWN.text(text)
    for secret in _known:
        if secret in text:
            text = text.replace(secret, REDACTED)
    if "://" in text:
        text = _CREDENTIALS_IN_URL.sub(rf"\g<before>:{REDACTED}@", text)
    text = _SCHEME.sub(rf"\g<before>{REDACTED}", text)
    return _NAMED.sub(rf"\g<before>{REDACTED}", text)
