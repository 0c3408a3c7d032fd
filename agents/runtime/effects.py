"""The policy around an executor: nothing runs unapproved, and nothing that matters runs twice.

In order: an approved verdict binds this very plan, and the step is one of the plan's; the effect is
claimed in the ledger, which may know already what became of it; unless the execution was stopped
meanwhile, the action is not in the catalogue any more or not this executor's, the parameters do not
fit, or policies object to what nobody knew when the plan was judged, it is carried out
(:mod:`agents.runtime.outcomes`); its outcome is recorded, and what the ledger then holds is the
result. A cancel that comes meanwhile breaks it off (:mod:`agents.runtime.running`), and the result
says what is known.

A process that dies leaves its claim behind, and the ledger's lease says what becomes of it. A
process that lives, but loses the database between doing and recording, keeps the outcome in
memory: the step is handed to it again, and it records instead of doing it twice.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid4, uuid5
from weakref import WeakValueDictionary

import structlog

from agents.runtime.catalogue import ActionSpec
from agents.runtime.context import Context
from agents.runtime.errors import PermanentError, UnapprovedStepError
from agents.runtime.outcomes import (
    Ending,
    carry_out,
    is_repeatable,
    judge,
    result_of,
    sayable,
    unknown,
)
from agents.runtime.planned import check_is_planned
from agents.runtime.ports import EffectClaim
from agents.runtime.running import Running
from schemas import Failure, JsonObject, Step, StepResult

_IDEMPOTENCY: Final = UUID("0b8f7f0e-7b0e-5c62-8c8b-6566666563ff")
_FIRST_POLL: Final = 0.1
_LONGEST_POLL: Final = 2.0
#: A lease that has just run out by this clock may still be live by the database's.
_SHORTEST_POLL: Final = 0.02

Call = Callable[[Step, ActionSpec, Context, datetime], Awaitable[JsonObject]]
"""Does what a step asks for, before the deadline, and returns its output; may be called several
times."""

_Key = tuple[str, UUID, int, str, int]

_log = structlog.get_logger(__name__)


def idempotency_key(step: Step, ctx: Context) -> str:
    """What tells the other side that two calls mean one effect.

    The same over redeliveries and attempts of a run; another one once a person has begun a new run
    by a ``retry`` or a ``resolve``.
    """
    parts = (ctx.lane, str(ctx.correlation_id), str(step.run_no), step.step_id)
    return str(uuid5(_IDEMPOTENCY, "\x1f".join(parts)))


def new_owner() -> str:
    """A name for this process that no other one has, not even its successor with the same pid."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


