"""Runs, inbox and outbox in Postgres.

Most batches of events are written by one statement, see :mod:`agents.runtime.ledger.moves`. Any
other is one transaction of three exchanges: what is known (inbox, runs, outbox), what changes,
commit. Locks are taken in one order by everybody: first the events of the batch by id, then its
runs by id; rows of the outbox are never waited for. The deadlocks that are left, between
transactions that create the same runs while they hold others, or that write at once, are ended by
Postgres and tried again.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from agents.runtime.database import ConflictError, Connection, Database
from agents.runtime.ledger.columns import columns
from agents.runtime.ledger.events import Changes, Event, EventKey, RunKey, Taken, apply
from agents.runtime.ledger.messages import decode_message
from agents.runtime.ledger.moves import Moves
from agents.runtime.ledger.postgres_budgets import settle
from agents.runtime.ledger.rows import (
    Pending,
    by_run_id,
    emission_columns,
    event_columns,
    run_columns,
    run_of,
)
from agents.runtime.ports import Clock, OutboxRow, Refusal, RunRecord
from agents.runtime.queries import bind_queries


@dataclass(frozen=True)
class _Queries:
    delete_outbox: bytes
    due: bytes
    forget_events: bytes
    insert_inbox: bytes
    insert_outbox: bytes
    insert_runs: bytes
    lock_runs: bytes
    open_runs: bytes
    outbox_of_runs: bytes
    refuse_events: bytes
    run: bytes
    seen_events: bytes
    stopping: bytes
    unsent: bytes
    update_runs: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("runs.sql"), _Queries)

Rows = list[OutboxRow[Any]]


@dataclass(frozen=True, slots=True)
class _Known:
    """What the ledger held before the batch; the runs are locked."""

    runs: Mapping[RunKey, RunRecord]
    seen: Mapping[EventKey, Refusal | None]
    pending: Pending


class RunStore:
    """What the router needs of the ledger, a batch at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._moves = Moves(database, clock)

    async def advance(
        self, events: Sequence[Event], *, sent: Sequence[int]
    ) -> list[Rows | Exception]:
        """Apply ``events`` and forget the outbox rows ``sent``, in one transaction."""
        moved = await self._moves.attempt(events, sent=sent)
        if moved is not None:
            return _answers(moved.changes, moved.pending, moved.row_ids)

        async def work(connection: Connection) -> list[Rows | Exception]:
            known = await _read(connection, events, sent, self._clock.now())
            changes = apply(events, known.runs, known.seen)
            row_ids = await _write(connection, changes, known, self._clock.now())
            return _answers(changes, known.pending, row_ids)

        return await self._database.transact(work)

    async def delete(self, row_ids: Sequence[int]) -> None:
        """Forget rows of the outbox."""
        async with self._database.connection() as connection:
            await connection.execute(_SQL.delete_outbox, (row_ids,))

    async def unsent(
        self, *, lane: str, older_than: datetime, limit: int, besides: frozenset[int]
    ) -> Rows:
        """Rows written before ``older_than``, in the order of writing, but not ``besides``."""
        rows = await self._database.fetch(_SQL.unsent, (lane, older_than, limit))
        return [_outbox_row(row_id, j) for row_id, j in rows if row_id not in besides]

    async def find(self, *, lane: str, correlation_id: UUID) -> RunRecord | None:
        """One run, if there is one."""
        rows = await self._database.fetch(_SQL.run, (lane, correlation_id))
        return run_of(rows[0]) if rows else None

    async def stopping(self, executions: Collection[RunKey]) -> list[RunKey]:
        """Those of the executions that are being cancelled."""
        rows = await self._database.fetch(_SQL.stopping, columns(executions, 2))
        return [(lane, run_id) for lane, run_id in rows]

    async def due(self, *, lane: str, now: datetime, limit: int) -> list[RunRecord]:
        """Open runs whose time has come, earliest first."""
        return [run_of(row) for row in await self._database.fetch(_SQL.due, (lane, now, limit))]

    async def open_runs(self, *, lane: str, after: UUID | None, limit: int) -> list[RunRecord]:
        """Open runs by id, from behind ``after`` on."""
        rows = await self._database.fetch(
            _SQL.open_runs, {"lane": lane, "after": after, "limit": limit}
        )
        return [run_of(row) for row in rows]


