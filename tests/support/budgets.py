"""Plans that cost something, and what a ledger says of the money."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from support.ledgers import NOON, advance, envelope, run_record

from agents.runtime.budgets import Per, Settlement
from agents.runtime.ports import Decide, Ledger, RunRecord, Transition
from schemas import (
    AgentMessage,
    CostEstimate,
    Obligation,
    Plan,
    PlanStep,
    Reason,
    RetryPolicy,
    Verdict,
    hash_plan,
)

TENANT = "acme"


def costing(
    *costs: str,
    decision: str = "approved",
    run_id: UUID | None = None,
    tenant: str = TENANT,
    attempts: int = 1,
    evaluation: int = 1,
    lane: str = "",
) -> AgentMessage[Verdict]:
    """A verdict on a plan with a step of each cost; the same costs make the same plan."""
    run_id = uuid4() if run_id is None else run_id
    steps = tuple(
        PlanStep(
            step_id=f"s{number}",
            action="service.status",
            parameters={"cost": cost},
            executor="http",
            effect="read",
            risk="low",
            timeout=5,
            retry=RetryPolicy(max_attempts=attempts),
            cost=CostEstimate(compute_hours=Decimal(cost)),
        )
        for number, cost in enumerate(costs)
    )
    plan = Plan(
        request_id=uuid4(),
        title="check checkout",
        requester="tester",
        steps=steps,
        cost=sum((step.cost for step in steps), CostEstimate()),
        plan_hash=hash_plan(steps, lane=lane, correlation_id=run_id),
        evaluation=evaluation,
    )
    reason = Reason(policy="risk", code="policy_denied", text="too risky")
    payload = Verdict(
        request_id=plan.request_id,
        plan_id=uuid4(),
        decision=decision,
        reasons=() if decision == "approved" else (reason,),
        plan=plan,
        obligations=(Obligation(policy="risk"),) if decision == "needs_approval" else (),
    )
    return envelope(payload, run_id=run_id, lane=lane).replace(tenant=tenant)


async def allow(
    ledger: Ledger, per: Per, cap: str | None, *, tenant: str = TENANT, lane: str = ""
) -> None:
    """Set a budget."""
    await ledger.set_budget(
        lane=lane,
        tenant=tenant,
        per=per,
        cap=None if cap is None else Decimal(cap),
        set_by="tester",
    )


async def books(
    ledger: Ledger, *, now: datetime = NOON, lane: str = ""
) -> dict[tuple[str, str], tuple[str, str]]:
    """What is spent and what is reserved, by tenant and kind of budget."""
    return {
        (use.budget.tenant, use.budget.per): (
            f"{use.spending.spent:.2f}",
            f"{use.spending.reserved:.2f}",
        )
        for use in await ledger.budget_uses(lane=lane, now=now)
    }


def ends(
    message: AgentMessage[Verdict], actual: str = "0", *, version: int = 1, status: str = "success"
) -> Decide:
    """A decision that ends the run of a plan, which has cost so much."""
    settlement = Settlement(message.payload.plan_hash, Decimal(actual))

    def decide(_run: RunRecord | None) -> Transition:
        record = run_record(
            message.correlation_id, version, lane=message.lane, status=status, is_open=False
        )
        return Transition(record, settlement=settlement)

    return decide


async def settle(ledger: Ledger, message: AgentMessage[Verdict], actual: str = "0") -> None:
    """End the run of a plan."""
    await advance(ledger, message.correlation_id, ends(message, actual), lane=message.lane)


def decisions(messages: Sequence[AgentMessage[Any]]) -> list[str]:
    """What verdicts say."""
    return [message.payload.decision for message in messages]
