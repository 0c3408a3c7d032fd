"""Values out of what came back, by JSONPath."""

from functools import lru_cache
from typing import Any

from jsonpath_ng import Child, Fields, Index, JSONPath, Root, This
from jsonpath_ng.parser import parse
from pydantic import JsonValue

from agents.runtime.outcomes import UnusableAnswerError


@lru_cache(maxsize=1024)
def parse_path(path: str) -> JSONPath:
    """Read a path.

    Raises:
        JSONPathError: It is none.
    """
    return parse(path)


def pick(path: str, document: Any) -> JsonValue:
    """The value at a JSONPath; a list where the path can match several.

    Raises:
        UnusableAnswerError: A path that names one value finds none.
    """
    parsed = parse_path(path)
    found: list[JsonValue] = [match.value for match in parsed.find(document)]
    if not _names_one(parsed):
        return found
    if not found:
        raise UnusableAnswerError(f"the response has nothing at {path}", code="invalid_message")
    return found[0]


def _names_one(path: JSONPath) -> bool:
    """Whether ``path`` can match one value at most."""
    if isinstance(path, Child):
        return _names_one(path.left) and _names_one(path.right)
    if isinstance(path, Fields):
        return len(path.fields) == 1 and path.fields[0] != "*"
    if isinstance(path, Index):
        return len(path.indices) == 1
    return isinstance(path, Root | This)
