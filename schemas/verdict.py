"""Whether a plan may run."""

from typing import ClassVar, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, model_validator

from schemas.approval import Obligation
from schemas.base import Code, Model, Name, Payload, Sha256, StepId, Text, Usd, UtcDatetime
from schemas.plan import Plan

Decision = Literal["approved", "needs_approval", "denied"]


class Reason(Model):
    """One rule that spoke, and what it said."""

    policy: Name
    """The id of the policy or catalogue rule."""
    code: Code
    text: Text
    """In plain words, with what would make the plan pass."""
    step_id: StepId | None = None


class Verdict(Payload):
    """The decision on one plan, bound to its hash; it carries the plan that it judges."""

    schema_version: ClassVar[int] = 3

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "plan_id": "00000000-0000-4000-8000-000000000003",
                    "decision": "denied",
                    "reasons": [
                        {
                            "policy": "catalogue.max_risk",
                            "code": "policy_denied",
                            "text": "production allows at most medium risk.",
                            "step_id": "restart_checkout",
                        }
                    ],
                    "plan": {
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
                        "plan_hash": "7194706" + "0" * 57,
                    },
                }
            ]
        }
    )

    request_id: UUID
    plan_id: UUID
    """The message id of the plan."""
    decision: Decision
    reasons: tuple[Reason, ...]
    plan: Plan
    obligations: tuple[Obligation, ...] = ()
    """For ``needs_approval``: who must approve before it is judged again. Those that the plan's
    approvals meet already may be among them; what is denied has none."""
    policies: tuple[Name, ...] = ()
    """The ids of the policies that spoke, for or against."""
    policy_set: Sha256 | None = None
    """The digest of all policies that were in force."""
    evaluated_at: UtcDatetime | None = None
    """The moment that the policies saw: judged again for that moment by the same policies, the
    plan gets the same decision."""
    reserved: Usd | None = None
    """What it holds back from the tenant's budgets until the run ends: the most that the plan may
    cost. ``None`` where there is no budget."""

    @model_validator(mode="after")
    def _a_refusal_says_why(self) -> Self:
        if self.decision != "approved" and not self.reasons:
            raise ValueError(f"a verdict that is {self.decision} gives at least one reason")
        if self.decision == "needs_approval" and not self.obligations:
            raise ValueError("a verdict that is needs_approval says who must approve")
        return self

    @property
    def plan_hash(self) -> str:
        """The hash that the decision is bound to."""
        return self.plan.plan_hash
