"""Limits, and a catalogue that changes under an execution: a clear error, and nothing hangs."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from ruamel.yaml import YAML
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from agents.runtime.settings import ROOT
from ops.approvals import decide, speaker_of, wait_for_approval
from ops.history import History
from ops.stack import Stack, StackOptions
from ops.submit import make_submission, send
from ops.timeline import Timeline
from ops.waiting import wait_for_completion
from schemas.identity import uuid_of

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE = 240.0
MOST = 500


class Surroundings:
    """Where a pipeline runs, and runs again."""

    def __init__(self, kafka: KafkaServer, database_url: str, lane: str, folder: Path) -> None:
        self.bootstrap = kafka.bootstrap_servers
        self.lane = lane
        self.options = StackOptions(
            state=folder / "stack",
            kafka=self.bootstrap,
            postgres=database_url,
            lane=lane,
            temporary=True,
            approvers=("ann", "bob"),
        )
        self.connection = psycopg.connect(database_url, autocommit=True)

    @contextmanager
    def running(self) -> Iterator[Stack]:
        with Stack(self.options) as stack:
            yield stack

    def produce(self, body: dict[str, Any]) -> bytes:
        """Put a request on the intake topic; returns its bytes."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "message.max.bytes": 4_000_000,
                "log_level": 0,
            }
        )
        value = json.dumps(body).encode()
        producer.produce(f"{self.lane}millstream.requests.v1", value)
        assert producer.flush(60) == 0
        return value

    def end_of(self, external_id: str) -> Timeline:
        history = History(self.connection, lane=self.lane)
        execution = uuid_of(external_id, tenant="default")
        return wait_for_completion(history, execution, timeout=PATIENCE)

    def why_dead(self, value: bytes) -> str:
        """The reason of the dead letter with those bytes."""
        rows: list[Any] = []

        def is_there() -> bool:
            rows[:] = self.connection.execute(
                "SELECT reason FROM history.dead_letters WHERE lane = %s AND value = %s",
                (self.lane, value),
            ).fetchall()
            return bool(rows)

        wait_until(is_there, "there is a dead letter", seconds=PATIENCE)
        ((reason,),) = rows
        return str(reason)


@pytest.fixture
def surroundings(
    kafka: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> Iterator[Surroundings]:
    surroundings = Surroundings(kafka, database_url, lane, tmp_path)
    yield surroundings
    surroundings.connection.close()


def compare(step_id: str, first: str = "1.0", *depends_on: str) -> dict[str, Any]:
    return {
        "step_id": step_id,
        "action": "versions.compare",
        "parameters": {"first": first, "second": "1.1"},
        "depends_on": list(depends_on),
    }


def test_five_hundred_steps_run_and_one_more_is_refused(surroundings: Surroundings) -> None:
    many = [compare(f"s{number}") for number in range(MOST - 1)]
    last = {
        "step_id": "last",
        "action": "notify.send",
        "parameters": {"channel": "#limits", "text": "${steps.s0.output.summary}"},
        "depends_on": [step["step_id"] for step in many],
    }
    with surroundings.running():
        refused = surroundings.produce({"plan": [*many, last, compare("more")]})
        assert "at most 500 items after validation, not 501" in surroundings.why_dead(refused)
        surroundings.produce({"plan": [*many, last], "correlation_id": "many"})
        timeline = surroundings.end_of("many")
    assert (timeline.status, timeline.reason) == ("success", None)
    assert [step.status for step in timeline.steps] == ["success"] * MOST
    assert {step.attempts for step in timeline.steps} == {1}


@pytest.mark.parametrize(
    ("plan", "complaints"),
    [
        pytest.param(
            [compare("a", "1", "c"), compare("b", "1", "a"), compare("c", "1", "b")],
            ["step 'a': waits for itself in the cycle", "a → "],
            id="a cycle",
        ),
        pytest.param(
            [compare("first"), compare("b", "1", "frist")],
            ["step 'b': depends on the unknown step 'frist' (did you mean 'first'?)"],
            id="a dependency on nothing",
        ),
        pytest.param(
            [compare("first"), compare("b", "${steps.frist.output.newer}")],
            [
                "step 'b': ${steps.frist.output.newer} refers to the unknown step 'frist'",
                "'first'?",
            ],
            id="a reference to no step",
        ),
        pytest.param(
            [compare("first"), compare("b", "${steps.first.output.newest}")],
            ["puts out same, newer, summary, not 'newest' (did you mean 'newer'?)"],
            id="a reference to no output",
        ),
        pytest.param(
            [{**compare("a"), "action": "version.compare"}, compare("b", "1", "gone")],
            [
                "step 'a': the catalogue has no action 'version.compare'",
                "versions.compare",
                "'gone'",
            ],
            id="several at once",
        ),
    ],
)
def test_a_plan_that_cannot_work_says_where_and_what_else_was_meant(
    shared: Surroundings, plan: list[dict[str, Any]], complaints: list[str]
) -> None:
    name = complaints[0]
    shared.produce({"plan": plan, "correlation_id": name})
    timeline = shared.end_of(name)
    assert (timeline.status, timeline.code) == ("failed", "invalid_plan")
    assert [each for each in complaints if each not in (timeline.reason or "")] == []


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    """One running pipeline for tests that leave it as it is."""
    kafka: KafkaServer = request.getfixturevalue("kafka")
    postgres = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("template_database")
    with postgres.database(template=template) as database:
        url = postgres.url_of(database)
        surroundings = Surroundings(kafka, url, "limits.", tmp_path_factory.mktemp("limits"))
        with surroundings.running():
            yield surroundings
        surroundings.connection.close()


def test_an_action_that_leaves_the_catalogue_while_people_are_asked_is_not_done(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = make_submission("delete web in staging", user="zoe")
    with surroundings.running() as stack:
        asyncio.run(send(stack.settings, submission))
        asked = wait_for_approval(
            surroundings.connection,
            submission.execution_id,
            lane=surroundings.lane,
            timeout=PATIENCE,
        )
    yaml = YAML(typ="safe", pure=True)
    catalogue = yaml.load(ROOT / "actions.yaml")
    del catalogue["actions"]["service.delete"]
    smaller = tmp_path / "smaller.yaml"
    with smaller.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(catalogue, stream)
    monkeypatch.setenv("MILLSTREAM_ACTIONS_FILE", str(smaller))
    with surroundings.running() as stack:
        for name in ("ann", "bob"):
            speaker = speaker_of(stack.settings, name, stack.keys[name])
            answer = decide(
                stack.settings,
                surroundings.connection,
                "approve",
                asked,
                speaker,
                timeout=PATIENCE,
            )
            assert answer.is_accepted, answer
        history = History(surroundings.connection, lane=surroundings.lane)
        timeline = wait_for_completion(history, submission.execution_id, timeout=PATIENCE)
    assert (timeline.status, timeline.code) == ("denied", "unknown_action")
    assert timeline.reason == (
        "The catalogue has no action service.delete any more, or not yet. Ask for another one; "
        "`millstream actions ls` names them all."
    )
    assert [(step.status, step.attempts) for step in timeline.steps] == [("skipped", 0)]
