"""The read model as a pure fold: messages in any order, any number of times, give the same rows.

A row consists of groups of columns. Every message offers some groups, each with a precedence, and
of two offers the one with the greater precedence is kept as a whole. Taking the greater of two is
commutative, associative and idempotent, so nothing depends on the order of arrival, on repetition
or on how messages are cut into batches. ``store.sql`` merges rows in the same way, and
:func:`merge_executions` and :func:`merge_steps` are its model.

=========  ========================================  ==============================================
group      precedence                                offered by
=========  ========================================  ==============================================
received   the earliest                              every message but commands and answers
identity   rank, then the lowest message id          see ``facts.IdentityRank``
status     (run_no, version)                         states; before the router: run 0, see
                                                     ``facts.Stage``
judged     the state's version                       states that say so; plans and verdicts: 0
.plan      (evaluation, plan id)                     plans, verdicts
.verdict   (evaluation, message id)                  verdicts
report     (run_no, message id)                      reports
dispatch   attempt                                   steps, per step and run
progress   (version, attempt)                        states; a dispatched step: version 0
=========  ========================================  ==============================================

Plan and verdict come from the state as soon as there is one: a second request under a correlation
id that is taken is refused by the router only when its plan and its verdict are written already.

Outcomes set no status: the router turns them into a state. Results set none either: the state that
they lead to carries their output. Commands and the answers to them belong to the event history
alone, so that a command about an execution that does not exist makes no execution.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from agents.sink.facts import (
    NOT_JUDGED,
    Dispatch,
    ExecutionDelta,
    Identity,
    IdentityRank,
    Judged,
    PlanFacts,
    Progress,
    ReportFacts,
    Stage,
    Status,
    StepDelta,
    StepKey,
    VerdictFacts,
)
from schemas import (
    AgentMessage,
    Command,
    CommandAnswer,
    ExecutionReport,
    ExecutionRequest,
    ExecutionState,
    ExecutionStatus,
    Intent,
    Plan,
    Step,
    StepState,
    Verdict,
)


@dataclass(slots=True)
class ReadModel:
    """The rows that some messages amount to."""

    executions: dict[UUID, ExecutionDelta] = field(default_factory=dict)
    steps: dict[StepKey, StepDelta] = field(default_factory=dict)

    def add(self, message: AgentMessage[Any], topic_id: str | None = None) -> None:
        """Fold one message in; ``topic_id`` is the broker's id of the topic it came on."""
        payload = message.payload
        if isinstance(payload, Command | CommandAnswer):
            return
        self._add_execution(_execution(message, topic_id))
        if isinstance(payload, Step):
            self._add_step(_dispatched(message, payload))
        elif isinstance(payload, ExecutionState):
            for step in payload.steps:
                self._add_step(_stated(message, payload, step))

    def merge(self, other: "ReadModel") -> None:
        """Fold the rows of another batch in."""
        for execution in other.executions.values():
            self._add_execution(execution)
        for step in other.steps.values():
            self._add_step(step)

    def _add_execution(self, delta: ExecutionDelta) -> None:
        known = self.executions.setdefault(delta.correlation_id, delta)
        if known is not delta:
            self.executions[delta.correlation_id] = merge_executions(known, delta)

    def _add_step(self, delta: StepDelta) -> None:
        known = self.steps.setdefault(delta.key, delta)
        if known is not delta:
            self.steps[delta.key] = merge_steps(known, delta)


def fold(messages: Iterable[AgentMessage[Any]]) -> ReadModel:
    """The rows that ``messages`` amount to."""
    model = ReadModel()
    for message in messages:
        model.add(message)
    return model


def merge_executions(a: ExecutionDelta, b: ExecutionDelta) -> ExecutionDelta:
    """What both say together."""
    return ExecutionDelta(
        correlation_id=a.correlation_id,
        received_at=min(a.received_at, b.received_at),
        identity=a.identity if a.identity.precedes(b.identity) else b.identity,
        status=_greater(a.status, b.status),
        judged=_merge_judged(a.judged, b.judged),
        report=_greater_or_present(a.report, b.report),
    )


def merge_steps(a: StepDelta, b: StepDelta) -> StepDelta:
    """What both say together."""
    return StepDelta(
        key=a.key,
        action=a.action,
        progress=_greater(a.progress, b.progress),
        dispatch=_later(a.dispatch, b.dispatch),
    )


_F = TypeVar("_F", Status, Progress, PlanFacts, VerdictFacts, ReportFacts)


def _greater(a: _F, b: _F) -> _F:
    """The one with the greater precedence, which is in its first two fields."""
    return a if a[:2] >= b[:2] else b


def _greater_or_present(a: _F | None, b: _F | None) -> _F | None:
    if a is None or b is None:
        return a if b is None else b
    return _greater(a, b)


