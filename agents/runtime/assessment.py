"""What a plan must pass before it may run: the port behind which the policies are."""

from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol

from agents.runtime.ports import Clock
from schemas import Obligation, Plan, Reason, Step
from schemas.verdict import Decision


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the catalogue's rules and the policies say of a plan."""

    decision: Decision
    reasons: tuple[Reason, ...]
    """Why it is not approved, and what would make it pass."""
    obligations: tuple[Obligation, ...]
    """The approvals that are asked for, those that were given included; of what is denied none, as
    no approval would change that."""
    policies: tuple[str, ...]
    """The ids of the policies that spoke, for or against."""
    policy_set: str
    """The digest of all policies that were in force."""


class Policies(Protocol):
    """What decides whether a plan may run.

    The same inputs give the same assessment for as long as the same policies are in force.
    """

    def judge(self, plan: Plan, *, tenant: str, lane: str, moment: datetime) -> Assessment:
        """Judge a plan by what is known of it; anything that cannot be decided is denied.

        Args:
            plan: With who asks for it, and who has approved it.
            tenant: Who it is accounted to.
            lane: The lane of its execution.
            moment: The time that policies see.
        """
        ...

    def judge_step(
        self, plan: Plan, step: Step, *, tenant: str, lane: str, moment: datetime
    ) -> Assessment:
        """Judge one step of a plan, now that all its parameters are known.

        Raises:
            PermanentError: The step is not one of the plan's.
        """
        ...

    async def follow(self, clock: Clock) -> NoReturn:
        """Take up changes of the policies until cancelled; unsound ones are refused and logged."""
        ...


class NoPolicies:
    """Implements :class:`Policies` where there are none: nothing may run."""

    def judge(self, plan: Plan, *, tenant: str, lane: str, moment: datetime) -> Assessment:
        """Deny the plan."""
        del tenant, lane, moment
        return _denied_for_want_of_policies(plan.steps[0].step_id)

    def judge_step(
        self, plan: Plan, step: Step, *, tenant: str, lane: str, moment: datetime
    ) -> Assessment:
        """Deny the step."""
        del plan, tenant, lane, moment
        return _denied_for_want_of_policies(step.step_id)

    async def follow(self, clock: Clock) -> NoReturn:
        """Wait for ever: nothing changes."""
        while True:
            await clock.sleep(3600)


def _denied_for_want_of_policies(step_id: str) -> Assessment:
    text = "No policies are loaded, and without any nothing may run."
    reason = Reason(policy="no-policies", code="policy_denied", text=text, step_id=step_id)
    return Assessment("denied", (reason,), obligations=(), policies=(), policy_set="0" * 64)
