"""Runs, events and emissions as rows of Postgres, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from agents.runtime.database import Row
from agents.runtime.ledger.columns import columns
from agents.runtime.ledger.events import Emission, Event, RunKey
from agents.runtime.ports import RunRecord

Pending = Mapping[RunKey, Sequence[tuple[int, str]]]
"""What the outbox held before a batch: row id and JSON by run."""


def run_of(row: Row) -> RunRecord:
    """The run in a row that has the columns in the order of the record's fields."""
    lane, run_id, version, status, is_open, document, next_wakeup = row
    return RunRecord(lane, run_id, version, status, is_open, document.encode(), next_wakeup)


def run_columns(runs: Sequence[RunRecord]) -> tuple[list[Any], ...]:
    """The columns of some runs, in the order of the record's fields."""
    return (
        [run.lane for run in runs],
        [run.correlation_id for run in runs],
        [run.version for run in runs],
        [run.status for run in runs],
        [run.is_open for run in runs],
        [run.document.decode() for run in runs],
        [run.next_wakeup for run in runs],
    )


def event_columns(events: Sequence[Event]) -> tuple[list[Any], ...]:
    """Lane, id and run of some events, each event once, in the order in which they are locked."""
    distinct = sorted({event.key: event for event in events}.values(), key=_by_event_id)
    return columns([(e.lane, e.event_id, e.correlation_id) for e in distinct], 3)


def emission_columns(emissions: Sequence[Emission]) -> tuple[list[Any], ...]:
    """Lane, run, event and JSON of some emissions."""
    rows = [
        (one.event.lane, one.event.correlation_id, one.event.event_id, one.value.decode())
        for one in emissions
    ]
    return columns(rows, 4)


def by_run_id(run: RunRecord) -> tuple[str, bytes]:
    """The order in which runs are written."""
    return (run.lane, run.correlation_id.bytes)


def _by_event_id(event: Event) -> tuple[str, bytes]:
    return (event.lane, event.event_id.bytes)
