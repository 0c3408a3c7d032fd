"""What will be done: intents name actions, plans order them as a graph."""

from decimal import Decimal
from typing import Annotated, ClassVar, Final, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, JsonValue

from schemas.approval import Approval
from schemas.base import (
    ActionId,
    Identifier,
    JsonObject,
    Lane,
    Model,
    Name,
    Payload,
    Sha256,
    StepId,
    Text,
    Usd,
)
from schemas.canonical import sha256_of

Effect = Literal["read", "idempotent", "effect"]
"""What running an action twice means: nothing, the same as once, or a second effect."""

Risk = Literal["low", "medium", "high"]

OnFailure = Literal["stop", "continue", "compensate"]
"""What becomes of an execution when a step has failed for good.

``stop``: nothing more begins. ``continue``: steps go on that need nothing of what it would have put
out, and the execution can still succeed. ``compensate``: nothing more begins, and what was done is
undone. An effect in doubt stops everything, whatever a step says.
"""

MAX_STEPS: Final = 500
"""Steps of a request; a plan has as many compensations on top."""


class RetryPolicy(Model):
    """How often the router tries a step again, and how long it waits in between."""

    max_attempts: Annotated[int, Field(ge=1, le=20)] = 3
    initial_delay: Annotated[float, Field(ge=0, le=3600)] = 1.0
    """Seconds before the second attempt."""
    exponential_base: Annotated[float, Field(ge=1, le=10)] = 2.0

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th attempt has failed, without jitter."""
        return self.initial_delay * self.exponential_base ** (attempt - 1)


class CostEstimate(Model):
    """What something is expected to cost, in US dollars."""

    database_storage: Usd = Decimal(0)
    compute_hours: Usd = Decimal(0)
    api_calls: Usd = Decimal(0)
    llm_tokens: Usd = Decimal(0)

    @property
    def total(self) -> Decimal:
        """The sum of all parts."""
        return self.database_storage + self.compute_hours + self.api_calls + self.llm_tokens

    def __add__(self, other: "CostEstimate") -> "CostEstimate":
        return CostEstimate(
            database_storage=self.database_storage + other.database_storage,
            compute_hours=self.compute_hours + other.compute_hours,
            api_calls=self.api_calls + other.api_calls,
            llm_tokens=self.llm_tokens + other.llm_tokens,
        )


class PlannedStep(Model):
    """One use of an action, as a requester or the planner writes it."""

    step_id: StepId
    action: ActionId
    parameters: JsonObject = Field(default_factory=dict)
    """Typed values; a string may refer to an earlier output: ``${steps.check.output.version}``."""
    depends_on: tuple[StepId, ...] = ()
    on_failure: OnFailure | None = None
    """Where it is not what the request says for all steps."""


class PlanStep(PlannedStep):
    """A step of a plan, complete with what the catalogue says of its action."""

    executor: Identifier
    effect: Effect
    risk: Risk
    timeout: Annotated[float, Field(gt=0, le=86_400)]
    """Seconds that one attempt may take."""
    retry: RetryPolicy
    cost: CostEstimate
    on_failure: OnFailure = "stop"
    compensates: StepId | None = None
    """The step that this one undoes; it begins only when the execution is being compensated."""


class IntendedAction(Model):
    """One action that a request asks for, with the parameters found for it."""

    action: ActionId
    parameters: JsonObject
    confidence: Annotated[float, Field(ge=0, le=1)]
    evidence: tuple[Name, ...] = ()
    """The words of the request that speak for this action."""


class Intent(Payload):
    """What a request asks for, in the catalogue's terms.

    Either ``actions``, in the order in which the text names them, or ``steps`` where the request
    brought its own plan.
    """

    schema_version: ClassVar[int] = 3

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "title": "restart checkout in staging",
                    "requester": "ann",
                    "parser": "rules",
                    "actions": [
                        {
                            "action": "service.restart",
                            "parameters": {"service": "checkout", "environment": "staging"},
                            "confidence": 0.9,
                            "evidence": ["restart"],
                        }
                    ],
                }
            ]
        }
    )

    request_id: UUID
    """The message id of the request that this execution belongs to."""
    title: Text
    requester: Name
    groups: tuple[Name, ...] = ()
    """The requester's groups, as far as the intake topic's ACL can be trusted to say."""
    actions: tuple[IntendedAction, ...] = ()
    steps: Annotated[tuple[PlannedStep, ...], Field(max_length=MAX_STEPS)] = ()
    on_failure: OnFailure = "stop"
    """For steps that do not say."""
    parser: Literal["rules", "plan", "model"]
    """Who understood it."""


class Plan(Payload):
    """The steps of an execution as a directed acyclic graph, bound by ``plan_hash``."""

    schema_version: ClassVar[int] = 3

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "title": "restart checkout in staging",
                    "requester": "ann",
                    "steps": [
                        {
                            "step_id": "restart_checkout",
                            "action": "service.restart",
                            "parameters": {"service": "checkout", "environment": "staging"},
                            "executor": "http",
                            "effect": "effect",
                            "risk": "medium",
                            "timeout": 30,
                            "retry": {"max_attempts": 3},
                            "cost": {"api_calls": "0.0001"},
                        }
                    ],
                    "cost": {"api_calls": "0.0001"},
                    "plan_hash": "719470661d7bcaff37673edac3675fcfc435e78ebf53ab13291e985097f14f5b",
                }
            ]
        }
    )

    request_id: UUID
    title: Text
    requester: Name
    groups: tuple[Name, ...] = ()
    """The requester's groups."""
    steps: Annotated[tuple[PlanStep, ...], Field(min_length=1, max_length=2 * MAX_STEPS)]
    """Compensations come last."""
    cost: CostEstimate
    """What is expected: each step once, without compensations."""
    plan_hash: Sha256
    evaluation: Annotated[int, Field(ge=1)] = 1
    """Rises each time the router sends the plan back to be judged again."""
    approvals: tuple[Approval, ...] = ()
    """Who has approved it so far, as the router found; the hash does not cover them."""
    finished: tuple[StepId, ...] = ()
    """The steps that an earlier run has done and that are not run again, where the plan is judged
    for a retry."""


def hash_plan(steps: tuple[PlanStep, ...], *, lane: str, correlation_id: UUID) -> str:
    """The digest that a verdict approves.

    It covers what will happen (actions, parameters with their references, order, what a failure
    leads to, compensations), not what it is expected to cost. It holds for one execution in one
    lane.
    """
    body: dict[str, JsonValue] = {
        "lane": lane,
        "correlation_id": str(correlation_id),
        "steps": [
            {
                "step_id": step.step_id,
                "action": step.action,
                "parameters": step.parameters,
                "depends_on": [*sorted(step.depends_on)],
                "executor": step.executor,
                "effect": step.effect,
                **_of_failure(step),
            }
            for step in steps
        ],
    }
    return sha256_of(body)


def _of_failure(step: PlanStep) -> dict[str, JsonValue]:
    """What a step says of failures; a plan that says nothing keeps the hash it always had."""
    says: dict[str, JsonValue] = {}
    if step.on_failure != "stop":
        says["on_failure"] = step.on_failure
    if step.compensates is not None:
        says["compensates"] = step.compensates
    return says


__all__ = [
    "MAX_STEPS",
    "CostEstimate",
    "Effect",
    "IntendedAction",
    "Intent",
    "Lane",
    "OnFailure",
    "Plan",
    "PlanStep",
    "PlannedStep",
    "RetryPolicy",
    "Risk",
    "hash_plan",
]
