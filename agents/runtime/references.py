"""References in parameters to what earlier steps put out.

``${steps.<id>.output.<path>}`` names a value: the path starts with a declared output and goes on
with dotted names and array indexes, as in ``${steps.list.output.services[0].name}``. A text that is
exactly one reference becomes the value itself, with its JSON type; within a longer text the value
is rendered. ``$${`` stands for a literal ``${``, so that text from people is never read as a
reference once it went through :func:`escape`.

A value that is ``${secret:NAME}`` as a whole names a secret. It passes through here as it is: which
parameter may name which one is the catalogue's to say, and only the executor reveals it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from agents.runtime.errors import PermanentError
from schemas import JsonObject

_OPENING: Final = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
_BODY: Final = re.compile(
    r"steps\.(?P<step>[a-z][a-z0-9_-]{0,62})\.output\.(?P<path>[\w-]+(?:\.[\w-]+|\[\d{1,9}\])*)",
    re.ASCII,
)
SECRET: Final = re.compile(r"\$\{secret:([a-z][a-z0-9_]{0,62})\}", re.ASCII)
_SEGMENT: Final = re.compile(r"\[(\d+)\]|([\w-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reference:
    """One value among the outputs of one step."""

    step_id: str
    path: tuple[str | int, ...]
    """Names of object members and indexes of array items; the first is the output's name."""

    @property
    def output(self) -> str:
        """The name of the output that the path starts with."""
        return str(self.path[0])

    def __str__(self) -> str:
        first, *rest = self.path
        tail = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in rest)
        return f"${{steps.{self.step_id}.output.{first}{tail}}}"


def find(value: JsonValue) -> set[Reference]:
    """Every reference in the texts of ``value``, however deep; keys of objects hold none."""
    return {
        reference
        for text in _texts(value)
        for match in _OPENING.finditer(text)
        if (reference := _read(match)) is not None
    }


def malformed(value: JsonValue) -> list[str]:
    """What starts like a reference in the texts of ``value`` and is none, in order."""
    return [
        match.group()
        for text in _texts(value)
        if secret_name(text) is None
        for match in _OPENING.finditer(text)
        if match.group() != "$${" and _read(match) is None
    ]


def sole(value: JsonValue) -> Reference | None:
    """The reference that ``value`` consists of, so that the value's JSON type is kept."""
    if not isinstance(value, str):
        return None
    match = _OPENING.fullmatch(value)
    return _read(match) if match is not None else None


def secret_name(value: JsonValue) -> str | None:
    """The secret that ``value`` names as a whole, if it does."""
    found = SECRET.fullmatch(value) if isinstance(value, str) else None
    return found[1] if found is not None else None


def names_secret(value: JsonValue) -> bool:
    """Whether some text in ``value`` names a secret as a whole."""
    return any(secret_name(text) is not None for text in _texts(value))


def escape(text: str) -> str:
    """``text`` written so that :func:`resolve` gives it back as it is."""
    return text.replace("${", "$${")


def resolve(value: JsonValue, outputs: Mapping[str, JsonObject]) -> JsonValue:
    """``value`` with every reference replaced.

    Args:
        value: A parameter, or a whole object of them.
        outputs: By step id, what the step has put out.

    Raises:
        PermanentError: A reference has no value, or is malformed; code ``unresolved_reference``.
    """
    if isinstance(value, list):
        return [resolve(item, outputs) for item in value]
    if isinstance(value, dict):
        return {key: resolve(item, outputs) for key, item in value.items()}
    if not isinstance(value, str) or secret_name(value) is not None:
        return value
    reference = sole(value)
    if reference is not None:
        return _look_up(reference, outputs)
    return _OPENING.sub(lambda match: _replacement(match, outputs), value)


def _texts(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)


def _read(match: re.Match[str]) -> Reference | None:
    body = _BODY.fullmatch(match["body"] or "")
    if body is None:
        return None
    path = tuple(int(index) if index else name for index, name in _SEGMENT.findall(body["path"]))
    return Reference(body["step"], path)


def _replacement(match: re.Match[str], outputs: Mapping[str, JsonObject]) -> str:
    if match.group() == "$${":
        return "${"
    reference = _read(match)
    if reference is None:
        raise _unresolved(f"{match.group()} is no reference to a step's output")
    found = _look_up(reference, outputs)
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


def _look_up(reference: Reference, outputs: Mapping[str, JsonObject]) -> JsonValue:
    if reference.step_id not in outputs:
        raise _unresolved(f"{reference}: step {reference.step_id!r} has put out nothing")
    value: JsonValue = outputs[reference.step_id]
    for part in reference.path:
        match part, value:
            case str(), dict() if part in value:
                value = value[part]
            case int(), list() if part < len(value):
                value = value[part]
            case _:
                raise _unresolved(f"{reference}: {_absence(part, value)}")
    return value


def _absence(part: str | int, value: JsonValue) -> str:
    if isinstance(value, dict) and isinstance(part, str):
        return f"there is no {part!r} among {', '.join(map(repr, value)) or 'no members'}"[:1000]
    if isinstance(value, list) and isinstance(part, int):
        return f"there is no item {part} among {len(value)}"
    return f"{part!r} was looked for in something that is no {_holder(part)}"


def _holder(part: str | int) -> str:
    return "object" if isinstance(part, str) else "array"


def _unresolved(reason: str) -> PermanentError:
    return PermanentError(reason, code="unresolved_reference")
