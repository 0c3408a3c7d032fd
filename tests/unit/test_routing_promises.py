"""Random courses of events, with repeats and drops, against the promises of the state machine."""

from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.executions import Execution, command, planned, result, verdict, verdict_on

from agents.routing.events import BrokerLost, GivenUp, Wakeup
from agents.routing.run import Run
from agents.routing.transitions import TRANSITIONS, Trigger
from agents.runtime.ports import Refusal
from agents.runtime.testing import message_with
from schemas import ExecutionStatus, Outcome, PlanStep, Step, Verdict

ENDINGS = st.sampled_from(
    [("success", False), ("failed", True), ("failed", False), ("unknown", False)]
)
POLICIES = st.sampled_from(["compensate", "compensate", "compensate", "stop", "continue"])
EFFECTS = st.sampled_from(["read", "effect"])


class Runs(RuleBasedStateMachine):
    """One execution whose messages come late, twice, out of order or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.execution = Execution()
        self.judged: list[Verdict] = []
        """Verdicts that may come, once more or for the first time."""
        self.ends: dict[int, list[str]] = defaultdict(list)
        """By run, the terminal states that were told."""
        self.done: dict[str, int] = {}
        """By step, the run in which it succeeded and has not been undone since."""
        self.in_doubt = False
        self.calm = 0
        self.order: list[str] = []
        """What was done and could be undone, in that order."""

    # -- what happens --------------------------------------------------------------------------

    @initialize(data=st.data())
    def a_request_is_planned(self, data: st.DataObject) -> None:
        size = data.draw(st.integers(2, 4), label="steps")
        steps: list[PlanStep] = []
        for at in range(size):
            needs = data.draw(st.sets(st.sampled_from(range(at)), max_size=2)) if at else set()
            refers = {name: f"${{steps.s{name}.output.x}}" for name in map(str, sorted(needs)[:1])}
            values = {f"p{name}": text for name, text in refers.items() if data.draw(st.booleans())}
            steps.append(
                planned(
                    f"s{at}",
                    *(f"s{number}" for number in sorted(needs)),
                    on_failure=data.draw(POLICIES),
                    effect=data.draw(EFFECTS),
                    parameters=values,
                )
            )
        undoable = set(range(size)) - data.draw(st.sets(st.sampled_from(range(size)), max_size=2))
        undo = [planned(f"undo-s{at}", f"s{at}", compensates=f"s{at}") for at in sorted(undoable)]
        decision = data.draw(st.sampled_from([*["approved"] * 6, "denied", "needs_approval"]))
        self.judged.append(verdict(*steps, *undo, decision=decision))
        self.calm = data.draw(st.sampled_from([40, 20, 10, 0]), label="calm events")
        if data.draw(st.sampled_from([True, True, False]), label="judged at once"):
            self._see(self.judged[0], "verdict")
            self._live(data.draw(st.integers(0, 1_000_000), label="seed"))

    @rule(data=st.data())
    def a_verdict_comes(self, data: st.DataObject) -> None:
        self._see(data.draw(st.sampled_from(self.judged)), "verdict")

    @precondition(lambda self: self._is_rough)
    @rule()
    def the_checker_fails(self) -> None:
        given = self.judged[-1]
        failed = Outcome(
            request_id=given.request_id,
            status="failed",
            code="timeout",
            reason="slow",
            evaluation=given.plan.evaluation,
        )
        self._see(failed, "outcome")

    @precondition(lambda self: self._in_flight)
    @rule(data=st.data())
    def a_step_succeeds(self, data: st.DataObject) -> None:
        self._ends(data.draw(st.sampled_from(self._in_flight)), "success")

    @precondition(lambda self: self._in_flight)
    @rule(data=st.data(), retriable=st.booleans())
    def a_step_fails(self, data: st.DataObject, retriable: bool) -> None:
        self._ends(data.draw(st.sampled_from(self._in_flight)), "failed", retriable=retriable)

    @precondition(
        lambda self: self.execution.run is not None and self.execution.status == "planned"
    )
    @rule()
    def the_plan_is_approved_again(self) -> None:
        self._see(self.judged[-2], "verdict")

    @precondition(lambda self: self.execution.started and self._is_rough)
    @rule(data=st.data(), ending=ENDINGS)
    def any_attempt_ends_perhaps_again(self, data: st.DataObject, ending: tuple[str, bool]) -> None:
        step = data.draw(st.sampled_from(self.execution.started))
        status, retriable = ending
        self._see(result(step, status, retriable=retriable, x="1"), "result")

    @precondition(lambda self: self.execution.started and self._is_rough)
    @rule(data=st.data())
    def a_result_cannot_be_handled(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(self.execution.started))
        message = message_with(result(step, x="1"), name=f"bad {len(self.execution.started)}")
        self._see(GivenUp(message, "bug", "it broke"), "result")

    @rule(kind=st.sampled_from(["pause", "resume", "retry"]))
    def somebody_commands(self, kind: Trigger) -> None:
        self._command(kind)

    @precondition(lambda self: self._is_rough)
    @rule()
    def somebody_cancels(self) -> None:
        self._command("cancel")

    @precondition(lambda self: self.execution.run is not None and not self.execution.run.is_open)
    @rule()
    def what_has_ended_is_retried(self) -> None:
        self._command("retry")

    def _command(self, kind: Trigger) -> None:
        before = len(self.execution.sent_back)
        answer = self._see(command(kind), kind)
        assert isinstance(answer, list | Refusal), "a command is always answered"
        for plan in self.execution.sent_back[before:]:
            self.judged += [verdict_on(plan), verdict_on(plan, "denied")]

    @rule(seconds=st.sampled_from([1, 5]))
    def time_passes(self, seconds: int) -> None:
        self.execution.now += timedelta(seconds=seconds)
        self._see(Wakeup(), "time")

    @precondition(lambda self: self._is_rough)
    @rule(seconds=st.sampled_from([3600 + 60, 24 * 3600]))
    def much_time_passes(self, seconds: int) -> None:
        self.execution.now += timedelta(seconds=seconds)
        self._see(Wakeup(), "time")

    @precondition(lambda self: self._is_rough)
    @rule()
    def the_router_fails_on_the_run(self) -> None:
        self._see(GivenUp(None, "bug", "it broke"), "bug")

    @precondition(lambda self: self._is_rough)
    @rule()
    def the_broker_is_lost(self) -> None:
        self._see(BrokerLost(), "broker lost")

    @rule(seed=st.integers(0, 1_000_000))
    def much_happens(self, seed: int) -> None:
        self._live(seed)

    def _live(self, seed: int) -> None:
        """A long course in which most goes well: rules drawn one by one seldom come that far."""
        chance = Random(seed)  # noqa: S311  # a course of events, not a secret
        for _ in range(30):
            happenings: list[tuple[int, Callable[[], object]]] = [
                (2, partial(self.time_passes, 5)),
                (1, partial(self._command, "pause")),
                (2, partial(self._command, "resume")),
                (4, partial(self._command, "retry")),
                (1, partial(self._see, chance.choice(self.judged), "verdict")),
            ]
            if self._in_flight:
                ends = partial(self._ends, chance.choice(self._in_flight))
                happenings += [
                    (12, partial(ends, "success")),
                    (5, partial(ends, "failed")),
                    (3, partial(ends, "failed", retriable=True)),
                ]
            if self.execution.started:
                again = result(chance.choice(self.execution.started), x="1")
                happenings.append((2, partial(self._see, again, "result")))
            if len(self.judged) > 1:
                happenings.append((8, partial(self._see, self.judged[-2], "verdict")))
            weights = [weight for weight, _ in happenings]
            chance.choices([happen for _, happen in happenings], weights)[0]()

    # -- what must hold ------------------------------------------------------------------------

    @invariant()
    def no_attempt_is_dispatched_twice(self) -> None:
        attempts = [(step.run_no, step.step_id, step.attempt) for step in self.execution.started]
        assert len(attempts) == len(set(attempts))

    @invariant()
    def each_run_has_at_most_one_terminal_state(self) -> None:
        assert all(len(states) <= 1 for states in self.ends.values())

    def teardown(self) -> None:
        """Every run ends by itself, when nobody says anything any more."""
        execution = self.execution
        for _ in range(60):
            if execution.run is None or not execution.run.is_open:
                return
            version = execution.run.version
            execution.now = max(execution.now, execution.next_wakeup)
            self._see(Wakeup(), "time")
            assert execution.run.version > version, "a timer that is due moves the run"
        raise AssertionError("the run does not end")

    def _ends(self, step_id: str, status: str, **how: Any) -> None:
        newest = [step for step in self.execution.started if step.step_id == step_id][-1]
        self._see(result(newest, status, x="1", **how), "result")

    @property
    def _is_rough(self) -> bool:
        """Whether what ends most runs may happen now; otherwise few would ever come far."""
        return self.execution.count >= self.calm

    @property
    def _in_flight(self) -> list[str]:
        run = self.execution.run
        return [step.step_id for step in run.steps if step.status == "running"] if run else []

    def _see(self, event: Any, trigger: Trigger) -> Any:
        execution = self.execution
        before, started = execution.run, len(execution.started)
        answer = execution.sees(event)
        after, fresh = execution.run, execution.started[started:]
        if after is before:
            assert not fresh, "what changes nothing begins nothing"
            return answer
        assert after is not None
        self._check_move(before, after, trigger)
        self._take_note(before, after)
        self._check_dispatched(after, fresh)
        return answer

    def _check_move(self, before: Run | None, after: Run, trigger: Trigger) -> None:
        was, now = None if before is None else before.status, after.status
        assert now is not None
        assert after.version == (0 if before is None else before.version) + 1
        if was is not None and was.is_terminal:
            assert trigger == "retry", "a terminal state absorbs"
            assert before is not None
            assert after.run_no == before.run_no + 1
        if was != now:
            direct = TRANSITIONS[was].get(now, ())
            through = [
                half
                for half, on in TRANSITIONS[was].items()
                if trigger in on and now in TRANSITIONS[half]
            ]
            assert trigger in direct or through, f"{was} → {now} by {trigger} is not in the table"
        if now.is_terminal:
            self.ends[after.run_no].append(now.value)
            assert all(step.status not in ("pending", "running") for step in after.steps)

    def _take_note(self, before: Run | None, after: Run) -> None:
        """Keep books of what was done and undone, independently of the run's own."""
        self.in_doubt = self.in_doubt or any(step.status == "unknown" for step in after.steps)
        known = {} if before is None else {step.step_id: step.status for step in before.steps}
        for step in after.steps:
            if step.status != "success" or known.get(step.step_id) == "success":
                continue
            if step.compensates is None:
                self.done[step.step_id] = after.run_no
                self.order.append(step.step_id)
            else:
                del self.done[step.compensates]
                self.order.remove(step.compensates)

    def _check_dispatched(self, after: Run, fresh: list[Step]) -> None:
        undoing = {step.step_id: step.compensates for step in after.steps if step.compensates}
        for step in fresh:
            assert after.status is ExecutionStatus.RUNNING
            assert step.step_id not in self.done, "what is done is not done again"
            assert step.run_no == after.run_no
            assert not self.in_doubt, "nothing begins while an effect is in doubt"
            undone = undoing.get(step.step_id)
            if undone is None:
                assert not undoing, "nothing new begins when things are undone"
                continue
            assert len(fresh) == 1, "one is undone after the other"
            undoable = {each.compensates for each in after.plan.steps} if after.plan else set()
            assert undone == [name for name in self.order if name in undoable][-1]
            in_flight = [each for each in after.steps if each.status == "running"]
            assert [each.step_id for each in in_flight] == [step.step_id]


Runs.TestCase.settings = settings(max_examples=400, stateful_step_count=12, deadline=None)
test_any_course_of_events_keeps_the_promises = Runs.TestCase


def test_every_move_of_the_table_has_something_that_brings_it_about() -> None:
    for before, moves in TRANSITIONS.items():
        for after, triggers in moves.items():
            assert triggers, f"{before} → {after}"
            assert after is not ExecutionStatus.RECEIVED
