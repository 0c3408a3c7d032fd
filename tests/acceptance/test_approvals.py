"""Approvals from the request to the effect, on each kind of broker and real Postgres."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from support.kafka_servers import KafkaServer

from agents.runtime.commands import Speaker, make_command
from agents.runtime.signing import SigningKey
from ops.approvals import (
    Decision,
    Pending,
    decide,
    send,
    speaker_of,
    wait_for_answer,
    wait_for_approval,
    waiting,
)
from ops.history import History
from ops.stack import Stack, StackOptions
from ops.submit import make_submission
from ops.submit import send as submit
from ops.timeline import Timeline
from ops.waiting import wait_for_completion
from schemas import CommandAnswer, ExecutionStatus

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

PATIENCE = 60.0
REQUEST = "delete search in staging"


@dataclass
class Desk:
    """Where people ask for things and approve them."""

    stack: Stack
    connection: psycopg.Connection[Any]
    lane: str

    @property
    def history(self) -> History:
        return History(self.connection, lane=self.lane)

    def ask(self, text: str = REQUEST, *, user: str = "zoe") -> Pending:
        submission = make_submission(text, user=user)
        asyncio.run(submit(self.stack.settings, submission))
        execution = submission.execution_id
        return wait_for_approval(self.connection, execution, lane=self.lane, timeout=PATIENCE)

    def speaker(self, name: str) -> Speaker:
        return speaker_of(self.stack.settings, name, self.stack.keys[name])

    def say(
        self, decision: Decision, about: Pending, by: str | Speaker, **how: Any
    ) -> CommandAnswer:
        speaker = self.speaker(by) if isinstance(by, str) else by
        how = {"timeout": PATIENCE, **how}
        return decide(self.stack.settings, self.connection, decision, about, speaker, **how)

    def end_of(self, execution: UUID) -> Timeline:
        return wait_for_completion(self.history, execution, timeout=PATIENCE)


@contextmanager
def open_desk(broker: KafkaServer, database_url: str, lane: str, folder: Path) -> Iterator[Desk]:
    options = StackOptions(
        state=folder,
        kafka=broker.bootstrap_servers,
        postgres=database_url,
        lane=lane,
        temporary=True,
        approvers=("ann", "bob", "zoe"),
    )
    with Stack(options) as stack, psycopg.connect(database_url, autocommit=True) as connection:
        yield Desk(stack, connection, lane)


def said(timeline: Timeline) -> list[tuple[str, str | None]]:
    """Who issued which command, and the code it was refused with."""
    return [
        (f"{event.payload['kind']} {event.payload['issued_by']}", event.payload["code"])
        for event in timeline.events
        if event.message_type == "CommandAnswer"
    ]


def test_two_people_approve_and_policy_has_the_last_word(
    broker: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> None:
    with open_desk(broker, database_url, lane, tmp_path) as desk:
        asked = desk.ask()
        assert [each.correlation_id for each in waiting(desk.connection, lane=lane)] == [
            asked.correlation_id
        ]
        first = desk.say("approve", asked, "ann", reason="it is idle")
        assert (first.is_accepted, first.reason) == (
            True,
            "approved by ann; still wanted: 1 person",
        )
        [still] = waiting(desk.connection, lane=lane)
        assert [each.approvers for each in still.missing] == [1]
        assert desk.say("approve", asked, "bob").is_accepted
        timeline = desk.end_of(asked.correlation_id)
        assert timeline.status is ExecutionStatus.SUCCESS
        assert waiting(desk.connection, lane=lane) == []
        by_type = {
            name: [event for event in timeline.events if event.message_type == name]
            for name in ("Plan", "Verdict")
        }
        assert [plan.payload["evaluation"] for plan in by_type["Plan"]] == [1, 2]
        assert [plan.from_agent for plan in by_type["Plan"]] == ["planner", "router"]
        decisions = [verdict.payload["decision"] for verdict in by_type["Verdict"]]
        assert decisions == ["needs_approval", "approved"]
        judged = by_type["Verdict"][1].payload["plan"]["approvals"]
        assert [(each["approver"], each["is_signed"]) for each in judged] == [
            ("ann", True),
            ("bob", True),
        ]
        evaluations = desk.connection.execute(
            "SELECT evaluation, decision FROM ledger.verdicts"
            " WHERE lane = %s AND correlation_id = %s AND plan_hash = %s ORDER BY evaluation",
            (lane, asked.correlation_id, asked.plan_hash),
        ).fetchall()
        assert evaluations == [(1, "needs_approval"), (2, "approved")]


def test_what_is_refused_says_why_and_history_remembers(
    kafka: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> None:
    with open_desk(kafka, database_url, lane, tmp_path) as desk:
        other, asked = desk.ask("delete web in staging"), desk.ask()
        stranger = Speaker("mallory", SigningKey.generate())
        forger = Speaker("bob", SigningKey.generate())
        for by, how, code in (
            ("zoe", {}, "self_approval"),
            ("bob", {"plan_hash": other.plan_hash}, "stale_plan"),
            (Speaker("bob", None), {}, "unsigned"),
            (stranger, {}, "unknown_principal"),
            (forger, {}, "invalid_signature"),
        ):
            answer = desk.say("approve", asked, by, **how)
            assert (answer.is_accepted, answer.code) == (False, code), answer
        assert desk.say("approve", asked, "ann").is_accepted
        assert desk.say("approve", asked, "ann").code == "already_approved"
        assert desk.say("reject", asked, "bob", reason="not before the sale").is_accepted
        timeline = desk.end_of(asked.correlation_id)
        assert timeline.status is ExecutionStatus.DENIED
        assert (timeline.code, timeline.reason) == (
            "rejected",
            "rejected by bob: not before the sale",
        )
        assert [step.attempts for step in timeline.steps] == [0]
        assert desk.say("approve", asked, "bob").code == "refused", "it has ended"
        assert said(timeline) == [
            ("approve zoe", "self_approval"),
            ("approve bob", "stale_plan"),
            ("approve bob", "unsigned"),
            ("approve mallory", "unknown_principal"),
            ("approve bob", "invalid_signature"),
            ("approve ann", None),
            ("approve ann", "already_approved"),
            ("reject bob", None),
        ]
        dead = desk.connection.execute("SELECT count(*) FROM history.dead_letters").fetchone()
        assert dead == (0,), "a refused command is answered, it is no dead letter"
        keys = [file.read_text().splitlines()[1] for file in desk.stack.keys.values()]
        events = desk.connection.execute("SELECT payload::text FROM history.events").fetchall()
    logs = [file.read_text() for file in tmp_path.rglob("*.log")]
    assert len(keys) == 3
    assert logs
    assert not [key for key in keys if any(key in text for text in (*logs, str(events)))]


def test_a_signed_command_is_worth_nothing_for_another_execution(
    kafka: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> None:
    with open_desk(kafka, database_url, lane, tmp_path) as desk:
        one, other = desk.ask("delete web in staging"), desk.ask()
        message = make_command(
            "approve",
            one.address(lane),
            desk.speaker("ann"),
            now=datetime.now(UTC),
            plan_hash=one.plan_hash,
        )
        elsewhere = message.replace(correlation_id=other.correlation_id)
        renamed = message.replace(message_id=UUID(int=7))
        send(desk.stack.settings, [message, message, elsewhere, renamed])
        answers = {
            each.message_id: wait_for_answer(desk.connection, each, timeout=PATIENCE)
            for each in (message, renamed)
        }
        assert answers[message.message_id].is_accepted
        assert answers[renamed.message_id].code == "invalid_signature"
        assert (
            wait_for_answer(desk.connection, elsewhere, timeout=PATIENCE).code
            == "invalid_signature"
        )
        by_execution = {
            each.correlation_id: each.approval for each in waiting(desk.connection, lane=lane)
        }
        first, second = by_execution[one.correlation_id], by_execution[other.correlation_id]
        assert first is not None
        assert second is not None
        assert [each.approver for each in first.approvals] == ["ann"], "sent twice, it counts once"
        assert second.approvals == ()


def test_what_nobody_approves_in_time_expires(
    kafka: KafkaServer,
    database_url: str,
    lane: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLSTREAM_APPROVAL_TTL", "1s")
    with open_desk(kafka, database_url, lane, tmp_path) as desk:
        submission = make_submission(REQUEST, user="zoe")
        asyncio.run(submit(desk.stack.settings, submission))
        timeline = desk.end_of(submission.execution_id)
        assert (timeline.status, timeline.code) == (ExecutionStatus.EXPIRED, "approval_expired")
        assert "nobody had approved it" in (timeline.reason or "")
        assert "Send it again" in (timeline.report or "")
