"""Moves runs in one exchange with Postgres, where nobody else moves them at the same time.

Nearly always one router has a run for itself, and knows what it wrote last. So it decides on that,
and one statement writes everything or, if an event was taken before or a run is no longer what it
was, nothing: the optimistic twin of what :mod:`agents.runtime.ledger.postgres_runs` does under
locks, to which everything falls back that is not simply a step forward.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.runtime.database import CONFLICTS, Database, DivisionByZero
from agents.runtime.ledger.columns import columns
from agents.runtime.ledger.events import Changes, Event, RunKey, apply
from agents.runtime.ledger.rows import (
    Pending,
    by_run_id,
    emission_columns,
    event_columns,
    run_columns,
    run_of,
)
from agents.runtime.ports import Clock, RunRecord
from agents.runtime.queries import bind_queries

MOST_BYTES: Final = 2 * 1024 * 1024
"""Bytes of the documents of the runs that are remembered."""


@dataclass(frozen=True)
class _Queries:
    move_runs: bytes
    read_runs: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("moves.sql"), _Queries)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was written."""

    changes: Changes
    row_ids: Sequence[int]
    """Of the outbox, in the order of the emissions."""
    pending: Pending
    """What the outbox held of these runs before."""


class Moves:
    """Decides on what was written last, and writes if that still stands."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._written: OrderedDict[RunKey, RunRecord] = OrderedDict()
        self._bytes = 0

    async def attempt(self, events: Sequence[Event], *, sent: Sequence[int]) -> Moved | None:
        """Apply ``events`` and forget the outbox rows ``sent``; ``None`` if nothing was written."""
        wanted = {event.run: None for event in events}
        known = {run: held for run in wanted if (held := self._written.get(run)) is not None}
        changes = apply(events, known, {})
        if unread := wanted.keys() - known.keys() - changes.runs.keys():
            known |= await self._read(unread)
            changes = apply(events, known, {})
        if not _is_step_forward(changes, wanted):
            return None
        moved = await self._write(events, changes, known, sent)
        for run in wanted:
            self._forget(run)
        if moved is not None:
            for record in changes.runs.values():
                self._remember(record)
        return moved

    async def _read(self, runs: Iterable[RunKey]) -> dict[RunKey, RunRecord]:
        rows = await self._database.fetch(_SQL.read_runs, columns(runs, 2))
        return {(row[0], row[1]): run_of(row) for row in rows}

    async def _write(
        self,
        events: Sequence[Event],
        changes: Changes,
        known: Mapping[RunKey, RunRecord],
        sent: Sequence[int],
    ) -> Moved | None:
        lanes, event_ids, runs = event_columns(events)
        names = ("lanes", "runs", "versions", "statuses", "are_open", "documents", "wakeups")
        written = sorted(changes.runs.values(), key=by_run_id)
        before = [known.get((run.lane, run.correlation_id)) for run in written]
        values = {
            "now": self._clock.now(),
            "sent": sent,
            "event_lanes": lanes,
            "event_ids": event_ids,
            "event_runs": runs,
            **dict(zip(names, run_columns(written), strict=True)),
            "versions_before": [None if each is None else each.version for each in before],
            **dict(
                zip(
                    ("row_lanes", "row_runs", "row_events", "messages"),
                    emission_columns(changes.emissions),
                    strict=True,
                )
            ),
        }
        try:
            rows = await self._database.fetch(_SQL.move_runs, values)
        except (DivisionByZero, *CONFLICTS):
            return None
        row_ids: list[int] = []
        pending: dict[RunKey, list[tuple[int, str]]] = defaultdict(list)
        for row_id, lane, run_id, message, _ in rows:
            if message is not None:
                pending[lane, run_id].append((row_id, message))
            elif row_id is not None:
                row_ids.append(row_id)
        return Moved(changes, row_ids, pending)

    def _remember(self, record: RunRecord) -> None:
        run = (record.lane, record.correlation_id)
        if record.is_open:
            self._written[run] = record
            self._bytes += len(record.document)
            while self._bytes > MOST_BYTES:
                self._forget(next(iter(self._written)))

    def _forget(self, run: RunKey) -> None:
        if (found := self._written.pop(run, None)) is not None:
            self._bytes -= len(found.document)


def _is_step_forward(changes: Changes, wanted: Mapping[RunKey, None]) -> bool:
    """Whether every run moves: only then its version tells whether the decision still holds."""
    return changes.runs.keys() == wanted.keys() and not (
        changes.failures or changes.refusals or changes.discards or changes.settlements
    )
