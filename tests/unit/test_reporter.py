from datetime import timedelta
from typing import Any

import pytest

from agents.reporter import report
from agents.runtime.testing import EPOCH, fake_context
from schemas import ExecutionReport, ExecutionState, Failure, StepState


def state(status: str, *steps: StepState, **more: Any) -> ExecutionState:
    values: dict[str, Any] = {
        "request_id": None,
        "version": 3,
        "run_no": 1,
        "status": status,
        "steps": steps,
        "started_at": EPOCH,
        "updated_at": EPOCH + timedelta(seconds=4),
    }
    return ExecutionState.model_validate(values | more)


async def reported(of: ExecutionState) -> ExecutionReport | None:
    return await report(of, fake_context(of, role="reporter"))


DONE = StepState(
    step_id="check",
    action="service.status",
    status="success",
    attempt=2,
    output={"version": "2.4.0"},
    started_at=EPOCH,
)
SKIPPED = StepState(step_id="tell", action="notify.send", status="skipped")


@pytest.mark.parametrize("status", ["running", "needs_approval", "paused", "cancelling"])
async def test_an_execution_that_goes_on_is_not_reported(status: str) -> None:
    assert await reported(state(status)) is None


async def test_a_report_has_timeline_outputs_and_duration() -> None:
    made = await reported(state("success", DONE))
    assert made is not None
    assert made.summary == "Success: 1 of 1 step done."
    assert made.timeline[0].summary == "done after 2 attempts"
    assert made.outputs == {"check": {"version": "2.4.0"}}
    assert made.duration_seconds == 4.0


async def test_steps_stand_in_the_order_in_which_they_ran() -> None:
    late = DONE.model_copy(update={"step_id": "late", "started_at": EPOCH + timedelta(seconds=1)})
    made = await reported(state("success", SKIPPED, late, DONE))
    assert made is not None
    assert [entry.step_id for entry in made.timeline] == ["check", "late", "tell"]


@pytest.mark.parametrize(
    ("status", "reason", "summary"),
    [
        ("denied", "Too risky.", "Denied, nothing was run. Too risky."),
        (
            "needs_clarification",
            "In which environment?",
            "Not understood well enough to act. In which environment?",
        ),
        ("cancelled", "by ann", "Cancelled before it began. by ann"),
    ],
)
async def test_the_summary_says_why(status: str, reason: str, summary: str) -> None:
    made = await reported(state(status, reason=reason, code="policy_denied"))
    assert made is not None
    assert made.summary == summary


async def test_a_cancel_in_the_middle_tells_what_was_done() -> None:
    made = await reported(state("cancelled", DONE, SKIPPED, reason="by ann", code="cancelled"))
    assert made is not None
    assert made.summary == "Cancelled, 1 of 2 steps done. by ann"


async def test_a_step_that_was_not_tried_again_tells_why_it_failed() -> None:
    failure = Failure(code="transient", reason="it answered 503", retriable=True)
    given_up = DONE.model_copy(update={"status": "skipped", "failure": failure})
    made = await reported(state("failed", given_up, SKIPPED, reason="another step failed"))
    assert made is not None
    assert [entry.summary for entry in made.timeline] == [
        "given up after 2 attempts: it answered 503",
        "not run",
    ]


async def test_a_failed_step_tells_its_reason() -> None:
    failed = DONE.model_copy(
        update={"status": "failed", "failure": Failure(code="timeout", reason="no answer in 30 s")}
    )
    made = await reported(state("failed", failed, SKIPPED, reason="step check failed"))
    assert made is not None
    assert made.timeline[0].summary == "failed after 2 attempts: no answer in 30 s"
    assert made.summary == "Failed, 0 of 2 steps done. step check failed"


async def test_a_report_tells_what_was_undone() -> None:
    undo = DONE.model_copy(update={"step_id": "undo-check", "compensates": "check"})
    made = await reported(state("failed", DONE, undo, reason="it broke", code="compensated"))
    assert made is not None
    assert made.summary == "Failed, 1 of 1 step done, 1 undone. it broke"
    assert [entry.compensates for entry in made.timeline] == [None, "check"]


async def test_a_success_says_what_was_allowed_to_fail() -> None:
    failed = DONE.model_copy(update={"status": "failed", "failure": Failure(code="x", reason="y")})
    made = await reported(state("success", failed, reason="allowed to fail", code="step_failed"))
    assert made is not None
    assert made.summary == "Success: 0 of 1 step done. allowed to fail"
