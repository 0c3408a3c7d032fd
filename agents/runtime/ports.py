"""What roles ask of the world, as protocols: a test hands in fakes, production the real thing."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, Literal, Protocol, TypeVar
from uuid import UUID

from agents.runtime.budgets import BudgetUse, Per, Settlement
from agents.runtime.errors import ErrorCode
from schemas import AgentMessage, JsonObject, Payload, Step, StepResult, Verdict


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> datetime:
        """The moment, aware, in UTC."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""
        ...


class SecretsPort(Protocol):
    """A place that has secrets, such as the environment or a vault."""

    async def fetch(self, name: str) -> str | None:
        """The secret of that name as it is now; ``None`` where this place has none.

        Raises:
            NotSentError: The place does not answer; asking later may help.
            NoSecretError: It has something of that name that is no secret.
        """
        ...


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the ledger keeps it; ``document`` belongs to the router."""

    lane: str
    correlation_id: UUID
    version: int
    """Rises by one with each change; the ledger refuses any other step."""
    status: str
    is_open: bool
    """Whether the run has not ended."""
    document: bytes
    """The router's record of the run, as JSON."""
    next_wakeup: datetime | None
    """When the router wants to look at the run again by itself."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a well-formed message must not be taken."""

    code: ErrorCode
    reason: str


@dataclass(frozen=True, slots=True)
class Transition:
    """What the router decided about one event.

    ``run`` is the record to write (version one above the old one), or ``None`` where nothing
    changes; ``emits`` are composed envelopes that go to the outbox in the same transaction. With
    a ``refusal`` nothing is written but the inbox entry and the ``settlement``.
    """

    run: RunRecord | None
    emits: Sequence[AgentMessage[Any]] = ()
    refusal: Refusal | None = None
    discards_outbox: bool = False
    """Whether what the run's outbox still holds from before must not be published any more."""
    settlement: Settlement | None = None
    """What becomes, in the same transaction, of the money that a verdict has held back; also where
    nothing else changes, and with a refusal."""


Decide = Callable[[RunRecord | None], Transition]
"""The router's pure function, closed over the event: the run so far gives a transition."""


P_co = TypeVar("P_co", bound=Payload, covariant=True)


@dataclass(frozen=True, slots=True)
class OutboxRow(Generic[P_co]):
    """A message that the ledger holds until the broker has confirmed it."""

    row_id: int
    message: AgentMessage[P_co]
    value: bytes
    """The message as JSON, as the ledger keeps it: it is sent as it was written."""


@dataclass(frozen=True, slots=True)
class Approval:
    """What an executor may do by an approved verdict."""

    plan_hash: str
    """The verdict is bound to it."""
    is_stopped: bool
    """Whether the execution is not under way, or not any more, so that nothing of it may begin."""
    steps: Sequence[JsonObject]
    """The steps of the plan that it approves, as JSON."""
    run_no: int | None = None
    """The run that the execution is at; ``None`` before the router has written one."""


