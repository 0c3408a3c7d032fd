"""The ledger in Postgres: calls that are made at the same time share a transaction."""

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Final, cast
from uuid import UUID

import structlog

from agents.runtime.budgets import BudgetUse, Per
from agents.runtime.clock import SystemClock
from agents.runtime.database import Database
from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError
from agents.runtime.ledger.claims import Answer, Call, Claim, Resolving, Settlement
from agents.runtime.ledger.coalesce import Coalescer
from agents.runtime.ledger.events import Event, RunKey
from agents.runtime.ledger.postgres_budgets import BudgetStore
from agents.runtime.ledger.postgres_effects import EffectStore
from agents.runtime.ledger.postgres_runs import Rows, RunStore
from agents.runtime.ledger.postgres_sweep import SweepStore
from agents.runtime.ledger.postgres_verdicts import ApprovalKey, VerdictStore
from agents.runtime.metrics import Metrics
from agents.runtime.ports import (
    Approval,
    Clock,
    Decide,
    EffectClaim,
    Refusal,
    Resolution,
    RunRecord,
)
from schemas import AgentMessage, Step, StepResult, Verdict

_SENT_DELAY: Final = 0.2
"""Seconds after which confirmed rows are deleted if no batch has taken them along."""

_log = structlog.get_logger(__name__)


