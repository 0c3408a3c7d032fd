"""Keeps revealed secrets out of what people read: they are struck out wherever they show up again.

:data:`KNOWN` is the one thing that a process shares without being handed it, since a log line or
an error can come from anywhere, third-party code included. What has the shape of a secret is the
business of :mod:`agents.runtime.redaction`, which asks here first.
"""

import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import JsonValue

REDACTED: Final = "[redacted]"
SHORTEST: Final = 6
"""Characters that a secret has at least; a shorter one could not be struck out of texts without
spoiling words that only look like it."""

_MOST_FORMS: Final = 1024
"""Forms of values that are kept at most, so that secrets which change every hour do not add up."""
_LONG: Final = 16
"""Characters from which the path or the query of an address is taken for a secret by itself, as in
the address of a webhook; a short one is an ordinary word."""


class Redactor:
    """Strikes out the values that it has learnt."""

    def __init__(self) -> None:
        self._forms: dict[str, None] = {}
        self._compiled: re.Pattern[str] | None = None

    def learn(self, value: str) -> None:
        """Strike out ``value`` from now on, also as URLs, JSON and Python write it."""
        forms = [form for form in _forms_of(value) if form not in self._forms]
        if not forms:
            return
        self._forms.update(dict.fromkeys(forms))
        while len(self._forms) > _MOST_FORMS:
            del self._forms[next(iter(self._forms))]
        self._compiled = None

    def text(self, text: str) -> str:
        """``text`` without what was learnt."""
        return self._pattern().sub(REDACTED, text) if self._forms else text

    def json(self, value: JsonValue) -> JsonValue:
        """``value`` without what was learnt in its texts, and in the names of its members."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.json(item) for name, item in value.items()}
        return value

    def _pattern(self) -> re.Pattern[str]:
        if self._compiled is None:
            longest_first = sorted(self._forms, key=len, reverse=True)
            self._compiled = re.compile("|".join(map(re.escape, longest_first)))
        return self._compiled


KNOWN: Final = Redactor()
"""The values that this process has revealed."""


def _forms_of(value: str) -> Iterator[str]:
    for part in (value, *_parts_of_address(value)):
        yield part
        yield quote(part)
        yield quote(part, safe="")
        yield json.dumps(part)[1:-1]
        yield json.dumps(part, ensure_ascii=False)[1:-1]
        yield repr(part)[1:-1]


def _parts_of_address(value: str) -> Iterator[str]:
    """What is secret in an address by itself: errors quote addresses in parts."""
    if "://" not in value:
        return
    try:
        parts = urlsplit(value)
    except ValueError:
        return
    if parts.query:
        yield value.partition("?")[0]
    if parts.password and len(parts.password) >= SHORTEST:
        yield parts.password
        yield unquote(parts.password)
    yield from (part for part in (parts.path, parts.query) if len(part) >= _LONG)
