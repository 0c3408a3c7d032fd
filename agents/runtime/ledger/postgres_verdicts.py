"""Verdicts in Postgres: the first one recorded for a plan wins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json

from agents.runtime.database import ConflictError, Connection, Database
from agents.runtime.ledger.columns import columns
from agents.runtime.ledger.messages import decode_message
from agents.runtime.ledger.postgres_budgets import BudgetStore, reserve
from agents.runtime.ports import Approval, Clock
from agents.runtime.queries import bind_queries
from schemas import AgentMessage, JsonObject, Verdict

PlanKey = tuple[str, UUID]
"""Lane and plan id."""
ApprovalKey = tuple[str, UUID, UUID]
"""Lane, correlation id and plan id."""
_REMEMBERED_PLANS: Final = 100
"""Plans of several steps that are remembered: each of their steps asks for the same ones."""


@dataclass(frozen=True)
class _Queries:
    approvals: bytes
    insert_verdicts: bytes
    recorded_verdicts: bytes


_SQL: Final = bind_queries(Path(__file__).with_name("verdicts.sql"), _Queries)


class VerdictStore:
    """What the safety checker and the executors need of the ledger, a batch at a time."""

    def __init__(self, database: Database, clock: Clock, budgets: BudgetStore) -> None:
        self._database = database
        self._clock = clock
        self._budgets = budgets
        # A verdict that is recorded never changes.
        self._steps: dict[ApprovalKey, Sequence[JsonObject]] = {}

    async def record(
        self, messages: Sequence[AgentMessage[Verdict]]
    ) -> list[AgentMessage[Verdict]]:
        """Keep verdicts; answers with what stands for each one's plan."""
        given: dict[PlanKey, AgentMessage[Verdict]] = {}
        for message in messages:
            given.setdefault(_plan_of(message), message)
        limited = await self._budgets.limited(given.values())
        if limited:
            standing = await self._record_with_budgets(given, limited)
        else:
            # One statement, which is its own transaction.
            rows = await self._database.fetch(_SQL.insert_verdicts, self._values(given))
            standing = {(lane, plan_id): given[lane, plan_id] for lane, plan_id in rows}
        if known_before := given.keys() - standing.keys():
            standing |= await self.recorded(known_before)
        return [standing[_plan_of(message)] for message in messages]

    async def _record_with_budgets(
        self,
        given: Mapping[PlanKey, AgentMessage[Verdict]],
        limited: Sequence[AgentMessage[Verdict]],
    ) -> dict[PlanKey, AgentMessage[Verdict]]:
        now = self._clock.now()

        async def insert(connection: Connection) -> dict[PlanKey, AgentMessage[Verdict]]:
            fresh = await _with_budgets(connection, given, limited, now)
            cursor = await connection.execute(_SQL.insert_verdicts, self._values(fresh))
            inserted = {(lane, plan_id) for lane, plan_id in await cursor.fetchall()}
            if any(_plan_of(message) in fresh.keys() - inserted for message in limited):
                # What was reserved for it must not be written.
                raise ConflictError("somebody else has recorded a verdict on the same plan")
            return {plan: fresh[plan] for plan in inserted}

        return await self._database.transact(insert)

    def _values(self, verdicts: Mapping[PlanKey, AgentMessage[Verdict]]) -> tuple[Any, ...]:
        # Everybody inserts in the order of the ids, so nobody waits in a circle.
        rows = sorted((_row(message) for message in verdicts.values()), key=_plan_of_row)
        return (self._clock.now(), *columns(rows, 7))

    async def recorded(self, keys: Iterable[PlanKey]) -> dict[PlanKey, AgentMessage[Verdict]]:
        """The verdicts that there are on some plans."""
        rows = await self._database.fetch(_SQL.recorded_verdicts, columns(keys, 2))
        return {(lane, plan_id): decode_message(message) for lane, plan_id, message in rows}

    async def approvals(self, keys: Sequence[ApprovalKey]) -> list[Approval | None]:
        """What approved verdicts allow, ``None`` where there is none."""
        wanted = set(keys)
        remembered = {key: steps for key in wanted if (steps := self._steps.get(key)) is not None}
        rows = await self._database.fetch(
            _SQL.approvals, ([plan_id for _, _, plan_id in remembered], *columns(wanted, 3))
        )
        found = {}
        for *key, plan_hash, is_stopped, run_no, message in rows:
            asked = (key[0], key[1], key[2])
            steps = remembered[asked] if message is None else self._read(asked, message)
            found[asked] = Approval(plan_hash, is_stopped, steps, run_no)
        return [found.get(key) for key in keys]

    def _read(self, key: ApprovalKey, message: str) -> Sequence[JsonObject]:
        """The steps of the plan that a verdict is about; those of longer plans are remembered."""
        # Only what executors compare is read: a whole verdict takes many times as long.
        steps: Sequence[JsonObject] = from_json(message)["payload"]["plan"]["steps"]
        if len(steps) > 1:
            self._steps[key] = steps
            if len(self._steps) > _REMEMBERED_PLANS:
                del self._steps[next(iter(self._steps))]
        return steps


async def _with_budgets(
    connection: Connection,
    given: Mapping[PlanKey, AgentMessage[Verdict]],
    limited: Sequence[AgentMessage[Verdict]],
    now: datetime,
) -> Mapping[PlanKey, AgentMessage[Verdict]]:
    """Those of the verdicts that are new, as far as can be seen, with what they have reserved."""
    plans = [_plan_of(message) for message in limited]
    cursor = await connection.execute(_SQL.recorded_verdicts, columns(plans, 2))
    known = {(lane, plan_id) for lane, plan_id, _ in await cursor.fetchall()}
    fresh = [message for message in limited if _plan_of(message) not in known]
    judged = await reserve(connection, fresh, now) if fresh else []
    rest = {plan: message for plan, message in given.items() if plan not in known}
    return rest | {_plan_of(message): message for message in judged}


def _plan_of(message: AgentMessage[Verdict]) -> PlanKey:
    return (message.lane, message.payload.plan_id)


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
