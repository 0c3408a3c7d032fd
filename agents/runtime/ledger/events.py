"""What a batch of events does to runs, as a pure function over what the ledger holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from agents.runtime.budgets import ReservationKey
from agents.runtime.errors import RefusedMessageError
from agents.runtime.ports import Decide, Refusal, RunRecord, Transition
from schemas import AgentMessage

RunKey = tuple[str, UUID]
"""Lane and correlation id."""
EventKey = tuple[str, UUID]
"""Lane and event id."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One call of ``Ledger.advance``."""

    lane: str
    correlation_id: UUID
    event_id: UUID
    decide: Decide

    @property
    def key(self) -> EventKey:
        """What the inbox knows it by."""
        return (self.lane, self.event_id)

    @property
    def run(self) -> RunKey:
        """The run that it moves."""
        return (self.lane, self.correlation_id)


@dataclass(frozen=True, slots=True)
class Emission:
    """A message on its way to the outbox."""

    event: Event
    message: AgentMessage[Any]
    value: bytes
    """The message as JSON."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer to an event that was not refused, be it new or seen before.

    The run's emissions in this batch are a list that later events of the batch share and may
    clear; ``count`` of them were there when this event had been handled.
    """

    run: RunKey
    emissions: list[Emission]
    count: int


@dataclass(slots=True)
class Changes:
    """What is to be written for a batch, and what each of its calls is to be told."""

    runs: dict[RunKey, RunRecord] = field(default_factory=dict)
    emissions: list[Emission] = field(default_factory=list)
    discards: set[RunKey] = field(default_factory=set)
    """Runs of which the outbox must forget what it held before the batch."""
    refusals: dict[EventKey, Refusal] = field(default_factory=dict)
    failures: list[EventKey] = field(default_factory=list)
    """Events whose ``decide`` raised: they must not stay in the inbox."""
    answers: list[Taken | Exception] = field(default_factory=list)
    settlements: dict[ReservationKey, Decimal] = field(default_factory=dict)
    """Reservations to be released, and what their runs have cost."""


def apply(
    events: Sequence[Event],
    runs: Mapping[RunKey, RunRecord],
    seen: Mapping[EventKey, Refusal | None],
) -> Changes:
    """Let each event decide in turn, on the run as the events before it have left it.

    Args:
        events: The batch, in the order of submission.
        runs: What the ledger holds of their runs.
        seen: Those of the events that the inbox knew already, with the refusal of a refused one.
    """
    changes = Changes()
    known = dict(seen)
    emitted: dict[RunKey, list[Emission]] = {}
    for event in events:
        mine = emitted.setdefault(event.run, [])
        if event.key not in known:
            try:
                transition = _decided(event, changes.runs.get(event.run) or runs.get(event.run))
            except Exception as error:  # noqa: BLE001  # it is handed to the caller of this event
                changes.failures.append(event.key)
                changes.answers.append(error)
                continue
            known[event.key] = transition.refusal
            _settle(event, transition, changes)
            if transition.refusal is not None:
                changes.refusals[event.key] = transition.refusal
            else:
                _take(event, transition, mine, changes)
        refusal = known[event.key]
        changes.answers.append(
            Taken(event.run, mine, len(mine))
            if refusal is None
            else RefusedMessageError(refusal.reason, code=refusal.code)
        )
    changes.emissions = [one for emissions in emitted.values() for one in emissions]
    # An event that failed and then succeeded in the same batch stays in the inbox.
    changes.failures = [key for key in changes.failures if key not in known]
    return changes


def _take(event: Event, transition: Transition, mine: list[Emission], changes: Changes) -> None:
    if transition.run is not None:
        changes.runs[event.run] = transition.run
    if transition.discards_outbox:
        changes.discards.add(event.run)
        mine.clear()
    mine.extend(Emission(event, message, message.to_bytes()) for message in transition.emits)


def _settle(event: Event, transition: Transition, changes: Changes) -> None:
    if (settlement := transition.settlement) is not None:
        key = (*event.run, settlement.plan_hash)
        before = changes.settlements.get(key, Decimal(0))
        changes.settlements[key] = before + settlement.actual


def _decided(event: Event, before: RunRecord | None) -> Transition:
    transition = event.decide(before)
    after = transition.run
    if after is None or transition.refusal is not None:
        return transition
    if (after.lane, after.correlation_id) != event.run:
        raise ValueError(f"an event of run {event.run} decided about {after.correlation_id}")
    expected = 1 if before is None else before.version + 1
    if after.version != expected:
        raise ValueError(f"run {event.run} goes to version {expected}, not to {after.version}")
    return transition
