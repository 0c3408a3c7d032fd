"""Intended actions as steps, with readable ids and the order in which they run.

The rule of order is one sentence: actions run one after the other as the text names them, only
reads that follow each other directly run at the same time. Two reads disturb nobody; of two
effects, the text's order may be the point ("back up orders, then deploy").
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from agents.runtime import references
from agents.runtime.catalogue import ENVIRONMENT, ActionSpec, Catalogue
from agents.runtime.references import Reference
from schemas import IntendedAction, JsonObject, PlannedStep

_LONGEST_ID: Final = 48
_LONGEST_SUMMARY: Final = 3_000


def draft(actions: Sequence[IntendedAction], catalogue: Catalogue) -> tuple[PlannedStep, ...]:
    """The steps of the intended actions.

    Raises:
        UnknownActionError: The catalogue has no such action.
    """
    steps: list[PlannedStep] = []
    stage: list[str] = []
    """The ids of the steps that run last so far; what comes next waits for all of them."""
    before: tuple[str, ...] = ()
    """What the present stage itself waits for."""
    stage_reads = False
    for action in actions:
        spec = catalogue.action(action.action)
        reads = spec.effect == "read"
        if not (reads and stage_reads):
            before, stage = tuple(stage), []
        stage_reads = reads
        step = PlannedStep(
            step_id=_step_id(spec, action.parameters, {step.step_id for step in steps}),
            action=action.action,
            parameters={**_message(spec, action.parameters, steps, catalogue), **action.parameters},
            depends_on=before,
        )
        stage.append(step.step_id)
        steps.append(step)
    return tuple(steps)


def _step_id(spec: ActionSpec, parameters: JsonObject, taken: set[str]) -> str:
    """What the step does and to what, such as ``restart_checkout``; numbered from the second on."""
    words = [spec.id.rpartition(".")[2], *_targets(spec, parameters)]
    plain = re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower()).strip("_")[:_LONGEST_ID]
    number, step_id = 1, plain
    while step_id in taken:
        number += 1
        step_id = f"{plain}_{number}"
    return step_id


def _targets(spec: ActionSpec, parameters: JsonObject) -> Iterator[str]:
    """The things that a step is about: what it names, or the channel it writes to."""
    for name, parameter in spec.parameters.items():
        is_target = parameter.entity not in (None, ENVIRONMENT) or parameter.from_text == "channel"
        if is_target and name in parameters:
            yield str(parameters[name])


def _message(
    spec: ActionSpec, parameters: JsonObject, before: Sequence[PlannedStep], catalogue: Catalogue
) -> JsonObject:
    """The words of a message that the request leaves open: what the steps before it came to."""
    if spec.executor != "notify" or not before:
        return {}
    reported = [step for step in before if catalogue.action(step.action).executor != "notify"]
    lines = [_summary(step, catalogue.action(step.action)) for step in reported]
    text = "\n".join(lines)
    if not lines or len(text) > _LONGEST_SUMMARY:
        return {}
    return {
        name: text
        for name, parameter in spec.parameters.items()
        if parameter.from_text == "quoted" and name not in parameters
    }


def _summary(step: PlannedStep, spec: ActionSpec) -> str:
    """One step in a sentence, such as "restart checkout in staging: version …, health …"."""
    verb = spec.phrases[0].phrase if spec.phrases else spec.id
    things = [
        references.escape(str(step.parameters[name]))
        for name, parameter in spec.parameters.items()
        if parameter.entity != ENVIRONMENT and name in step.parameters
    ]
    places = [
        f"in {step.parameters[name]}"
        for name, _ in spec.parameters_of(ENVIRONMENT)
        if name in step.parameters
    ]
    deed = " ".join([verb, *things, *places])
    outputs = ", ".join(
        f"{name.replace('_', ' ')} {Reference(step.step_id, (name,))}" for name in spec.outputs
    )
    return f"{deed}: {outputs}" if outputs else f"{deed}: done"
