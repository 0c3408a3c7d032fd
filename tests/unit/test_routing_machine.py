from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.executions import (
    LIMITS,
    MINUTE,
    REQUEST,
    Execution,
    command,
    finish,
    outcome,
    planned,
    result,
    verdict,
)

from agents.routing.diagram import drawn_in
from agents.routing.events import BrokerLost, Wakeup
from agents.routing.machine import react
from agents.routing.transitions import TRANSITIONS, IllegalTransitionError, check
from agents.runtime.ports import Refusal
from agents.runtime.settings import ROOT
from agents.runtime.testing import EPOCH, test_id
from schemas import ExecutionStatus, Failure, Outcome, Payload


def test_an_approved_plan_starts_with_its_free_steps() -> None:
    execution = Execution()
    assert execution.sees(verdict(planned("a"), planned("b"), planned("c", "a", "b"))) == ["a", "b"]
    assert execution.status == "running"


def test_a_step_starts_when_all_it_depends_on_has_succeeded() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b"), planned("c", "a", "b")))
    assert execution.sees(result(execution.started[0])) == []
    assert execution.sees(result(execution.started[1])) == ["c"]
    execution.sees(result(execution.started[2]))
    assert execution.status == "success"


def test_a_step_is_given_what_it_refers_to() -> None:
    execution = Execution()
    reader = planned("tell", "check", parameters={"text": "runs ${steps.check.output.version}"})
    execution.sees(verdict(planned("check"), reader))
    execution.sees(result(execution.started[0], version="2.4.0"))
    assert execution.started[1].parameters == {"text": "runs 2.4.0"}


def test_a_step_says_which_of_its_parameters_nobody_knew_before() -> None:
    execution = Execution()
    late = {"text": "runs ${steps.check.output.version}", "to": "#ops", "as": "$${it}"}
    execution.sees(verdict(planned("check"), planned("tell", "check", parameters=late)))
    execution.sees(result(execution.started[0], version="2.4.0"))
    assert [step.resolved for step in execution.started] == [(), ("text",)]


def test_a_reference_to_what_was_not_put_out_fails_the_execution() -> None:
    execution = Execution()
    reader = planned("tell", "check", parameters={"text": "${steps.check.output.version}"})
    execution.sees(verdict(planned("check"), reader))
    execution.sees(result(execution.started[0]))
    assert execution.status == "failed"
    assert execution.run is not None
    assert execution.run.steps[1].failure is not None
    assert execution.run.steps[1].failure.code == "unresolved_reference"


def test_a_denied_plan_runs_nothing() -> None:
    execution = Execution()
    assert execution.sees(verdict(decision="denied")) == []
    assert (execution.status, execution.steps()) == ("denied", {"only": "skipped"})


def test_a_plan_that_needs_approval_waits() -> None:
    execution = Execution()
    assert execution.sees(verdict(decision="needs_approval")) == []
    assert execution.status == "needs_approval"


def test_a_failed_step_is_tried_again_when_its_wait_is_over() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.sees(result(execution.started[0], "failed", retriable=True))
    assert execution.steps() == {"only": "waiting_retry"}
    assert execution.next_wakeup == EPOCH + timedelta(seconds=1)
    assert execution.sees(Wakeup()) is None
    execution.now += timedelta(seconds=1)
    assert execution.sees(Wakeup()) == ["only"]
    assert execution.started[-1].attempt == 2
    execution.sees(result(execution.started[-1]))
    assert execution.status == "success"


def test_attempts_are_limited() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.sees(result(execution.started[0], "failed", retriable=True))
    execution.now += timedelta(seconds=5)
    execution.sees(Wakeup())
    execution.sees(result(execution.started[1], "failed", retriable=True))
    assert execution.status == "failed"


def test_a_failure_that_is_final_is_not_tried_again() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    execution.sees(result(execution.started[0], "failed"))
    assert (execution.status, execution.steps()) == ("failed", {"a": "failed", "b": "skipped"})


def test_after_a_failure_steps_in_flight_are_waited_for() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b"), planned("c", "b")))
    execution.sees(result(execution.started[0], "failed"))
    assert execution.status == "running"
    assert execution.sees(result(execution.started[1])) == []
    assert execution.steps() == {"a": "failed", "b": "success", "c": "skipped"}
    assert execution.status == "failed"