async def _read(
    connection: Connection, events: Sequence[Event], sent: Sequence[int], now: datetime
) -> _Known:
    inbox_lanes, inbox_ids, inbox_runs = event_columns(events)
    runs = {event.run for event in events}
    lanes, ids = [lane for lane, _ in runs], [run_id for _, run_id in runs]
    async with connection.pipeline():
        if sent:
            await connection.execute(_SQL.delete_outbox, (sent,))
        inserted = await connection.execute(
            _SQL.insert_inbox, (now, inbox_lanes, inbox_ids, inbox_runs)
        )
        locked = await connection.execute(_SQL.lock_runs, (lanes, ids))
        held = await connection.execute(_SQL.outbox_of_runs, (lanes, ids))
    seen: Mapping[EventKey, Refusal | None] = {}
    if inserted.rowcount < len(inbox_ids):
        fresh = {(lane, event_id) for lane, event_id in await inserted.fetchall()}
        old = await connection.execute(_SQL.seen_events, (inbox_lanes, inbox_ids))
        seen = {
            (lane, event_id): None if code is None else Refusal(code, reason)
            for lane, event_id, code, reason in await old.fetchall()
            if (lane, event_id) not in fresh
        }
    pending: dict[RunKey, list[tuple[int, str]]] = defaultdict(list)
    for row_id, lane, run_id, message in await held.fetchall():
        pending[lane, run_id].append((row_id, message))
    return _Known({(r[0], r[1]): run_of(r) for r in await locked.fetchall()}, seen, pending)


async def _write(
    connection: Connection, changes: Changes, known: _Known, now: datetime
) -> list[int]:
    """Write ``changes``; returns the new row ids in the order of the emissions."""
    moved = [run for key, run in changes.runs.items() if key in known.runs]
    made = sorted(
        (run for key, run in changes.runs.items() if key not in known.runs), key=by_run_id
    )
    discarded = [row_id for run in changes.discards for row_id, _ in known.pending.get(run, ())]
    emissions = changes.emissions
    updated = inserted = outbox = None
    async with connection.pipeline():
        if changes.failures:
            await connection.execute(_SQL.forget_events, columns(changes.failures, 2))
        if changes.refusals:
            refused = [(*key, r.code, r.reason) for key, r in changes.refusals.items()]
            await connection.execute(_SQL.refuse_events, columns(refused, 4))
        if discarded:
            await connection.execute(_SQL.delete_outbox, (discarded,))
        if moved:
            versions = [known.runs[run.lane, run.correlation_id].version for run in moved]
            updated = await connection.execute(
                _SQL.update_runs, (now, *run_columns(moved), versions)
            )
        if made:
            inserted = await connection.execute(_SQL.insert_runs, (now, *run_columns(made)))
        if emissions:
            columns_of_rows = emission_columns(emissions)
            outbox = await connection.execute(_SQL.insert_outbox, (now, *columns_of_rows))
        await settle(connection, changes.settlements)
    written = sum(cursor.rowcount for cursor in (updated, inserted) if cursor is not None)
    if written != len(changes.runs):
        raise ConflictError("somebody else has moved a run")
    # Identity numbers are given in the order of insertion, whatever the order of RETURNING.
    return sorted(row[0] for row in await outbox.fetchall()) if outbox is not None else []


def _answers(changes: Changes, pending: Pending, row_ids: Sequence[int]) -> list[Rows | Exception]:
    written: dict[RunKey, Rows] = defaultdict(list)
    for row_id, one in zip(row_ids, changes.emissions, strict=True):
        written[one.event.run].append(OutboxRow(row_id, one.message, one.value))
    older = {
        run: [_outbox_row(row_id, message) for row_id, message in rows]
        for run, rows in pending.items()
        if run not in changes.discards
    }
    return [
        [
            *older.get(answer.run, ()),
            *written[answer.run][: min(answer.count, len(answer.emissions))],
        ]
        if isinstance(answer, Taken)
        else answer
        for answer in changes.answers
    ]


def _outbox_row(row_id: int, message: str) -> OutboxRow[Any]:
    return OutboxRow(row_id, decode_message(message), message.encode())
