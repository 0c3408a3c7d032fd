"""Statements of the catalogue, with places for parameters that are bound and never written in.

``{name}`` stands for the parameter of that name, ``{idempotency_key}`` for the key that tells two
attempts at one effect from two effects; ``{{`` and ``}}`` are braces. A place must stand where SQL
takes a value: within quotes or a comment it would be text, which is refused.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

KEY: Final = "idempotency_key"
"""The place that no parameter fills."""

_PLACE: Final = re.compile(
    r"(?P<brace>\{\{|\}\})|\{(?P<name>[a-z][a-z0-9_]*)\}|(?P<stray>[{}])|(?P<percent>%)"
)
#: After "Lexical Structure" in PostgreSQL's documentation; comments nest, which is not seen here.
_QUOTED: Final = re.compile(
    r"[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
    r"|\$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/",
    re.DOTALL,
)


class StatementError(ValueError):
    """A statement is malformed; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as psycopg takes it, and the names of its places."""

    query: str
    names: frozenset[str]


@lru_cache(maxsize=1024)
def parse_statement(text: str) -> Statement:
    """Read a statement.

    Raises:
        StatementError: A brace stands alone, a place stands within quotes or a comment, or there is
            no statement, or more than one.
    """
    for quoted in _QUOTED.finditer(text):
        for place in _PLACE.finditer(quoted.group()):
            if place["name"]:
                raise StatementError(
                    f"{place.group()} stands within quotes or a comment, where it would be text: "
                    f"{quoted.group()[:80]}; write {place.group()} alone, or || around it"
                )
    bare = _QUOTED.sub("", text).strip().removesuffix(";")
    if not bare.strip():
        raise StatementError("it holds no statement")
    if ";" in bare:
        raise StatementError("it holds more than one statement")
    names: set[str] = set()

    def written(match: re.Match[str]) -> str:
        if match["stray"]:
            raise StatementError(
                f"{match['stray']!r} at position {match.start()} begins or ends nothing; write "
                "{parameter}, or {{ and }} for braces"
            )
        if name := match["name"]:
            names.add(name)
            return f"%({name})s"
        return "%%" if match["percent"] else match["brace"][0]

    return Statement(_PLACE.sub(written, text), frozenset(names))