def test_an_effect_in_doubt_ends_the_execution_as_unknown() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.sees(result(execution.started[0], "unknown"))
    assert execution.status == "unknown"


def test_a_result_of_an_attempt_that_is_over_changes_nothing() -> None:
    execution = Execution()
    execution.sees(verdict())
    first = execution.started[0]
    execution.sees(result(first, "failed", retriable=True))
    execution.now += timedelta(seconds=5)
    execution.sees(Wakeup())
    assert execution.sees(result(first)) is None


def test_another_request_under_the_same_correlation_id_is_refused() -> None:
    execution = Execution()
    execution.sees(verdict())
    refusal = execution.sees(verdict(request_id=test_id("another")))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "correlation_id_in_use"


def test_an_outcome_ends_an_execution_that_never_ran() -> None:
    execution = Execution()
    execution.sees(outcome())
    assert execution.status == "needs_clarification"


def test_cancelling_waits_for_what_is_in_flight_and_starts_nothing_more() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    assert execution.sees(command("cancel")) == []
    assert execution.status == "cancelling"
    assert execution.sees(result(execution.started[0])) == []
    assert (execution.status, execution.steps()) == ("cancelled", {"a": "success", "b": "skipped"})


def test_a_cancel_ends_the_wait_for_another_attempt_at_once() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.sees(result(execution.started[0], "failed", retriable=True))
    execution.sees(command("cancel"))
    assert (execution.status, execution.steps()) == ("cancelled", {"only": "skipped"})
    assert execution.next_wakeup is None


def test_a_cancel_before_the_verdict_waits_for_it_and_then_names_the_request() -> None:
    execution = Execution()
    execution.sees(command("cancel"))
    assert execution.status == "cancelling"
    assert execution.sees(verdict(planned("a"), planned("b"))) == []
    assert (execution.status, execution.steps()) == ("cancelled", {"a": "skipped", "b": "skipped"})
    assert execution.run is not None
    state = execution.run.as_state()
    assert (state.request_id, state.title, state.plan_id) == (REQUEST, "title", test_id("plan"))
    assert (state.version, state.code, state.reason) == (2, "cancelled", "cancelled by ann")


def test_a_cancel_before_anything_waits_for_an_outcome_as_well() -> None:
    execution = Execution()
    execution.sees(command("cancel"))
    execution.sees(outcome())
    assert execution.status == "cancelled"
    assert execution.run is not None
    assert execution.run.request_id == REQUEST


def test_after_a_cancel_the_first_request_counts_and_a_second_one_is_refused() -> None:
    execution = Execution()
    execution.sees(command("cancel"))
    execution.sees(verdict())
    refusal = execution.sees(verdict(request_id=test_id("another")))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "correlation_id_in_use"


def test_a_cancel_that_no_request_ever_follows_ends_with_the_deadline() -> None:
    execution = Execution()
    execution.sees(command("cancel"))
    assert execution.next_wakeup == EPOCH + LIMITS.execution + MINUTE
    execution.is_left_alone_until_it_wakes()
    assert execution.status == "cancelled"
    assert execution.run is not None
    assert "no request came" in (execution.run.reason or "")


def test_a_paused_execution_takes_results_and_starts_nothing_until_it_resumes() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    execution.sees(command("pause"))
    assert execution.sees(result(execution.started[0])) == []
    assert execution.sees(command("resume")) == ["b"]


@pytest.mark.parametrize("kind", ["pause", "resume", "cancel"])
def test_a_command_that_comes_too_late_is_refused(kind: str) -> None:
    execution = Execution()
    execution.sees(verdict(decision="denied"))
    refusal = execution.sees(command(kind))
    assert isinstance(refusal, Refusal)
    assert "denied cannot" in refusal.reason


def test_a_broker_that_is_gone_ends_its_open_runs_only() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    execution.sees(BrokerLost())
    assert execution.status == "failed"
    assert execution.run is not None
    assert execution.run.code == "broker_reset"
    assert execution.sees(BrokerLost()) is None


def test_a_run_of_the_broker_that_is_there_goes_on() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a")))
    answer = react(execution.run, BrokerLost(), now=execution.now, jitter=0.0, broker_id="broker")
    assert answer is None


