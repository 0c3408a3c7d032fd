"""An execution as the router would drive it, without broker and ledger."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from agents.routing.deadlines import Limits, next_wakeup
from agents.routing.events import BrokerLost, GivenUp, Moved, Wakeup
from agents.routing.machine import react
from agents.routing.run import Run
from agents.runtime.principals import Issuer
from agents.runtime.testing import EPOCH, message_with, test_id
from schemas import (
    Command,
    CostEstimate,
    ExecutionState,
    Failure,
    Obligation,
    Outcome,
    Payload,
    Plan,
    PlanStep,
    Reason,
    RetryPolicy,
    Step,
    StepResult,
    Verdict,
    hash_plan,
)

REQUEST = test_id("request")
ANN = Issuer("ann", ("sre",), is_signed=True)
PATIENT = Obligation(policy="test", expires_after=timedelta(days=2).total_seconds())
LIMITS = Limits()
MINUTE = timedelta(minutes=1)


def planned(step_id: str, *depends_on: str, **changes: Any) -> PlanStep:
    values: dict[str, Any] = {
        "step_id": step_id,
        "action": "service.status",
        "parameters": {"service": "checkout", "environment": "staging"},
        "depends_on": depends_on,
        "executor": "http",
        "effect": "read",
        "risk": "low",
        "timeout": 30.0,
        "retry": RetryPolicy(max_attempts=2, initial_delay=1.0),
        "cost": CostEstimate(),
    }
    return PlanStep.model_validate(values | changes)


def verdict(*steps: PlanStep, decision: str = "approved", request_id: UUID = REQUEST) -> Verdict:
    steps = steps or (planned("only"),)
    plan = Plan(
        request_id=request_id,
        title="title",
        requester="ann",
        steps=steps,
        cost=CostEstimate(),
        plan_hash=hash_plan(steps, lane="", correlation_id=test_id("execution")),
    )
    reason = Reason(policy="catalogue.max_risk", code="policy_denied", text="Too risky.")
    return Verdict.model_validate(
        {
            "request_id": request_id,
            "plan_id": test_id("plan"),
            "decision": decision,
            "reasons": () if decision == "approved" else (reason,),
            "plan": plan,
            "obligations": (PATIENT,) if decision == "needs_approval" else (),
        }
    )


def verdict_on(plan: Plan, decision: str = "approved", **changes: Any) -> Verdict:
    """A verdict on a plan that the router has sent back."""
    given = verdict(*plan.steps, decision=decision).model_copy(update={"plan": plan})
    plan_id = test_id(f"plan {plan.evaluation}")
    return given.model_copy(update={"plan_id": plan_id, **changes})


def result(
    step: Step, status: str = "success", *, retriable: bool = False, **output: Any
) -> StepResult:
    failure = Failure(code="transient", reason="it answered 503", retriable=retriable)
    return StepResult.model_validate(
        {
            "request_id": step.request_id,
            "run_no": step.run_no,
            "step_id": step.step_id,
            "action": step.action,
            "attempt": step.attempt,
            "status": status,
            "output": output,
            "failure": None if status == "success" else failure,
            "started_at": EPOCH,
            "finished_at": EPOCH,
        }
    )


@dataclass
class Execution:
    """An execution as the router would drive it, without broker and ledger."""

    run: Run | None = None
    now: Any = EPOCH
    started: list[Step] = field(default_factory=list)
    sent_back: list[Plan] = field(default_factory=list)
    count: int = 0

    def sees(self, event: Payload | Wakeup | BrokerLost | GivenUp) -> Any:
        self.count += 1
        happened: Any = (
            message_with(event, name=f"event {self.count}") if isinstance(event, Payload) else event
        )
        broker = "another" if isinstance(event, BrokerLost) else "broker"
        answer = react(self.run, happened, now=self.now, jitter=0.0, broker_id=broker, issuer=ANN)
        if isinstance(answer, Moved):
            self.run = answer.run
            self.started.extend(answer.dispatch)
            self.sent_back.extend([] if answer.plan is None else [answer.plan])
            return [step.step_id for step in answer.dispatch]
        return answer

    def ends(self, step_id: str, status: str = "success", **how: Any) -> Any:
        """The newest attempt at a step ends."""
        newest = [step for step in self.started if step.step_id == step_id][-1]
        return self.sees(result(newest, status, **how))

    @property
    def state(self) -> ExecutionState:
        assert self.run is not None
        return self.run.as_state()

    @property
    def next_wakeup(self) -> Any:
        assert self.run is not None
        return next_wakeup(self.run, LIMITS)

    def is_left_alone_until_it_wakes(self) -> Any:
        self.now = self.next_wakeup
        return self.sees(Wakeup())

    def fails_on(self, payload: Payload | None) -> Any:
        message = None if payload is None else message_with(payload, name="the last straw")
        return self.sees(GivenUp(message, "bug", "router failed unexpectedly"))

    @property
    def status(self) -> str:
        assert self.run is not None
        assert self.run.status is not None
        return self.run.status.value

    def steps(self) -> dict[str, str]:
        assert self.run is not None
        return {step.step_id: step.status for step in self.run.steps}


def command(kind: str) -> Command:
    return Command.model_validate({"kind": kind, "issued_by": "ann", "command_id": UUID(int=1)})


def outcome(**changes: Any) -> Outcome:
    values = {
        "request_id": REQUEST,
        "status": "needs_clarification",
        "code": "needs_clarification",
        "reason": "In which environment?",
        "title": "restart checkout",
    }
    return Outcome.model_validate(values | changes)


def finish(execution: Execution) -> None:
    """Let everything succeed from here on."""
    for _ in range(60):
        assert execution.run is not None
        if not execution.run.is_open:
            return
        execution.sees(command("resume"))
        execution.now += timedelta(seconds=60)
        execution.sees(Wakeup())
        running = {step.step_id for step in execution.run.steps if step.status == "running"}
        latest = {step.step_id: step for step in execution.started}
        for step_id in running:
            execution.sees(result(latest[step_id]))
