"""The sink's consumer: reads from where it is told, whenever it is told, and nothing before."""

import logging
from collections.abc import Iterator

import confluent_kafka
import pytest
from support.delivery import config, create_topic
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from agents.runtime.kafka_consumer import BatchConsumer
from agents.runtime.records import Record

pytestmark = pytest.mark.integration

PARTITIONS = 40
RECORDS = 3
ROUNDS = 25


@pytest.fixture
def topic(broker: KafkaServer, lane: str) -> str:
    """A topic with a few records in each partition."""
    name = create_topic(broker.bootstrap_servers, f"{lane}orders.v1", PARTITIONS)
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers})
    for partition in range(PARTITIONS):
        for number in range(RECORDS):
            producer.produce(name, b"%d" % number, partition=partition)
    assert producer.flush(60) == 0
    return name


@pytest.fixture
def consumer(broker: KafkaServer, lane: str, topic: str) -> Iterator[BatchConsumer]:
    """The only member of its group, with every partition.

    What librdkafka writes down of its doings nobody reads. It writes between taking a number for
    an operation and carrying it out, which makes that moment long enough to be met.
    """
    unread = logging.getLogger(f"{__name__}.unread")
    unread.disabled = True
    settings = config(broker.bootstrap_servers).consumer(f"{lane}group", assignor="range")
    with BatchConsumer({**settings, "debug": "topic", "logger": unread}, [topic]) as consumer:
        early: list[Record] = []
        wait_until(
            lambda: early.extend(consumer.poll(100, 0.1)) or len(consumer.assignment) == PARTITIONS,
            "it has every partition",
        )
        assert not early
        yield consumer


def read(consumer: BatchConsumer, number: int) -> list[Record]:
    """Poll until there are so many records."""
    records: list[Record] = []
    wait_until(
        lambda: records.extend(consumer.poll(500, 0.1)) or len(records) >= number,
        f"{number} records have come",
        pause=0,
    )
    return records


def test_nothing_is_read_before_the_start_nor_after_a_pause(
    consumer: BatchConsumer, topic: str
) -> None:
    assert not [record for _ in range(10) for record in consumer.poll(100, 0.1)]
    consumer.start({(topic, 0): 1})
    assert [(r.partition, r.offset) for r in read(consumer, 2)] == [(0, 1), (0, 2)]
    consumer.start({(topic, 1): 0})
    first = read(consumer, 1)[0]
    assert (first.partition, first.offset) == (1, 0)
    consumer.pause()
    assert not [record for _ in range(10) for record in consumer.poll(100, 0.1)]
    assert len(consumer.assignment) == PARTITIONS


def test_every_partition_is_read_however_often_it_is_started_anew(
    consumer: BatchConsumer, topic: str
) -> None:
    partitions = range(PARTITIONS)
    for _ in range(ROUNDS):
        consumer.start({(topic, partition): RECORDS - 1 for partition in partitions})
        records = read(consumer, PARTITIONS)
        assert sorted(record.partition for record in records) == [*partitions]
        assert {record.offset for record in records} == {RECORDS - 1}
        consumer.pause()
