"""What tests of the ledger put into it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from agents.runtime.ports import Decide, Ledger, OutboxRow, Refusal, RunRecord, Transition
from schemas import (
    AgentMessage,
    CostEstimate,
    Failure,
    Outcome,
    Payload,
    Plan,
    PlanStep,
    Reason,
    RetryPolicy,
    Step,
    StepResult,
    Verdict,
    compose,
    hash_plan,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=60)


class SettableClock:
    """A clock that shows what it is told to."""

    def __init__(self) -> None:
        self.moment = NOON

    def now(self) -> datetime:
        return self.moment

    async def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


def envelope(
    payload: Payload, *, run_id: UUID, lane: str = "", attempt: int = 1
) -> AgentMessage[Any]:
    return compose(
        payload,
        message_id=uuid4(),
        correlation_id=run_id,
        causation_id=uuid4(),
        from_agent="router",
        tenant="default",
        lane=lane,
        timestamp=NOON,
        received_at=NOON,
        attempt=attempt,
    )


def outcome(run_id: UUID, reason: str = "no such service", lane: str = "") -> AgentMessage[Any]:
    payload = Outcome(request_id=run_id, status="failed", code="unknown_action", reason=reason)
    return envelope(payload, run_id=run_id, lane=lane)


def run_record(run_id: UUID, version: int = 1, **fields: Any) -> RunRecord:
    values = {
        "lane": "",
        "status": "running",
        "is_open": True,
        "document": b'{"name": "caf\xc3\xa9",  "v": [1, 2.50]}',
        "next_wakeup": None,
        **fields,
    }
    return RunRecord(correlation_id=run_id, version=version, **values)


def moves(run_id: UUID, *emits: AgentMessage[Any], **fields: Any) -> Decide:
    """A decision that raises the run's version by one."""

    def decide(run: RunRecord | None) -> Transition:
        return Transition(
            run_record(run_id, 1 if run is None else run.version + 1, **fields), emits
        )

    return decide


def refuses(reason: str = "the id is in use") -> Decide:
    refusal = Refusal("correlation_id_in_use", reason)
    return lambda _run: Transition(None, refusal=refusal)


def must_not_decide(_run: RunRecord | None) -> Transition:
    raise AssertionError("the event was seen before, nothing is to be decided")


async def advance(
    ledger: Ledger,
    run_id: UUID,
    decide: Decide,
    *,
    event_id: UUID | None = None,
    lane: str = "",
) -> Sequence[OutboxRow[Any]]:
    return await ledger.advance(
        lane=lane, correlation_id=run_id, event_id=event_id or uuid4(), decide=decide
    )


async def version_of(ledger: Ledger, run_id: UUID, lane: str = "") -> int | None:
    """The version that the next event of the run would meet; asking changes nothing."""
    found: list[int | None] = []

    def look(run: RunRecord | None) -> Transition:
        found.append(None if run is None else run.version)
        return Transition(None)

    await advance(ledger, run_id, look, lane=lane)
    return found[-1]


def ids(rows: Sequence[OutboxRow[Any]]) -> list[UUID]:
    return [row.message.message_id for row in rows]


def verdict(decision: str = "approved", *, lane: str = "", steps: int = 1) -> AgentMessage[Verdict]:
    """A verdict on a plan of an execution of its own."""
    run_id = uuid4()
    step = PlanStep(
        step_id="check",
        action="service.status",
        parameters={"service": "checkout"},
        executor="http",
        effect="read",
        risk="low",
        timeout=5,
        retry=RetryPolicy(),
        cost=CostEstimate(),
    )
    planned = (step, *(step.replace(step_id=f"check_{number}") for number in range(1, steps)))
    plan = Plan(
        request_id=uuid4(),
        title="check checkout",
        requester="tester",
        steps=planned,
        cost=CostEstimate(),
        plan_hash=hash_plan(planned, lane=lane, correlation_id=run_id),
    )
    reason = Reason(policy="risk", code="policy_denied", text="too risky")
    payload = Verdict(
        request_id=plan.request_id,
        plan_id=uuid4(),
        decision=decision,
        reasons=() if decision == "approved" else (reason,),
        plan=plan,
    )
    return envelope(payload, run_id=run_id, lane=lane)


def step(
    effect: str = "effect", *, attempt: int = 1, run_id: UUID | None = None, lane: str = ""
) -> AgentMessage[Step]:
    payload = Step(
        request_id=uuid4(),
        plan_id=uuid4(),
        plan_hash="a" * 64,
        run_no=1,
        step_id="restart",
        action="service.restart",
        executor="http",
        effect=effect,
        parameters={"service": "checkout"},
        attempt=attempt,
        timeout=5,
    )
    return envelope(payload, run_id=run_id or uuid4(), lane=lane, attempt=attempt)


def result(message: AgentMessage[Step], status: str = "success", **fields: Any) -> StepResult:
    work = message.payload
    failure = None if status == "success" else Failure(code="step_failed", reason="it broke")
    return StepResult(
        request_id=work.request_id,
        run_no=work.run_no,
        step_id=work.step_id,
        action=work.action,
        attempt=work.attempt,
        status=status,
        failure=failure,
        started_at=NOON,
        finished_at=NOON,
        **fields,
    )
