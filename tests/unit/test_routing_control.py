"""Retry: what is done is kept, what is not known is never repeated, and policy judges anew."""

from datetime import timedelta
from typing import Any

import pytest
from support.executions import (
    LIMITS,
    Execution,
    command,
    outcome,
    planned,
    result,
    verdict,
    verdict_on,
)

from agents.routing.events import BrokerLost, Wakeup
from agents.routing.machine import react
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from agents.runtime.testing import message_with, test_id
from schemas import Approval, Obligation

ZOE = Issuer("zoe", ("sre",), is_signed=True)


def failed(**changes: Any) -> Execution:
    """The second of three steps has failed."""
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a", **changes), planned("c", "b")))
    execution.ends("a", version="2.4.0")
    execution.ends("b", "failed")
    assert execution.status == "failed"
    return execution


def refusal(execution: Execution, kind: str = "retry") -> Refusal:
    answer = execution.sees(command(kind))
    assert isinstance(answer, Refusal), answer
    return answer


def test_a_retry_has_the_plan_judged_again_and_then_goes_on_where_it_failed() -> None:
    execution = failed()
    assert execution.sees(command("retry")) == []
    assert (execution.status, execution.state.run_no) == ("planned", 2)
    assert execution.state.reason == "retried by ann"
    [plan] = execution.sent_back
    assert (plan.evaluation, plan.finished) == (2, ("a",))
    assert execution.sees(verdict_on(plan)) == ["b"]
    assert execution.state.plan_id == test_id("plan 2")
    again = execution.started[-1]
    assert (again.run_no, again.attempt) == (2, 1)
    assert execution.ends("b") == ["c"]
    execution.ends("c")
    assert (execution.status, execution.state.run_no) == ("success", 2)
    assert [step.step_id for step in execution.started] == ["a", "b", "b", "c"]
    assert execution.state.steps[0].output == {"version": "2.4.0"}


def test_results_of_the_run_before_change_nothing() -> None:
    execution = failed()
    late = result(execution.started[-1])
    execution.sees(command("retry"))
    assert execution.sees(late) is None
    execution.sees(verdict_on(execution.sent_back[-1]))
    assert execution.sees(late) is None
    assert execution.steps()["b"] == "running"


def test_a_verdict_on_an_earlier_evaluation_is_not_taken() -> None:
    execution = failed()
    execution.sees(command("retry"))
    first = execution.sent_back[-1]
    execution.sees(command("cancel"))
    execution.sees(command("retry"))
    assert execution.sent_back[-1].evaluation == 3
    assert execution.sees(verdict_on(first)) is None
    assert execution.status == "planned"


@pytest.mark.parametrize("decision", ["denied", "needs_approval"])
def test_policy_may_say_something_else_this_time(decision: str) -> None:
    execution = failed()
    execution.sees(command("retry"))
    assert execution.sees(verdict_on(execution.sent_back[-1], decision)) == []
    assert execution.status == decision
    if decision == "denied":
        execution.sees(command("retry"))
        assert (execution.status, execution.state.run_no) == ("planned", 3)


def test_a_retry_that_cannot_be_judged_fails() -> None:
    execution = failed()
    execution.sees(command("retry"))
    assert execution.sees(outcome(status="failed", code="timeout", reason="slow")) is None
    execution.sees(outcome(status="failed", code="timeout", reason="slow", evaluation=2))
    assert (execution.status, execution.state.code) == ("failed", "timeout")


def test_a_retry_whose_verdict_the_router_fails_on_fails() -> None:
    execution = failed()
    execution.sees(command("retry"))
    execution.fails_on(verdict_on(execution.sent_back[-1]))
    assert (execution.status, execution.state.code) == ("failed", "bug")


def test_a_retry_has_as_much_time_as_the_first_run() -> None:
    execution = failed()
    execution.now += LIMITS.execution * 3
    execution.sees(command("retry"))
    assert execution.sees(Wakeup()) is None
    assert execution.next_wakeup > execution.now + LIMITS.execution
    execution.is_left_alone_until_it_wakes()
    assert (execution.status, execution.state.run_no) == ("expired", 2)


@pytest.mark.parametrize("in_doubt", ["unknown", "unanswered", "broker lost"])
def test_nothing_is_retried_while_an_effect_is_in_doubt(in_doubt: str) -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a", effect="effect")))
    execution.ends("a")
    if in_doubt == "unknown":
        execution.ends("b", "unknown")
    elif in_doubt == "unanswered":
        execution.is_left_alone_until_it_wakes()
    else:
        execution.sees(BrokerLost())
    assert refusal(execution).code == "effect_unknown"
    assert "b took effect" in refusal(execution).reason


