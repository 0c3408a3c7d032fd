"""What a failed step leads to: stop, continue, or undo what was done."""

from datetime import timedelta
from typing import Any

import pytest
from support.executions import Execution, command, planned, verdict

from agents.routing.events import Wakeup
from agents.routing.failing import completed
from schemas import PlanStep


def undo(step_id: str, **changes: Any) -> PlanStep:
    """What undoes a step."""
    values: dict[str, Any] = {"action": "service.rollback", "effect": "effect", **changes}
    return planned(f"undo-{step_id}", step_id, compensates=step_id, **values)


def failing(**changes: Any) -> Execution:
    """Two steps beside each other, then one that asks for compensation when it fails."""
    execution = Execution()
    last = planned("c", "a", "b", on_failure="compensate")
    execution.sees(verdict(planned("a"), planned("b"), last, undo("a", **changes), undo("b")))
    return execution


def test_what_was_done_is_undone_the_last_one_first_and_one_after_the_other() -> None:
    execution = failing()
    execution.ends("b")
    execution.ends("a")
    assert execution.ends("c", "failed") == ["undo-a"]
    assert (execution.status, execution.steps()["undo-b"]) == ("running", "pending")
    assert execution.ends("undo-a") == ["undo-b"]
    execution.ends("undo-b")
    assert (execution.status, execution.state.code) == ("failed", "compensated")
    assert execution.state.reason == ("step c (service.status): it answered 503; undone: a, b")


def test_what_is_done_a_second_time_is_undone_once() -> None:
    execution = failing(effect="idempotent")
    for step_id in ("a", "b"):
        execution.ends(step_id)
    run = completed(execution.run, "a")
    assert run.completed == ("b", "a")
    assert completed(run, "c") is run, "nothing undoes it"


def test_undoing_belongs_to_the_same_plan_and_verdict_and_can_use_outputs() -> None:
    execution = failing(parameters={"version": "${steps.a.output.version}"})
    execution.ends("a", version="2.4.0")
    execution.ends("b")
    execution.ends("c", "failed")
    execution.ends("undo-b")
    undone = execution.started[-1]
    assert (undone.step_id, undone.parameters, undone.resolved) == (
        "undo-a",
        {"version": "2.4.0"},
        ("version",),
    )
    assert {(step.plan_hash, step.plan_id) for step in execution.started} == {
        (undone.plan_hash, undone.plan_id)
    }


def test_compensations_are_seen_in_the_state_only_once_they_are_needed() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    assert [step.compensates for step in execution.state.steps] == [None] * 3
    execution.ends("c", "failed")
    assert [(step.step_id, step.compensates) for step in execution.state.steps[3:]] == [
        ("undo-b", "b"),
        ("undo-a", "a"),
    ]
    assert execution.state.steps[3].action == "service.rollback"


def test_success_undoes_nothing() -> None:
    execution = failing()
    for step_id in ("a", "b", "c"):
        execution.ends(step_id)
    assert (execution.status, len(execution.state.steps)) == ("success", 3)


def test_undoing_waits_for_what_is_in_flight_and_undoes_that_as_well() -> None:
    execution = Execution()
    first = planned("a", on_failure="compensate")
    execution.sees(verdict(first, planned("b"), planned("c", "b"), undo("a"), undo("b")))
    assert execution.ends("a", "failed") == []
    assert execution.steps() == {"a": "failed", "b": "running", "c": "skipped"}
    assert execution.ends("b") == ["undo-b"]


def test_what_was_tried_in_vain_is_not_undone() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", on_failure="compensate"), undo("a")))
    execution.ends("a", "failed")
    assert (execution.status, execution.state.code) == ("failed", "step_failed")
    assert execution.steps() == {"a": "failed"}


def test_a_step_is_tried_as_often_as_it_may_before_anything_is_undone() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed", retriable=True)
    assert execution.steps()["c"] == "waiting_retry"
    execution.now += timedelta(seconds=5)
    assert execution.sees(Wakeup()) == ["c"]
    assert execution.ends("c", "failed", retriable=True) == ["undo-b"]


def test_undoing_is_tried_again_as_well() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    assert execution.ends("undo-b", "failed", retriable=True) == []
    assert execution.next_wakeup == execution.now + timedelta(seconds=1)
    execution.now += timedelta(seconds=1)
    assert execution.sees(Wakeup()) == ["undo-b"]
    assert execution.ends("undo-b") == ["undo-a"]


