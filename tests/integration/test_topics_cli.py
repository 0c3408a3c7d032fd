"""``millstream topics`` against real brokers."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.kafka_servers import KafkaServer
from typer.testing import CliRunner, Result

from agents.runtime.kafka_admin import KafkaAdmin, KafkaUnavailableError, NewTopicSpec, TopicState
from agents.runtime.topology import Topology, TopologyError, load_topology
from ops.local.ports import free_port
from ops.topics import bring_in, ensure_topics, topics_app

pytestmark = pytest.mark.integration

SHIPPED = Path(__file__).parents[2] / "topics.yaml"

DECLARATION = """\
defaults: {owner: us, partitions: 2, retention: 7d}
topics:
  millstream.plans.v1: {schema: Plan, producers: [a], consumers: [b]}
  millstream.states.v1:
    schema: ExecutionState
    cleanup: compact,delete
    min_compaction_lag: 1d
    producers: [a]
    consumers: [b]
  millstream.dead-letters.v1:
    {schema: bytes, key: any, partitions: 1, producers: [any], consumers: [sink]}
"""


class Cli:
    """The command in one lane of one broker."""

    def __init__(self, bootstrap_servers: str, lane: str, file: Path) -> None:
        self.options = ["--kafka", bootstrap_servers, "--lane", lane, "--topics-file", str(file)]
        self.lane = lane
        self.file = file
        self.admin = KafkaAdmin(bootstrap_servers)

    def __call__(self, *arguments: str) -> Result:
        # Wide enough that no line of a table is wrapped.
        return CliRunner(env={"COLUMNS": "300"}).invoke(topics_app, [*arguments, *self.options])

    def lines(self, *arguments: str) -> list[str]:
        return [" ".join(line.split()) for line in self(*arguments).output.splitlines()]

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").output)

    @property
    def topology(self) -> Topology:
        return load_topology(self.file)

    def remove_lane(self) -> None:
        """Delete what the test made."""
        self.admin.delete_topics([n for n in self.admin.list_topics() if n.startswith(self.lane)])


@pytest.fixture
def cli(broker: KafkaServer, lane: str, tmp_path: Path) -> Iterator[Cli]:
    file = tmp_path / "topics.yaml"
    file.write_text(DECLARATION, encoding="utf-8")
    command = Cli(broker.bootstrap_servers, lane, file)
    yield command
    command.remove_lane()


def test_a_plan_shows_what_is_missing_and_changes_nothing(cli: Cli) -> None:
    lines = cli.lines("plan")
    assert lines == [
        (
            f"+ create {cli.lane}millstream.plans.v1 2 partitions, replication 1, delete, kept 7d, "
            "messages up to 1MB"
        ),
        (
            f"+ create {cli.lane}millstream.states.v1 2 partitions, replication 1, compact,delete, "
            "kept 7d, messages up to 1MB"
        ),
        (
            f"+ create {cli.lane}millstream.dead-letters.v1 1 partitions, replication 1, delete, "
            "kept 7d, messages up to 1MB"
        ),
        "Plan: 3 to create, 0 to change, 0 refused, 0 unknown.",
    ]
    assert not [name for name in cli.admin.list_topics() if name.startswith(cli.lane)]


def test_apply_creates_what_is_declared_and_then_has_nothing_to_do(cli: Cli) -> None:
    first = cli("apply")
    assert (first.exit_code, first.output.splitlines()[-1]) == (
        0,
        "Applied: 3 created, 0 changed, 0 refused, 0 unknown.",
    )
    second = cli("apply")
    assert (second.exit_code, second.output) == (0, "No changes.\n")
    states = f"{cli.lane}millstream.states.v1"
    assert cli.admin.list_topics()[states].partitions == 2
    config = cli.admin.describe_configs([states])[states]
    assert config["min.compaction.lag.ms"] == "86400000"


def test_drift_of_a_setting_is_shown_exits_with_1_and_is_mended_by_apply(cli: Cli) -> None:
    cli("apply")
    assert cli("drift").exit_code == 0
    plans = f"{cli.lane}millstream.plans.v1"
    cli.admin.alter_configs(plans, {"retention.ms": "86400000"})
    drift = cli("drift")
    assert drift.exit_code == 1
    assert f"~ change {plans} retention.ms 1d → 7d" in " ".join(drift.output.split())
    assert cli("apply").exit_code == 0
    assert cli("drift").exit_code == 0


def test_growth_of_a_keyed_topic_is_refused_while_the_rest_is_applied(cli: Cli) -> None:
    cli("apply")
    cli.file.write_text(
        DECLARATION.replace("partitions: 2", "partitions: 4, max_message_bytes: 2MB")
    )
    applied = cli("apply")
    assert applied.exit_code == 1
    assert (
        f"! refused {cli.lane}millstream.plans.v1 partitions 2 → 4: "
        "partition growth of a topic keyed by correlation_id"
    ) in " ".join(applied.output.split())
    assert cli.admin.list_topics()[f"{cli.lane}millstream.plans.v1"].partitions == 2
    assert cli.json("plan")["summary"] == {"create": 0, "change": 0, "refuse": 2, "unknown": 0}


def test_an_unknown_topic_is_reported_and_never_deleted(cli: Cli) -> None:
    cli("apply")
    unknown = f"{cli.lane}millstream.old.v1"
    cli.admin.create_topics([NewTopicSpec(unknown, 1, 1)])
    applied = cli("apply")
    assert (applied.exit_code, applied.output.splitlines()[-1]) == (0, "No changes. 1 unknown.")
    assert unknown in cli.admin.list_topics()
    assert cli("drift").exit_code == 0


def test_json_tells_the_same(cli: Cli) -> None:
    cli("apply")
    plans = f"{cli.lane}millstream.plans.v1"
    cli.admin.alter_configs(plans, {"retention.ms": "86400000"})
    assert cli.json("drift") == {
        "applied": False,
        "changes": [
            {
                "kind": "change",
                "topic": plans,
                "differences": [
                    {"setting": "retention.ms", "actual": "86400000", "declared": "604800000"}
                ],
                "reason": None,
                "new": None,
            }
        ],
        "summary": {"create": 0, "change": 1, "refuse": 0, "unknown": 0},
    }


def test_the_shipped_declaration_can_be_applied(cli: Cli) -> None:
    topology = load_topology(SHIPPED)
    ensure_topics(cli.admin, topology, cli.lane)
    names = {topic.name_in(cli.lane) for topic in topology.topics.values()}
    assert names <= set(cli.admin.list_topics())
    assert bring_in(cli.admin, topology, lane=cli.lane) == []


def test_several_processes_may_ensure_the_topics_at_once(cli: Cli) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def ensure() -> None:
        admin = KafkaAdmin(cli.options[1])
        start.wait()
        try:
            ensure_topics(admin, cli.topology, cli.lane)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test reports it
            failures.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cli("drift").exit_code == 0


def test_topics_that_no_program_mends_refuse_the_start(cli: Cli) -> None:
    ensure_topics(cli.admin, cli.topology, cli.lane)
    cli.file.write_text(DECLARATION.replace("partitions: 2", "partitions: 4"))
    with pytest.raises(TopologyError, match=r"millstream\.plans\.v1: partition growth"):
        ensure_topics(cli.admin, cli.topology, cli.lane)


@pytest.mark.real_kafka
def test_a_topic_without_a_key_grows(kafka: KafkaServer, lane: str, tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(DECLARATION, encoding="utf-8")
    cli = Cli(kafka.bootstrap_servers, lane, file)
    cli("apply")
    file.write_text(DECLARATION.replace("partitions: 1", "partitions: 3"), encoding="utf-8")
    applied = cli("apply")
    assert "partitions 1 → 3" in applied.output
    assert cli.admin.list_topics()[f"{lane}millstream.dead-letters.v1"].partitions == 3
    cli.remove_lane()


@pytest.mark.real_kafka
def test_what_the_broker_refuses_is_said_in_one_sentence(
    kafka: KafkaServer, lane: str, tmp_path: Path
) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(DECLARATION, encoding="utf-8")
    result = Cli(kafka.bootstrap_servers, lane, file)("apply", "--replication-factor", "9")
    assert result.exit_code == 1
    assert f"the broker refuses topic '{lane}millstream.plans.v1'" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["plan", "apply", "drift"])
def test_a_broker_that_is_not_there_is_one_sentence_and_exit_code_2(command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    result = CliRunner().invoke(topics_app, [command, "--kafka", address])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"no Kafka broker answers at {address}")
    assert len(result.stderr.splitlines()) == 1


def test_a_malformed_declaration_names_the_line_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text("topics:\n  millstream.plans.v1: {schema: Plann}\n", encoding="utf-8")
    result = CliRunner().invoke(topics_app, ["plan", "--topics-file", str(file)])
    assert result.exit_code == 2
    assert f"{file}:2: at topics" in result.stderr
    assert "did you mean 'Plan'?" in result.stderr


def test_a_lane_that_is_none_is_a_usage_error() -> None:
    result = CliRunner().invoke(topics_app, ["plan", "--lane", "Canary_1"])
    assert result.exit_code == 2
    assert "is no lane" in result.stderr


class SlowToShow(KafkaAdmin):
    """A cluster that confirms a topic some looks before it lists it."""

    looks_without = 0

    def list_topics(self) -> dict[str, TopicState]:
        if self.looks_without > 0:
            self.looks_without -= 1
            return {}
        return super().list_topics()


def test_what_the_broker_confirmed_is_waited_for_until_it_shows(
    embedded_broker: KafkaServer, lane: str
) -> None:
    admin = SlowToShow(embedded_broker.bootstrap_servers)
    admin.looks_without = 4
    planned = bring_in(admin, load_topology(SHIPPED), lane=lane)
    assert {change.kind for change in planned} == {"create"}
    assert admin.looks_without == 0


def test_what_never_shows_is_an_error_that_names_the_topics(
    embedded_broker: KafkaServer, lane: str
) -> None:
    admin = SlowToShow(embedded_broker.bootstrap_servers)
    admin.looks_without = 1_000_000
    ticks = iter(range(100))
    with pytest.raises(KafkaUnavailableError, match=rf"{lane}millstream\.requests\.v1"):
        bring_in(
            admin,
            load_topology(SHIPPED),
            lane=lane,
            timeout=5,
            clock=lambda: float(next(ticks)),
            sleep=lambda _: None,
        )