def test_what_may_be_repeated_is_retried_after_the_broker_was_lost() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", effect="idempotent"), planned("b", "a")))
    execution.sees(BrokerLost())
    execution.sees(command("retry"))
    assert execution.sees(verdict_on(execution.sent_back[-1])) == ["a"]


def test_an_effect_that_was_done_although_its_result_was_lost_is_not_done_twice() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", effect="effect")))
    execution.fails_on(result(execution.started[0]))
    assert execution.status == "failed"
    assert "would be done twice" in refusal(execution).reason


@pytest.mark.parametrize("status", ["running", "paused", "needs_approval", "success"])
def test_what_has_not_failed_is_not_retried(status: str) -> None:
    execution = Execution()
    execution.sees(verdict(decision="needs_approval" if status == "needs_approval" else "approved"))
    if status == "paused":
        execution.sees(command("pause"))
    if status == "success":
        execution.ends("only")
    assert refusal(execution).reason == f"an execution that is {status} cannot retry"


def test_what_never_had_a_plan_is_not_retried() -> None:
    execution = Execution()
    execution.sees(outcome(status="failed", code="invalid_plan"))
    assert "never had a plan" in refusal(execution).reason


def test_a_cancelled_execution_goes_on_where_it_stood() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    execution.sees(command("cancel"))
    execution.ends("a")
    assert execution.status == "cancelled"
    execution.sees(command("retry"))
    assert execution.sees(verdict_on(execution.sent_back[-1])) == ["b"]


def test_where_everything_was_done_a_retry_succeeds_at_once() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.sees(command("cancel"))
    execution.ends("only")
    execution.sees(command("retry"))
    execution.sees(verdict_on(execution.sent_back[-1]))
    assert (execution.status, execution.state.run_no) == ("success", 2)


def test_what_was_undone_is_done_again_and_what_was_not_is_kept() -> None:
    execution = Execution()
    steps = [planned("a"), planned("b", "a"), planned("c", "b", on_failure="compensate")]
    undoing = [planned(f"undo-{name}", name, compensates=name) for name in ("a", "b")]
    execution.sees(verdict(*steps, *undoing))
    execution.ends("a")
    execution.ends("b")
    execution.ends("c", "failed")
    execution.ends("undo-b")
    execution.ends("undo-a", "failed")
    assert (execution.status, execution.state.code) == ("failed", "compensation_failed")
    execution.sees(command("retry"))
    assert execution.steps() == {"a": "success", "b": "pending", "c": "pending"}
    execution.sees(verdict_on(execution.sent_back[-1]))
    assert execution.ends("b") == ["c"]
    assert execution.ends("c", "failed") == ["undo-b"], "b was done last"
    assert execution.ends("undo-b") == ["undo-a"]


def test_a_pause_is_refused_while_a_retry_is_judged_and_a_cancel_is_not() -> None:
    execution = failed()
    execution.sees(command("retry"))
    assert refusal(execution, "pause").reason == "an execution that is planned cannot pause"
    execution.sees(command("cancel"))
    assert (execution.status, execution.state.run_no) == ("cancelled", 2)


@pytest.mark.parametrize(("hours", "kept"), [(0.5, 1), (2.0, 0)])
def test_an_approval_counts_for_as_long_as_it_would_have_been_waited_for(
    hours: float, kept: int
) -> None:
    execution = Execution()
    hourly = (Obligation(policy="test", expires_after=3600.0),)
    asked = verdict(decision="needs_approval").model_copy(update={"obligations": hourly})
    execution.sees(asked)
    approve = command("approve").model_copy(update={"plan_hash": asked.plan_hash})
    approve = approve.model_copy(update={"issued_by": "zoe"})
    answer = react(
        execution.run,
        message_with(approve, name="approved"),
        now=execution.now,
        jitter=0.0,
        broker_id="broker",
        issuer=ZOE,
    )
    assert not isinstance(answer, Refusal)
    assert answer is not None
    execution.run = answer.run
    assert answer.plan is not None
    execution.sees(verdict_on(answer.plan))
    execution.ends("only", "failed")
    execution.now += timedelta(hours=hours)
    execution.sees(command("retry"))
    plan = execution.sent_back[-1]
    assert len(plan.approvals) == kept
    assert all(isinstance(each, Approval) for each in plan.approvals)
    execution.sees(verdict_on(plan, "needs_approval", obligations=hourly))
    assert execution.run.approval is not None
    assert len(execution.run.approval.approvals) == kept
