"""An executor does what the approved plan says, and nothing else under its name."""

from typing import Any

import pytest
from support.steps import Assignment, Rig, action

from agents.runtime.effects import EffectPolicy
from schemas import JsonObject, StepResult

ACT = action(
    "test.act",
    effect="effect",
    parameters={
        "service": "string",
        "text": {"type": "string", "description": "d", "required": False},
    },
)
OTHER = action("test.other", effect="effect", parameters={"service": "string"})


async def run(assignment: Assignment) -> tuple[StepResult, list[JsonObject]]:
    """What came of a step, and the parameters with which it was done."""
    done: list[JsonObject] = []

    async def call(step: Any, *_: Any) -> JsonObject:
        done.append(step.parameters)
        return {}

    result = await EffectPolicy("test", call)(assignment.step, assignment.context)
    return result, done


async def approved(**parameters: Any) -> Assignment:
    return await Rig((ACT, OTHER)).approved({"service": "checkout"} | parameters)


@pytest.mark.parametrize("text", ["plain", "a ${reference} in words", "$${", "${steps.a.output.b}"])
async def test_the_step_of_the_plan_is_done_with_its_texts_as_they_are(text: str) -> None:
    result, done = await run(await approved(text=text))
    assert result.status == "success"
    assert done == [{"service": "checkout", "text": text}]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"step_id": "more"}, "the plan that was approved has no step more"),
        ({"action": "test.other"}, "has test.act test effect as step only, not test.other"),
        ({"parameters": {"service": "payments"}}, "other parameters for step only: service"),
        ({"parameters": {}}, "other parameters for step only: service"),
        ({"parameters": {"service": "checkout", "text": "x"}}, "step only: text"),
        (
            {"parameters": {"service": "payments"}, "resolved": ("service",)},
            "step only: service",
        ),
    ],
)
async def test_a_step_that_the_plan_does_not_hold_is_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    result, done = await run((await approved()).but(**changes))
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "not_approved")
    assert complaint in result.failure.reason
    assert done == []


async def test_a_late_parameter_that_the_step_does_not_own_up_to_is_refused() -> None:
    assignment = await Rig((ACT,)).approved({"service": "checkout"}, resolved=("service",))
    result, done = await run(assignment.but(resolved=()))
    assert result.failure is not None
    assert result.failure.code == "not_approved"
    assert done == []
