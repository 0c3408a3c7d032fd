"""Effects as the ledger has them, and saying what became of one that is in doubt.

Plain functions, which the command line uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from psycopg import Connection
from pydantic import BaseModel, ConfigDict, TypeAdapter

from agents.routing.run import Run
from agents.runtime.commands import Address, Said, Speaker, make_command
from agents.runtime.database import translated_errors
from agents.runtime.errors import MillstreamError
from agents.runtime.ledger.claims import EffectStatus, Resolved
from agents.runtime.queries import load_queries
from agents.runtime.settings import Settings
from ops.approvals import send, wait_for_answer
from ops.history import History
from schemas import CommandAnswer, JsonObject, StepResult
from schemas.command import EffectOutcome

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_RESOLVED: Final = TypeAdapter(Resolved)


class UnknownEffectError(MillstreamError):
    """The execution has no such step."""

    default_code = "refused"


class Effect(BaseModel):
    """One step's effect in one run."""

    model_config = ConfigDict(frozen=True)

    correlation_id: UUID
    run_no: int
    step_id: str
    attempt: int
    status: EffectStatus
    is_in_doubt: bool
    """Whether nobody knows if it happened: it is ``unknown``, or its owner has died over it."""
    action: str
    owner: str
    lease_until: datetime
    claimed_at: datetime
    settled_at: datetime | None
    tenant: str | None
    """``None`` where the router does not know the execution."""
    result: StepResult | None
    resolved: Resolved | None
    """Where it was a person who settled it."""


@dataclass(frozen=True, slots=True)
class Which:
    """Filters; what is not given lets everything pass."""

    status: EffectStatus | None = None
    in_doubt: bool = False
    action: str | None = None
    before: datetime | None = None
    """Only those that were begun before."""
    tenant: str | None = None
    execution: UUID | None = None
    step_id: str | None = None


def effects(
    connection: Connection[Any], which: Which, *, lane: str, limit: int = 1000
) -> list[Effect]:
    """Effects of a lane, the oldest first."""
    parameters: Mapping[str, Any] = {
        "lane": lane,
        "now": datetime.now(UTC),
        "statuses": None if which.status is None else [which.status],
        "in_doubt": which.in_doubt,
        "action": which.action,
        "before": which.before,
        "tenant": which.tenant,
        "correlation_id": which.execution,
        "step_id": which.step_id,
        "limit": limit,
    }
    with translated_errors():
        rows = connection.execute(_SQL["effects"], parameters).fetchall()
    return [_effect(row) for row in rows]


def find(connection: Connection[Any], given: str, *, lane: str) -> UUID:
    """The execution that a person means.

    Raises:
        UnknownExecutionError: There is none, or several fit.
    """
    return History(connection, lane=lane).find(given)


def resolve(
    settings: Settings,
    connection: Connection[Any],
    execution: UUID,
    step_id: str,
    outcome: EffectOutcome,
    speaker: Speaker,
    *,
    reason: str,
    output: JsonObject | None = None,
    timeout: float = 30.0,
) -> CommandAnswer:
    """Say what became of an effect, and wait for the router's answer.

    Args:
        settings: Where the broker is, and which lane.
        connection: The database with ledger and history.
        execution: Whose step it is.
        step_id: The step, as its execution stands at this moment.
        outcome: What became of it.
        speaker: Who says so.
        reason: How the speaker knows; it is kept with the effect.
        output: What the step would have put out, for steps that refer to it.
        timeout: Seconds to wait for the answer.

    Raises:
        UnknownEffectError: The router knows no such execution or step.
        InvalidMessageError: A value breaks the contract of the topic.
        KafkaUnavailableError: No broker answers.
        NoAnswerError: The router has not answered in time.
    """
    with translated_errors():
        about = {"lane": settings.lane, "correlation_id": execution}
        row = connection.execute(_SQL["run"], about).fetchone()
    run = None if row is None else Run.model_validate_json(row[0])
    if run is None or run.step(step_id) is None:
        steps = "" if run is None else ": " + ", ".join(step.step_id for step in run.steps)
        raise UnknownEffectError(f"execution {execution} has no step {step_id}{steps}")
    message = make_command(
        "resolve",
        Address(settings.lane, execution, run.tenant, run.received_at, run.external_id),
        speaker,
        now=datetime.now(UTC),
        reason=reason,
        said=Said(step_id, run.run_of(step_id), outcome, output),
    )
    send(settings, [message])
    return wait_for_answer(connection, message, timeout=timeout)


def _effect(row: tuple[Any, ...]) -> Effect:
    *plain, result, resolution = row
    names = [name for name in Effect.model_fields if name not in ("result", "resolved")]
    return Effect(
        **dict(zip(names, plain, strict=True)),
        result=None if result is None else StepResult.model_validate_json(result),
        resolved=None if resolution is None else _RESOLVED.validate_json(resolution),
    )