class PostgresLedger:
    """Implements :class:`agents.runtime.ports.Ledger`; ``start`` before use, ``close`` after.

    It owns ``database``: opens it, and closes it.
    """

    def __init__(
        self, database: Database, clock: Clock | None = None, metrics: Metrics | None = None
    ) -> None:
        metrics = Metrics() if metrics is None else metrics
        self._database = database
        self._clock = SystemClock() if clock is None else clock
        self._runs = RunStore(database, self._clock)
        self._budgets = BudgetStore(database, self._clock)
        self._verdicts = VerdictStore(database, self._clock, self._budgets)
        self._effects = EffectStore(database)
        self._sweeps = SweepStore(database)
        self._advances: Coalescer[Event, Rows] = Coalescer(
            self._advance_batch, metrics=metrics.ledger("advance")
        )
        self._recordings = Coalescer(self._verdicts.record, metrics=metrics.ledger("verdict"))
        self._approvals: Coalescer[ApprovalKey, Approval | None] = Coalescer(
            self._verdicts.approvals, metrics=metrics.ledger("approval")
        )
        self._acts: Coalescer[Call, Answer] = Coalescer(
            self._effects.apply, metrics=metrics.ledger("effect")
        )
        self._sent: set[int] = set()
        self._deleting: set[int] = set()
        self._deleter: asyncio.Task[None] | None = None
        # While one transaction deletes rows, another one would still see them and return them.
        self._outbox_lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect.

        Raises:
            ConfigurationError: The database has no ledger, or refuses us.
            DatabaseUnavailableError: Postgres cannot be reached.
        """
        await self._database.start()
        if not await self._database.fetch(b"SELECT 1 WHERE to_regclass('ledger.runs') IS NOT NULL"):
            await self._database.close()
            raise ConfigurationError(
                "the database has no ledger yet: run its migrations first (`millstream migrate`)"
            )

    async def close(self) -> None:
        """Finish what is under way, delete what was confirmed, and disconnect."""
        for coalescer in (self._advances, self._recordings, self._approvals, self._acts):
            await coalescer.drain()
        if self._deleter is not None:
            self._deleter.cancel()
            await asyncio.wait([self._deleter])
        try:
            await self._delete_sent()
        except DatabaseUnavailableError as error:
            # They will be published once more by whoever sweeps, which does no harm.
            _log.warning("outbox_rows_left", rows=len(self._sent), reason=error.reason)
        await self._database.close()

    async def advance(
        self, *, lane: str, correlation_id: UUID, event_id: UUID, decide: Decide
    ) -> Rows:
        """See :meth:`agents.runtime.ports.Ledger.advance`."""
        return await self._advances.submit(Event(lane, correlation_id, event_id, decide))

    async def run(self, *, lane: str, correlation_id: UUID) -> RunRecord | None:
        """See :meth:`agents.runtime.ports.Ledger.run`."""
        return await self._runs.find(lane=lane, correlation_id=correlation_id)

    async def mark_sent(self, row_ids: Sequence[int]) -> None:
        """Forget rows with the next batch, or in a moment; the answer does not wait for it."""
        self._sent.update(row_ids)
        if self._deleter is None and self._sent:
            self._deleter = asyncio.create_task(self._delete_soon(), name="ledger-deleter")

    async def unsent(self, *, lane: str, older_than: datetime, limit: int) -> Rows:
        """See :meth:`agents.runtime.ports.Ledger.unsent`."""
        confirmed = frozenset(self._sent | self._deleting)
        return await self._runs.unsent(
            lane=lane, older_than=older_than, limit=limit, besides=confirmed
        )

    async def due(self, *, lane: str, now: datetime, limit: int) -> Sequence[RunRecord]:
        """See :meth:`agents.runtime.ports.Ledger.due`."""
        return await self._runs.due(lane=lane, now=now, limit=limit)

    async def open_runs(self, *, lane: str, after: UUID | None, limit: int) -> Sequence[RunRecord]:
        """See :meth:`agents.runtime.ports.Ledger.open_runs`."""
        return await self._runs.open_runs(lane=lane, after=after, limit=limit)

    async def record_verdict(self, message: AgentMessage[Verdict]) -> AgentMessage[Verdict]:
        """See :meth:`agents.runtime.ports.Ledger.record_verdict`."""
        return await self._recordings.submit(message)

    async def recorded_verdict(self, *, lane: str, plan_id: UUID) -> AgentMessage[Verdict] | None:
        """See :meth:`agents.runtime.ports.Ledger.recorded_verdict`."""
        key = (lane, plan_id)
        return (await self._verdicts.recorded([key])).get(key)

    async def approval(self, *, lane: str, correlation_id: UUID, plan_id: UUID) -> Approval | None:
        """See :meth:`agents.runtime.ports.Ledger.approval`."""
        return await self._approvals.submit((lane, correlation_id, plan_id))

    async def stopping(self, executions: Collection[RunKey]) -> Collection[RunKey]:
        """See :meth:`agents.runtime.ports.Ledger.stopping`."""
        return await self._runs.stopping(executions)

    async def claim_effect(
        self, message: AgentMessage[Step], *, owner: str, lease_until: datetime, now: datetime
    ) -> EffectClaim:
        """See :meth:`agents.runtime.ports.Ledger.claim_effect`."""
        answer = await self._acts.submit(Claim(message, owner, lease_until, now))
        return cast("EffectClaim", answer)

    async def settle_effect(
        self, message: AgentMessage[Step], result: StepResult, *, owner: str
    ) -> StepResult:
        """See :meth:`agents.runtime.ports.Ledger.settle_effect`.

        Raises:
            LookupError: ``owner`` never held the effect; a bug of the caller.
        """
        answer = await self._acts.submit(Settlement(message, result, owner, self._clock.now()))
        return cast("StepResult", answer)

    async def resolve_effect(self, resolution: Resolution) -> StepResult | Refusal:
        """See :meth:`agents.runtime.ports.Ledger.resolve_effect`."""
        answer = await self._acts.submit(Resolving(resolution))
        return cast("StepResult | Refusal", answer)

    async def set_budget(
        self, *, lane: str, tenant: str, per: Per, cap: Decimal | None, set_by: str
    ) -> None:
        """See :meth:`agents.runtime.ports.Ledger.set_budget`."""
        await self._budgets.set(lane=lane, tenant=tenant, per=per, cap=cap, set_by=set_by)

    async def budget_uses(self, *, lane: str, now: datetime) -> Sequence[BudgetUse]:
        """See :meth:`agents.runtime.ports.Ledger.budget_uses`."""
        return await self._budgets.uses(lane=lane, now=now)

    async def release_lost(
        self, *, lane: str, ended_before: datetime, lost_before: datetime, limit: int
    ) -> int:
        """See :meth:`agents.runtime.ports.Ledger.release_lost`."""
        return await self._budgets.release_lost(
            lane=lane, ended_before=ended_before, lost_before=lost_before, limit=limit
        )

    async def sweep(self, *, lane: str, before: datetime, limit: int) -> int:
        """See :meth:`agents.runtime.ports.Ledger.sweep`."""
        return (await self._sweeps.sweep(lane=lane, before=before, limit=limit)).rows

    async def _advance_batch(self, events: Sequence[Event]) -> list[Rows | Exception]:
        async with self._outbox_lock:
            with self._taking_sent() as sent:
                return await self._runs.advance(events, sent=sent)

    async def _delete_sent(self) -> None:
        async with self._outbox_lock:
            with self._taking_sent() as sent:
                if sent:
                    await self._runs.delete(sent)

    async def _delete_soon(self) -> None:
        try:
            while self._sent:
                await asyncio.sleep(_SENT_DELAY)
                try:
                    await self._delete_sent()
                except DatabaseUnavailableError as error:
                    _log.debug("outbox_rows_kept", rows=len(self._sent), reason=error.reason)
        finally:
            self._deleter = None

    @contextmanager
    def _taking_sent(self) -> Iterator[list[int]]:
        """Confirmed rows to delete; they are kept for another time if that fails."""
        taken, self._sent = self._sent, set()
        self._deleting |= taken
        try:
            yield sorted(taken)
        except BaseException:
            self._sent |= taken
            raise
        finally:
            self._deleting -= taken
