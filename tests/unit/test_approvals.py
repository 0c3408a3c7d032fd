"""Approvals in the state machine: each way to be refused, and any order of events."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.approvals import HASH, ONE, PLAN, REQUEST, TWO, command, verdict

from agents.routing.approvals import describe, describe_all
from agents.routing.deadlines import Limits, next_wakeup
from agents.routing.events import BrokerLost, GivenUp, Moved, Wakeup
from agents.routing.machine import react
from agents.routing.run import Run
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from agents.runtime.testing import EPOCH, message_with, test_id
from schemas import (
    Approval,
    Command,
    ExecutionStatus,
    Obligation,
    Outcome,
    Payload,
    Plan,
    Verdict,
    remaining,
    unmet,
)

PEOPLE = {
    "ann": Issuer("ann", ("sre",), is_signed=True),
    "bob": Issuer("bob", ("sre",), is_signed=True),
    "carol": Issuer("carol", (), is_signed=True),
}


@dataclass
class Waiting:
    """An execution that waits for approval, as the router would drive it."""

    obligations: tuple[Obligation, ...] = (ONE,)
    first: Verdict | None = None
    run: Run = field(init=False)
    now: datetime = EPOCH
    sent_back: list[Plan] = field(default_factory=list)
    started: int = 0
    count: int = 0

    def __post_init__(self) -> None:
        first = self.first or verdict("needs_approval", *self.obligations)
        self.run = self._moved(None, first, None)

    def sees(
        self, event: Payload | Wakeup | BrokerLost | GivenUp, by: Issuer | Refusal | None = None
    ) -> str | None:
        """The code of the refusal, or nothing."""
        if isinstance(event, Command) and by is None:
            by = PEOPLE[event.issued_by]
        answer = self._react(self.run, event, by)
        if isinstance(answer, Moved):
            assert answer.run.version == self.run.version + 1
            self.run = answer.run
        return answer.code if isinstance(answer, Refusal) else None

    def approve(self, by: str, plan_hash: str | None = HASH) -> str | None:
        return self.sees(command("approve", by, plan_hash))

    def is_judged(self, decision: str, *obligations: Obligation) -> None:
        self.sees(verdict(decision, *obligations, plan=self.sent_back[-1]))

    @property
    def status(self) -> ExecutionStatus:
        assert self.run.status is not None
        return self.run.status

    @property
    def next_wakeup(self) -> datetime | None:
        return next_wakeup(self.run, Limits())

    @property
    def approvers(self) -> list[str]:
        assert self.run.approval is not None
        return [approval.approver for approval in self.run.approval.approvals]

    def _moved(self, run: Run | None, event: Payload, by: Issuer | None) -> Run:
        answer = self._react(run, event, by)
        assert isinstance(answer, Moved)
        return answer.run

    def _react(self, run: Run | None, event: Any, by: Any) -> Any:
        self.count += 1
        happened = (
            message_with(event, name=f"event {self.count}") if isinstance(event, Payload) else event
        )
        broker = "another" if isinstance(event, BrokerLost) else "broker"
        answer = react(run, happened, now=self.now, jitter=0.0, broker_id=broker, issuer=by)
        if isinstance(answer, Moved):
            self.started += len(answer.dispatch)
            self.sent_back += [] if answer.plan is None else [answer.plan]
        return answer


def test_it_waits_and_says_for_whom_and_how_long() -> None:
    waiting = Waiting((TWO,))
    state = waiting.run.as_state()
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL
    assert state.approval is not None
    assert state.approval.obligations == (TWO,)
    assert state.approval.expires_at == waiting.next_wakeup == EPOCH + timedelta(hours=1)
    assert state.plan_hash == HASH


def test_an_approval_sends_the_plan_back_with_it_and_the_next_verdict_decides() -> None:
    waiting = Waiting()
    assert waiting.approve("bob") is None
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL, "policy has the last word"
    assert waiting.started == 0
    [plan] = waiting.sent_back
    assert (plan.evaluation, plan.plan_hash) == (2, HASH)
    [approval] = plan.approvals
    assert (approval.approver, approval.groups, approval.is_signed) == ("bob", ("sre",), True)
    waiting.is_judged("approved")
    assert waiting.status is ExecutionStatus.RUNNING
    assert waiting.started == 1
    assert waiting.run.plan_id == test_id("plan 2"), "executors look up the verdict that approved"
    assert waiting.approvers == ["bob"], "it stays known who approved"


def test_four_eyes_are_two_people() -> None:
    waiting = Waiting((TWO,))
    assert waiting.approve("bob") is None
    assert waiting.sent_back == []
    assert waiting.run.reason == "approved by bob; still wanted: 1 person"
    assert waiting.approve("carol") is None
    assert [each.approver for each in waiting.sent_back[0].approvals] == ["bob", "carol"]


@pytest.mark.parametrize("name", ["bob", "Bob", "BOB ", "ｂｏｂ"])
def test_the_same_person_counts_once_however_the_name_is_written(name: str) -> None:
    waiting = Waiting((TWO,))
    waiting.approve("bob")
    again = command("approve", name, HASH, reason="once more")
    assert waiting.sees(again, Issuer(name, (), is_signed=True)) == "already_approved"
    assert waiting.sent_back == []


@pytest.mark.parametrize("name", ["ann", "Ann", " ann"])
def test_nobody_approves_what_they_asked_for(name: str) -> None:
    waiting = Waiting()
    by = Issuer(name, (), is_signed=True)
    assert waiting.sees(command("approve", name, HASH), by) == "self_approval"
    assert waiting.approvers == []


def test_a_command_that_is_from_nobody_is_refused_for_that_reason() -> None:
    waiting = Waiting()
    why = Refusal("unsigned", "the command carries no signature by bob")
    for kind in ("approve", "reject", "cancel"):
        assert waiting.sees(command(kind, "bob", HASH), why) == "unsigned"
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL


@pytest.mark.parametrize("plan_hash", [None, "ab" * 32])
@pytest.mark.parametrize("kind", ["approve", "reject"])
def test_a_command_about_another_plan_is_stale(kind: str, plan_hash: str | None) -> None:
    waiting = Waiting()
    assert waiting.sees(command(kind, "bob", plan_hash)) == "stale_plan"
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL


def test_only_those_who_may_can_approve_or_reject() -> None:
    waiting = Waiting((Obligation(policy="test", groups=("sre",), users=("dave",)),))
    assert waiting.approve("carol") == "not_entitled"
    assert waiting.sees(command("reject", "carol", HASH)) == "not_entitled"
    assert waiting.approve("bob") is None


def test_who_may_is_told_in_words() -> None:
    assert describe(ONE) == "1 person"
    assert describe(TWO.replace(groups=("sre", "dba"))) == "2 people of sre or dba"
    assert describe(ONE.replace(users=("bob",), groups=("sre",))) == "1 person of sre, or bob"


def test_obligations_that_the_same_people_meet_are_told_as_the_largest() -> None:
    of_sre = ONE.replace(groups=("sre",))
    assert describe_all((ONE, TWO, of_sre, ONE)) == "2 people; 1 person of sre"


def test_several_obligations_are_all_to_be_met() -> None:
    sre = Obligation(policy="test.sre", groups=("sre",))
    waiting = Waiting((TWO, sre))
    waiting.approve("carol")
    assert waiting.sent_back == []
    waiting.approve("bob")
    assert len(waiting.sent_back) == 1


def test_nobody_approves_what_has_expired_even_before_the_timer_says_so() -> None:
    waiting = Waiting()
    waiting.now += timedelta(hours=1)
    assert waiting.approve("bob") == "approval_expired"
    waiting.sees(Wakeup())
    assert waiting.status is ExecutionStatus.EXPIRED
    assert waiting.run.code == "approval_expired"
    assert "nobody had approved it" in (waiting.run.reason or "")
    assert [step.status for step in waiting.run.steps] == ["skipped"]
    assert waiting.approve("bob") == "approval_expired"


def test_the_shortest_obligation_says_how_long() -> None:
    waiting = Waiting((TWO, ONE.replace(expires_after=60.0)))
    assert waiting.next_wakeup == EPOCH + timedelta(minutes=1)


def test_a_timer_that_comes_early_changes_nothing() -> None:
    waiting = Waiting()
    waiting.now += timedelta(minutes=59)
    before = waiting.run
    waiting.sees(Wakeup())
    assert waiting.run == before


def test_what_is_being_judged_does_not_expire() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.now += timedelta(hours=2)
    waiting.sees(Wakeup())
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL
    waiting.is_judged("approved")
    assert waiting.status is ExecutionStatus.RUNNING


def test_even_what_is_being_judged_ends_when_an_execution_may_take_no_longer() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    assert waiting.next_wakeup is not None
    waiting.now = waiting.next_wakeup
    waiting.sees(Wakeup())
    assert (waiting.status, waiting.run.code) == (ExecutionStatus.EXPIRED, "deadline_exceeded")


def test_a_router_that_fails_on_the_second_verdict_ends_the_execution() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    for plan in (PLAN, waiting.sent_back[0]):
        assert waiting.run.is_open, "the first verdict is nobody's business any more"
        message = message_with(verdict("approved", plan=plan), name="the last straw")
        waiting.sees(GivenUp(message, "bug", "router failed unexpectedly"))
    assert (waiting.status, waiting.run.code) == (ExecutionStatus.FAILED, "bug")


def test_a_rejection_ends_it_with_name_and_reason() -> None:
    waiting = Waiting()
    assert waiting.sees(command("reject", "bob", HASH, reason="not before the sale")) is None
    assert waiting.status is ExecutionStatus.DENIED
    assert (waiting.run.code, waiting.run.reason) == (
        "rejected",
        "rejected by bob: not before the sale",
    )
    assert [step.status for step in waiting.run.steps] == ["skipped"]


def test_the_requester_may_take_it_back() -> None:
    waiting = Waiting((Obligation(policy="test", users=("bob",)),))
    assert waiting.sees(command("reject", "ann", HASH)) is None
    assert waiting.status is ExecutionStatus.DENIED


def test_a_rejection_while_it_is_judged_again_makes_the_verdict_come_too_late() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.sees(command("reject", "carol", HASH))
    waiting.is_judged("approved")
    assert waiting.status is ExecutionStatus.DENIED
    assert waiting.started == 0


def test_the_second_verdict_can_deny() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.is_judged("denied")
    assert (waiting.status, waiting.run.reason) == (ExecutionStatus.DENIED, "Not at this hour.")
    assert waiting.started == 0


def test_the_second_verdict_can_want_more_people_and_gives_them_their_time() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.now += timedelta(minutes=50)
    waiting.is_judged("needs_approval", TWO)
    assert waiting.next_wakeup == waiting.now + timedelta(hours=1)
    assert waiting.approve("bob") == "already_approved", "what was given stays given"
    assert waiting.approve("carol") is None
    assert [plan.evaluation for plan in waiting.sent_back] == [2, 3]
    assert [each.approver for each in waiting.sent_back[1].approvals] == ["bob", "carol"]


def test_an_approval_that_comes_while_it_is_judged_counts_when_it_is_wanted() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    assert waiting.approve("carol") is None
    assert len(waiting.sent_back) == 1, "one evaluation at a time"
    waiting.is_judged("needs_approval", TWO)
    assert [plan.evaluation for plan in waiting.sent_back] == [2, 3]


def test_a_verdict_that_wants_what_it_was_given_waits_and_asks_nobody_again_and_again() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.is_judged("needs_approval", ONE)
    assert len(waiting.sent_back) == 1
    waiting.now += timedelta(hours=1)
    waiting.sees(Wakeup())
    assert waiting.status is ExecutionStatus.EXPIRED


@pytest.mark.parametrize("evaluation", [1, 3])
def test_only_the_verdict_on_the_newest_evaluation_is_taken(evaluation: int) -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.sees(verdict("approved", plan=waiting.sent_back[0].replace(evaluation=evaluation)))
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL


def test_a_verdict_on_another_plan_is_not_taken() -> None:
    waiting = Waiting()
    waiting.approve("bob")
    waiting.sees(verdict("approved", plan=waiting.sent_back[0].replace(plan_hash="ab" * 32)))
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL


def test_a_verdict_that_nobody_asked_for_starts_nothing() -> None:
    waiting = Waiting()
    waiting.sees(verdict("approved", plan=PLAN.replace(evaluation=2)))
    waiting.sees(verdict("approved"))
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL
    assert waiting.started == 0


def test_a_checker_that_fails_on_the_second_evaluation_ends_the_execution() -> None:
    waiting = Waiting()
    failed = Outcome(request_id=REQUEST, status="failed", code="bug", reason="it failed")
    waiting.approve("bob")
    waiting.sees(failed)
    assert waiting.status is ExecutionStatus.NEEDS_APPROVAL, "that was about the first one"
    waiting.sees(failed.replace(evaluation=2))
    assert waiting.status is ExecutionStatus.FAILED


@pytest.mark.parametrize("judged", [False, True])
def test_it_can_be_cancelled_while_it_waits(judged: bool) -> None:
    waiting = Waiting()
    if judged:
        waiting.approve("bob")
    waiting.sees(command("cancel", "ann"))
    assert waiting.status is ExecutionStatus.CANCELLED
    assert waiting.approve("bob") == "refused"


def test_approvals_that_a_verdict_brings_along_are_not_the_router_s() -> None:
    forged = PLAN.replace(approvals=tuple(people("bob", "carol")), finished=("only",))
    waiting = Waiting(first=verdict("needs_approval", TWO, plan=forged))
    assert waiting.approvers == []
    waiting.sees(command("cancel", "ann"))
    waiting.sees(command("retry", "ann"))
    [again] = waiting.sent_back
    assert (again.evaluation, again.approvals, again.finished) == (2, (), ())


def test_before_there_is_an_execution_nothing_can_be_approved() -> None:
    message = message_with(command("approve", "bob", HASH))
    answer = react(None, message, now=EPOCH, jitter=0.0, broker_id="broker", issuer=PEOPLE["bob"])
    assert isinstance(answer, Refusal)
    assert "no execution to approve yet" in answer.reason


def people(*names: str) -> Iterable[Approval]:
    return [
        Approval(
            approver=name, groups=(), approved_at=EPOCH, command_id=test_id(name), is_signed=True
        )
        for name in names
    ]


@given(st.lists(st.sampled_from(["bob", "Bob", "carol", "ann", "dave"])), st.integers(1, 4))
def test_an_obligation_is_met_by_so_many_different_people_but_the_requester(
    names: list[str], number: int
) -> None:
    wanted = ONE.replace(approvers=number)
    different = {name.lower() for name in names} - {"ann"}
    approvals = people(*names)
    assert bool(unmet((wanted,), approvals, requester="ann")) == (len(different) < number)
    missing = sum(each.approvers for each in remaining((wanted,), approvals, requester="ann"))
    assert missing == max(0, number - len(different))


def decisions_of(waiting: Waiting) -> list[Payload]:
    """What a checker could say to all that it was ever asked, old and new."""
    asked = [PLAN, *waiting.sent_back]
    return [
        verdict(decision, *obligations, plan=plan)
        for plan in asked
        for decision, obligations in (
            ("approved", ()),
            ("denied", ()),
            ("needs_approval", (ONE,)),
            ("needs_approval", (TWO,)),
        )
    ]


spoken = st.builds(
    command,
    st.sampled_from(["approve", "approve", "approve", "reject", "cancel"]),
    st.sampled_from(sorted(PEOPLE)),
    st.sampled_from([HASH, HASH, "ab" * 32]),
)


@settings(max_examples=200, deadline=None)
@given(obligations=st.sampled_from([(ONE,), (TWO,), (ONE, TWO)]), data=st.data())
def test_any_order_of_approvals_verdicts_and_time_keeps_the_promises(
    obligations: tuple[Obligation, ...], data: st.DataObject
) -> None:
    waiting = Waiting(obligations)
    ended_as: ExecutionStatus | None = None
    for _ in range(25):
        event = data.draw(
            spoken | st.sampled_from([Wakeup(), *decisions_of(waiting)]), label="event"
        )
        waiting.now += timedelta(minutes=data.draw(st.integers(0, 25), label="minutes"))
        before = len(waiting.sent_back)
        expected = waiting.run.approval
        waiting.sees(event)
        if ended_as is not None:
            assert waiting.status is ended_as, "a terminal state absorbs"
        if ended_as is not None or waiting.started:
            assert len(waiting.sent_back) == before, "what has begun or ended is not judged again"
        if waiting.started and isinstance(event, Verdict) and expected is not None:
            break
        if not waiting.run.is_open:
            ended_as = waiting.status
    for plan in waiting.sent_back:
        names = [each.approver for each in plan.approvals]
        assert len(names) == len(set(names)), "nobody counts twice"
        assert "ann" not in names, "the requester never counts"
    evaluations = [plan.evaluation for plan in waiting.sent_back]
    assert evaluations == list(range(2, len(evaluations) + 2)), "each evaluation is asked for once"
    assert len(evaluations) <= len(PEOPLE) - 1, "each time somebody new has approved"
    assert waiting.started <= 1
    if waiting.started:
        assert waiting.sent_back, "nothing starts without an approval that policy has seen"
        assert waiting.run.plan is not None
        assert waiting.run.plan.evaluation == evaluations[-1]
    ends(waiting)


def ends(waiting: Waiting) -> None:
    """Whatever happened, it ends when the checker answers and time passes."""
    if waiting.started or not waiting.run.is_open:
        return
    if waiting.run.approval is not None and not waiting.run.approval.is_waiting:
        waiting.is_judged("denied")
    else:
        waiting.now += timedelta(hours=1)
        waiting.sees(Wakeup())
    assert not waiting.run.is_open
