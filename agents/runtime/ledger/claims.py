"""Who may act, and what stands in the end: the rules of the effect ledger, without a database.

A step's effect is ``started`` by an owner who holds a lease, then ``done``, ``failed`` (known to
have had no effect) or ``unknown``. The first outcome that is settled for an attempt stands, whether
an owner or a person settled it.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from agents.runtime.ports import EffectClaim, Refusal, Resolution
from schemas import AgentMessage, Step, StepResult

EffectStatus = Literal["started", "done", "failed", "unknown"]
EffectKey = tuple[str, UUID, int, str]
"""Lane, correlation id, run number, step id."""
UNSETTLED: Final[frozenset[EffectStatus]] = frozenset({"started", "unknown"})
"""Nobody can say yet whether the effect happened."""

SETTLED: Final[dict[str, EffectStatus]] = {
    "success": "done",
    "failed": "failed",
    "unknown": "unknown",
}
"""What an effect is once a step has ended."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Who has said what became of an effect."""

    by: str
    reason: str
    command_id: UUID


@dataclass(frozen=True, slots=True)
class EffectRecord:
    """What the ledger holds of one step's effect."""

    attempt: int
    status: EffectStatus
    owner: str
    lease_until: datetime
    plan_id: UUID
    plan_hash: str
    action: str
    result: StepResult | None
    claimed_at: datetime
    settled_at: datetime | None
    resolved: Resolved | None = None
    """Where it was a person who settled it."""


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """One call of ``Ledger.claim_effect``."""

    message: AgentMessage[Step]
    owner: str
    lease_until: datetime
    now: datetime

    @property
    def key(self) -> EffectKey:
        """The effect that it is about."""
        return _key_of(self.message)

    def apply(self, held: EffectRecord | None) -> tuple[EffectRecord, EffectClaim]:
        """What becomes of the record, and the answer."""
        step = self.message.payload
        if held is None or (held.status == "failed" and step.attempt > held.attempt):
            return self._taken(), EffectClaim("go")
        if held.status == "started":
            return self._contested(held)
        if held.result is None:
            return held, EffectClaim("in_doubt")
        return held, EffectClaim("recorded", held.result)

    def _contested(self, held: EffectRecord) -> tuple[EffectRecord, EffectClaim]:
        step = self.message.payload
        if (held.owner, held.attempt) == (self.owner, step.attempt):
            # The same handling asks again, since the answer to its first call was lost.
            return self._taken(), EffectClaim("go")
        if held.lease_until > self.now:
            return held, EffectClaim("busy", lease_until=held.lease_until)
        if step.effect == "effect":
            return replace(held, status="unknown"), EffectClaim("in_doubt")
        return self._taken(), EffectClaim("go")

    def _taken(self) -> EffectRecord:
        step = self.message.payload
        return EffectRecord(
            attempt=step.attempt,
            status="started",
            owner=self.owner,
            lease_until=self.lease_until,
            plan_id=step.plan_id,
            plan_hash=step.plan_hash,
            action=step.action,
            result=None,
            claimed_at=self.now,
            settled_at=None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Settlement:
    """One call of ``Ledger.settle_effect``."""

    message: AgentMessage[Step]
    result: StepResult
    owner: str
    now: datetime

    @property
    def key(self) -> EffectKey:
        """The effect that it is about."""
        return _key_of(self.message)

    def apply(self, held: EffectRecord | None) -> tuple[EffectRecord, StepResult]:
        """What becomes of the record, and the answer.

        Raises:
            LookupError: Nobody claimed the effect, or ``owner`` never held it; a bug.
        """
        step = self.message.payload
        if held is None:
            raise LookupError(f"step {step.step_id}: {self.owner} settles what nobody claimed")
        if held.attempt > step.attempt:
            return held, self.result  # settled before: a later attempt could not begin otherwise
        if held.status in ("done", "failed"):
            return held, held.result or self.result
        # What must not be repeated has one owner per attempt. What may be repeated can have had
        # several, and each knows a true outcome.
        is_owner = held.owner == self.owner or step.effect != "effect"
        if held.status == "unknown":
            resolves = is_owner and self.result.status != "unknown"
            if not resolves and held.result is not None:
                return held, held.result
            if not resolves and self.result.status != "unknown":
                raise LookupError(f"step {step.step_id}: {self.owner} never held this effect")
        elif not is_owner:
            raise LookupError(f"step {step.step_id}: {self.owner} never held this effect")
        return (
            replace(
                held,
                status=SETTLED[self.result.status],
                result=self.result,
                settled_at=self.now,
            ),
            self.result,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Resolving:
    """One call of ``Ledger.resolve_effect``."""

    resolution: Resolution

    @property
    def key(self) -> EffectKey:
        """The effect that it is about."""
        given, result = self.resolution, self.resolution.result
        return (given.lane, given.correlation_id, result.run_no, result.step_id)

    def apply(self, held: EffectRecord | None) -> tuple[EffectRecord, StepResult | Refusal]:
        """What becomes of the record, and the answer."""
        given, result = self.resolution, self.resolution.result
        if held is None or held.attempt < result.attempt:
            return self._settled(), result
        if held.status == "started" and held.lease_until > given.now:
            until = f"{held.lease_until:%Y-%m-%d %H:%M:%S} UTC"
            reason = f"{held.owner} may still be at it, until {until}; say it again after that"
            return held, Refusal("refused", reason)
        if held.status in UNSETTLED:
            return replace(self._settled(), owner=held.owner, claimed_at=held.claimed_at), result
        is_agreed = held.status == SETTLED[result.status] or (
            held.resolved is not None and held.resolved.command_id == given.command_id
        )
        if is_agreed and held.result is not None:
            return held, held.result
        who = held.owner if held.resolved is None else held.resolved.by
        return held, Refusal("effect_settled", f"{who} knows that it is {held.status}")

    def _settled(self) -> EffectRecord:
        given, result = self.resolution, self.resolution.result
        return EffectRecord(
            attempt=result.attempt,
            status=SETTLED[result.status],
            owner=given.resolved_by,
            lease_until=given.now,
            plan_id=given.plan_id,
            plan_hash=given.plan_hash,
            action=result.action,
            result=result,
            claimed_at=result.started_at,
            settled_at=given.now,
            resolved=Resolved(given.resolved_by, given.reason, given.command_id),
        )


Call = Claim | Settlement | Resolving
Answer = EffectClaim | StepResult | Refusal


def apply_to(records: dict[EffectKey, EffectRecord], call: Call) -> Answer | Exception:
    """Let one call change ``records``; returns its answer, or the error that its caller gets."""
    try:
        after, answer = call.apply(records.get(call.key))
    except LookupError as error:
        return error
    records[call.key] = after
    return answer


def _key_of(message: AgentMessage[Step]) -> EffectKey:
    step = message.payload
    return (message.lane, message.correlation_id, step.run_no, step.step_id)
