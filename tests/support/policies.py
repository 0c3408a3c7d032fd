"""Plans and policies for tests, over the shipped catalogue unless another is given."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from agents.policies import Judge, schema_of
from agents.policies.policy_set import SourceFile, compile_policies
from agents.runtime.assessment import Assessment
from agents.runtime.catalogue import ActionSpec, Catalogue, load_catalogue
from agents.runtime.settings import ROOT
from schemas import Approval, CostEstimate, Plan, PlanStep

SHIPPED: Final = load_catalogue(ROOT / "actions.yaml")
FOLDER: Final = ROOT / "ops" / "policies"
MONDAY: Final = datetime(2026, 1, 5, 10, tzinfo=UTC)
PERMIT: Final = '@id("all") permit (principal, action, resource);\n'


def with_actions(*actions: ActionSpec) -> Catalogue:
    """The shipped catalogue with more actions."""
    added = {action.id: action for action in actions}
    return SHIPPED.model_copy(update={"actions": {**SHIPPED.actions, **added}})


def judge_by(text: str, catalogue: Catalogue = SHIPPED, zone: str = "UTC") -> Judge:
    """A judge by the policies of one file, ``p.cedar``."""
    source = SourceFile("p.cedar", text)
    return Judge(catalogue, compile_policies([source], schema_of(catalogue), ZoneInfo(zone)))


def step(
    action_id: str,
    parameters: dict[str, Any],
    *,
    catalogue: Catalogue = SHIPPED,
    step_id: str = "only",
    **changes: Any,
) -> PlanStep:
    """A step as the planner completes it."""
    action = catalogue.action(action_id)
    fields = {
        "step_id": step_id,
        "action": action_id,
        "parameters": action.complete(parameters),
        "executor": action.executor,
        "effect": action.effect,
        "risk": action.risk,
        "timeout": action.timeout,
        "retry": action.retry,
        "cost": action.cost,
    }
    return PlanStep.model_validate({**fields, **changes})


def restart(environment: str = "staging", service: str = "checkout", **changes: Any) -> PlanStep:
    """A step that restarts a service."""
    return step("service.restart", {"service": service, "environment": environment}, **changes)


def plan_of(
    *steps: PlanStep,
    requester: str = "ann",
    groups: Iterable[str] = (),
    approvals: Iterable[Approval] = (),
) -> Plan:
    """A plan of these steps."""
    return Plan(
        request_id=UUID(int=1),
        title="a test",
        requester=requester,
        groups=tuple(groups),
        steps=steps,
        cost=sum((each.cost for each in steps), CostEstimate()),
        plan_hash="0" * 64,
        approvals=tuple(approvals),
    )


def approval(approver: str, *groups: str) -> Approval:
    """Somebody's yes."""
    return Approval(
        approver=approver,
        groups=groups,
        approved_at=MONDAY,
        command_id=UUID(int=2),
        is_signed=True,
    )


def assess(
    judge: Judge, plan: Plan, *, tenant: str = "default", moment: datetime = MONDAY
) -> Assessment:
    """What ``judge`` says of ``plan``, in the lane of production."""
    return judge.judge(plan, tenant=tenant, lane="", moment=moment)
