"""Whether a step is what a plan said: the verdict binds the plan, this binds the step to it."""

from collections.abc import Sequence

from agents.runtime.errors import UnapprovedStepError
from agents.runtime.references import find, resolve
from schemas import JsonObject, Step


def check_is_planned(step: Step, steps: Sequence[JsonObject]) -> None:
    """Make sure that ``step`` does what one of ``steps`` says, with the very parameters.

    Parameters that refer to outputs of earlier steps may have any value here; they are judged by
    themselves, so ``step.resolved`` must name them all.

    Args:
        step: A step on its way into an executor.
        steps: Those of the plan that was approved, as JSON.

    Raises:
        UnapprovedStepError: It is not so.
        PermanentError: A parameter of the plan has no value.
    """
    planned = next((each for each in steps if each["step_id"] == step.step_id), None)
    if planned is None:
        raise UnapprovedStepError(f"the plan that was approved has no step {step.step_id}")
    told = (step.action, step.executor, step.effect)
    said = (planned["action"], planned["executor"], planned["effect"])
    if told != said:
        raise UnapprovedStepError(
            f"the plan that was approved has {' '.join(map(str, said))} as step {step.step_id}, "
            f"not {' '.join(told)}"
        )
    parameters = planned["parameters"]
    if not isinstance(parameters, dict):
        raise TypeError("the ledger holds a verdict on a plan without parameters")
    late = {name for name, value in parameters.items() if find(value)}
    known = {name: resolve(value, {}) for name, value in parameters.items() if name not in late}
    given = {name: value for name, value in step.parameters.items() if name not in late}
    differing = [
        name for name in sorted(known.keys() | given.keys()) if not _same(name, known, given)
    ]
    differing += sorted(late ^ set(step.resolved))
    if differing:
        raise UnapprovedStepError(
            f"the plan that was approved has other parameters for step {step.step_id}: "
            f"{', '.join(differing)}"[:8_000]
        )


def _same(name: str, known: JsonObject, given: JsonObject) -> bool:
    return name in known and name in given and known[name] == given[name]
