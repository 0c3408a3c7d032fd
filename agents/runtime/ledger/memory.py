"""The ledger of a test: the rules of the real one over dictionaries, gone with the process."""

from collections.abc import Sequence
from datetime import datetime
from itertools import count
from typing import Any
from uuid import UUID

from agents.runtime.clock import SystemClock
from agents.runtime.ledger.claims import Claim, EffectKey, EffectRecord, Settlement
from agents.runtime.ledger.events import Event, EventKey, RunKey, apply
from agents.runtime.ports import Clock, Decide, EffectClaim, OutboxRow, Refusal, RunRecord
from schemas import AgentMessage, Step, StepResult, Verdict


class MemoryLedger:
    """Implements :class:`agents.runtime.ports.Ledger` for tests of roles."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._runs: dict[RunKey, RunRecord] = {}
        self._inbox: dict[EventKey, Refusal | None] = {}
        self._outbox: dict[int, tuple[RunKey, datetime, OutboxRow[Any]]] = {}
        self._row_ids = count(1)
        self._verdicts: dict[tuple[str, UUID], AgentMessage[Verdict]] = {}
        self._effects: dict[EffectKey, EffectRecord] = {}

    async def advance(
        self, *, lane: str, correlation_id: UUID, event_id: UUID, decide: Decide
    ) -> Sequence[OutboxRow[Any]]:
        """See :meth:`agents.runtime.ports.Ledger.advance`."""
        event = Event(lane, correlation_id, event_id, decide)
        changes = apply([event], self._runs, self._inbox)
        answer = changes.answers[0]
        if event.key not in changes.failures:
            self._inbox.setdefault(event.key, changes.refusals.get(event.key))
        if isinstance(answer, Exception):
            raise answer
        self._runs |= changes.runs
        if event.run in changes.discards:
            await self.mark_sent([row.row_id for row in self._rows_of(event.run)])
        for emission in changes.emissions:
            row = OutboxRow(next(self._row_ids), emission.message)
            self._outbox[row.row_id] = (event.run, self._clock.now(), row)
        return self._rows_of(event.run)

    async def mark_sent(self, row_ids: Sequence[int]) -> None:
        """See :meth:`agents.runtime.ports.Ledger.mark_sent`."""
        for row_id in row_ids:
            self._outbox.pop(row_id, None)

    async def unsent(
        self, *, lane: str, older_than: datetime, limit: int
    ) -> Sequence[OutboxRow[Any]]:
        """See :meth:`agents.runtime.ports.Ledger.unsent`."""
        rows = [
            row
            for (row_lane, _), written_at, row in self._outbox.values()
            if row_lane == lane and written_at < older_than
        ]
        return rows[:limit]

    async def due(self, *, lane: str, now: datetime, limit: int) -> Sequence[RunRecord]:
        """See :meth:`agents.runtime.ports.Ledger.due`."""
        waiting = [
            (run.next_wakeup, run)
            for run in self._runs.values()
            if run.lane == lane and run.is_open and run.next_wakeup is not None
        ]
        waiting = [entry for entry in waiting if entry[0] <= now]
        return [run for _, run in sorted(waiting, key=lambda entry: entry[0])][:limit]

    async def open_runs(self, *, lane: str, after: UUID | None, limit: int) -> Sequence[RunRecord]:
        """See :meth:`agents.runtime.ports.Ledger.open_runs`."""
        runs = [
            run
            for run in self._runs.values()
            if run.lane == lane and run.is_open and (after is None or run.correlation_id > after)
        ]
        return sorted(runs, key=lambda run: run.correlation_id)[:limit]

    async def record_verdict(self, message: AgentMessage[Verdict]) -> AgentMessage[Verdict]:
        """See :meth:`agents.runtime.ports.Ledger.record_verdict`."""
        return self._verdicts.setdefault((message.lane, message.payload.plan_id), message)

    async def recorded_verdict(self, *, lane: str, plan_id: UUID) -> AgentMessage[Verdict] | None:
        """See :meth:`agents.runtime.ports.Ledger.recorded_verdict`."""
        return self._verdicts.get((lane, plan_id))

    async def approved_plan_hash(
        self, *, lane: str, correlation_id: UUID, plan_id: UUID
    ) -> str | None:
        """See :meth:`agents.runtime.ports.Ledger.approved_plan_hash`."""
        message = self._verdicts.get((lane, plan_id))
        if message is None or message.correlation_id != correlation_id:
            return None
        verdict = message.payload
        return verdict.plan_hash if verdict.decision == "approved" else None

    async def claim_effect(
        self, message: AgentMessage[Step], *, owner: str, lease_until: datetime, now: datetime
    ) -> EffectClaim:
        """See :meth:`agents.runtime.ports.Ledger.claim_effect`."""
        claim = Claim(message, owner, lease_until, now)
        self._effects[claim.key], answer = claim.apply(self._effects.get(claim.key))
        return answer

    async def settle_effect(
        self, message: AgentMessage[Step], result: StepResult, *, owner: str
    ) -> StepResult:
        """See :meth:`agents.runtime.ports.Ledger.settle_effect`."""
        settlement = Settlement(message, result, owner, self._clock.now())
        self._effects[settlement.key], answer = settlement.apply(self._effects.get(settlement.key))
        return answer

    def _rows_of(self, run: RunKey) -> list[OutboxRow[Any]]:
        return [row for row_run, _, row in self._outbox.values() if row_run == run]
