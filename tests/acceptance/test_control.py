"""Compensation, pause, resume, cancel and retry from the command to the effect, on real servers."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from ops.approvals import speaker_of
from ops.controlling import Order, address_of, command
from ops.history import History
from ops.stack import Stack, StackOptions
from ops.submit import Submission, send
from ops.timeline import Timeline
from schemas import CommandAnswer, ExecutionRequest, ExecutionStatus, Requester
from schemas.plan import OnFailure

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

PATIENCE = 60.0
WAIT = 15
"""Seconds for which the other side asks before the next attempt; a command is taken meanwhile."""


@dataclass
class Desk:
    """Where things are asked for and commanded."""

    stack: Stack
    connection: psycopg.Connection[Any]
    lane: str

    def ask(self, *steps: dict[str, Any], on_failure: OnFailure = "stop") -> UUID:
        fields = {"plan": steps, "on_failure": on_failure, "requester": Requester(user="zoe")}
        request = ExecutionRequest.model_validate(fields)
        submission = Submission(uuid4(), str(uuid4()), request)
        asyncio.run(send(self.stack.settings, submission))
        return submission.execution_id

    def say(self, order: Order, execution: UUID) -> CommandAnswer:
        about = address_of(self.connection, str(execution), lane=self.lane)
        speaker = speaker_of(self.stack.settings, "ann", self.stack.keys["ann"])
        settings = self.stack.settings
        return command(settings, self.connection, order, about, speaker, timeout=PATIENCE)

    def timeline(self, execution: UUID) -> Timeline | None:
        return History(self.connection, lane=self.lane).timeline(execution)

    def until(self, execution: UUID, status: str, *, step: str = "", run_no: int = 1) -> Timeline:
        """The execution once it, or its first step, is in a status."""
        found: list[Timeline] = []

        def stands() -> bool:
            timeline = self.timeline(execution)
            if timeline is None or timeline.run_no != run_no:
                return False
            found.append(timeline)
            if step:
                return any((line.step_id, line.status) == (step, status) for line in timeline.steps)
            is_told = timeline.report is not None or not timeline.status.is_terminal
            return timeline.status.value == status and is_told

        wait_until(stands, f"{execution} {step} {status} in run {run_no}")
        return found[-1]

    def refuse_next(self, service: str, **fault: Any) -> None:
        body = {"service": service, "environment": "staging", **fault}
        url = f"{self.stack.settings.playground_url}/faults"
        httpx.post(url, json=body).raise_for_status()

    def calls(self) -> list[str]:
        """What took effect at the other side, in order."""
        calls = httpx.get(f"{self.stack.settings.playground_url}/calls").json()["calls"]
        return [
            call["path"].removeprefix("/environments/staging/services/")
            for call in calls
            if call["took_effect"]
        ]


@pytest.fixture
def desk(broker: KafkaServer, database_url: str, lane: str, tmp_path: Path) -> Iterator[Desk]:
    options = StackOptions(
        state=tmp_path,
        kafka=broker.bootstrap_servers,
        postgres=database_url,
        lane=lane,
        temporary=True,
        approvers=("ann",),
    )
    with Stack(options) as stack, psycopg.connect(database_url, autocommit=True) as connection:
        yield Desk(stack, connection, lane)


def step(step_id: str, action: str, service: str, *after: str, **more: str) -> dict[str, Any]:
    parameters = {"service": service, "environment": "staging", **more}
    return {"step_id": step_id, "action": action, "parameters": parameters, "depends_on": after}


def statuses(timeline: Timeline) -> dict[str, str]:
    return {line.step_id: line.status for line in timeline.steps}


def test_a_failure_undoes_what_was_done_and_a_retry_does_it_again(desk: Desk) -> None:
    desk.refuse_next("web", status=422)
    execution = desk.ask(
        step("one", "service.deploy", "checkout", version="9.0.1"),
        step("two", "service.deploy", "search", "one", version="9.0.2"),
        step("three", "service.restart", "web", "two"),
        on_failure="compensate",
    )
    failed = desk.until(execution, "failed")
    assert failed.code == "compensated"
    assert statuses(failed) == {
        "one": "success",
        "two": "success",
        "three": "failed",
        "undo-two": "success",
        "undo-one": "success",
    }
    assert "2 undone" in (failed.report or "")
    assert desk.calls() == [
        "checkout/deploy",
        "search/deploy",
        "search/rollback",
        "checkout/rollback",
    ]
    assert desk.say("pause", execution).reason == "an execution that is failed cannot pause"
    assert desk.say("retry", execution).is_accepted
    done = desk.until(execution, "success", run_no=2)
    assert statuses(done) == dict.fromkeys(("one", "two", "three"), "success")
    assert desk.calls()[4:] == ["checkout/deploy", "search/deploy", "web/restart"]
    reports = [event for event in done.events if event.message_type == "ExecutionReport"]
    assert [report.payload["status"] for report in reports] == ["failed", "success"]
    assert desk.say("retry", execution).code == "refused"


def test_what_is_paused_goes_on_when_it_is_resumed_or_retried(desk: Desk) -> None:
    steps = (
        step("one", "service.deploy", "checkout", version="9.0.1"),
        step("two", "service.restart", "web", "one"),
    )
    desk.refuse_next("web", retry_after=WAIT)
    resumed = desk.ask(*steps)
    desk.until(resumed, "waiting_retry", step="two")
    assert desk.say("pause", resumed).reason == "paused by ann"
    desk.until(resumed, "paused")
    desk.refuse_next("web", retry_after=WAIT)
    cancelled = desk.ask(*steps, step("three", "service.status", "web", "two"))
    desk.until(cancelled, "waiting_retry", step="two")
    assert desk.say("pause", cancelled).is_accepted
    assert desk.say("cancel", cancelled).is_accepted
    ended = desk.until(cancelled, "cancelled")
    assert statuses(ended) == {"one": "success", "two": "skipped", "three": "skipped"}
    assert desk.say("resume", cancelled).code == "refused"
    assert desk.say("retry", cancelled).is_accepted
    done = desk.until(cancelled, "success", run_no=2)
    assert statuses(done) == dict.fromkeys(("one", "two", "three"), "success")
    assert desk.say("resume", resumed).is_accepted
    assert desk.until(resumed, "success").status is ExecutionStatus.SUCCESS
    assert sorted(desk.calls()) == ["checkout/deploy"] * 2 + ["web/restart"] * 2
