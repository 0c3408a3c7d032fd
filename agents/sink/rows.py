"""Rows as the sink writes them; their fields are columns, in the order of ``store.sql``."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from agents.sink.facts import ExecutionDelta, StepDelta
from agents.sink.values import jsonb, text


class EventRow(NamedTuple):
    """A message; ids and moments as text, in the form that JSON has them in."""

    lane: str
    received_on: str
    correlation_id: str
    message_id: str
    causation_id: str | None
    message_type: str
    schema_version: int
    from_agent: str
    to_agent: str | None
    tenant: str
    external_id: str | None
    attempt: int
    timestamp: str
    received_at: str
    topic: str
    partition: int
    offset: int
    size: int
    payload: str

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two events the same one, within the lane."""
        return self.received_on, self.correlation_id, self.message_id


class UnreadableRow(NamedTuple):
    """A record that is no message."""

    lane: str
    topic: str
    topic_id: str
    partition: int
    offset: int
    recorded_at: datetime
    code: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: str


class DeadLetterRow(NamedTuple):
    """A record that its consumer gave up."""

    lane: str
    origin_topic_id: str
    origin_partition: int
    origin_offset: int
    role: str
    origin_topic: str
    code: str
    reason: str
    error_class: str | None
    field: str | None
    attempt: int
    redrives: int
    correlation_id: UUID | None
    key: bytes | None
    value: bytes | None
    headers: str
    partition: int
    offset: int
    dead_lettered_at: datetime

    @property
    def identity(self) -> tuple[str, int, int, str]:
        """What makes two dead letters the same one, within the lane."""
        return self.origin_topic_id, self.origin_partition, self.origin_offset, self.role

    @property
    def order(self) -> tuple[datetime, int, int]:
        """Of two dead letters that are the same one, the first in this order is kept."""
        return self.dead_lettered_at, self.partition, self.offset


class ExecutionRow(NamedTuple):
    """What a batch says about an execution; zero stands for a group that it says nothing about."""

    lane: str
    correlation_id: UUID
    received_at: datetime
    identity_rank: int
    identity_source: UUID
    request_id: UUID | None
    tenant: str
    external_id: str | None
    requester: str | None
    title: str | None
    run_no: int
    version: int
    status: str
    code: str | None
    reason: str | None
    started_at: datetime | None
    finished_at: datetime | None
    cost: Decimal | None
    status_topic_id: str | None
    judged_version: int
    plan_evaluation: int
    plan_id: UUID | None
    plan_hash: str | None
    estimated_cost: Decimal | None
    verdict_evaluation: int
    verdict_id: UUID | None
    verdict: str | None
    verdict_reasons: str | None
    report_run_no: int
    report_id: UUID | None
    summary: str | None


class StepRow(NamedTuple):
    """What a batch says about a step; dispatch attempt zero: nothing about its dispatch."""

    lane: str
    correlation_id: UUID
    run_no: int
    step_id: str
    action: str
    dispatch_attempt: int
    executor: str | None
    effect: str | None
    parameters: str | None
    state_version: int
    attempt: int
    status: str
    output: str | None
    failure: str | None
    started_at: datetime | None
    finished_at: datetime | None


def execution_row(lane: str, delta: ExecutionDelta) -> ExecutionRow:
    """The columns of ``history.executions`` that ``delta`` speaks of."""
    identity, status = delta.identity, delta.status
    judged_version, plan, verdict = delta.judged
    report = delta.report
    return ExecutionRow(
        lane,
        delta.correlation_id,
        delta.received_at,
        identity.rank,
        identity.source,
        identity.request_id,
        identity.tenant,
        text(identity.external_id),
        identity.requester,
        identity.title,
        status.run_no,
        status.version,
        status.status,
        status.code,
        status.reason,
        status.started_at,
        status.finished_at,
        status.cost,
        status.topic_id,
        judged_version,
        0 if plan is None else plan.evaluation,
        None if plan is None else plan.plan_id,
        None if plan is None else plan.plan_hash,
        None if plan is None else plan.estimated_cost,
        0 if verdict is None else verdict.evaluation,
        None if verdict is None else verdict.verdict_id,
        None if verdict is None else verdict.decision,
        None if verdict is None else jsonb(verdict.reasons),
        0 if report is None else report.run_no,
        None if report is None else report.report_id,
        None if report is None else report.summary,
    )


def step_row(lane: str, delta: StepDelta) -> StepRow:
    """The columns of ``history.steps`` that ``delta`` speaks of."""
    progress, dispatch = delta.progress, delta.dispatch
    return StepRow(
        lane,
        delta.key.correlation_id,
        delta.key.run_no,
        delta.key.step_id,
        delta.action,
        0 if dispatch is None else dispatch.attempt,
        None if dispatch is None else dispatch.executor,
        None if dispatch is None else dispatch.effect,
        None if dispatch is None else jsonb(dispatch.parameters),
        progress.version,
        progress.attempt,
        progress.status,
        None if progress.output is None else jsonb(progress.output),
        None if progress.failure is None else jsonb(progress.failure),
        progress.started_at,
        progress.finished_at,
    )
