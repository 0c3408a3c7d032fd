"""Histories of executions as the pipeline writes them, for tests of what reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from schemas import (
    AgentMessage,
    Command,
    CommandAnswer,
    CostEstimate,
    ExecutionReport,
    ExecutionRequest,
    ExecutionState,
    ExecutionStatus,
    Failure,
    IntendedAction,
    Intent,
    Judgement,
    Obligation,
    Outcome,
    Payload,
    Plan,
    PlanStep,
    Reason,
    Requester,
    RetryPolicy,
    Step,
    StepResult,
    StepState,
    Verdict,
    compose,
    hash_plan,
)
from schemas.identity import derive_correlation_id, derive_message_id

Course = Literal["success", "denied", "unclear", "approved_later", "retried"]
COURSES: Final[tuple[Course, ...]] = (
    "success",
    "denied",
    "unclear",
    "approved_later",
    "retried",
)
START: Final = datetime(2026, 1, 5, 23, 59, 58, tzinfo=UTC)
_IDS: Final = UUID("0d9b0a9c-30e0-4a2c-b1a3-8c7a3c1f4e11")
_COST: Final = CostEstimate(api_calls=Decimal("0.002"))
_TOPICS: Final[Mapping[type[Payload], str]] = {
    ExecutionRequest: "millstream.requests.v1",
    Intent: "millstream.intents.v1",
    Plan: "millstream.plans.v1",
    Verdict: "millstream.verdicts.v1",
    Step: "millstream.steps.http.v1",
    StepResult: "millstream.results.v1",
    Outcome: "millstream.outcomes.v1",
    ExecutionState: "millstream.states.v1",
    ExecutionReport: "millstream.reports.v1",
    Command: "millstream.commands.v1",
    CommandAnswer: "millstream.answers.v1",
}


def topic_of(message: AgentMessage[Any]) -> str:
    """The topic that carries it, with its lane."""
    return message.lane + _TOPICS[type(message.payload)]


@dataclass
class History:
    """Writes the messages of one execution, each caused by another."""

    name: str
    lane: str = ""
    tenant: str = "default"
    received_at: datetime = START
    messages: list[AgentMessage[Any]] = field(default_factory=list)
    version: int = 0
    verdict: AgentMessage[Verdict] | None = None
    _told: AgentMessage[Verdict] | None = None
    """The verdict that a state has named already."""

    def __post_init__(self) -> None:
        self.request_id = uuid5(_IDS, self.name)
        self.correlation_id = derive_correlation_id(tenant=self.tenant, message_id=self.request_id)

    @property
    def last_id(self) -> UUID:
        """The message that the next one is caused by, unless it says otherwise."""
        return self.messages[-1].message_id

    def say(
        self, role: str, payload: Payload, *, cause: UUID | None = None, index: int = 0
    ) -> AgentMessage[Any]:
        """Write one message."""
        cause_id = cause or (self.last_id if self.messages else None)
        message = compose(
            payload,
            message_id=self.request_id
            if cause_id is None
            else derive_message_id(
                lane=self.lane,
                correlation_id=self.correlation_id,
                role=role,
                cause=cause_id,
                index=index,
            ),
            correlation_id=self.correlation_id,
            causation_id=cause_id,
            from_agent=role,
            tenant=self.tenant,
            lane=self.lane,
            timestamp=self.received_at + timedelta(milliseconds=10 * len(self.messages)),
            received_at=self.received_at,
        )
        self.messages.append(message)
        return message

    def plan(self, steps: int, evaluation: int = 1) -> Plan:
        """A chain of HTTP steps."""
        planned = tuple(
            PlanStep(
                step_id=f"step-{number}",
                action="service.restart" if number % 2 else "service.status",
                parameters={"service": f"service-{self.request_id.int % 7}", "n": number},
                depends_on=(f"step-{number - 1}",) if number else (),
                executor="http",
                effect="idempotent",
                risk="low",
                timeout=10,
                retry=RetryPolicy(),
                cost=_COST,
            )
            for number in range(steps)
        )
        return Plan(
            request_id=self.request_id,
            title=f"restart {self.name}",
            requester="ada",
            steps=planned,
            cost=_COST,
            plan_hash=hash_plan(planned, lane=self.lane, correlation_id=self.correlation_id),
            evaluation=evaluation,
        )

    def state(
        self, status: ExecutionStatus, steps: tuple[StepState, ...] = (), run_no: int = 1
    ) -> None:
        """Write the next version of the state."""
        self.version += 1
        now = self.received_at + timedelta(milliseconds=10 * len(self.messages))
        ended = status.is_terminal and status is not ExecutionStatus.SUCCESS
        verdict, self._told = self.verdict if self.verdict is not self._told else None, self.verdict
        self.say(
            "router",
            ExecutionState(
                request_id=self.request_id,
                version=self.version,
                run_no=run_no,
                status=status,
                code="policy_denied" if ended else None,
                reason="it is not allowed" if ended else None,
                title=f"restart {self.name}",
                requester="ada",
                plan_id=self.verdict.payload.plan_id if self.verdict else None,
                plan_hash=self.verdict.payload.plan_hash if self.verdict else None,
                judgement=Judgement.by(verdict.message_id, verdict.payload) if verdict else None,
                steps=steps,
                cost=_COST,
                started_at=self.received_at,
                updated_at=now,
            ),
            index=self.version,
        )

    def run(self, plan: Plan, plan_id: UUID, *, run_no: int = 1, succeeds: bool = True) -> None:
        """Dispatch the steps one by one; the last one fails unless the run succeeds."""
        states = {
            step.step_id: StepState(step_id=step.step_id, action=step.action, status="pending")
            for step in plan.steps
        }
        for number, step in enumerate(plan.steps):
            now = self.received_at + timedelta(milliseconds=10 * len(self.messages))
            good = succeeds or number < len(plan.steps) - 1
            failure = None if good else Failure(code="timeout", reason="no answer in 10 s")
            states[step.step_id] = StepState(
                step_id=step.step_id,
                action=step.action,
                status="running",
                attempt=1,
                started_at=now,
            )
            self.state(ExecutionStatus.RUNNING, tuple(states.values()), run_no)
            self.say(
                "router",
                Step(
                    request_id=self.request_id,
                    plan_id=plan_id,
                    plan_hash=plan.plan_hash,
                    run_no=run_no,
                    step_id=step.step_id,
                    action=step.action,
                    executor=step.executor,
                    effect=step.effect,
                    parameters=step.parameters,
                    attempt=1,
                    timeout=step.timeout,
                ),
            )
            result = StepResult(
                request_id=self.request_id,
                run_no=run_no,
                step_id=step.step_id,
                action=step.action,
                attempt=1,
                status="success" if good else "failed",
                output={"version": f"1.{number}"} if good else {},
                failure=failure,
                started_at=now,
                finished_at=now + timedelta(milliseconds=5),
            )
            self.say("executor_http", result)
            states[step.step_id] = StepState(
                step_id=step.step_id,
                action=step.action,
                status=result.status,
                attempt=1,
                output=result.output,
                failure=failure,
                started_at=result.started_at,
                finished_at=result.finished_at,
            )
        ended = ExecutionStatus.SUCCESS if succeeds else ExecutionStatus.FAILED
        self.state(ended, tuple(states.values()), run_no)
        self.report(ended, run_no)

    def report(self, status: ExecutionStatus, run_no: int = 1) -> None:
        """Write the report on a run."""
        finished_at = self.received_at + timedelta(milliseconds=10 * len(self.messages))
        self.say(
            "reporter",
            ExecutionReport(
                request_id=self.request_id,
                run_no=run_no,
                status=status,
                summary=f"run {run_no} of {self.name} ended as {status.value}",
                received_at=self.received_at,
                finished_at=finished_at,
                duration_seconds=(finished_at - self.received_at).total_seconds(),
            ),
        )

    def command(self, kind: Literal["approve", "retry"]) -> UUID:
        """Write what a person says, and what the router answers."""
        command_id = uuid5(self.request_id, f"{kind}-{len(self.messages)}")
        payload = Command(kind=kind, issued_by="grace", command_id=command_id)
        said = self.say("gateway", payload)
        answer = CommandAnswer(
            command_id=command_id, kind=kind, issued_by="grace", is_accepted=True
        )
        self.say("router", answer)
        return said.message_id


def history_of(
    name: str,
    course: Course = "success",
    *,
    steps: int = 2,
    lane: str = "",
    tenant: str = "default",
    received_at: datetime = START,
) -> list[AgentMessage[Any]]:
    """The messages of one execution in the order in which they are caused."""
    history = History(name, lane=lane, tenant=tenant, received_at=received_at)
    history.say(
        "intake",
        ExecutionRequest(text=f"restart {name}", tenant=tenant, requester=Requester(user="ada")),
    )
    if course == "unclear":
        question = "which environment?"
        history.say(
            "intent_parser",
            Outcome(
                request_id=history.request_id,
                status="needs_clarification",
                code="needs_clarification",
                reason=question,
            ),
        )
        history.state(ExecutionStatus.NEEDS_CLARIFICATION)
        history.report(ExecutionStatus.NEEDS_CLARIFICATION)
        return history.messages
    history.say(
        "intent_parser",
        Intent(
            request_id=history.request_id,
            title=f"restart {name}",
            requester="ada",
            actions=(IntendedAction(action="service.restart", parameters={}, confidence=0.9),),
            parser="rules",
        ),
    )
    plan = history.plan(steps)
    plan_id = history.say("planner", plan).message_id
    if course == "denied":
        _judge(history, plan, plan_id, "denied")
        history.state(ExecutionStatus.DENIED)
        history.report(ExecutionStatus.DENIED)
        return history.messages
    if course == "approved_later":
        _judge(history, plan, plan_id, "needs_approval")
        history.state(ExecutionStatus.NEEDS_APPROVAL)
        history.command("approve")
        plan = history.plan(steps, evaluation=2)
        plan_id = history.say("router", plan).message_id
    _judge(history, plan, plan_id, "approved")
    if course == "retried":
        history.run(plan, plan_id, succeeds=False)
        history.command("retry")
        history.run(plan, plan_id, run_no=2)
    else:
        history.run(plan, plan_id)
    return history.messages


def under_the_id_of(
    accepted: Sequence[AgentMessage[Any]], messages: Sequence[AgentMessage[Any]]
) -> list[AgentMessage[Any]]:
    """``messages`` as of a second request under the correlation id of ``accepted``."""
    used = accepted[0].correlation_id
    return [message.model_copy(update={"correlation_id": used}) for message in messages]


def _judge(
    history: History,
    plan: Plan,
    plan_id: UUID,
    decision: Literal["approved", "needs_approval", "denied"],
) -> None:
    reasons = (
        ()
        if decision == "approved"
        else (Reason(policy="risk", code="policy_denied", text="too risky at night"),)
    )
    history.verdict = history.say(
        "safety_checker",
        Verdict(
            request_id=history.request_id,
            plan_id=plan_id,
            decision=decision,
            reasons=reasons,
            plan=plan,
            obligations=(Obligation(policy="risk"),) if decision == "needs_approval" else (),
        ),
    )
