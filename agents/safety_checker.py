"""Safety checker: says whether a plan may run, by the catalogue's rules and the policies.

Consumes ``Plan``; emits ``Verdict``, bound to the hash of that very plan and recorded in the
ledger before anybody hears of it. Nothing else writes verdicts, and executors run nothing without
one. The verdict holds the moment that the policies saw, so that it can be judged again the same.

A plan is not believed what it says of itself: its hash, its order, its costs and the approvals that
it comes with are compared with its steps, the catalogue and the router's own record.
"""

from agents.policies.rules import out_of_order, played_down
from agents.routing.run import Run
from agents.runtime import Context, role
from agents.runtime.errors import PermanentError, RefusedMessageError
from schemas import AgentMessage, Plan, Verdict, hash_plan


@role("safety_checker")
async def check(plan: Plan, ctx: Context) -> AgentMessage[Verdict]:
    """Judge ``plan``; a plan that was judged before keeps its verdict.

    Raises:
        PermanentError: The plan's hash is not that of its steps, they cannot be run in their
            order, or it plays its costs down.
        RefusedMessageError: It comes with approvals, or finished steps, that the router has not
            written to it.
    """
    expected = hash_plan(plan.steps, lane=ctx.lane, correlation_id=ctx.correlation_id)
    if plan.plan_hash != expected:
        raise PermanentError(
            f"the plan says its hash is {plan.plan_hash}, but its steps have {expected}",
            code="invalid_plan",
        )
    if problems := [*out_of_order(plan), *played_down(plan, ctx.catalogue)]:
        raise PermanentError(
            f"nobody planned it like this: {'; '.join(problems)}"[:8_000] + ". Plan it again.",
            code="invalid_plan",
        )
    if plan.evaluation > 1 or plan.approvals or plan.finished:
        await _check_sent_back(plan, ctx)
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


async def _check_sent_back(plan: Plan, ctx: Context) -> None:
    """Make sure that the router has sent ``plan`` back, with these approvals and finished steps.

    The router writes them in the transaction that sends the plan, so they are there before it.

    Raises:
        RefusedMessageError: It has not.
    """
    if await ctx.ledger.recorded_verdict(lane=ctx.lane, plan_id=ctx.message.message_id):
        return  # it was judged before, and keeps its verdict
    record = await ctx.ledger.run(lane=ctx.lane, correlation_id=ctx.correlation_id)
    run = None if record is None else Run.model_validate_json(record.document)
    if run is None or run.plan is None or not _has_sent(run, run.plan, plan, ctx.tenant):
        claimed = ", ".join(each.approver for each in plan.approvals) or "nobody"
        done = f", with {', '.join(plan.finished)} done" if plan.finished else ""
        raise RefusedMessageError(
            f"the plan says that it is evaluation {plan.evaluation}, approved by {claimed}{done}; "
            "the router has not sent it. Approve, or retry, with a signed command."[:8_000]
        )


def _has_sent(run: Run, known: Plan, plan: Plan, tenant: str) -> bool:
    """Whether ``plan`` is one that the router has made of the ``known`` one."""
    asked = run.approval
    newest = known.evaluation if asked is None else max(known.evaluation, asked.evaluation)
    approvals = () if asked is None else asked.approvals
    return (
        (plan.plan_hash, plan.groups) == (known.plan_hash, known.groups)
        and (tenant, plan.requester) == (run.tenant, run.requester)
        and plan.evaluation <= newest
        and set(plan.approvals) <= set(approvals)
        and set(plan.finished) <= set(known.finished)
    )
