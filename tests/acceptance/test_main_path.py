"""The main path on each kind of broker, with a producer that knows nothing of Millstream."""

import json
import time
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Producer
from support.kafka_servers import KafkaServer

from ops.history import History
from ops.stack import Stack, StackOptions
from ops.timeline import Timeline
from ops.waiting import ExecutionTimeoutError, wait_for_completion
from schemas import ExecutionStatus
from schemas.identity import uuid_of

pytestmark = [pytest.mark.integration, pytest.mark.e2e]


def test_a_bare_text_without_key_or_headers_becomes_a_finished_execution(
    broker: KafkaServer, database_url: str, lane: str, tmp_path: Path
) -> None:
    options = StackOptions(
        state=tmp_path,
        kafka=broker.bootstrap_servers,
        postgres=database_url,
        lane=lane,
        temporary=True,
    )
    with Stack(options), psycopg.connect(database_url, autocommit=True) as connection:
        history = History(connection, lane=lane)
        produce(broker, lane, {"text": "restart checkout in staging and tell #releases"})
        timeline = wait_for_completion(history, the_only_execution(history), timeout=60)
        assert timeline.status is ExecutionStatus.SUCCESS
        assert [step.action for step in timeline.steps] == ["service.restart", "notify.send"]
        assert timeline.steps[0].output["health"] == "healthy"
        assert every_message_has_its_cause(timeline)

        produce(broker, lane, {"text": "delete checkout in production", "correlation_id": "no-1"})
        denied = wait_for_completion(history, uuid_of("no-1", tenant="default"), timeout=60)
        assert denied.status is ExecutionStatus.DENIED
        assert denied.external_id == "no-1"
        assert [step.attempts for step in denied.steps] == [0]

        with pytest.raises(ExecutionTimeoutError, match="nothing has reached history yet"):
            wait_for_completion(history, uuid_of("never sent", tenant="default"), timeout=0)


def produce(broker: KafkaServer, lane: str, body: dict[str, str]) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
    producer.produce(f"{lane}millstream.requests.v1", json.dumps(body).encode())
    assert producer.flush(30) == 0


def the_only_execution(history: History) -> UUID:
    deadline = time.monotonic() + 60
    while not (executions := history.executions()):
        assert time.monotonic() < deadline, "no execution within 60 s"
        time.sleep(0.05)
    assert len(executions) == 1
    return executions[0].correlation_id


def every_message_has_its_cause(timeline: Timeline) -> bool:
    """Up to the verdict each message names its predecessor; what follows goes through states."""
    by_type = {event.message_type: event for event in timeline.events}
    chain = ["ExecutionRequest", "Intent", "Plan", "Verdict"]
    return by_type["ExecutionRequest"].causation_id is None and all(
        by_type[effect].causation_id == by_type[cause].message_id
        for cause, effect in pairwise(chain)
    )
