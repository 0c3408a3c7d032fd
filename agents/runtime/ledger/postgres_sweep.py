"""Deleting from Postgres what executions left behind that ended long ago."""

from dataclasses import astuple, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from agents.runtime.database import Connection, Database
from agents.runtime.queries import bind_queries


@dataclass(frozen=True)
class _Queries:
    count_old: bytes
    delete_effects: bytes
    delete_events: bytes
    delete_purges: bytes
    delete_redrives: bytes
    delete_reservations: bytes
    delete_runs: bytes
    delete_spending: bytes
    delete_verdicts: bytes
    old_events: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("sweep.sql"), _Queries)


@dataclass(frozen=True, slots=True)
class Swept:
    """How many rows of each table were deleted, or would be."""

    runs: int = 0
    events: int = 0
    """Entries of the inbox."""
    verdicts: int = 0
    effects: int = 0
    redrives: int = 0
    """Records of dead letters that were sent again, and that history has forgotten."""
    purges: int = 0
    """The same of dead letters that nobody wanted to see any more."""
    spending: int = 0
    """Settled reservations, and what was spent in periods that are over."""

    @property
    def rows(self) -> int:
        """All of them together."""
        return sum(astuple(self))

    def __add__(self, other: "Swept") -> "Swept":
        return Swept(*map(sum, zip(astuple(self), astuple(other), strict=True)))


class SweepStore:
    """What :meth:`agents.runtime.ports.Ledger.sweep` stands on, and what tells a person."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def sweep(self, *, lane: str, before: datetime, limit: int) -> Swept:
        """Delete one batch in one transaction; see :meth:`agents.runtime.ports.Ledger.sweep`."""

        async def work(connection: Connection) -> Swept:
            return await _sweep(connection, {"lane": lane, "before": before, "limit": limit})

        return await self._database.transact(work)

    async def count(self, *, lane: str, before: datetime) -> tuple[Swept, int]:
        """What there is to delete, and how many executions are as old but have to stay.

        Those wait for a person: they are ``unknown``, or nobody knows of one of their effects
        whether it happened, or they have messages that were never sent.
        """
        [row] = await self._database.fetch(_SQL.count_old, {"lane": lane, "before": before})
        *counts, kept = row
        return Swept(*counts), kept


async def _sweep(connection: Connection, of: dict[str, Any]) -> Swept:
    found = await connection.execute(_SQL.old_events, of)
    old = await found.fetchall()
    if not old:
        verdicts = await connection.execute(_SQL.delete_verdicts, of)
        redrives = await connection.execute(_SQL.delete_redrives, of)
        purges = await connection.execute(_SQL.delete_purges, of)
        settled = await connection.execute(_SQL.delete_reservations, of)
        over = await connection.execute(_SQL.delete_spending, of)
        return Swept(
            verdicts=verdicts.rowcount,
            redrives=redrives.rowcount,
            purges=purges.rowcount,
            spending=settled.rowcount + over.rowcount,
        )
    ids = sorted({run_id for _, run_id in old})
    runs = await connection.execute(_SQL.delete_runs, {**of, "runs": ids})
    gone = [run_id for (run_id,) in await runs.fetchall()]
    effects = await connection.execute(_SQL.delete_effects, {**of, "runs": gone})
    entries = [event_id for event_id, _ in old]
    events = await connection.execute(_SQL.delete_events, {**of, "events": entries})
    return Swept(runs=len(gone), effects=effects.rowcount, events=events.rowcount)
