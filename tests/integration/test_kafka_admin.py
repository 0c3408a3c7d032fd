"""Administration of topics, on Apache Kafka and on the embedded broker."""

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from support.kafka_servers import KafkaServer

from agents.runtime.kafka_admin import (
    KafkaAdmin,
    KafkaUnavailableError,
    NewTopicSpec,
    TopicExistsError,
    TopicRejectedError,
    UnknownTopicError,
    UnsupportedByBrokerError,
)
from ops.local import free_port

pytestmark = pytest.mark.integration


@pytest.fixture
def admin(broker: KafkaServer) -> KafkaAdmin:
    return KafkaAdmin(broker.bootstrap_servers)


@pytest.fixture
def kafka_admin(kafka: KafkaServer) -> KafkaAdmin:
    return KafkaAdmin(kafka.bootstrap_servers)


def test_a_created_topic_is_listed_as_it_was_asked_for(admin: KafkaAdmin, lane: str) -> None:
    admin.create_topics([NewTopicSpec(f"{lane}a", 3, 1, {"retention.ms": "100000"})])

    state = admin.list_topics()[f"{lane}a"]
    assert (state.partitions, state.replication_factor) == (3, 1)
    assert state.topic_id
    assert admin.describe_configs([f"{lane}a"])[f"{lane}a"]["retention.ms"] == "100000"


def test_a_topic_made_anew_has_another_id(admin: KafkaAdmin, lane: str) -> None:
    spec = NewTopicSpec(f"{lane}a", 1, 1)
    ids = set()
    for _ in range(2):
        admin.create_topics([spec])
        ids.add(admin.list_topics()[spec.name].topic_id)
        admin.delete_topics([spec.name])

    assert len(ids) == 2
    assert spec.name not in admin.list_topics()


def test_topics_that_exist_are_an_error_and_the_others_are_made(
    admin: KafkaAdmin, lane: str
) -> None:
    specs = [NewTopicSpec(f"{lane}{name}", 1, 1) for name in "abc"]
    admin.create_topics(specs[:2])

    with pytest.raises(TopicExistsError, match=f"{lane}a") as error:
        admin.create_topics(specs)

    assert error.value.topic == f"{lane}a"
    assert error.value.__notes__ == [f"topic '{lane}b' exists already"]
    assert f"{lane}c" in admin.list_topics()


def test_an_altered_value_is_seen_at_once_and_the_others_stay(admin: KafkaAdmin, lane: str) -> None:
    name = f"{lane}a"
    admin.create_topics(
        [NewTopicSpec(name, 1, 1, {"retention.ms": "1000", "retention.bytes": "9"})]
    )

    admin.alter_configs(name, {"retention.ms": "2000"})

    config = admin.describe_configs([name])[name]
    assert (config["retention.ms"], config["retention.bytes"]) == ("2000", "9")


def test_topics_that_do_not_exist_are_named(admin: KafkaAdmin, lane: str) -> None:
    missing = f"{lane}missing"

    with pytest.raises(UnknownTopicError, match=missing):
        admin.describe_configs([missing])
    with pytest.raises(UnknownTopicError, match=missing):
        admin.alter_configs(missing, {"retention.ms": "1"})
    with pytest.raises(UnknownTopicError, match=missing):
        admin.delete_topics([missing])


@pytest.mark.real_kafka
def test_partitions_can_be_added_and_not_taken_away(kafka_admin: KafkaAdmin, lane: str) -> None:
    name = f"{lane}a"
    kafka_admin.create_topics([NewTopicSpec(name, 2, 1)])

    kafka_admin.add_partitions(name, 4)

    assert kafka_admin.list_topics()[name].partitions == 4
    with pytest.raises(TopicRejectedError, match="would not be an increase"):
        kafka_admin.add_partitions(name, 3)


def test_the_embedded_broker_says_that_it_cannot_add_partitions(
    embedded_broker: KafkaServer, lane: str
) -> None:
    admin = KafkaAdmin(embedded_broker.bootstrap_servers)
    admin.create_topics([NewTopicSpec(f"{lane}a", 2, 1)])

    with pytest.raises(UnsupportedByBrokerError, match="add partitions"):
        admin.add_partitions(f"{lane}a", 4)


@pytest.mark.real_kafka
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (NewTopicSpec("has blank", 1, 1), "name is invalid"),
        (NewTopicSpec("wide", 1, 99), "replication factor"),
        (NewTopicSpec("empty", 0, 1), "Number of partitions"),
        (NewTopicSpec("odd", 1, 1, {"nonsense": "1"}), "nonsense"),
        (NewTopicSpec("wrong", 1, 1, {"retention.ms": "long"}), "retention.ms"),
    ],
    ids=lambda value: value.name if isinstance(value, NewTopicSpec) else None,
)
def test_kafka_refuses_a_malformed_topic_with_its_reason(
    kafka_admin: KafkaAdmin, lane: str, spec: NewTopicSpec, reason: str
) -> None:
    spec = NewTopicSpec(lane + spec.name, spec.partitions, spec.replication_factor, spec.config)

    with pytest.raises(TopicRejectedError, match=reason):
        kafka_admin.create_topics([spec])


@pytest.mark.real_kafka
def test_the_lag_of_a_group_is_what_it_has_not_committed(
    kafka: KafkaServer, kafka_admin: KafkaAdmin, lane: str
) -> None:
    topic, group = f"{lane}a", f"{lane}group"
    kafka_admin.create_topics([NewTopicSpec(topic, 1, 1)])
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    for _ in range(10):
        producer.produce(topic, b"record")
    assert producer.flush(10) == 0
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, 3)], asynchronous=False)
    consumer.close()

    assert kafka_admin.consumer_group_offsets(group) == {(topic, 0): 3}
    assert kafka_admin.consumer_lag(group) == {(topic, 0): 7}
    assert kafka_admin.consumer_lag(f"{lane}nobody") == {}


def test_a_cluster_that_does_not_answer_is_an_error_in_time() -> None:
    admin = KafkaAdmin(f"127.0.0.1:{free_port()}", timeout=0.5)

    for call in (admin.cluster_id, admin.list_topics):
        with pytest.raises(KafkaUnavailableError, match="no Kafka broker answers"):
            call()
