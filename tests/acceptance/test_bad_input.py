"""What people and programs send by mistake, on real brokers: nothing is lost, nothing stops."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from psycopg.rows import DictRow, dict_row
from support.kafka_servers import KafkaServer

from agents.runtime.testing import message_with
from ops.stack import Stack, StackOptions
from schemas import Intent
from schemas.identity import uuid_of

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

REQUESTS = "millstream.requests.v1"
_PATIENCE = 60.0


class Pipeline:
    """A running pipeline as a foreign producer and a reader of the database see it."""

    def __init__(self, bootstrap: str, database_url: str, lane: str) -> None:
        self.lane = lane
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "message.max.bytes": 4_000_000, "log_level": 0}
        )
        self._connection = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)

    def send(
        self,
        value: Any,
        *,
        topic: str = REQUESTS,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int = -1,
    ) -> None:
        raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
        self._producer.produce(
            self.lane + topic, raw, key, headers=list(headers), partition=partition
        )
        assert self._producer.flush(30) == 0

    def rows(self, query: str, **parameters: Any) -> list[DictRow]:
        return self._connection.execute(query, parameters).fetchall()

    def await_rows(
        self, query: str, enough: Callable[[list[DictRow]], bool] = bool, **parameters: Any
    ) -> list[DictRow]:
        """The rows of ``query``, as soon as they are enough."""
        deadline = time.monotonic() + _PATIENCE
        while not enough(rows := self.rows(query, **parameters)):
            if time.monotonic() > deadline:
                everything = self.rows(
                    "SELECT correlation_id, status, code, reason FROM history.executions"
                ) + self.rows("SELECT code, reason, origin_topic FROM history.dead_letters")
                pytest.fail(f"waited in vain for {query} {parameters}; there is {everything}")
            time.sleep(0.05)
        return rows

    def execution(self, external_id: str) -> DictRow:
        """The execution of that external id, once it has ended."""
        rows = self.await_rows(
            "SELECT * FROM history.executions WHERE lane = %(lane)s AND external_id = %(id)s"
            " AND status = ANY(%(ended)s)",
            lane=self.lane,
            id=external_id,
            ended=["success", "failed", "denied", "needs_clarification", "cancelled"],
        )
        assert len(rows) == 1
        return rows[0]

    def dead_letter(self, value: bytes | None, *, topic: str = REQUESTS) -> DictRow:
        """The one dead letter with those bytes."""
        rows = self.await_rows(
            "SELECT * FROM history.dead_letters WHERE lane = %(lane)s"
            " AND origin_topic = %(topic)s AND value IS NOT DISTINCT FROM %(value)s::bytea",
            lane=self.lane,
            topic=self.lane + topic,
            value=value,
        )
        assert len(rows) == 1
        return rows[0]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module", params=["kafka", "embedded"])
def pipeline(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    """The whole pipeline on each kind of broker, shared by the tests: none may stop it."""
    name = "embedded_broker" if request.param == "embedded" else "kafka"
    server: KafkaServer = request.getfixturevalue(name)
    postgres = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("template_database")
    lane = f"bad-{request.param}."
    state: Path = tmp_path_factory.mktemp("stack")
    with postgres.database(template=template) as database:
        url = postgres.url_of(database)
        options = StackOptions(
            state=state, kafka=server.bootstrap_servers, postgres=url, lane=lane, temporary=True
        )
        with Stack(options):
            running = Pipeline(server.bootstrap_servers, url, lane)
            yield running
            # Whatever came in before: the pipeline still works.
            running.send({"text": "status of checkout in staging", "correlation_id": "the-last"})
            assert running.execution("the-last")["status"] == "success"
            running.close()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        pytest.param(b'{"text": "restart', "not JSON", id="malformed JSON"),
        pytest.param(b"\xff\xfe\x00", "not JSON", id="no text at all"),
        pytest.param(b'["restart"]', "a JSON array, not an object", id="an array"),
        pytest.param(b'{"text": 7}', "text: input should be a valid string", id="a wrong type"),
        pytest.param(b'{"text": ""}', "text: ", id="an empty text"),
        pytest.param(b'{"text": " \\n "}', "text: is blank", id="a blank text"),
        pytest.param(b'{"text": "ring\\u0007"}', "U+0007", id="a control character"),
        pytest.param(b"{}", "neither a text nor a plan", id="nothing asked for"),
        pytest.param(
            json.dumps({"text": "x" * 2_000_000}).encode(),
            "at most 10000 characters",
            id="two megabytes of text",
        ),
        pytest.param(None, "tombstone", id="a tombstone"),
        pytest.param(
            b'{"plan": [{"step_id": "NO", "action": "service.status"}]}',
            "plan.0.step_id",
            id="a malformed plan",
        ),
    ],
)
def test_what_is_no_request_is_a_dead_letter_with_its_bytes(
    pipeline: Pipeline, value: bytes | None, complaint: str
) -> None:
    headers = [("who", b"a test")]
    pipeline.send(value, key=b"\x00any key", headers=headers)
    letter = pipeline.dead_letter(value)
    assert complaint in letter["reason"]
    assert (letter["code"], letter["role"]) == ("invalid_message", "intent_parser")
    assert letter["key"] == b"\x00any key"


def test_unknown_fields_are_reported_and_do_no_harm(pipeline: Pipeline) -> None:
    body = {"text": "status of checkout in staging", "priority": "high", "correlation_id": "extra"}
    pipeline.send(body)
    execution = pipeline.execution("extra")
    assert execution["status"] == "success"
    (event,) = pipeline.rows(
        "SELECT payload FROM history.events WHERE correlation_id = %(id)s"
        " AND message_type = 'ExecutionRequest'",
        id=execution["correlation_id"],
    )
    assert event["payload"]["unknown_fields"] == ["priority"]


@pytest.mark.parametrize("key", [None, b"", b"someone else's key"])
def test_a_request_needs_no_key_and_any_key_does(pipeline: Pipeline, key: bytes | None) -> None:
    name = f"key {key!r}"
    pipeline.send({"text": "status of search in staging", "correlation_id": name}, key=key)
    assert pipeline.execution(name)["status"] == "success"


def test_the_same_message_id_on_two_partitions_is_one_execution(pipeline: Pipeline) -> None:
    body = {"text": "restart search in staging", "correlation_id": "twice", "message_id": "m-1"}
    for partition in (0, 3, 0):
        pipeline.send(body, partition=partition)
    execution = pipeline.execution("twice")
    assert execution["status"] == "success"
    pipeline.send({"text": "status of search in staging", "correlation_id": "after twice"})
    pipeline.execution("after twice")
    steps = pipeline.rows(
        "SELECT count(*) FROM history.events WHERE correlation_id = %(id)s"
        " AND message_type = 'StepResult'",
        id=execution["correlation_id"],
    )
    assert steps[0]["count"] == 1


def test_another_request_under_a_used_correlation_id_is_refused(pipeline: Pipeline) -> None:
    first = {"text": "status of payments in staging", "correlation_id": "in use"}
    pipeline.send(first)
    before = pipeline.execution("in use")
    pipeline.send({"text": "restart payments in staging", "correlation_id": "in use"})
    letters = pipeline.await_rows(
        "SELECT * FROM history.dead_letters WHERE lane = %(lane)s"
        " AND code = 'correlation_id_in_use'",
        lane=pipeline.lane,
    )
    assert len(letters) == 1
    assert letters[0]["role"] == "router"
    assert str(before["request_id"]) in letters[0]["reason"]
    after = pipeline.execution("in use")
    assert (after["status"], after["title"]) == ("success", before["title"])


def test_a_correlation_id_that_is_no_uuid_is_kept_beside_its_uuid(pipeline: Pipeline) -> None:
    pipeline.send({"text": "status of checkout in development", "correlation_id": "JIRA 42/ö"})
    execution = pipeline.execution("JIRA 42/ö")
    assert execution["correlation_id"] == uuid_of("JIRA 42/ö", tenant="default")


@pytest.mark.parametrize(
    "text", ["перезапусти checkout", "重启 checkout", "🚀🚀🚀", "ｒｅｓｔａｒｔ"]
)
def test_text_in_other_scripts_ends_with_a_question(pipeline: Pipeline, text: str) -> None:
    pipeline.send({"text": text, "correlation_id": text})
    execution = pipeline.execution(text)
    assert execution["status"] == "needs_clarification"
    assert execution["reason"]


def test_a_wrong_key_inside_the_pipeline_is_a_dead_letter(pipeline: Pipeline) -> None:
    intent = Intent(
        request_id=message_with(Intent.model_construct()).message_id,
        title="status",
        requester="ann",
        parser="rules",
    )
    message = message_with(intent, lane=pipeline.lane, execution="wrong key")
    value = message.to_bytes()
    pipeline.send(value, topic="millstream.intents.v1", key=b"wrong")
    letter = pipeline.dead_letter(value, topic="millstream.intents.v1")
    assert (letter["code"], letter["role"]) == ("wrong_key", "planner")


def test_garbage_inside_the_pipeline_is_a_dead_letter(pipeline: Pipeline) -> None:
    pipeline.send(b"\x00garbage", topic="millstream.verdicts.v1")
    letter = pipeline.dead_letter(b"\x00garbage", topic="millstream.verdicts.v1")
    assert letter["role"] == "router"


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ([{"step_id": "a", "action": "service.explode"}], "service.explode"),
        ([{"step_id": "a", "action": "service.status"}], "service"),
        (
            [
                {"step_id": "a", "action": "service.status", "depends_on": ["b"]},
                {"step_id": "b", "action": "service.status", "depends_on": ["a"]},
            ],
            "cycle",
        ),
    ],
)
def test_a_plan_that_cannot_work_fails_with_its_reason(
    pipeline: Pipeline, plan: list[dict[str, Any]], complaint: str
) -> None:
    pipeline.send({"text": "plan", "plan": plan, "correlation_id": complaint})
    execution = pipeline.execution(complaint)
    assert execution["status"] == "failed"
    assert complaint in execution["reason"]


def test_a_foreign_producer_needs_nothing_but_a_text(pipeline: Pipeline) -> None:
    text = "status of frontend in staging"
    pipeline.send({"text": text})
    rows = pipeline.await_rows(
        "SELECT status FROM history.executions WHERE lane = %(lane)s AND title = %(text)s"
        " AND finished_at IS NOT NULL",
        lane=pipeline.lane,
        text=text,
    )
    assert [row["status"] for row in rows] == ["success"]
