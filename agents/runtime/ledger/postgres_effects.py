"""The effect ledger in Postgres.

Most calls are the first claim of an effect, or the outcome from who has claimed it: a batch of
these is one statement, which does what :mod:`agents.runtime.ledger.claims` would decide. For all
others rows are locked, ``claims`` decides, rows are written.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import to_json

from agents.runtime.database import CONFLICTS, ConflictError, Connection, Database, Row
from agents.runtime.ledger.claims import (
    SETTLED,
    Answer,
    Call,
    Claim,
    EffectKey,
    EffectRecord,
    Resolved,
    Resolving,
    Settlement,
    apply_to,
)
from agents.runtime.ledger.columns import columns
from agents.runtime.ports import EffectClaim
from agents.runtime.queries import bind_queries
from schemas import StepResult


@dataclass(frozen=True)
class _Queries:
    act_at_once: bytes
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
        """Claim, settle and resolve; calls about one effect in their order."""
        done = await self._at_once(calls)
        rest = [call for call in calls if call.key not in done]
        decided = iter(await self._under_locks(rest) if rest else ())
        return [done[call.key] if call.key in done else next(decided) for call in calls]

    async def _at_once(self, calls: Sequence[Call]) -> dict[EffectKey, Answer]:
        """Do what needs no look before; answers for what was done, by effect."""
        times = Counter(call.key for call in calls)
        once = [
            call
            for call in sorted(calls, key=_key_of_call)
            if times[call.key] == 1 and not isinstance(call, Resolving)
        ]
        claims = [call for call in once if isinstance(call, Claim)]
        settlements = [call for call in once if isinstance(call, Settlement)]
        values = (*columns(map(_claim, claims), 11), *columns(map(_outcome, settlements), 9))
        try:
            rows = await self._database.fetch(_SQL.act_at_once, values) if once else []
        except CONFLICTS:
            return {}
        done: dict[EffectKey, Answer] = {}
        asked: dict[EffectKey, Claim | Settlement] = {call.key: call for call in once}
        for row in rows:
            key = (row[0], row[1], row[2], row[3])
            call = asked[key]
            done[key] = EffectClaim("go") if isinstance(call, Claim) else call.result
        return done

    async def _under_locks(self, calls: Sequence[Call]) -> list[Answer | Exception]:
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


def _claim(call: Claim) -> tuple[Any, ...]:
    step = call.message.payload
    return (
        *call.key,
        step.attempt,
        call.owner,
        call.lease_until,
        step.plan_id,
        step.plan_hash,
        step.action,
        call.now,
    )


def _outcome(call: Settlement) -> tuple[Any, ...]:
    attempt, status = call.message.payload.attempt, SETTLED[call.result.status]
    return (*call.key, attempt, call.owner, status, _json(call.result), call.now)


def _json(result: StepResult) -> str:
    return to_json(result, inf_nan_mode="constants").decode()


def _key_of_call(call: Call) -> tuple[Any, ...]:
    return _key_of_row(call.key)


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
        None if record.result is None else _json(record.result),
        record.claimed_at,
        record.settled_at,
        None if record.resolved is None else _RESOLVED.dump_json(record.resolved).decode(),
    )


def _key_of_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row[0], row[1].bytes, row[2], row[3])
