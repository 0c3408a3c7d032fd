"""Router: the one state machine per execution, and the only role that ends one.

Consumes ``Verdict``, ``StepResult``, ``Outcome`` and ``Command``; emits ``Step`` to executors, an
``ExecutionState`` at each change, a ``CommandAnswer`` to each command, and the ``Plan`` once more
when it has been approved. What to do is decided by :mod:`agents.routing`, which is
pure; the ledger keeps run, inbox and outbox in one transaction, so that a crash anywhere neither
loses nor doubles a decision.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError

from agents.routing import resolving
from agents.routing.deadlines import Limits, next_wakeup
from agents.routing.events import BrokerLost, Event, GivenUp, Moved, Wakeup
from agents.routing.machine import react
from agents.routing.progress import next_version
from agents.routing.recent import RecentRuns
from agents.routing.run import Run
from agents.routing.spending import account, left_over
from agents.runtime import Context, InfrastructureError, Services, role
from agents.runtime.errors import ErrorCode
from agents.runtime.ledger.retention import HourlySweep
from agents.runtime.ports import OutboxRow, Refusal, RunRecord, Transition
from agents.runtime.principals import Issuer
from schemas import (
    AgentMessage,
    Command,
    CommandAnswer,
    ExecutionState,
    Outcome,
    Payload,
    Plan,
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
) -> Sequence[OutboxRow[Step | ExecutionState | Plan | CommandAnswer]]:
    """Move the execution by one message."""
    message = ctx.message
    # Found out once, and outside of the transaction: checking a signature takes its time.
    issuer = ctx.services.principals.identify(message) if isinstance(event, Command) else None
    resolved = None
    if isinstance(event, Command) and event.kind == "resolve" and isinstance(issuer, Issuer):
        resolved = await _resolved(message, issuer, ctx)
    return await ctx.ledger.advance(
        lane=ctx.lane,
        correlation_id=ctx.correlation_id,
        event_id=_inbox_id(message),
        decide=lambda record: decide(
            record,
            message,
            lane=ctx.lane,
            correlation_id=ctx.correlation_id,
            event_id=message.message_id,
            now=ctx.now(),
            broker_id=ctx.services.broker_id,
            limits=_limits(ctx.services),
            issuer=issuer,
            resolved=resolved,
        ),
    )


async def _resolved(
    message: AgentMessage[Command], issuer: Issuer, ctx: Context
) -> StepResult | Refusal:
    """What the ledger holds of an effect, now that somebody has said what became of it.

    It is written before the run is moved, in a transaction of its own: the ledger has the truth,
    and the same command, redelivered after a crash in between, finds what it wrote.
    """
    held = await ctx.ledger.run(lane=ctx.lane, correlation_id=ctx.correlation_id)
    run = None if held is None else Run.model_validate_json(held.document)
    asked = resolving.ask(run, message, issuer, ctx.now())
    return asked if isinstance(asked, Refusal) else await ctx.ledger.resolve_effect(asked)


def _inbox_id(message: AgentMessage[Any]) -> UUID:
    """What the inbox knows a message by.

    People choose the ids of their commands. One that repeats the id of another, for another
    execution, must not keep that one from being heard.
    """
    if not isinstance(message.payload, Command):
        return message.message_id
    return derive_message_id(
        lane=message.lane,
        correlation_id=message.correlation_id,
        role=ROLE,
        cause=f"command:{message.message_id}",
        index=0,
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
    issuer: Issuer | Refusal | None = None,
    resolved: StepResult | Refusal | None = None,
) -> Transition:
    """The state machine's answer in the ledger's terms: a record to write, envelopes to send.

    A refused command is no dead letter: whoever issued it gets an answer, as for any other.
    """
    run = None if record is None else _recent.read(lane, correlation_id, record.document)
    # Retries of steps that failed together are spread by the event's own id, not by chance, so
    # that the same events always give the same decisions.
    jitter = (event_id.int & 0xFFFF) / 0xFFFF
    answer = react(
        run,
        event,
        now=now,
        jitter=jitter,
        broker_id=broker_id,
        limits=limits,
        issuer=issuer,
        resolved=resolved,
    )
    if answer is None and isinstance(event, Wakeup) and run is not None and _is_due(record, now):
        # It was to be woken by limits that have been raised since: they count from now on.
        answer = Moved(next_version(run, run.cause, now))
    match answer, event:
        case None, _:
            return Transition(run=None, settlement=left_over(run, event))
        case Refusal() as refusal, AgentMessage(payload=Command() as command):
            about = run or event  # a command can come before there is a run
            envelope = _Envelopes(about, event.message_id, lane, correlation_id, event_id, now)
            return Transition(run=None, emits=(envelope(0, _answer(command, refusal)),))
        case Refusal() as refusal, _:
            return Transition(run=None, refusal=refusal, settlement=left_over(run, event))
        case Moved() as moved, _:
            moved, settlement = account(moved, event)
            return Transition(
                run=_as_record(moved.run, lane, correlation_id, limits),
                emits=_emitted(moved, event, lane, correlation_id, event_id, now),
                discards_outbox=isinstance(event, BrokerLost),
                settlement=settlement,
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


@dataclass(frozen=True, slots=True)
class _Envelopes:
    """Puts what one event brings about into envelopes; their ids come from the event's."""

    about: Run | AgentMessage[Any]
    """What knows whose execution it is."""
    cause: UUID
    lane: str
    correlation_id: UUID
    event_id: UUID
    now: datetime

    def __call__(
        self, index: int, payload: Payload, *, attempt: int = 1, to: str | None = None
    ) -> AgentMessage[Any]:
        """The ``index``-th message."""
        return compose(
            payload,
            message_id=derive_message_id(
                lane=self.lane,
                correlation_id=self.correlation_id,
                role=ROLE,
                cause=self.event_id,
                index=index,
            ),
            correlation_id=self.correlation_id,
            causation_id=self.cause,
            from_agent=ROLE,
            to_agent=to,
            tenant=self.about.tenant,
            lane=self.lane,
            timestamp=self.now,
            received_at=self.about.received_at,
            attempt=attempt,
            external_id=self.about.external_id,
        )


def _emitted(
    moved: Moved, event: Event, lane: str, correlation_id: UUID, event_id: UUID, now: datetime
) -> tuple[AgentMessage[Any], ...]:
    run = moved.run
    envelope = _Envelopes(run, run.cause, lane, correlation_id, event_id, now)
    emitted = [envelope(0, run.as_state(moved.judgement))]
    for step in moved.dispatch:
        to = f"executor_{step.executor}"
        emitted.append(envelope(len(emitted), step, attempt=step.attempt, to=to))
    if moved.plan is not None:
        emitted.append(envelope(len(emitted), moved.plan, to="safety_checker"))
    if isinstance(event, AgentMessage) and isinstance(event.payload, Command):
        emitted.append(envelope(len(emitted), _answer(event.payload, run)))
    return tuple(emitted)


def _answer(command: Command, came_of_it: Run | Refusal) -> CommandAnswer:
    is_accepted = isinstance(came_of_it, Run)
    return CommandAnswer(
        command_id=command.command_id,
        kind=command.kind,
        issued_by=command.issued_by,
        is_accepted=is_accepted,
        code=None if is_accepted else came_of_it.code,
        reason=came_of_it.reason,
    )
