"""The sink's read model as a pure fold."""

import itertools
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sample_history import COURSES, START, Course, History, history_of, under_the_id_of

from agents.sink.facts import StepKey
from agents.sink.fold import ReadModel, fold
from schemas import AgentMessage, ExecutionRequest, ExecutionState, ExecutionStatus

HISTORIES = [history_of(course, course) for course in COURSES]
# The same request again, received after midnight, as from a client that sends twice. It travels
# as far as the router, which takes the first one only.
HISTORIES.append(history_of("success", "success", received_at=START + timedelta(seconds=4))[:4])
# A second request under the id of each; the router refuses what came of it.
HISTORIES += [
    under_the_id_of(each, history_of(f"refused {number}")[:4])
    for number, each in enumerate(HISTORIES[: len(COURSES)])
]
EVENTS = list(itertools.chain.from_iterable(HISTORIES))


def comparable(model: ReadModel) -> object:
    return model.executions, model.steps


@given(st.permutations(range(len(EVENTS))))
def test_any_order_gives_the_same_rows(order: list[int]) -> None:
    assert comparable(fold(EVENTS[i] for i in order)) == comparable(fold(EVENTS))


@given(st.data())
def test_any_subset_gives_the_same_rows_in_any_order_repetition_and_batching(
    data: st.DataObject,
) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(EVENTS))), min_size=1))
    expected = fold(EVENTS[i] for i in sorted(set(chosen)))
    cuts = data.draw(st.sets(st.integers(0, len(chosen))))
    bounds = [0, *sorted(cuts), len(chosen)]

    model = ReadModel()
    for begin, end in itertools.pairwise(bounds):
        model.merge(fold(EVENTS[i] for i in chosen[begin:end]))

    assert comparable(model) == comparable(expected)


def final(messages: list[AgentMessage[Any]]) -> Any:
    (execution,) = fold(messages).executions.values()
    return execution


@pytest.mark.parametrize(
    ("course", "status"),
    [
        ("success", "success"),
        ("denied", "denied"),
        ("unclear", "needs_clarification"),
        ("approved_later", "success"),
        ("retried", "success"),
    ],
)
def test_a_whole_history_ends_in_the_routers_last_state(course: Any, status: str) -> None:
    assert final(history_of("one", course)).status.status == status


def test_before_the_router_the_status_follows_the_messages() -> None:
    messages = history_of("one")
    assert final(messages[:1]).status.status == "received"
    assert final(messages[:2]).status.status == "parsed"
    assert final(messages[:3]).status.status == "planned"


def test_an_outcome_sets_no_status() -> None:
    request, outcome, *_ = history_of("one", "unclear")
    assert final([request, outcome]).status.status == "received"


def test_a_command_alone_makes_no_execution() -> None:
    history = History("nobody knows it")
    history.say("intake", ExecutionRequest(text="restart it"))
    history.command("retry")
    assert not fold(history.messages[1:]).executions


def test_a_request_sent_twice_over_midnight_is_one_execution_received_at_the_earlier_time() -> None:
    early, late = history_of("one"), history_of("one", received_at=START + timedelta(seconds=4))
    assert early[0].received_at.date() != late[0].received_at.date()
    model = fold([*late, *early])
    assert [each.received_at for each in model.executions.values()] == [START]


def test_the_router_decides_which_of_two_requests_an_execution_belongs_to() -> None:
    accepted = history_of("accepted")
    refused = under_the_id_of(accepted, history_of("refused", tenant="other")[:3])
    for messages in ([*accepted, *refused], [*refused, *accepted]):
        identity = final(messages).identity
        assert (identity.request_id, identity.title, identity.tenant) == (
            accepted[0].message_id,
            "restart accepted",
            "default",
        )


@pytest.mark.parametrize("course", COURSES)
@given(st.data())
def test_plan_and_verdict_of_a_refused_request_never_show(
    course: Course, data: st.DataObject
) -> None:
    accepted = history_of("accepted", course)
    others = [history_of(f"refused {number}", steps=1)[:4] for number in range(4)]
    refused = [under_the_id_of(accepted, messages) for messages in others]
    everything = data.draw(st.permutations([*accepted, *itertools.chain.from_iterable(refused)]))
    known, judged = final(accepted), final(list(everything))
    assert (judged.identity, judged.judged) == (known.identity, known.judged)


def test_before_the_router_has_judged_the_newest_plan_is_shown() -> None:
    messages = history_of("one")
    assert final(messages[:3]).judged.plan.plan_id == messages[2].message_id
    assert final(messages[:3]).judged.verdict is None
    assert final(messages[:4]).judged.verdict.decision == "approved"


def test_an_older_state_that_comes_late_changes_nothing() -> None:
    messages = history_of("one")
    states = [each for each in messages if isinstance(each.payload, ExecutionState)]
    assert final([states[-1], states[0]]).status.status == ExecutionStatus.SUCCESS


def test_a_retry_reopens_an_execution_and_keeps_the_steps_of_both_runs() -> None:
    messages = history_of("one", "retried", steps=2)
    model = fold(messages)
    (execution,) = model.executions.values()
    assert execution.status.run_no == 2
    runs = {key.run_no: step.progress.status for key, step in model.steps.items()}
    assert runs == {1: "failed", 2: "success"}
    assert len(model.steps) == 4


def test_a_step_has_its_parameters_from_the_dispatch_and_its_output_from_the_state() -> None:
    messages = history_of("one", steps=1)
    step = fold(messages).steps[StepKey(messages[0].correlation_id, 1, "step-0")]
    assert step.dispatch is not None
    assert step.dispatch.parameters["n"] == 0
    assert step.progress.output == {"version": "1.0"}


def test_the_newest_verdict_is_kept() -> None:
    assert final(history_of("one", "approved_later")).judged.verdict.decision == "approved"
    assert final(history_of("one", "denied")).judged.verdict.reasons[0].policy == "risk"
