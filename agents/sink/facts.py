"""What a message can say about an execution and its steps, in groups with a precedence.

:mod:`agents.sink.fold` says which message offers which group, and how two offers merge.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from typing import Final, NamedTuple
from uuid import UUID

from schemas import Failure, JsonObject, Reason


class IdentityRank(IntEnum):
    """How much a message knows of whom and what an execution is for.

    The router's state comes last and counts most: it knows which request the run belongs to.
    """

    ENVELOPE = 0
    REQUEST = 1
    DERIVED = 2
    """A message with a title that a role made from the request."""
    STATE = 3


class Stage(IntEnum):
    """The version of a status in run 0, which is before the router has seen the execution."""

    RECEIVED = 0
    PARSED = 1
    PLANNED = 2
    BROKER_RESET = 3
    """Failed: its messages were on a topic that is gone. ``mark_broker_reset`` writes it."""


class Identity(NamedTuple):
    """Whom and what an execution is for."""

    rank: int
    source: UUID
    """The message that says so."""
    request_id: UUID | None
    tenant: str
    external_id: str | None
    requester: str | None
    title: str | None

    def precedes(self, other: "Identity") -> bool:
        """Whether this one is kept."""
        return (-self.rank, self.source) <= (-other.rank, other.source)


class Status(NamedTuple):
    """Where an execution stands."""

    run_no: int
    version: int
    status: str
    topic_id: str | None
    """The topic that says so; it tells what is lost when a topic is gone."""
    code: str | None = None
    reason: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cost: Decimal | None = None


class PlanFacts(NamedTuple):
    """A plan."""

    evaluation: int
    plan_id: UUID
    plan_hash: str
    estimated_cost: Decimal


class VerdictFacts(NamedTuple):
    """A verdict."""

    evaluation: int
    verdict_id: UUID
    decision: str
    reasons: tuple[Reason, ...]


class Judged(NamedTuple):
    """The plan and its verdict."""

    version: int
    """Of the state that names both; 0 where the plan or the verdict itself speaks.

    Under a correlation id that was used twice there are plans and verdicts of several requests,
    and only the router knows which of them count."""
    plan: PlanFacts | None
    verdict: VerdictFacts | None


NOT_JUDGED: Final = Judged(0, None, None)


class ReportFacts(NamedTuple):
    """The report on the newest run."""

    run_no: int
    report_id: UUID
    summary: str


@dataclass(slots=True)
class ExecutionDelta:
    """What some messages say about one execution."""

    correlation_id: UUID
    received_at: datetime
    identity: Identity
    status: Status
    judged: Judged = NOT_JUDGED
    report: ReportFacts | None = None


class Dispatch(NamedTuple):
    """What was sent to an executor."""

    attempt: int
    executor: str
    effect: str
    parameters: JsonObject


class Progress(NamedTuple):
    """Where a step stands."""

    version: int
    attempt: int
    status: str
    output: JsonObject | None = None
    failure: Failure | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class StepKey(NamedTuple):
    """A step of one run of an execution."""

    correlation_id: UUID
    run_no: int
    step_id: str


@dataclass(slots=True)
class StepDelta:
    """What some messages say about one step of one run."""

    key: StepKey
    action: str
    progress: Progress
    dispatch: Dispatch | None = None
