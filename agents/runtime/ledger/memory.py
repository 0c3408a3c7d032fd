"""The ledger of a test: the rules of the real one over dictionaries, gone with the process."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID

from pydantic_core import from_json

from agents.runtime.budgets import Accounts, Budget, BudgetUse, Per
from agents.runtime.clock import SystemClock
from agents.runtime.ledger.claims import (
    UNSETTLED,
    Claim,
    EffectKey,
    EffectRecord,
    Resolving,
    Settlement,
)
from agents.runtime.ledger.events import Event, EventKey, RunKey, apply
from agents.runtime.ports import (
    Approval,
    Clock,
    Decide,
    EffectClaim,
    OutboxRow,
    Refusal,
    Resolution,
    RunRecord,
)
from schemas import AgentMessage, Step, StepResult, Verdict


class MemoryLedger:
    """Implements :class:`agents.runtime.ports.Ledger` for tests of roles."""

    def __init__(self, clock: Clock | None = None, accounts: Accounts | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._runs: dict[RunKey, RunRecord] = {}
        self._inbox: dict[EventKey, Refusal | None] = {}
        self._outbox: dict[int, tuple[RunKey, datetime, OutboxRow[Any]]] = {}
        self._row_ids = count(1)
        self._verdicts: dict[tuple[str, UUID], AgentMessage[Verdict]] = {}
        self._effects: dict[EffectKey, EffectRecord] = {}
        self._moved_at: dict[RunKey, datetime] = {}
        self._seen_at: dict[EventKey, tuple[RunKey, datetime]] = {}
        self._recorded_at: dict[tuple[str, UUID], datetime] = {}
        self._accounts = Accounts() if accounts is None else accounts

    async def advance(
        self, *, lane: str, correlation_id: UUID, event_id: UUID, decide: Decide
    ) -> Sequence[OutboxRow[Any]]:
        """See :meth:`agents.runtime.ports.Ledger.advance`."""
        event = Event(lane, correlation_id, event_id, decide)
        seen = {event.key: self._inbox[event.key]} if event.key in self._inbox else {}
        changes = apply([event], self._runs, seen)
        answer = changes.answers[0]
        if event.key not in changes.failures:
            self._inbox.setdefault(event.key, changes.refusals.get(event.key))
            self._seen_at.setdefault(event.key, (event.run, self._clock.now()))
        for reservation, actual in changes.settlements.items():
            self._accounts.settle(reservation, actual)
        if isinstance(answer, Exception):
            raise answer
        self._runs |= changes.runs
        self._moved_at |= dict.fromkeys(changes.runs, self._clock.now())
        if event.run in changes.discards:
            await self.mark_sent([row.row_id for row in self._rows_of(event.run)])
        for emission in changes.emissions:
            row = OutboxRow(next(self._row_ids), emission.message, emission.value)
            self._outbox[row.row_id] = (event.run, self._clock.now(), row)
        return self._rows_of(event.run)

    async def run(self, *, lane: str, correlation_id: UUID) -> RunRecord | None:
        """See :meth:`agents.runtime.ports.Ledger.run`."""
        return self._runs.get((lane, correlation_id))

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
        key = (message.lane, message.payload.plan_id)
        if key not in self._verdicts:
            self._recorded_at[key] = now = self._clock.now()
            self._verdicts[key] = self._accounts.admit(message, now)
        return self._verdicts[key]

    async def recorded_verdict(self, *, lane: str, plan_id: UUID) -> AgentMessage[Verdict] | None:
        """See :meth:`agents.runtime.ports.Ledger.recorded_verdict`."""
        return self._verdicts.get((lane, plan_id))

    async def approval(self, *, lane: str, correlation_id: UUID, plan_id: UUID) -> Approval | None:
        """See :meth:`agents.runtime.ports.Ledger.approval`."""
        message = self._verdicts.get((lane, plan_id))
        if message is None or message.correlation_id != correlation_id:
            return None
        verdict, run = message.payload, self._runs.get((lane, correlation_id))
        if verdict.decision != "approved":
            return None
        is_stopped = run is not None and run.status not in ("running", "paused")
        run_no = None if run is None else from_json(run.document).get("run_no")
        steps = [step.model_dump(mode="json") for step in verdict.plan.steps]
        return Approval(verdict.plan_hash, is_stopped, steps, run_no)

    async def stopping(self, executions: Collection[RunKey]) -> Collection[RunKey]:
        """See :meth:`agents.runtime.ports.Ledger.stopping`."""
        held = ((key, self._runs.get(key)) for key in executions)
        return [key for key, run in held if run is not None and run.status == "cancelling"]

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

    async def resolve_effect(self, resolution: Resolution) -> StepResult | Refusal:
        """See :meth:`agents.runtime.ports.Ledger.resolve_effect`."""
        resolving = Resolving(resolution)
        self._effects[resolving.key], answer = resolving.apply(self._effects.get(resolving.key))
        return answer

    async def set_budget(
        self, *, lane: str, tenant: str, per: Per, cap: Decimal | None, set_by: str
    ) -> None:
        """See :meth:`agents.runtime.ports.Ledger.set_budget`."""
        del set_by  # nobody asks a test who it was
        budgets = self._accounts.budgets
        others = [each for each in budgets.get((lane, tenant), ()) if each.per != per]
        budgets[lane, tenant] = [*others, *([] if cap is None else [Budget(tenant, per, cap)])]

    async def budget_uses(self, *, lane: str, now: datetime) -> Sequence[BudgetUse]:
        """See :meth:`agents.runtime.ports.Ledger.budget_uses`."""
        return list(self._accounts.uses(lane, now))

    async def release_lost(
        self, *, lane: str, ended_before: datetime, lost_before: datetime, limit: int
    ) -> int:
        """See :meth:`agents.runtime.ports.Ledger.release_lost`."""
        lost = []
        for key, held in self._accounts.reservations.items():
            run = self._runs.get(key[:2])
            before = lost_before if run is None else ended_before
            is_lost = run is None or not run.is_open
            if key[0] == lane and held.is_open and is_lost and held.reserved_at < before:
                lost.append(key)
        for key in lost[:limit]:
            self._accounts.settle(key, Decimal(0))
        return len(lost[:limit])

    async def sweep(self, *, lane: str, before: datetime, limit: int) -> int:
        """See :meth:`agents.runtime.ports.Ledger.sweep`."""
        old = [
            (at, event, run)
            for event, (run, at) in self._seen_at.items()
            if run[0] == lane and at < before and not self._is_kept(run, before)
        ]
        deleted = 0
        for _, event, run in sorted(old, key=lambda entry: entry[0])[:limit]:
            del self._inbox[event], self._seen_at[event]
            effects = [key for key in self._effects if key[:2] == run]
            for key in effects:
                del self._effects[key]
            deleted += 1 + len(effects) + (self._runs.pop(run, None) is not None)
        orphans = [
            key
            for key, at in self._recorded_at.items()
            if key[0] == lane
            and at < before
            and (lane, self._verdicts[key].correlation_id) not in self._runs
        ]
        for plan in orphans[:limit]:
            del self._verdicts[plan], self._recorded_at[plan]
        return deleted + len(orphans[:limit]) + self._sweep_accounts(lane, before, limit)

    def _sweep_accounts(self, lane: str, before: datetime, limit: int) -> int:
        accounts = self._accounts
        settled = [
            key
            for key, held in accounts.reservations.items()
            if key[0] == lane
            and not held.is_open
            and held.reserved_at < before
            and key[:2] not in self._runs
        ][:limit]
        for key in settled:
            del accounts.reservations[key]
        over = [
            key
            for key, used in accounts.spending.items()
            if key[0] == lane and key[2] < f"{before:%Y-%m}" and not used.reserved
        ][:limit]
        for period in over:
            del accounts.spending[period]
        return len(settled) + len(over)

    def _is_kept(self, run: RunKey, before: datetime) -> bool:
        held = self._runs.get(run)
        return (
            (held is not None and (held.is_open or held.status == "unknown"))
            or (held is not None and self._moved_at[run] >= before)
            or any(
                key[:2] == run and effect.status in UNSETTLED
                for key, effect in self._effects.items()
            )
            or any(row_run == run for row_run, _, _ in self._outbox.values())
        )

    def _rows_of(self, run: RunKey) -> list[OutboxRow[Any]]:
        return [row for row_run, _, row in self._outbox.values() if row_run == run]
