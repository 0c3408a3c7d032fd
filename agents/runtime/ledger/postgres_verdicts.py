"""Verdicts in Postgres: the first one recorded for a plan wins."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from agents.runtime.database import Connection, Database
from agents.runtime.ledger.columns import columns
from agents.runtime.ledger.messages import decode_message
from agents.runtime.ports import Approval, Clock
from agents.runtime.queries import bind_queries
from schemas import AgentMessage, Verdict

PlanKey = tuple[str, UUID]
"""Lane and plan id."""
ApprovalKey = tuple[str, UUID, UUID]
"""Lane, correlation id and plan id."""


@dataclass(frozen=True)
class _Queries:
    approvals: bytes
    insert_verdicts: bytes
    recorded_verdicts: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("verdicts.sql"), _Queries)


class VerdictStore:
    """What the safety checker and the executors need of the ledger, a batch at a time."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def record(
        self, messages: Sequence[AgentMessage[Verdict]]
    ) -> list[AgentMessage[Verdict]]:
        """Keep verdicts; answers with what stands for each one's plan."""
        standing: dict[PlanKey, AgentMessage[Verdict]] = {}
        for message in messages:
            standing.setdefault((message.lane, message.payload.plan_id), message)
        # Everybody inserts in the order of the ids, so nobody waits in a circle.
        rows = sorted((_row(message) for message in standing.values()), key=_plan_of_row)
        now = self._clock.now()

        async def insert(connection: Connection) -> set[PlanKey]:
            cursor = await connection.execute(_SQL.insert_verdicts, (now, *columns(rows, 7)))
            return {(lane, plan_id) for lane, plan_id in await cursor.fetchall()}

        known_before = standing.keys() - await self._database.transact(insert)
        if known_before:
            standing |= await self.recorded(known_before)
        return [standing[message.lane, message.payload.plan_id] for message in messages]

    async def recorded(self, keys: Iterable[PlanKey]) -> dict[PlanKey, AgentMessage[Verdict]]:
        """The verdicts that there are on some plans."""
        rows = await self._database.fetch(_SQL.recorded_verdicts, columns(keys, 2))
        return {(lane, plan_id): decode_message(message) for lane, plan_id, message in rows}

    async def approvals(self, keys: Sequence[ApprovalKey]) -> list[Approval | None]:
        """What approved verdicts allow, ``None`` where there is none."""
        rows = await self._database.fetch(_SQL.approvals, columns(set(keys), 3))
        found = {tuple(row[:3]): Approval(row[3], row[4]) for row in rows}
        return [found.get(key) for key in keys]


def _row(message: AgentMessage[Verdict]) -> tuple[Any, ...]:
    verdict = message.payload
    return (
        message.lane,
        verdict.plan_id,
        message.correlation_id,
        verdict.plan_hash,
        verdict.decision,
        verdict.plan.evaluation,
        message.to_bytes().decode(),
    )


def _plan_of_row(row: tuple[Any, ...]) -> tuple[str, bytes]:
    return (row[0], row[1].bytes)