@pytest.mark.parametrize("waits_for", ["approval", "resume"])
def test_an_execution_that_nobody_lets_go_on_expires(waits_for: str) -> None:
    execution = Execution()
    if waits_for == "approval":
        execution.sees(verdict(decision="needs_approval"))
    else:
        execution.sees(verdict(planned("a"), planned("b", "a")))
        execution.sees(command("pause"))
        execution.sees(result(execution.started[0]))
    assert execution.next_wakeup == EPOCH + LIMITS.execution + MINUTE
    execution.is_left_alone_until_it_wakes()
    assert execution.status == "expired"
    assert execution.run is not None
    assert execution.run.code == "deadline_exceeded"


def test_an_execution_that_expires_waits_for_what_is_in_flight() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a", effect="effect"), planned("c", "b")))
    execution.now += LIMITS.execution - timedelta(minutes=30)
    execution.sees(result(execution.started[0]))
    execution.is_left_alone_until_it_wakes()
    assert (execution.status, execution.steps()["c"]) == ("cancelling", "skipped")
    execution.sees(result(execution.started[1]))
    assert execution.status == "expired"


def test_a_step_that_no_executor_answers_is_tried_again_and_then_fails() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a")))
    assert execution.next_wakeup == EPOCH + LIMITS.answer + MINUTE
    execution.is_left_alone_until_it_wakes()
    assert execution.steps()["a"] == "waiting_retry"
    assert execution.is_left_alone_until_it_wakes() == ["a"]
    assert execution.next_wakeup > execution.now + LIMITS.answer
    execution.is_left_alone_until_it_wakes()
    assert (execution.status, execution.steps()) == ("failed", {"a": "failed", "b": "skipped"})
    assert execution.run is not None
    assert execution.run.steps[0].failure is not None
    assert execution.run.steps[0].failure.code == "deadline_exceeded"


def test_an_effect_that_no_executor_answers_for_is_in_doubt() -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", effect="effect")))
    execution.is_left_alone_until_it_wakes()
    assert (execution.status, execution.steps()) == ("unknown", {"a": "unknown"})


def test_a_wakeup_before_the_time_changes_nothing() -> None:
    execution = Execution()
    execution.sees(verdict())
    execution.now += LIMITS.answer
    assert execution.sees(Wakeup()) is None


@pytest.mark.parametrize("judged", [verdict(), outcome()])
def test_an_execution_whose_first_message_cannot_be_handled_fails(judged: Payload) -> None:
    execution = Execution()
    execution.fails_on(judged)
    assert execution.status == "failed"
    assert execution.run is not None
    assert (execution.run.request_id, execution.run.code) == (REQUEST, "bug")


@pytest.mark.parametrize(
    ("said", "step", "status"),
    [("success", "failed", "failed"), ("failed", "failed", "failed"), ("unknown",) * 3],
)
def test_a_result_that_cannot_be_handled_ends_its_step(said: str, step: str, status: str) -> None:
    execution = Execution()
    execution.sees(verdict(planned("a"), planned("b", "a"), planned("c")))
    execution.fails_on(result(execution.started[0], said))
    assert execution.status == "running", "what is in flight is waited for"
    execution.sees(result(execution.started[1]))
    assert (execution.status, execution.steps()["a"]) == (status, step)


@pytest.mark.parametrize(("effect", "status"), [("read", "failed"), ("effect", "unknown")])
def test_a_run_that_cannot_be_woken_is_ended(effect: str, status: str) -> None:
    execution = Execution()
    execution.sees(verdict(planned("a", effect=effect), planned("b", "a")))
    execution.fails_on(None)
    assert (execution.status, execution.steps()) == (status, {"a": status, "b": "skipped"})
    assert execution.fails_on(None) is None


def test_a_message_that_nobody_waits_for_ends_nothing_when_it_cannot_be_handled() -> None:
    execution = Execution()
    assert execution.fails_on(command("pause")) is None
    execution.sees(verdict())
    assert execution.fails_on(command("pause")) is None
    assert execution.fails_on(verdict()) is None
    assert execution.status == "running"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_run_that_everybody_has_forgotten_ends_by_itself(data: st.DataObject) -> None:
    execution = Execution()
    effects = [data.draw(st.sampled_from(["read", "effect"])) for _ in range(3)]
    steps = [planned(f"s{i}", *([f"s{i - 1}"] * (i > 1)), effect=e) for i, e in enumerate(effects)]
    first: Any = data.draw(st.sampled_from([verdict(*steps), command("cancel")]))
    execution.sees(first)
    for _ in range(data.draw(st.integers(0, 6))):
        answers = [result(step) for step in execution.started]
        event: Any = data.draw(st.sampled_from([Wakeup(), *answers]) | commands)
        execution.sees(event)
    for _ in range(20):
        if execution.next_wakeup is None:
            break
        version = execution.run.version if execution.run else 0
        execution.is_left_alone_until_it_wakes()
        assert execution.run is not None
        assert execution.run.version > version, "a timer that is due moves the run"
    assert execution.run is not None
    assert not execution.run.is_open


