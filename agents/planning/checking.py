"""Whether steps make a plan: every problem is found, none stops the search for others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import Final

from agents.runtime import references
from agents.runtime.catalogue import ActionSpec, Catalogue, UnknownActionError
from agents.runtime.declarations import did_you_mean
from agents.runtime.references import Reference
from schemas import JsonObject, PlannedStep, canonical_json

_FORM: Final = "${steps.<id>.output.<name>}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and with which step."""

    step_id: str
    what: str

    def __str__(self) -> str:
        return f"step {self.step_id!r}: {self.what}"


def find_problems(steps: Sequence[PlannedStep], catalogue: Catalogue) -> list[Problem]:
    """All that keeps ``steps`` from being a plan, in their order; cycles come last."""
    return list(_problems(steps, catalogue))


def prerequisites(step: PlannedStep) -> set[str]:
    """The steps that must come first: those it names, and those whose outputs it refers to."""
    referred = {reference.step_id for reference in references.find(step.parameters)}
    return {*step.depends_on, *referred}


def in_order(steps: Sequence[PlannedStep]) -> list[PlannedStep]:
    """``steps`` so that each comes after all it waits for, and else as they were given.

    Raises:
        graphlib.CycleError: There is no such order.
    """
    position = {step.step_id: at for at, step in enumerate(steps)}
    sorter = TopologicalSorter({step.step_id: prerequisites(step) for step in steps})
    sorter.prepare()
    waiting: list[int] = []
    ordered: list[PlannedStep] = []
    while sorter.is_active():
        for step_id in sorter.get_ready():
            heappush(waiting, position[step_id])
        step = steps[heappop(waiting)]
        ordered.append(step)
        sorter.done(step.step_id)
    return ordered


def _problems(steps: Sequence[PlannedStep], catalogue: Catalogue) -> Iterator[Problem]:
    by_id: dict[str, PlannedStep] = {}
    specs: dict[str, ActionSpec] = {}
    for step in steps:
        if step.step_id in by_id:
            yield Problem(step.step_id, "another step has the same id")
            continue
        by_id[step.step_id] = step
        try:
            specs[step.step_id] = catalogue.action(step.action)
        except UnknownActionError as error:
            yield Problem(step.step_id, error.reason)
    for step in by_id.values():
        yield from _own_problems(step, specs.get(step.step_id), by_id, specs)
    yield from _cycles(by_id)


def _own_problems(
    step: PlannedStep,
    spec: ActionSpec | None,
    by_id: Mapping[str, PlannedStep],
    specs: Mapping[str, ActionSpec],
) -> Iterator[Problem]:
    for name in dict.fromkeys(step.depends_on):
        if name not in by_id:
            yield Problem(
                step.step_id, f"depends on the unknown step {name!r}{did_you_mean(name, by_id)}"
            )
    if spec is not None:
        for what in spec.check_parameters(step.parameters, allow_references=True):
            yield Problem(step.step_id, what)
        for what in _mistyped(step.parameters, spec, specs):
            yield Problem(step.step_id, what)
    for text in references.malformed(step.parameters):
        yield Problem(
            step.step_id,
            f"{text!r} is no reference; write {_FORM}, or $${{ for plain text",
        )
    for reference in sorted(references.find(step.parameters), key=str):
        obstacle = _unresolvable(reference, step, by_id, specs)
        if obstacle is not None:
            yield Problem(step.step_id, obstacle)
    try:
        canonical_json(step.parameters)
    except ValueError as error:
        yield Problem(step.step_id, f"a parameter cannot be written as exact JSON: {error}")


def _unresolvable(
    reference: Reference,
    step: PlannedStep,
    by_id: Mapping[str, PlannedStep],
    specs: Mapping[str, ActionSpec],
) -> str | None:
    """Why ``reference`` can have no value when ``step`` runs."""
    if reference.step_id == step.step_id:
        return f"{reference} refers to the step's own output"
    if reference.step_id not in by_id:
        hint = did_you_mean(reference.step_id, by_id)
        return f"{reference} refers to the unknown step {reference.step_id!r}{hint}"
    spec = specs.get(reference.step_id)
    if spec is None:
        return None  # its action is unknown, which is said of that step
    output = spec.outputs.get(reference.output)
    if output is None:
        known = ", ".join(spec.outputs) or "nothing"
        hint = did_you_mean(reference.output, spec.outputs)
        return f"{reference}: {spec.id} puts out {known}, not {reference.output!r}{hint}"
    if len(reference.path) > 1 and output.type not in ("object", "array"):
        return f"{reference}: {reference.output!r} is of type {output.type} and has no parts"
    return None


def _mistyped(
    parameters: JsonObject, spec: ActionSpec, specs: Mapping[str, ActionSpec]
) -> Iterator[str]:
    """Parameters that will not have their type once their references are resolved."""
    for name, value in parameters.items():
        parameter = spec.parameters.get(name)
        if parameter is None or not references.find(value):
            continue
        reference = references.sole(value)
        given: str | None = None
        if reference is None:
            given = "string" if isinstance(value, str) else None
        elif len(reference.path) == 1 and (source := specs.get(reference.step_id)) is not None:
            output = source.outputs.get(reference.output)
            given = output.type if output is not None else None
        is_number = parameter.type == "number" and given == "integer"
        if given is not None and given != parameter.type and not is_number:
            yield f"parameter {name!r} must be of type {parameter.type}, but {value!r} is a {given}"


def _cycles(by_id: Mapping[str, PlannedStep]) -> Iterator[Problem]:
    # References to oneself are named where they stand.
    graph = {
        step_id: {
            name
            for name in prerequisites(step)
            if name in by_id and (name != step_id or name in step.depends_on)
        }
        for step_id, step in by_id.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = error.args[1]
        yield Problem(cycle[0], f"waits for itself in the cycle {' → '.join(cycle)}")
