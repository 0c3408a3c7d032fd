"""What the router remembers of an execution."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final
from uuid import UUID

from pydantic import Field

from agents.routing.transitions import check
from schemas import (
    ApprovalRequest,
    CostEstimate,
    ExecutionState,
    ExecutionStatus,
    JsonObject,
    Judgement,
    Model,
    Plan,
    PlanStep,
    StepState,
)
from schemas.base import Code, Name, StepId, Tenant, Text, Usd, UtcDatetime

_NOTHING: Final = CostEstimate()


class Stopped(Model):
    """Why nothing more of a run was to begin."""

    code: Code | None
    reason: Text | None
    is_paused: bool = False
    """Whether it was to go on later, rather than being cancelled."""


class Run(Model):
    """One execution as the router keeps it; a value that each event replaces by the next."""

    request_id: UUID | None
    tenant: Tenant
    received_at: UtcDatetime
    external_id: str | None
    broker_id: str
    """The broker that carries it; on another one it can never go on."""
    run_no: int = 1
    version: int = 0
    status: ExecutionStatus | None = None
    code: Code | None = None
    reason: Text | None = None
    title: Text | None = None
    requester: Name | None = None
    plan: Plan | None = None
    plan_id: UUID | None = None
    steps: tuple[StepState, ...] = ()
    """In the plan's order; when the run is compensated, what is to be undone follows in its own."""
    completed: tuple[StepId, ...] = ()
    """Steps that can be undone, in the order in which they were done."""
    done_anyway: tuple[StepId, ...] = ()
    """Steps that count as failed although they were done, since their results could not be kept."""
    retry_at: dict[StepId, UtcDatetime] = Field(default_factory=dict)
    """When steps that wait for another attempt are due."""
    asked_again_at: dict[StepId, UtcDatetime] = Field(default_factory=dict)
    """When the newest attempt at a step was dispatched, where it was not the first."""
    approval: ApprovalRequest | None = None
    """Who must approve and who has, once the execution needed that."""
    spent: CostEstimate | None = None
    """What the attempts that were dispatched cost; ``None`` stands for nothing."""
    spent_before: Usd | None = None
    """What had been spent when a verdict reserved for the run; ``None`` while nothing is held."""
    cause: UUID
    """The message that last changed the run; what a timer brings about is caused by it too."""
    started_at: UtcDatetime
    retried_at: UtcDatetime | None = None
    """When this run was asked for, where it is not the first."""
    updated_at: UtcDatetime
    doubts: dict[StepId, int] = Field(default_factory=dict)
    """For effects that came to be in doubt before this run: in which run that was."""
    stopped: Stopped | None = None
    """Why it was being cancelled, or paused, when it ended with an effect in doubt."""

    @property
    def is_open(self) -> bool:
        """Whether the run has not ended."""
        return self.status is None or not self.status.is_terminal

    @property
    def begun_at(self) -> datetime:
        """Since when the time counts that an execution may take."""
        return self.retried_at or self.started_at

    @property
    def outputs(self) -> dict[str, JsonObject]:
        """What the steps that have succeeded gave."""
        return {step.step_id: step.output for step in self.steps if step.status == "success"}

    def step(self, step_id: str) -> StepState | None:
        """The state of one step."""
        return next((step for step in self.steps if step.step_id == step_id), None)

    def planned(self, step_id: str) -> PlanStep:
        """What the plan says of one step.

        Raises:
            ValueError: The plan has no such step.
        """
        for step in () if self.plan is None else self.plan.steps:
            if step.step_id == step_id:
                return step
        raise ValueError(f"the plan has no step {step_id}")

    def in_pairs(self) -> Iterator[tuple[PlanStep, StepState]]:
        """Each step with what the plan says of it."""
        if self.plan is not None:
            for planned, step in zip(self.plan.steps, self.steps, strict=False):
                is_in_order = step.compensates is None
                yield planned if is_in_order else self.planned(step.step_id), step

    def run_of(self, step_id: str) -> int:
        """The run in which a step was last dispatched, if it is in doubt."""
        return self.doubts.get(step_id, self.run_no)

    def remembering_why(self) -> "Run":
        """The run, about to end with an effect in doubt: what was wanted of it is kept."""
        if self.status not in (ExecutionStatus.CANCELLING, ExecutionStatus.PAUSED):
            return self
        is_paused = self.status is ExecutionStatus.PAUSED
        stopped = Stopped(code=self.code, reason=self.reason, is_paused=is_paused)
        return self.replace(stopped=stopped)

    def with_step(self, changed: StepState) -> "Run":
        """The run with one step replaced."""
        steps = tuple(changed if step.step_id == changed.step_id else step for step in self.steps)
        return self.replace(steps=steps)

    def moved(
        self, status: ExecutionStatus, *, code: str | None = None, reason: str | None = None
    ) -> "Run":
        """The run in another status.

        Raises:
            IllegalTransitionError: The table does not allow it.
        """
        check(self.status, status)
        return self.replace(status=status, code=code, reason=reason)

    def as_state(self, judgement: Judgement | None = None) -> ExecutionState:
        """What the world is told about this version, and about the verdict that led to it."""
        if self.status is None:
            raise ValueError("a run that has not begun has no state to tell")
        return ExecutionState(
            request_id=self.request_id,
            version=self.version,
            run_no=self.run_no,
            status=self.status,
            code=self.code,
            reason=self.reason,
            title=self.title,
            requester=self.requester,
            plan_id=self.plan_id,
            plan_hash=self.plan.plan_hash if self.plan else None,
            judgement=judgement,
            steps=self.steps,
            cost=self.spent or _NOTHING,
            approval=self.approval,
            started_at=self.started_at,
            updated_at=self.updated_at,
        )