@pytest.mark.parametrize(
    ("ending", "status", "code"),
    [("failed", "failed", "compensation_failed"), ("unknown", "unknown", "effect_unknown")],
)
def test_when_undoing_goes_wrong_the_rest_stays_as_it_is(
    ending: str, status: str, code: str
) -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    assert execution.ends("undo-b", ending) == []
    assert (execution.status, execution.state.code) == (status, code)
    assert execution.steps()["undo-a"] == "skipped"


def test_the_reason_says_what_was_undone_and_what_was_not() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    execution.ends("undo-b")
    execution.ends("undo-a", "failed")
    assert execution.state.reason == (
        "step c (service.status): it answered 503; undone: b; "
        "undoing failed in step undo-a (service.rollback): it answered 503"
    )


def test_undoing_without_what_it_refers_to_fails() -> None:
    execution = failing(parameters={"version": "${steps.a.output.version}"})
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    assert execution.ends("undo-b") == []
    assert (execution.status, execution.state.code) == ("failed", "compensation_failed")


def test_nothing_is_undone_while_something_is_in_doubt() -> None:
    execution = Execution()
    doubtful = planned("b", on_failure="compensate", effect="effect")
    execution.sees(verdict(planned("a"), doubtful, planned("c"), undo("a")))
    execution.ends("a")
    execution.ends("b", "unknown")
    assert execution.ends("c", "failed") == []
    assert (execution.status, execution.steps()) == (
        "unknown",
        {"a": "success", "b": "unknown", "c": "failed"},
    )


def test_a_step_that_does_not_ask_for_it_undoes_nothing() -> None:
    execution = Execution()
    last = planned("c", "b", on_failure="compensate")
    execution.sees(verdict(planned("a"), planned("b", "a"), last, undo("a")))
    execution.ends("a")
    execution.ends("b", "failed")
    assert (execution.status, execution.state.code) == ("failed", "step_failed")


def test_a_pause_holds_undoing_back_too() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.sees(command("pause"))
    assert execution.ends("c", "failed") == []
    assert execution.status == "paused"
    assert execution.sees(command("resume")) == ["undo-b"]


def test_a_cancel_breaks_undoing_off() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    assert execution.sees(command("cancel")) == []
    assert execution.status == "cancelling"
    execution.ends("undo-b")
    assert (execution.status, execution.steps()["undo-a"]) == ("cancelled", "skipped")


def test_a_cancel_undoes_nothing() -> None:
    execution = failing()
    execution.ends("a")
    execution.sees(command("cancel"))
    execution.ends("b")
    assert (execution.status, execution.steps()["c"]) == ("cancelled", "skipped")
    assert len(execution.state.steps) == 3


def test_an_unanswered_compensation_is_in_doubt_after_its_deadline() -> None:
    execution = failing()
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    execution.is_left_alone_until_it_wakes()
    assert (execution.status, execution.steps()["undo-b"]) == ("unknown", "unknown")


def test_a_step_may_fail_without_keeping_others_from_going_on() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", on_failure="continue"), planned("b", "a"), planned("c")))
    assert execution.ends("a", "failed") == ["b"]
    execution.ends("b")
    execution.ends("c")
    assert (execution.status, execution.state.code) == ("success", "step_failed")
    assert execution.state.reason == "allowed to fail: step a (service.status): it answered 503"


def test_what_needs_the_outputs_of_a_failed_step_is_skipped_with_what_waits_for_it() -> None:
    execution = Execution()
    teller = planned("b", "a", parameters={"text": "${steps.a.output.version}"})
    execution.sees(
        verdict(planned("a", on_failure="continue"), teller, planned("c", "b"), planned("d"))
    )
    assert execution.ends("a", "failed") == []
    assert execution.steps() == {"a": "failed", "b": "skipped", "c": "skipped", "d": "running"}
    execution.ends("d")
    assert execution.status == "success"


def test_another_failure_that_is_not_allowed_still_fails_the_execution() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", on_failure="continue"), planned("b", "a"), planned("c")))
    execution.ends("a", "failed")
    execution.ends("b", "failed")
    execution.ends("c")
    assert (execution.status, execution.state.reason) == (
        "failed",
        "step b (service.status): it answered 503",
    )


def test_an_effect_in_doubt_is_never_allowed() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", on_failure="continue"), planned("b", "a")))
    execution.ends("a", "unknown")
    assert (execution.status, execution.steps()["b"]) == ("unknown", "skipped")
