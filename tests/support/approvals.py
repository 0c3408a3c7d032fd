"""People with keys, and what they command."""

from typing import Any
from uuid import UUID, uuid5

from agents.runtime.principals import Principal, Principals
from agents.runtime.signing import SigningKey
from agents.runtime.testing import message_with, test_id
from schemas import (
    AgentMessage,
    Command,
    CostEstimate,
    Obligation,
    Plan,
    PlanStep,
    Reason,
    RetryPolicy,
    Verdict,
    hash_plan,
)

_COMMANDS = UUID("7d1d0ac5-64f5-4c35-8f0b-6b6579730000")

REQUEST = test_id("request")
STEP = PlanStep(
    step_id="only",
    action="service.delete",
    parameters={},
    executor="http",
    effect="effect",
    risk="high",
    timeout=30.0,
    retry=RetryPolicy(),
    cost=CostEstimate(),
)
HASH = hash_plan((STEP,), lane="", correlation_id=test_id("execution"))
PLAN = Plan(
    request_id=REQUEST,
    title="delete checkout",
    requester="ann",
    steps=(STEP,),
    cost=CostEstimate(),
    plan_hash=HASH,
)
ONE = Obligation(policy="test.one")
TWO = Obligation(policy="test.two", approvers=2)
WANTED = Reason(policy="test", code="needs_approval", text="Somebody must approve.")
FORBIDDEN = Reason(policy="test", code="policy_denied", text="Not at this hour.")


class People:
    """Some people, each with a key and groups of their own.

    Args:
        groups: By name, which groups they are in.
    """

    def __init__(self, **groups: tuple[str, ...]) -> None:
        self.keys = {name: SigningKey.generate() for name in groups}
        self.principals = Principals(
            {name: Principal(of, (self.keys[name].public,)) for name, of in groups.items()}
        )


def command(kind: str, by: str, plan_hash: str | None = None, **fields: Any) -> Command:
    """A command whose id follows from what it says."""
    said = f"{kind} {by} {plan_hash} {fields}"
    return Command.model_validate(
        {
            "kind": kind,
            "issued_by": by,
            "plan_hash": plan_hash,
            "command_id": uuid5(_COMMANDS, said),
            **fields,
        }
    )


def envelope(payload: Command, **about: Any) -> AgentMessage[Command]:
    """The command in an envelope that nobody has signed."""
    message: AgentMessage[Command] = message_with(
        payload, name=str(test_id(str(payload.command_id))), from_agent="operator", **about
    )
    return message


def verdict(decision: str, *obligations: Obligation, plan: Plan = PLAN) -> Verdict:
    reasons = {"approved": (), "needs_approval": (WANTED,), "denied": (FORBIDDEN,)}
    return Verdict.model_validate(
        {
            "request_id": plan.request_id,
            "plan_id": test_id(f"plan {plan.evaluation}"),
            "decision": decision,
            "reasons": reasons[decision],
            "plan": plan,
            "obligations": obligations,
        }
    )