def _merge_judged(a: Judged, b: Judged) -> Judged:
    if a.version != b.version:
        return a if a.version > b.version else b
    return Judged(
        a.version,
        _greater_or_present(a.plan, b.plan),
        _greater_or_present(a.verdict, b.verdict),
    )


def _later(a: Dispatch | None, b: Dispatch | None) -> Dispatch | None:
    if a is None or b is None:
        return a if b is None else b
    return a if a.attempt >= b.attempt else b


def _execution(message: AgentMessage[Any], topic_id: str | None) -> ExecutionDelta:
    """What one message says about its execution."""
    payload = message.payload
    delta = ExecutionDelta(
        correlation_id=message.correlation_id,
        received_at=message.received_at,
        identity=_identity(message),
        status=_stage(Stage.RECEIVED, topic_id),
    )
    match payload:
        case Intent():
            delta.status = _stage(Stage.PARSED, topic_id)
        case Plan():
            delta.status = _stage(Stage.PLANNED, topic_id)
            delta.judged = Judged(0, _plan(payload, message.message_id), None)
        case Verdict():
            delta.status = _stage(Stage.PLANNED, topic_id)
            verdict = VerdictFacts(
                payload.plan.evaluation, message.message_id, payload.decision, payload.reasons
            )
            delta.judged = Judged(0, _plan(payload.plan, payload.plan_id), verdict)
        case ExecutionState():
            delta.status = _state(payload, topic_id)
            delta.judged = _judged(payload)
        case ExecutionReport():
            delta.report = ReportFacts(payload.run_no, message.message_id, payload.summary)
        case _:  # that the execution exists; the module's docstring says why no more
            pass
    return delta


def _identity(message: AgentMessage[Any]) -> Identity:
    payload = message.payload
    rank: IdentityRank
    request_id: UUID | None
    requester: str | None
    title: str | None
    match payload:
        case ExecutionRequest():
            rank, request_id = IdentityRank.REQUEST, message.message_id
            requester, title = payload.requester.user, payload.text
        case ExecutionState() if payload.request_id is not None:
            rank, request_id = IdentityRank.STATE, payload.request_id
            requester, title = payload.requester, payload.title
        case Intent() | Plan():
            rank, request_id = IdentityRank.DERIVED, payload.request_id
            requester, title = payload.requester, payload.title
        case _:
            rank, request_id = IdentityRank.ENVELOPE, payload.request_id
            requester, title = None, None
    return Identity(
        rank=rank,
        source=message.message_id,
        request_id=request_id,
        tenant=message.tenant,
        external_id=message.external_id,
        requester=requester,
        title=title,
    )


_STATUS_OF_STAGE = {
    Stage.RECEIVED: ExecutionStatus.RECEIVED.value,
    Stage.PARSED: ExecutionStatus.PARSED.value,
    Stage.PLANNED: ExecutionStatus.PLANNED.value,
}


@lru_cache
def _stage(stage: Stage, topic_id: str | None) -> Status:
    return Status(0, stage, _STATUS_OF_STAGE[stage], topic_id)


def _state(state: ExecutionState, topic_id: str | None) -> Status:
    return Status(
        run_no=state.run_no,
        version=state.version,
        status=state.status.value,
        topic_id=topic_id,
        code=state.code,
        reason=state.reason,
        started_at=state.started_at,
        finished_at=state.updated_at if state.status.is_terminal else None,
        cost=state.cost.total,
    )


def _plan(plan: Plan, plan_id: UUID) -> PlanFacts:
    return PlanFacts(plan.evaluation, plan_id, plan.plan_hash, plan.cost.total)


def _judged(state: ExecutionState) -> Judged:
    """What a state says about plan and verdict, be it that there are none."""
    judgement = state.judgement
    if judgement is None or state.plan_id is None or state.plan_hash is None:
        return NOT_JUDGED if state.plan_id else Judged(state.version, None, None)
    return Judged(
        state.version,
        PlanFacts(judgement.evaluation, state.plan_id, state.plan_hash, state.cost.total),
        VerdictFacts(
            judgement.evaluation, judgement.verdict_id, judgement.decision, judgement.reasons
        ),
    )


def _dispatched(message: AgentMessage[Any], step: Step) -> StepDelta:
    return StepDelta(
        key=StepKey(message.correlation_id, step.run_no, step.step_id),
        action=step.action,
        progress=Progress(0, step.attempt, "running"),
        dispatch=Dispatch(step.attempt, step.executor, step.effect, step.parameters),
    )


def _stated(message: AgentMessage[Any], state: ExecutionState, step: StepState) -> StepDelta:
    return StepDelta(
        key=StepKey(message.correlation_id, state.run_no, step.step_id),
        action=step.action,
        progress=Progress(
            version=state.version,
            attempt=step.attempt,
            status=step.status,
            output=step.output,
            failure=step.failure,
            started_at=step.started_at,
            finished_at=step.finished_at,
        ),
    )