def test_every_status_has_a_row_in_the_table() -> None:
    before_the_router = {ExecutionStatus.RECEIVED, ExecutionStatus.PARSED}
    assert TRANSITIONS.keys() == {None, *ExecutionStatus} - before_the_router


def test_only_people_lead_out_of_a_terminal_status() -> None:
    for status in ExecutionStatus:
        if status.is_terminal:
            assert set(TRANSITIONS[status].values()) <= {("retry",), ("resolve",)}
            if status in (ExecutionStatus.UNKNOWN, ExecutionStatus.FAILED):
                continue  # what was in doubt can be resolved
            with pytest.raises(IllegalTransitionError):
                check(status, ExecutionStatus.RUNNING)


graphs = st.integers(1, 5).flatmap(
    lambda size: st.tuples(
        *(
            st.sets(st.integers(0, index - 1), max_size=2) if index else st.just(set[int]())
            for index in range(size)
        )
    )
)
commands = st.sampled_from(["cancel", "pause", "resume"]).map(command)


@settings(max_examples=300, deadline=None)
@given(graph=graphs, data=st.data())
def test_any_order_of_events_with_repeats_and_drops_keeps_the_promises(
    graph: tuple[set[int], ...], data: st.DataObject
) -> None:
    execution = Execution()
    judged = verdict(
        *(planned(f"s{i}", *(f"s{before}" for before in needs)) for i, needs in enumerate(graph))
    )
    execution.sees(judged)
    ended_as: str | None = None
    for _ in range(40):
        answers = [
            result(step, status, retriable=retriable)
            for step in execution.started
            for status, retriable in (("success", False), ("failed", True), ("unknown", False))
        ]
        event: Any = data.draw(
            st.sampled_from([judged, Wakeup(), *answers]) | commands, label="event"
        )
        execution.now += timedelta(seconds=data.draw(st.integers(0, 3), label="seconds"))
        before = len(execution.started)
        execution.sees(event)
        if ended_as is not None:
            assert execution.status == ended_as, "a terminal state absorbs"
            assert len(execution.started) == before, "nothing starts after the end"
        elif execution.run is not None and not execution.run.is_open:
            ended_as = execution.status
    attempts = [(step.step_id, step.attempt) for step in execution.started]
    assert len(attempts) == len(set(attempts)), "no attempt is dispatched twice"
    finish(execution)
    assert not execution.run.is_open if execution.run else False, "every run ends"


def test_a_late_outcome_does_not_end_what_a_verdict_has_begun() -> None:
    execution = Execution()
    execution.sees(verdict())
    late = Outcome(request_id=REQUEST, status="failed", code="timeout", reason="judged twice")
    assert execution.sees(late) is None
    assert execution.status == "running"


def test_outputs_that_no_message_could_carry_fail_their_step() -> None:
    execution = Execution()
    execution.sees(verdict(*(planned(f"s{number}") for number in range(8))))
    for step in list(execution.started):
        execution.sees(result(step, text="x" * 250_000))
    assert execution.status == "failed"
    assert execution.run is not None
    failed = [step for step in execution.run.steps if step.status == "failed"]
    assert {step.failure.code for step in failed if step.failure} == {"message_too_large"}
    assert sum(len(str(step.output)) for step in execution.run.steps) < 2_000_000


def test_nobody_waits_for_years_because_the_other_side_says_so() -> None:
    execution = Execution()
    execution.sees(verdict())
    told = Failure(code="rate_limited", reason="429", retriable=True, retry_after=1e12)
    answer = result(execution.started[0], "failed", retriable=True)
    execution.sees(answer.model_copy(update={"failure": told}))
    assert execution.next_wakeup == EPOCH + timedelta(hours=1)


def test_the_diagram_in_the_docs_is_that_of_the_table() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert drawn_in(text) == text, "run python -m agents.routing.diagram"
    assert "[*] --> running: verdict" in text