@dataclass(frozen=True)
class EffectPolicy:
    """Runs steps for one executor; call it with a step and its context."""

    executor: str
    call: Call
    owner: str = field(default_factory=new_owner)
    _outcomes: dict[_Key, StepResult] = field(default_factory=dict)
    """What is known here, but not yet in the ledger."""
    _locks: WeakValueDictionary[_Key, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def __call__(self, step: Step, ctx: Context) -> StepResult:
        """The result of ``step``, whether of this call or recorded before.

        Raises:
            InfrastructureError: The ledger cannot be reached; calling again later is safe.
        """
        try:
            is_stopped = await _check_approval(step, ctx)
        except PermanentError as error:
            return _refused(step, error, ctx)
        allowed = await self._allowed(step, ctx)
        key = (ctx.lane, ctx.correlation_id, step.run_no, step.step_id, step.attempt)
        # One at a time here: the ledger tells processes apart, not tasks of one process.
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._outcomes.get(key)
            if known is None:
                with ctx.services.running.step_of(ctx.lane, ctx.correlation_id) as running:
                    claim = await self._claim(step, ctx)
                    if claim.result is not None:
                        # Perhaps of another attempt: what is done is done for each of them.
                        return claim.result.replace(attempt=step.attempt)
                    if claim.decision == "in_doubt":
                        known = _in_doubt(step, ctx)
                    elif is_stopped or running.is_stopped:
                        known = _not_begun(step, ctx)
                    elif isinstance(allowed, PermanentError):
                        known = _refused(step, allowed, ctx)
                    else:
                        known = await self._carry_out(key, step, allowed, ctx, running)
            return await self._settle(key, known, ctx)

    async def _allowed(self, step: Step, ctx: Context) -> ActionSpec | PermanentError:
        """The action of an approved step, or why it may not be done as things are now.

        An objection holds only for who has claimed the effect: what was done before stays done.
        """
        try:
            action = self._action_of(step, ctx)
            _check_parameters(step, action)
            await _check_late_parameters(step, ctx)
        except PermanentError as error:
            return error
        return action

    def _action_of(self, step: Step, ctx: Context) -> ActionSpec:
        action = ctx.catalogue.action(step.action)
        if action.executor != self.executor:
            raise PermanentError(
                f"{action.id} is done by the executor {action.executor}, not {self.executor}",
                code="invalid_plan",
            )
        if action.effect != step.effect:
            raise PermanentError(
                f"the plan was approved when {action.id} was {step.effect}; now the catalogue "
                f"says {action.effect}",
                code="invalid_plan",
            )
        return action

    async def _claim(self, step: Step, ctx: Context) -> EffectClaim:
        """Claim the effect, waiting for as long as somebody else is at it."""
        services = ctx.services
        lease = step.time_limit + timedelta(seconds=services.settings.effect_lease_margin)
        poll = _FIRST_POLL
        while True:
            now = ctx.now()
            claim = await ctx.ledger.claim_effect(
                ctx.message, owner=self.owner, lease_until=now + lease, now=now
            )
            if claim.decision != "busy":
                return claim
            left = (claim.lease_until - now).total_seconds() if claim.lease_until else poll
            await services.clock.sleep(max(min(poll, left), _SHORTEST_POLL))
            poll = min(poll * 2, _LONGEST_POLL)

    async def _carry_out(
        self, key: _Key, step: Step, action: ActionSpec, ctx: Context, running: Running
    ) -> StepResult:
        services, started_at = ctx.services, ctx.now()
        deadline = started_at + step.time_limit
        try:
            return await carry_out(
                step,
                lambda: self.call(step, action, ctx, deadline),
                clock=services.clock,
                deadline=deadline,
                random=services.random.random,
                running=running,
            )
        except asyncio.CancelledError:
            if not is_repeatable(step):
                ending = unknown("effect_unknown", "the process stopped in the middle of it")
                self._outcomes[key] = result_of(
                    step, ending, started_at=started_at, finished_at=ctx.now()
                )
            raise

    async def _settle(self, key: _Key, result: StepResult, ctx: Context) -> StepResult:
        self._outcomes[key] = result
        settled = await ctx.ledger.settle_effect(ctx.message, result, owner=self.owner)
        del self._outcomes[key]
        is_known = result.status != "unknown" and not is_repeatable(ctx.message.payload)
        if is_known and settled.status != result.status:
            # A person has resolved it meanwhile, and was wrong.
            _log.error(
                "outcome_comes_too_late",
                correlation_id=str(ctx.correlation_id),
                step_id=result.step_id,
                outcome=result.status,
                ledger=settled.status,
            )
        return settled


async def _check_approval(step: Step, ctx: Context) -> bool:
    """Whether the execution has been stopped, or begun anew, since the step was dispatched."""
    approval = await ctx.ledger.approval(
        lane=ctx.lane, correlation_id=ctx.correlation_id, plan_id=step.plan_id
    )
    if approval is None:
        raise UnapprovedStepError(f"there is no approved verdict on plan {step.plan_id}")
    if approval.plan_hash != step.plan_hash:
        raise UnapprovedStepError(
            f"the verdict on plan {step.plan_id} approves {approval.plan_hash[:12]}…, "
            f"but the step belongs to {step.plan_hash[:12]}…"
        )
    check_is_planned(step, approval.steps)
    if approval.run_no is None or step.run_no == approval.run_no:
        return approval.is_stopped
    if step.run_no > approval.run_no:
        raise UnapprovedStepError(
            f"the step belongs to run {step.run_no}, but the execution is at run {approval.run_no}"
        )
    return True


def _check_parameters(step: Step, action: ActionSpec) -> None:
    problems = action.check_parameters(step.parameters, allow_references=False)
    if problems:
        raise PermanentError(sayable("; ".join(problems)), code="invalid_parameters")


def _not_begun(step: Step, ctx: Context) -> StepResult:
    """What is said only by who has claimed the effect: what was done before stays done."""
    now = ctx.now()
    reason = "the execution was stopped before the step began"
    ending = Ending("failed", Failure(code="cancelled", reason=reason))
    return result_of(step, ending, started_at=now, finished_at=now)


async def _check_late_parameters(step: Step, ctx: Context) -> None:
    """Have policies judge a step, now that the outputs of earlier steps are known.

    The plan is judged as it would have been had they been known then, at the verdict's moment.

    Raises:
        PermanentError: They object, or the step is not the one that was approved.
    """
    if not step.resolved:
        return
    recorded = await ctx.ledger.recorded_verdict(lane=ctx.lane, plan_id=step.plan_id)
    if recorded is None:
        raise UnapprovedStepError(f"there is no verdict on plan {step.plan_id}")
    verdict = recorded.payload
    assessment = ctx.policies.judge_step(
        verdict.plan,
        step,
        tenant=recorded.tenant,
        lane=ctx.lane,
        moment=verdict.evaluated_at or recorded.timestamp,
    )
    if assessment.decision == "approved":
        return
    late = ", ".join(step.resolved)
    why = " ".join(reason.text for reason in assessment.reasons)
    raise PermanentError(
        sayable(f"with {late} from an earlier step this may not run: {why}"),
        code="policy_denied" if assessment.decision == "denied" else "not_approved",
    )


def _refused(step: Step, error: PermanentError, ctx: Context) -> StepResult:
    _log.warning("step_refused", code=error.code, reason=error.reason, step_id=step.step_id)
    now = ctx.now()
    return result_of(step, judge(step, error), started_at=now, finished_at=now)


def _in_doubt(step: Step, ctx: Context) -> StepResult:
    now = ctx.now()
    ending = unknown("effect_unknown", "an earlier attempt ended without leaving its outcome")
    return result_of(step, ending, started_at=now, finished_at=now)
