"""Safety checker: says whether a plan may run, by the catalogue's rules and the policies.

Consumes ``Plan``; emits ``Verdict``, bound to the hash of that very plan and recorded in the
ledger before anybody hears of it. Nothing else writes verdicts, and executors run nothing without
one. The verdict holds the moment that the policies saw, so that it can be judged again the same.
"""

from agents.runtime import Context, role
from agents.runtime.errors import PermanentError
from schemas import AgentMessage, Plan, Verdict, hash_plan


@role("safety_checker")
async def check(plan: Plan, ctx: Context) -> AgentMessage[Verdict]:
    """Judge ``plan``; a plan that was judged before keeps its verdict.

    Raises:
        PermanentError: The plan's hash is not that of its steps.
    """
    expected = hash_plan(plan.steps, lane=ctx.lane, correlation_id=ctx.correlation_id)
    if plan.plan_hash != expected:
        raise PermanentError(
            f"the plan says its hash is {plan.plan_hash}, but its steps have {expected}",
            code="invalid_plan",
        )
    moment = ctx.now()
    assessment = ctx.policies.judge(plan, tenant=ctx.tenant, lane=ctx.lane, moment=moment)
    verdict = Verdict(
        request_id=plan.request_id,
        plan_id=ctx.message.message_id,
        decision=assessment.decision,
        reasons=assessment.reasons,
        plan=plan,
        obligations=assessment.obligations,
        policies=assessment.policies,
        policy_set=assessment.policy_set,
        evaluated_at=moment,
    )
    return await ctx.ledger.record_verdict(ctx.compose(verdict, 0))
