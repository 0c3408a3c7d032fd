"""Router: the one state machine per execution, and the only role that ends one.

Consumes ``Verdict``, ``StepResult``, ``Outcome`` and ``Command``; emits ``Step`` to executors and
an ``ExecutionState`` at each change. What to do is decided by :mod:`agents.routing`, which is
pure; the ledger keeps run, inbox and outbox in one transaction, so that a crash anywhere neither
loses nor doubles a decision.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError

from agents.routing.deadlines import Limits, next_wakeup
from agents.routing.machine import BrokerLost, Event, GivenUp, Wakeup, react
from agents.routing.progress import Moved, next_version
from agents.routing.recent import RecentRuns
from agents.routing.run import Run
from agents.runtime import Context, InfrastructureError, Services, role
from agents.runtime.errors import ErrorCode
from agents.runtime.ledger.retention import HourlySweep
from agents.runtime.ports import OutboxRow, Refusal, RunRecord, Transition
from schemas import (
    AgentMessage,
    Command,
    ExecutionState,
    Outcome,
    Payload,
    Step,
    StepResult,
    Verdict,
    compose,
)
from schemas.identity import derive_message_id

ROLE = "router"
_log = structlog.get_logger(__name__)
_PAGE = 200
_sweep = HourlySweep()
_recent = RecentRuns()
_stuck: dict[UUID, int] = {}
"""Runs that could neither be moved nor ended, by version: not tried again in this process."""


async def tick(services: Services, number: int) -> Sequence[OutboxRow[Any]]:
    """Wake runs whose time has come, and publish what somebody else left in the outbox.

    The first tick also ends the runs of a broker that is gone: nothing will ever move them. Once
    an hour the ledger forgets what is older than anything that could come again.
    """
    lane = services.settings.lane
    now = services.clock.now()
    rows: list[OutboxRow[Any]] = []
    if number == 0:
        _sweep.begin()
        rows += await _end_lost_runs(services, lane, now)
    due = await services.ledger.due(lane=lane, now=now, limit=_PAGE)
    rows += await _by_itself(services, due, Wakeup(), now)
    age = timedelta(seconds=services.settings.outbox_sweep_age)
    rows += await services.ledger.unsent(lane=lane, older_than=now - age, limit=_PAGE)
    retention = services.settings.ledger_retention
    await _sweep.turn(services.ledger, lane=lane, now=now, retention=retention)
    return rows


async def give_up(code: ErrorCode, reason: str, ctx: Context) -> Sequence[OutboxRow[Any]]:
    """End the execution, or the step, that a message was about which cannot be handled.

    Without it the run would stay as it is until its deadline.
    """
    event = GivenUp(ctx.message, code, reason)
    cause = f"GivenUp:{ctx.message.message_id}"
    return await _advance(ctx.services, ctx.lane, ctx.correlation_id, event, cause, ctx.now())


@role(ROLE, ticker=tick, keeps_order=True, gives_up=give_up)
async def route(
    event: Verdict | StepResult | Outcome | Command, ctx: Context
) -> Sequence[OutboxRow[Step | ExecutionState]]:
    """Move the execution by one message."""
    del event  # the machine matches on the envelope, which carries it
    message = ctx.message
    return await ctx.ledger.advance(
        lane=ctx.lane,
        correlation_id=ctx.correlation_id,
        event_id=message.message_id,
        decide=lambda record: decide(
            record,
            message,
            lane=ctx.lane,
            correlation_id=ctx.correlation_id,
            event_id=message.message_id,
            now=ctx.now(),
            broker_id=ctx.services.broker_id,
            limits=_limits(ctx.services),
        ),
    )


def _limits(services: Services) -> Limits:
    settings = services.settings
    return Limits(execution=settings.execution_deadline, answer=settings.step_patience)


async def _end_lost_runs(services: Services, lane: str, now: datetime) -> Sequence[OutboxRow[Any]]:
    rows: list[OutboxRow[Any]] = []
    after: UUID | None = None
    while page := await services.ledger.open_runs(lane=lane, after=after, limit=_PAGE):
        after = page[-1].correlation_id
        lost = [record for record in page if _is_of_another_broker(record, services.broker_id)]
        rows += await _by_itself(services, lost, BrokerLost(), now)
    return rows


def _is_of_another_broker(record: RunRecord, broker_id: str) -> bool:
    try:
        return Run.model_validate_json(record.document).broker_id != broker_id
    except ValidationError as error:
        # One run that cannot be read must not keep the router from all others.
        _log.error("unreadable_run", correlation_id=str(record.correlation_id), exc_info=error)
        return False


async def _by_itself(
    services: Services, records: Sequence[RunRecord], event: Wakeup | BrokerLost, now: datetime
) -> list[OutboxRow[Any]]:
    """Move runs by something that is no message.

    The event's cause comes from the run's version, so that several routers that notice the same
    thing move the run once. A run that cannot be moved is ended.
    """

    async def move(record: RunRecord) -> Sequence[OutboxRow[Any]]:
        cause = f"{type(event).__name__}:{record.version}"
        try:
            return await _advance(services, record.lane, record.correlation_id, event, cause, now)
        except InfrastructureError:
            raise
        except Exception as error:  # noqa: BLE001  # one run must not keep the router from the others
            _log.error("timer_failed", correlation_id=str(record.correlation_id), exc_info=error)
            reason = f"the router failed unexpectedly ({type(error).__name__}); the log says more"
            given_up = GivenUp(None, "bug", reason)
            cause = f"GivenUp:{record.version}"
            return await _advance(
                services, record.lane, record.correlation_id, given_up, cause, now
            )

    records = [each for each in records if _stuck.get(each.correlation_id) != each.version]
    moved = await asyncio.gather(*(move(record) for record in records), return_exceptions=True)
    rows: list[OutboxRow[Any]] = []
    for record, outcome in zip(records, moved, strict=True):
        if isinstance(outcome, InfrastructureError):
            raise outcome
        if isinstance(outcome, Exception):
            _log.error("run_is_stuck", correlation_id=str(record.correlation_id), exc_info=outcome)
            _stuck[record.correlation_id] = record.version
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            rows += outcome
    return rows


async def _advance(
    services: Services, lane: str, correlation_id: UUID, event: Event, cause: str, now: datetime
) -> Sequence[OutboxRow[Any]]:
    """Move a run by something that is no message, once per ``cause``."""
    event_id = derive_message_id(
        lane=lane, correlation_id=correlation_id, role=ROLE, cause=cause, index=0
    )
    return await services.ledger.advance(
        lane=lane,
        correlation_id=correlation_id,
        event_id=event_id,
        decide=lambda record: decide(
            record,
            event,
            lane=lane,
            correlation_id=correlation_id,
            event_id=event_id,
            now=now,
            broker_id=services.broker_id,
            limits=_limits(services),
        ),
    )


def decide(
    record: RunRecord | None,
    event: Event,
    *,
    lane: str,
    correlation_id: UUID,
    event_id: UUID,
    now: datetime,
    broker_id: str,
    limits: Limits,
) -> Transition:
    """The state machine's answer in the ledger's terms: a record to write, envelopes to send."""
    run = None if record is None else _recent.read(lane, correlation_id, record.document)
    # Retries of steps that failed together are spread by the event's own id, not by chance, so
    # that the same events always give the same decisions.
    jitter = (event_id.int & 0xFFFF) / 0xFFFF
    answer = react(run, event, now=now, jitter=jitter, broker_id=broker_id, limits=limits)
    if answer is None and isinstance(event, Wakeup) and run is not None and _is_due(record, now):
        # It was to be woken by limits that have been raised since: they count from now on.
        answer = Moved(next_version(run, run.cause, now))
    match answer:
        case None:
            return Transition(run=None)
        case Refusal() as refusal:
            return Transition(run=None, refusal=refusal)
        case Moved() as moved:
            return Transition(
                run=_as_record(moved.run, lane, correlation_id, limits),
                emits=_envelopes(moved, lane, correlation_id, event_id, now),
                discards_outbox=isinstance(event, BrokerLost),
            )


def _is_due(record: RunRecord | None, now: datetime) -> bool:
    return (
        record is not None
        and record.is_open
        and record.next_wakeup is not None
        and record.next_wakeup <= now
    )


def _as_record(run: Run, lane: str, correlation_id: UUID, limits: Limits) -> RunRecord:
    return RunRecord(
        lane=lane,
        correlation_id=correlation_id,
        version=run.version,
        status=run.status.value if run.status is not None else "new",
        is_open=run.is_open,
        document=_recent.write(lane, correlation_id, run),
        next_wakeup=next_wakeup(run, limits),
    )


def _envelopes(
    moved: Moved, lane: str, correlation_id: UUID, event_id: UUID, now: datetime
) -> tuple[AgentMessage[Any], ...]:
    run = moved.run

    def envelope(index: int, payload: Payload, *, attempt: int = 1, to: str | None = None) -> Any:
        return compose(
            payload,
            message_id=derive_message_id(
                lane=lane,
                correlation_id=correlation_id,
                role=ROLE,
                cause=event_id,
                index=index,
            ),
            correlation_id=correlation_id,
            causation_id=run.cause,
            from_agent=ROLE,
            to_agent=to,
            tenant=run.tenant,
            lane=lane,
            timestamp=now,
            received_at=run.received_at,
            attempt=attempt,
            external_id=run.external_id,
        )

    steps = (
        envelope(index, step, attempt=step.attempt, to=f"executor_{step.executor}")
        for index, step in enumerate(moved.dispatch, start=1)
    )
    return (envelope(0, run.as_state(moved.judgement)), *steps)
