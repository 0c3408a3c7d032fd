"""Whether what actions.yaml declares to undo an action can do so."""

from collections.abc import Callable, Mapping
from typing import Final

from agents.runtime.catalogue.compensation import Placeholder, placeholders
from agents.runtime.catalogue.entries import ActionDeclaration, CompensationDeclaration
from agents.runtime.catalogue.parameters import ParameterSpec, ValueType
from agents.runtime.declarations import Path, did_you_mean

Report = Callable[[Path, str, str], None]
"""Takes where something is wrong, what, and what is expected."""

_PARTS: Final = ("object", "array")


def check_compensation(
    action: ActionDeclaration, undo: ActionDeclaration, path: Path, report: Report
) -> None:
    """Report what keeps ``undo`` from undoing ``action``.

    Args:
        action: The action that is undone; it declares a compensation.
        undo: The action that the compensation names.
        path: Where the compensation is declared.
        report: Where problems go.
    """
    compensation = action.compensation
    if compensation is None:
        return
    if undo.effect == "read":
        report((*path, "action"), "an action that only reads undoes nothing", "another action")
    given = compensation.parameters
    for name, spec in undo.parameters.items():
        if spec.required and name not in given:
            report((*path, "parameters"), f"parameter {name!r} is missing", spec.description)
    for name in given:
        if name not in undo.parameters:
            wrong = f"{compensation.action} has no parameter {name!r}"
            hint = did_you_mean(name, undo.parameters)
            report((*path, "parameters", name), wrong, f"{_list(undo.parameters)}{hint}")
    found = list(placeholders(given))
    for each in found:
        _check_placeholder(each, action, undo, (*path, "parameters"), report)
    _check_constants(compensation, undo, {each.at[0] for each in found}, path, report)


def _check_placeholder(
    found: Placeholder,
    action: ActionDeclaration,
    undo: ActionDeclaration,
    path: Path,
    report: Report,
) -> None:
    at, target = (*path, *found.at), undo.parameters.get(str(found.at[0]))
    given: ValueType | None = "string"
    if not found.is_known:
        expected = "${parameters.NAME}, ${output.NAME}, or $${ for plain text"
        report(at, f"{found.text!r} stands for nothing", expected)
        return
    if found.parameter is not None:
        parameter = action.parameters.get(found.parameter)
        if parameter is None:
            hint = did_you_mean(found.parameter, action.parameters)
            wrong = f"the action has no parameter {found.parameter!r}"
            report(at, wrong, f"{_list(action.parameters)}{hint}")
            return
        if not found.is_whole and not parameter.required and parameter.default is None:
            wrong = f"{found.parameter!r} may be absent"
            report(at, wrong, "it as the whole of a parameter, or one that is always given")
        given = parameter.type
    else:
        output = action.outputs.get(found.output or "")
        if output is None:
            hint = did_you_mean(found.output or "", action.outputs)
            report(at, f"the action puts out no {found.output!r}", f"{_list(action.outputs)}{hint}")
            return
        if found.is_part and output.type not in _PARTS:
            report(at, f"{found.output!r} is of type {output.type} and has no parts", "all of it")
        given = None if found.is_part else output.type
    if target is not None and given is not None:
        _check_type(found, given, target, at, report)


def _check_type(
    found: Placeholder, given: ValueType, target: ParameterSpec, at: Path, report: Report
) -> None:
    if len(found.at) > 1:
        return  # inside of an object or a list, of which the catalogue knows no more
    becomes = given if found.is_whole else "string"
    is_number = target.type == "number" and becomes == "integer"
    if becomes != target.type and not is_number:
        report(at, f"{found.text!r} is of type {becomes}", f"a value of type {target.type}")


def _check_constants(
    compensation: CompensationDeclaration,
    undo: ActionDeclaration,
    filled: set[str | int],
    path: Path,
    report: Report,
) -> None:
    for name, value in compensation.parameters.items():
        spec = undo.parameters.get(name)
        if spec is not None and name not in filled and (problem := spec.check(value)):
            report((*path, "parameters", name), f"it {problem}", "a fitting value")


def _list(names: Mapping[str, object]) -> str:
    return f"one of {', '.join(names)}" if names else "none, as it has none"
