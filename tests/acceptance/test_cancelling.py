"""A cancel, from the command to the step that is being carried out, on real Kafka and Postgres."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from agents.runtime.commands import Address, make_command
from ops.approvals import send, speaker_of, wait_for_answer
from ops.history import History
from ops.stack import Stack, StackOptions
from ops.submit import make_submission
from ops.submit import send as submit
from ops.timeline import Timeline
from ops.waiting import wait_for_completion

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

PATIENCE = 60.0


@pytest.mark.parametrize(
    ("text", "status", "effect", "code"),
    [
        ("restart checkout in staging", "unknown", "unknown", "effect_unknown"),
        ("scale checkout in staging to 4", "cancelled", "failed", "cancelled"),
    ],
)
def test_a_cancel_breaks_off_a_step_and_frees_its_budget(
    kafka: KafkaServer,
    database_url: str,
    lane: str,
    tmp_path: Path,
    text: str,
    status: str,
    effect: str,
    code: str,
) -> None:
    options = StackOptions(
        state=tmp_path,
        kafka=kafka.bootstrap_servers,
        postgres=database_url,
        lane=lane,
        temporary=True,
        approvers=("ann",),
    )
    with Stack(options) as stack, psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ledger.budgets (lane, tenant, per, cap, set_by, set_at)"
            " VALUES (%s, 'default', 'day', 1000, 'test', now())",
            (lane,),
        )
        playground = stack.settings.playground_url
        # Longer than the step may take: only a cancel ends it with that word.
        slow = {"service": "checkout", "environment": "staging", "kind": "slow", "delay": 60}
        httpx.post(f"{playground}/faults", json=slow).raise_for_status()
        submission = make_submission(text, user="zoe")
        asyncio.run(submit(stack.settings, submission))
        wait_until(lambda: not faults_left(playground), "the step is being carried out")
        told = make_command(
            "cancel",
            Address(lane, submission.execution_id, "default", datetime.now(UTC)),
            speaker_of(stack.settings, "ann", stack.keys["ann"]),
            now=datetime.now(UTC),
            reason="a mistake",
        )
        send(stack.settings, [told])
        assert wait_for_answer(connection, told, timeout=PATIENCE).is_accepted
        timeline = end_of(History(connection, lane=lane), submission.execution_id)
        assert (timeline.status, timeline.code) == (status, code)
        held = one(connection, "SELECT status, result FROM ledger.effects WHERE lane = %s", lane)
        assert held[0] == effect
        assert "the execution was stopped in the middle of it" in held[1]
        reserved = one(
            connection, "SELECT sum(reserved) FROM ledger.spending WHERE lane = %s", lane
        )
        assert reserved == (0,)


def faults_left(playground: str) -> Any:
    return httpx.get(f"{playground}/state").raise_for_status().json()["faults"]


def end_of(history: History, execution: Any) -> Timeline:
    return wait_for_completion(history, execution, timeout=PATIENCE)


def one(connection: psycopg.Connection[Any], query: Any, lane: str) -> tuple[Any, ...]:
    found = connection.execute(query, (lane,)).fetchone()
    assert found is not None
    return found
