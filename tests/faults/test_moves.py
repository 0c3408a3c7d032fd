"""A partition moves while a step is being carried out: the step is done once, and known to be."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]  # it has no __all__
from faults.checker import check, described
from faults.collecting import Observer
from faults.harness import Pipeline
from faults.load import Load
from ruamel.yaml import YAML
from support.waiting import wait_until

from schemas import StepResult, envelope_type

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(400),
]

REQUESTS = 12


class Gate(ThreadingHTTPServer):
    """Services whose restarts begin at once, and end when the test says so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Restart)
        self.open = threading.Event()
        self.begun: Counter[str] = Counter()
        """By idempotency key, how often a restart has begun."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Restart(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        gate = self.server
        assert isinstance(gate, Gate)
        gate.begun[self.headers["Idempotency-Key"]] += 1
        gate.open.wait(300)
        answer = {"version": "1", "health": "healthy", "replicas": 1, "restarted_at": "now"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def gate() -> Iterator[Gate]:
    with _serving(Gate()) as server:
        yield server


@contextmanager
def _serving(server: Gate) -> Iterator[Gate]:
    thread = threading.Thread(target=server.serve_forever, name="gate")
    thread.start()
    try:
        yield server
    finally:
        server.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


def patient_actions(pipeline: Pipeline, folder: Path) -> Path:
    """The catalogue with time limits that the test never meets."""
    yaml = YAML()
    catalogue = yaml.load(pipeline.servers.actions_file.read_text())
    for action in catalogue["actions"].values():
        action["timeout"] = "250s"
    path = folder / "actions.yaml"
    with path.open("w") as file:
        yaml.dump(catalogue, file)
    return path


def members_with_partitions(bootstrap_servers: str, group: str) -> int:
    """How many members of a group have partitions."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    found = client.describe_consumer_groups([group])[group].result()
    return sum(bool(member.assignment.topic_partitions) for member in found.members)


def test_an_effect_outlasts_the_move_of_its_partition(
    pipeline: Pipeline, gate: Gate, tmp_path: Path
) -> None:
    pipeline.set(
        MILLSTREAM_PLAYGROUND_URL=gate.url,
        MILLSTREAM_ACTIONS_FILE=str(patient_actions(pipeline, tmp_path)),
    )
    address = pipeline.servers.kafka.bootstrap_servers
    load = Load(address, pipeline.lane, seed=1)
    pipeline.start_sink()
    pipeline.start_worker(wait=True)
    load.ask_for(REQUESTS)
    wait_until(lambda: len(gate.begun) == REQUESTS, "every restart has begun")
    pipeline.start_worker(wait=True)
    group = f"{pipeline.lane}millstream-executor_http"
    wait_until(lambda: members_with_partitions(address, group) == 2, "partitions have moved")
    gate.open.set()

    observer = Observer(pipeline.place)
    at_rest = observer.wait_until_at_rest(120)
    evidence = replace(observer.collect(load.submitted), calls=gate.begun)
    faults = check(evidence)
    assert at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    assert Counter(row["status"] for row in evidence.executions) == {"success": REQUESTS}
    results = [
        envelope_type(StepResult).model_validate_json(record.value or b"").message_id
        for record in evidence.records
        if record.topic.endswith("results.v1")
    ]
    assert len(results) > len(set(results)), "no step was in flight when its partition moved"
