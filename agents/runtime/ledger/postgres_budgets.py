"""Budgets in Postgres: reserved with the verdict, settled with the end of the run.

Both happen in the transaction of what they belong to: a crash leaves either the verdict with its
reservation or neither, and no run has ended that still holds money back. Rows are locked,
:mod:`agents.runtime.budgets` decides, and one guarded statement takes what was decided.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from agents.runtime.budgets import (
    FRESH_SECONDS,
    Accounts,
    Budget,
    BudgetUse,
    Per,
    PeriodKey,
    Reservation,
    ReservationKey,
    Spending,
    TenantKey,
    may_run,
    period_of,
)
from agents.runtime.database import ConflictError, Connection, Database
from agents.runtime.ledger.columns import columns
from agents.runtime.ports import Clock
from agents.runtime.queries import bind_queries
from schemas import AgentMessage, Verdict


@dataclass(frozen=True)
class _Queries:
    budget_uses: bytes
    budgets_of: bytes
    delete_budget: bytes
    insert_reservations: bytes
    insert_spending: bytes
    limited_tenants: bytes
    lock_reservations: bytes
    lock_spending: bytes
    lost_reservations: bytes
    reserve_spending: bytes
    settle_reservations: bytes
    upsert_budget: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("budgets.sql"), _Queries)


class BudgetStore:
    """What verdicts, and people, need of the budgets."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._limited: frozenset[TenantKey] = frozenset()
        self._read_at: datetime | None = None

    async def limited(
        self, messages: Iterable[AgentMessage[Verdict]]
    ) -> list[AgentMessage[Verdict]]:
        """Those of the verdicts that draw on a budget.

        Which tenants have one is asked at most every ``FRESH_SECONDS``, so that where nobody has
        one it costs nothing. Someone else's new budget is not seen before.
        """
        now = self._clock.now()
        # A clock that was set back must not make the answer last for longer.
        if self._read_at is None or abs((now - self._read_at).total_seconds()) >= FRESH_SECONDS:
            rows = await self._database.fetch(_SQL.limited_tenants)
            self._limited = frozenset((lane, tenant) for lane, tenant in rows)
            self._read_at = now
        if not self._limited:
            return []
        return [
            message
            for message in messages
            if (message.lane, message.tenant) in self._limited and may_run(message.payload)
        ]

    async def set(
        self, *, lane: str, tenant: str, per: Per, cap: Decimal | None, set_by: str
    ) -> None:
        """See :meth:`agents.runtime.ports.Ledger.set_budget`."""
        query = _SQL.delete_budget if cap is None else _SQL.upsert_budget
        values = {"lane": lane, "tenant": tenant, "per": per, "cap": cap, "set_by": set_by}
        async with self._database.connection() as connection:
            await connection.execute(query, {**values, "now": self._clock.now()})
        self._read_at = None

    async def uses(self, *, lane: str, now: datetime) -> list[BudgetUse]:
        """See :meth:`agents.runtime.ports.Ledger.budget_uses`."""
        periods = {"day": period_of("day", now), "month": period_of("month", now)}
        rows = await self._database.fetch(_SQL.budget_uses, {"lane": lane, **periods})
        uses = [
            BudgetUse(Budget(tenant, per, cap), periods.get(per), Spending(spent, reserved))
            for tenant, per, cap, spent, reserved in rows
        ]
        return list(Accounts.of(lane, uses).uses(lane, now))

    async def release_lost(
        self, *, lane: str, ended_before: datetime, lost_before: datetime, limit: int
    ) -> int:
        """See :meth:`agents.runtime.ports.Ledger.release_lost`."""
        values = {
            "lane": lane,
            "ended_before": ended_before,
            "lost_before": lost_before,
            "limit": limit,
        }

        async def work(connection: Connection) -> int:
            found = await connection.execute(_SQL.lost_reservations, values)
            lost = [(row[0], row[1], row[2]) for row in await found.fetchall()]
            await settle(connection, dict.fromkeys(lost, Decimal(0)))
            return len(lost)

        return await self._database.transact(work)


async def reserve(
    connection: Connection, messages: Sequence[AgentMessage[Verdict]], now: datetime
) -> list[AgentMessage[Verdict]]:
    """What becomes of verdicts that are to be recorded; see :meth:`Accounts.admit`.

    Raises:
        ConflictError: Somebody else has reserved for the same plan meanwhile.
    """
    accounts = await _load(connection, messages, now)
    before = dict(accounts.reservations)
    judged = [accounts.admit(message, now) for message in messages]
    made = {key: held for key, held in accounts.reservations.items() if before.get(key) is not held}
    if made:
        await _take(connection, made, _caps(accounts.budgets, now))
    return judged


async def settle(connection: Connection, settlements: Mapping[ReservationKey, Decimal]) -> None:
    """Release reservations, and count as spent what their runs have cost."""
    if settlements:
        rows = [(*key, actual) for key, actual in settlements.items()]
        await connection.execute(_SQL.settle_reservations, columns(rows, 4))


async def _load(
    connection: Connection, messages: Sequence[AgentMessage[Verdict]], now: datetime
) -> Accounts:
    """The accounts that ``messages`` draw on, locked."""
    tenants = sorted({(message.lane, message.tenant) for message in messages})
    runs = sorted({(message.lane, message.correlation_id) for message in messages})
    async with connection.pipeline():
        found = await connection.execute(_SQL.budgets_of, columns(tenants, 2))
        locked = await connection.execute(_SQL.lock_reservations, columns(runs, 2))
    budgets: dict[TenantKey, list[Budget]] = defaultdict(list)
    for lane, tenant, per, cap in await found.fetchall():
        budgets[lane, tenant].append(Budget(tenant, per, cap))
    reservations = {
        (row[0], row[1], row[2]): Reservation(row[3], tuple(row[4]), *row[5:])
        for row in await locked.fetchall()
    }
    periods = sorted(_caps(budgets, now))
    spending: dict[PeriodKey, Spending] = {}
    if periods:
        async with connection.pipeline():
            await connection.execute(_SQL.insert_spending, columns(periods, 3))
            used = await connection.execute(_SQL.lock_spending, columns(periods, 3))
        for lane, tenant, period, spent, reserved in await used.fetchall():
            spending[lane, tenant, period] = Spending(spent, reserved)
    return Accounts(budgets, spending, reservations)


async def _take(
    connection: Connection,
    made: Mapping[ReservationKey, Reservation],
    caps: Mapping[PeriodKey, Decimal],
) -> None:
    taken: dict[PeriodKey, Decimal] = defaultdict(Decimal)
    for key, held in made.items():
        for period in held.periods:
            taken[key[0], held.tenant, period] += held.amount
    if taken:
        drawn = [(*place, amount, caps[place]) for place, amount in taken.items()]
        cursor = await connection.execute(_SQL.reserve_spending, columns(drawn, 5))
        if cursor.rowcount != len(taken):
            raise ConflictError("a budget has less left than it had under its lock")
    rows = [
        (*key, held.tenant, " ".join(held.periods), held.amount, held.reserved_at)
        for key, held in made.items()
    ]
    cursor = await connection.execute(_SQL.insert_reservations, columns(rows, 7))
    if cursor.rowcount != len(made):
        raise ConflictError("somebody else has reserved for the same plan")


def _caps(budgets: Mapping[TenantKey, Sequence[Budget]], now: datetime) -> dict[PeriodKey, Decimal]:
    """The caps of the periods around ``now``."""
    return {
        (*tenant, period): budget.cap
        for tenant, limits in budgets.items()
        for budget in limits
        if (period := period_of(budget.per, now)) is not None
    }
