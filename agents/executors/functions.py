"""Functions that the shipped catalogue calls, and the place for your own."""

import re
from typing import Final

from agents.executors.python import action_function
from agents.runtime.errors import PermanentError
from schemas import JsonObject

#: Semantic Versioning 2.0.0, with a leading v and with fewer or more than three numbers allowed.
_VERSION: Final = re.compile(
    r"v?(?P<release>\d{1,18}(?:\.\d{1,18}){0,7})"
    r"(?:-(?P<pre>[0-9A-Za-z-]{1,64}(?:\.[0-9A-Za-z-]{1,64}){0,15}))?"
    r"(?:\+[0-9A-Za-z.-]+)?",
    re.ASCII,
)
_Identifier = tuple[int, int, str]
_Precedence = tuple[tuple[int, ...], int, tuple[_Identifier, ...]]


@action_function
def compare_versions(first: str, second: str) -> JsonObject:
    """Say which of two versions is newer, by the precedence of Semantic Versioning 2.0.0.

    Build metadata does not count, and missing numbers are zeros: 2.4 is 2.4.0.

    Raises:
        PermanentError: One of them is no version.
    """
    left, right = _read(first), _read(second)
    if _precedence(left) == _precedence(right):
        newer, summary = "neither", f"{first} and {second} are the same version."
    elif _precedence(left) > _precedence(right):
        newer, summary = "first", f"{first} is newer than {second}."
    else:
        newer, summary = "second", f"{second} is newer than {first}."
    return {"same": newer == "neither", "newer": newer, "summary": summary}


def _read(text: str) -> re.Match[str]:
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise PermanentError(f"{text!r} is no version", code="invalid_parameters")
    return match


def _precedence(version: re.Match[str]) -> _Precedence:
    numbers = [int(number) for number in version["release"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    if version["pre"] is None:
        return tuple(numbers), 1, ()  # a release comes after its pre-releases
    return tuple(numbers), 0, tuple(_identifier(part) for part in version["pre"].split("."))


def _identifier(part: str) -> _Identifier:
    """A part of a pre-release: numbers come before words, and compare as numbers."""
    return (0, int(part), "") if part.isdecimal() else (1, 0, part)
