"""What a plan says about the difference between topics.yaml and a broker."""

from pathlib import Path

import pytest

from agents.runtime.kafka_admin import TopicState
from agents.runtime.topology import Topology, load_topology
from ops.topic_changes import Change, Difference, plan_changes

DECLARATION = """\
defaults: {owner: us, partitions: 6, retention: 7d}
topics:
  millstream.plans.v1: {schema: Plan, producers: [a], consumers: [b]}
  millstream.states.v1:
    schema: ExecutionState
    cleanup: compact,delete
    producers: [a]
    consumers: [b]
  millstream.dead-letters.v1:
    {schema: bytes, key: any, partitions: 4, producers: [any], consumers: [sink]}
"""


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    (tmp_path / "topics.yaml").write_text(DECLARATION, encoding="utf-8")
    return load_topology(tmp_path / "topics.yaml")


Broker = tuple[dict[str, TopicState], dict[str, dict[str, str]]]


def as_declared(topology: Topology, lane: str = "") -> Broker:
    actual, configs = {}, {}
    for topic in topology.topics.values():
        name = topic.name_in(lane)
        actual[name] = TopicState(name, topic.partitions, topic.replication_factor, None)
        configs[name] = {**topic.config(), "segment.bytes": "1073741824"}
    return actual, configs


def resize(actual: dict[str, TopicState], name: str, partitions: int, replicas: int = 1) -> None:
    actual[name] = TopicState(name, partitions, replicas, None)


def test_a_broker_as_declared_needs_no_change(topology: Topology) -> None:
    assert plan_changes(topology, *as_declared(topology)) == []


def test_a_missing_topic_is_created_as_declared(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    del actual["millstream.plans.v1"], configs["millstream.plans.v1"]
    (change,) = plan_changes(topology, actual, configs)
    assert (change.kind, change.topic) == ("create", "millstream.plans.v1")
    assert change.new is not None
    assert (change.new.partitions, change.new.replication_factor) == (6, 1)
    assert change.new.config["retention.ms"] == "604800000"


def test_a_different_setting_is_changed(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    configs["millstream.plans.v1"]["retention.ms"] = "86400000"
    del configs["millstream.plans.v1"]["max.message.bytes"]
    (change,) = plan_changes(topology, actual, configs)
    assert change == Change(
        "change",
        "millstream.plans.v1",
        (
            Difference("max.message.bytes", None, "1000000"),
            Difference("retention.ms", "86400000", "604800000"),
        ),
    )


def test_the_order_within_a_list_makes_no_difference(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    configs["millstream.states.v1"]["cleanup.policy"] = "delete,compact"
    assert plan_changes(topology, actual, configs) == []


def test_growing_a_keyed_topic_is_refused(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    resize(actual, "millstream.plans.v1", 3)
    (change,) = plan_changes(topology, actual, configs)
    assert change.kind == "refuse"
    assert change.differences == (Difference("partitions", "3", "6"),)
    assert change.reason is not None
    assert "partition growth of a topic keyed by correlation_id" in change.reason


def test_growing_a_topic_without_a_key_is_a_change(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    resize(actual, "millstream.dead-letters.v1", 2)
    (change,) = plan_changes(topology, actual, configs)
    assert (change.kind, change.differences) == ("change", (Difference("partitions", "2", "4"),))


def test_taking_partitions_away_is_refused(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    resize(actual, "millstream.dead-letters.v1", 9)
    (change,) = plan_changes(topology, actual, configs)
    assert (change.kind, change.reason) == (
        "refuse",
        "Kafka cannot take partitions away; make a new version of the topic",
    )


def test_another_replication_factor_is_refused_and_a_setting_beside_it_changed(
    topology: Topology,
) -> None:
    actual, configs = as_declared(topology)
    resize(actual, "millstream.plans.v1", 6, replicas=3)
    configs["millstream.plans.v1"]["retention.ms"] = "1"
    refused, changed = plan_changes(topology, actual, configs)
    assert (refused.kind, changed.kind) == ("refuse", "change")
    assert refused.differences == (Difference("replication factor", "3", "1"),)


def test_the_replication_factor_can_be_overridden(topology: Topology) -> None:
    created = plan_changes(topology, {}, {}, replication_factor=3)
    assert {change.new.replication_factor for change in created if change.new} == {3}


def test_unknown_topics_are_only_reported(topology: Topology) -> None:
    actual, configs = as_declared(topology)
    for name in ("orders", "millstream.old.v1", "_schemas", "canary.millstream.plans.v1"):
        resize(actual, name, 1)
    changes = plan_changes(topology, actual, configs)
    assert [(change.kind, change.topic) for change in changes] == [
        ("unknown", "millstream.old.v1"),
        ("unknown", "orders"),
    ]


def test_a_lane_sees_only_itself(topology: Topology) -> None:
    actual, configs = as_declared(topology, "canary.")
    for name in ("orders", "millstream.plans.v1", "canary.millstream.old.v1"):
        resize(actual, name, 1)
    changes = plan_changes(topology, actual, configs, lane="canary.")
    assert [(change.kind, change.topic) for change in changes] == [
        ("unknown", "canary.millstream.old.v1")
    ]
