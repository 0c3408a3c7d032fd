"""The effect ledger in Postgres: rows are locked, ``claims`` decides, rows are written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import to_json

from agents.runtime.database import ConflictError, Connection, Database, Row
from agents.runtime.ledger.claims import (
    Answer,
    Call,
    EffectKey,
    EffectRecord,
    Resolved,
    apply_to,
)
from agents.runtime.ledger.columns import columns
from agents.runtime.queries import bind_queries
from schemas import StepResult


@dataclass(frozen=True)
class _Queries:
    insert_effects: bytes
    lock_effects: bytes
    update_effects: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("effects.sql"), _Queries)
_WIDTH: Final = 15
_RESOLVED: Final = TypeAdapter(Resolved)


class EffectStore:
    """What executors need of the ledger, a batch at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def apply(self, calls: Sequence[Call]) -> list[Answer | Exception]:
        """Claim, settle and resolve in the order of the calls, in one transaction."""

        async def work(connection: Connection) -> list[Answer | Exception]:
            held = await _lock(connection, {call.key for call in calls})
            after = dict(held)
            answers = [apply_to(after, call) for call in calls]
            await _write(connection, held, after)
            return answers

        return await self._database.transact(work)


async def _lock(connection: Connection, keys: Iterable[EffectKey]) -> dict[EffectKey, EffectRecord]:
    cursor = await connection.execute(_SQL.lock_effects, columns(keys, 4))
    return {(row[0], row[1], row[2], row[3]): _record(row[4:]) for row in await cursor.fetchall()}


async def _write(
    connection: Connection,
    before: dict[EffectKey, EffectRecord],
    after: dict[EffectKey, EffectRecord],
) -> None:
    moved = [
        _row(key, now) for key, now in after.items() if key in before and now is not before[key]
    ]
    made = sorted(
        (_row(key, now) for key, now in after.items() if key not in before), key=_key_of_row
    )
    if moved:
        await connection.execute(_SQL.update_effects, columns(moved, _WIDTH))
    if made:
        cursor = await connection.execute(_SQL.insert_effects, columns(made, _WIDTH))
        if cursor.rowcount != len(made):
            raise ConflictError("somebody else has claimed an effect")


def _record(row: Row) -> EffectRecord:
    attempt, status, owner, lease_until, plan_id, plan_hash, action, result, *moments = row
    claimed_at, settled_at, resolution = moments
    return EffectRecord(
        attempt=attempt,
        status=status,
        owner=owner,
        lease_until=lease_until,
        plan_id=plan_id,
        plan_hash=plan_hash,
        action=action,
        result=None if result is None else StepResult.model_validate_json(result),
        claimed_at=claimed_at,
        settled_at=settled_at,
        resolved=None if resolution is None else _RESOLVED.validate_json(resolution),
    )


def _row(key: EffectKey, record: EffectRecord) -> tuple[Any, ...]:
    return (
        *key,
        record.attempt,
        record.status,
        record.owner,
        record.lease_until,
        record.plan_id,
        record.plan_hash,
        record.action,
        None
        if record.result is None
        else to_json(record.result, inf_nan_mode="constants").decode(),
        record.claimed_at,
        record.settled_at,
        None if record.resolved is None else _RESOLVED.dump_json(record.resolved).decode(),
    )


def _key_of_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row[0], row[1].bytes, row[2], row[3])