@dataclass(frozen=True, slots=True)
class EffectClaim:
    """What the effect ledger answers when an executor is about to act.

    ``go``: this owner may act now. ``recorded``: it was done, ``result`` is what came of it.
    ``busy``: another owner holds a live lease until ``lease_until``. ``in_doubt``: an owner died
    holding an effect that must not be repeated; the ledger has marked it ``unknown``.
    """

    decision: Literal["go", "recorded", "busy", "in_doubt"]
    result: StepResult | None = None
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a person says became of an effect that was in doubt."""

    lane: str
    correlation_id: UUID
    plan_id: UUID
    plan_hash: str
    result: StepResult
    """What is to stand for the attempt from now on."""
    resolved_by: str
    reason: str
    command_id: UUID
    now: datetime


class Ledger(Protocol):
    """The roles' own durable state.

    Calls that are made at the same time may share one transaction. Every method raises
    ``DatabaseUnavailableError`` when Postgres is away; then nothing was changed, or the change
    will be found by the repeated call.
    """

    async def advance(
        self, *, lane: str, correlation_id: UUID, event_id: UUID, decide: Decide
    ) -> Sequence[OutboxRow[Any]]:
        """Move one run by one event, once per event id.

        Runs of one batch are locked in the order of their ids. An event seen before changes
        nothing. Either way the answer holds what the run's outbox still has to publish.

        Raises:
            RefusedMessageError: ``decide`` refused the event, now or when it was first seen.
        """
        ...

    async def run(self, *, lane: str, correlation_id: UUID) -> RunRecord | None:
        """The run of an execution as it was last written; nothing is locked."""
        ...

    async def mark_sent(self, row_ids: Sequence[int]) -> None:
        """Forget outbox rows whose messages the broker has confirmed; may be done lazily."""
        ...

    async def unsent(
        self, *, lane: str, older_than: datetime, limit: int
    ) -> Sequence[OutboxRow[Any]]:
        """Outbox rows that somebody wrote before ``older_than`` and nobody has published."""
        ...

    async def due(self, *, lane: str, now: datetime, limit: int) -> Sequence[RunRecord]:
        """Open runs whose ``next_wakeup`` has come, earliest first; nothing is locked."""
        ...

    async def open_runs(self, *, lane: str, after: UUID | None, limit: int) -> Sequence[RunRecord]:
        """Runs that have not ended, in the order of their ids, from behind ``after`` on."""
        ...

    async def record_verdict(self, message: AgentMessage[Verdict]) -> AgentMessage[Verdict]:
        """Keep a verdict under its plan's message id; the first recorded wins, and is returned.

        Where the tenant has budgets, a verdict that lets its plan run, now or once it is approved,
        reserves in the same transaction what the plan may cost at most, and says so; where a
        budget has too little left the verdict that is kept is ``denied``, with the figures. That a
        tenant has no budget may be known from up to ``FRESH_SECONDS`` ago.
        """
        ...

    async def recorded_verdict(self, *, lane: str, plan_id: UUID) -> AgentMessage[Verdict] | None:
        """The verdict on a plan, if there is one yet."""
        ...

    async def approval(self, *, lane: str, correlation_id: UUID, plan_id: UUID) -> Approval | None:
        """What an approved verdict on ``plan_id`` allows; ``None`` without one."""
        ...

    async def stopping(
        self, executions: Collection[tuple[str, UUID]]
    ) -> Collection[tuple[str, UUID]]:
        """Which of these executions (lane and correlation id) are being cancelled.

        Those that have ended are not: whoever is still at a step of theirs had better find out
        what comes of it.
        """
        ...

    async def claim_effect(
        self, message: AgentMessage[Step], *, owner: str, lease_until: datetime, now: datetime
    ) -> EffectClaim:
        """Claim one attempt at a step's effect for ``owner``.

        The effect's key is (lane, correlation_id, run_no, step_id). A dead lease (``lease_until``
        passed) of a ``read`` or ``idempotent`` step is taken over; of an ``effect`` step it
        becomes ``unknown``. A failed attempt that is known to have had no effect (settled as
        ``failed``) may be claimed again by a higher ``attempt``; the same attempt gets its
        recorded result.
        """
        ...

    async def settle_effect(
        self, message: AgentMessage[Step], result: StepResult, *, owner: str
    ) -> StepResult:
        """Record what came of a claimed attempt; returns what the ledger holds in the end.

        A late owner who knows the outcome resolves ``unknown``; an outcome that is already
        recorded stays.
        """
        ...

    async def resolve_effect(self, resolution: Resolution) -> StepResult | Refusal:
        """Settle an effect that is in doubt by what a person says, and keep who and why.

        It is in doubt as ``unknown``, with a dead lease, or where no executor has ever claimed the
        attempt, which then none can any more. The same command again finds what it did. Where an
        owner has come back meanwhile, what the owner knows stands.

        Returns:
            What the ledger holds now; or why it holds something else.
        """
        ...

    async def set_budget(
        self, *, lane: str, tenant: str, per: Per, cap: Decimal | None, set_by: str
    ) -> None:
        """Let a tenant spend ``cap`` US dollars, or any amount where that is ``None``.

        What is reserved and spent in the periods that are running stays counted.
        """
        ...

    async def budget_uses(self, *, lane: str, now: datetime) -> Sequence[BudgetUse]:
        """All budgets of a lane, and what was taken of them in the periods around ``now``."""
        ...

    async def release_lost(
        self, *, lane: str, ended_before: datetime, lost_before: datetime, limit: int
    ) -> int:
        """Release what was reserved for runs that will never settle it; returns for how many.

        Those are reservations made before ``ended_before`` whose run has ended without ever
        hearing of them, and those made before ``lost_before`` that have no run at all.
        """
        ...

    async def sweep(self, *, lane: str, before: datetime, limit: int) -> int:
        """Delete a batch of what executions left behind that ended before ``before``.

        With a run go its inbox entries, verdicts, effects and settled reservations; what was
        recorded before then of executions that have no run goes too, and what was spent in months
        before that one. Nothing goes of an execution that is open, that is
        ``unknown``, that has an effect which is ``started`` or ``unknown``, or that has messages
        in the outbox. What people did about dead letters goes when it is as old and history has
        forgotten the dead letter. Rows that somebody holds are left for another time.

        Args:
            lane: Whose ledger.
            before: Executions that have changed since are kept.
            limit: How many inbox entries, or how many of the other rows, one batch takes at most.

        Returns:
            How many rows were deleted; 0 when nothing is left to delete.
        """
        ...
