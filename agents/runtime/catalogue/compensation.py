"""What undoes an action, as actions.yaml declares it and as a plan needs it.

A compensation is another action. In its parameters ``${parameters.NAME}`` stands for a parameter of
the step that is undone and ``${output.PATH}`` for what that step has put out; ``$${`` is a literal
``${``, as in :mod:`agents.runtime.references`, whose references come of it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from agents.runtime.declarations import Path
from schemas import JsonObject

_OPENING: Final = re.compile(r"\$\$\{|\$\{(?P<body>[^{}]*)\}|\$\{")
_BODY: Final = re.compile(
    r"parameters\.(?P<parameter>[a-z][a-z0-9_]{0,62})|output\.(?P<path>[\w-]+(?:\.[\w-]+|\[\d{1,9}\])*)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Placeholder:
    """One place in a compensation's parameters that speaks of the step that is undone."""

    text: str
    """As it is written."""
    at: Path
    """Where: the compensation's parameter, and what is inside of it."""
    parameter: str | None = None
    """The parameter that it stands for, if it stands for one."""
    output: str | None = None
    """The output that it stands for, or takes a part of."""
    is_part: bool = False
    """Whether it stands for something within the output."""
    is_whole: bool = False
    """Whether the compensation's parameter consists of it, so that it keeps its JSON type."""

    @property
    def is_known(self) -> bool:
        """Whether it is well-formed."""
        return self.parameter is not None or self.output is not None


def placeholders(parameters: JsonObject) -> Iterator[Placeholder]:
    """Everything in ``parameters`` that is to be replaced, well-formed or not."""
    for name, value in parameters.items():
        for at, text in _texts(value, (name,)):
            for match in _OPENING.finditer(text):
                if match.group() != "$${":
                    is_whole = len(at) == 1 and match.group() == text
                    yield _read(match, at, is_whole=is_whole)


def parameters_for(declared: JsonObject, step_id: str, parameters: JsonObject) -> JsonObject:
    """The parameters of the step that undoes the step ``step_id``, with references to its outputs.

    Args:
        declared: What the catalogue says; it has passed the catalogue's checks.
        step_id: The step that is undone.
        parameters: Its own parameters, completed; where one is not given, neither is what consists
            of it.
    """
    absent = {
        str(each.at[0])
        for each in placeholders(declared)
        if each.parameter is not None and each.parameter not in parameters
    }
    return {
        name: _filled(value, step_id, parameters)
        for name, value in declared.items()
        if name not in absent
    }


def _filled(value: JsonValue, step_id: str, parameters: Mapping[str, JsonValue]) -> JsonValue:
    if isinstance(value, list):
        return [_filled(item, step_id, parameters) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, step_id, parameters) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    whole = _OPENING.fullmatch(value)
    found = None if whole is None else _BODY.fullmatch(whole["body"] or "")
    if found is not None and found["parameter"] is not None:
        return parameters[found["parameter"]]
    return _OPENING.sub(lambda match: _as_text(match, step_id, parameters), value)


def _as_text(match: re.Match[str], step_id: str, parameters: Mapping[str, JsonValue]) -> str:
    found = _BODY.fullmatch(match["body"] or "")
    if found is None:
        return match.group()  # a literal, which stays written as one
    if found["path"] is not None:
        return f"${{steps.{step_id}.output.{found['path']}}}"
    value = parameters[found["parameter"]]
    # A text of a plan is written with references already, and stays so.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read(match: re.Match[str], at: Path, *, is_whole: bool) -> Placeholder:
    found = _BODY.fullmatch(match["body"] or "")
    if found is None:
        return Placeholder(match.group(), at)
    path = found["path"]
    if path is None:
        return Placeholder(match.group(), at, parameter=found["parameter"], is_whole=is_whole)
    output = re.split(r"[.\[]", path, maxsplit=1)[0]
    is_part = output != path
    return Placeholder(match.group(), at, output=output, is_part=is_part, is_whole=is_whole)


def _texts(value: JsonValue, at: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*at, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*at, key))
