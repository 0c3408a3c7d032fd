"""The steps that undo others, where a plan says that a failure is compensated.

They are steps of the plan like all others, so its hash covers them, policies judge them and the
budget holds their cost back; but they begin only when the execution is being compensated.
"""

from collections.abc import Sequence
from typing import Final

from agents.planning.checking import Problem
from agents.runtime import references
from agents.runtime.catalogue import Catalogue, parameters_for
from schemas import PlannedStep

_PREFIX: Final = "undo-"
_LONGEST_ID: Final = 63


def compensations(
    steps: Sequence[PlannedStep], catalogue: Catalogue
) -> tuple[list[tuple[str, PlannedStep]], list[Problem]]:
    """What undoes ``steps``, each with the id of the step that it undoes; and what is wrong there.

    Args:
        steps: Steps that have no problems themselves, their parameters complete.
        catalogue: Says what undoes which action.
    """
    taken = {step.step_id for step in steps}
    made: list[tuple[str, PlannedStep]] = []
    problems: list[Problem] = []
    for step in steps:
        declared = catalogue.action(step.action).compensation
        if declared is None:
            continue
        spec = catalogue.action(declared.action)
        given = parameters_for(declared.parameters, step.step_id, step.parameters)
        parameters = spec.complete(given)
        wrong = spec.check_parameters(parameters)
        wrong += [f"{text!r} would be no reference" for text in references.malformed(parameters)]
        problems += [Problem(step.step_id, f"it could not be undone: {what}") for what in wrong]
        undo = PlannedStep(
            step_id=_id_of(step.step_id, taken),
            action=spec.id,
            parameters=parameters,
            depends_on=(step.step_id,),
        )
        taken.add(undo.step_id)
        made.append((step.step_id, undo))
    return made, problems


def _id_of(step_id: str, taken: set[str]) -> str:
    """``undo-`` and the step's id; numbered where that is too long or in use."""
    plain = f"{_PREFIX}{step_id}"
    number, made = 1, plain
    while len(made) > _LONGEST_ID or made in taken:
        number += 1
        tail = f"-{number}"
        made = plain[: _LONGEST_ID - len(tail)] + tail
    return made
