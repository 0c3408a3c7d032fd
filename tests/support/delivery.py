"""Helpers of the tests that send records through a worker on a real broker."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from agents.runtime.kafka import KafkaConfig, Outgoing, Producer
from agents.runtime.kafka_admin import KafkaAdmin, NewTopicSpec
from agents.runtime.worker import Subscription, Worker

ASSIGNMENT_SECONDS = 30.0


def config(bootstrap_servers: str) -> KafkaConfig:
    """Settings as local runs have them: a dead worker is found after 6 s."""
    return KafkaConfig(bootstrap_servers=bootstrap_servers, session_timeout=6.0, fetch_wait_ms=20)


def create_topic(bootstrap_servers: str, name: str, partitions: int = 3) -> str:
    KafkaAdmin(bootstrap_servers).create_topics([NewTopicSpec(name, partitions, 1)])
    return name


def committed(bootstrap_servers: str, group: str) -> int:
    """How many records the group has committed, over all partitions (without gaps: the sum)."""
    return sum(KafkaAdmin(bootstrap_servers).consumer_group_offsets(group).values())


async def produce(
    bootstrap_servers: str, topic: str, records: Iterable[tuple[bytes | None, bytes]]
) -> None:
    """Send (key, value) pairs and wait until all are confirmed."""
    producer = Producer(config(bootstrap_servers))
    try:
        await producer.send_all(Outgoing(topic, key, value) for key, value in records)
    finally:
        await producer.close()


@asynccontextmanager
async def running(
    bootstrap_servers: str, *subscriptions: Subscription, drain_timeout: float = 5.0
) -> AsyncIterator[Worker]:
    """Run a worker that has its partitions, and stop it at the end."""
    worker = Worker(config(bootstrap_servers), subscriptions, drain_timeout=drain_timeout)
    await worker.start()
    try:
        await worker.wait_assigned(ASSIGNMENT_SECONDS)
        yield worker
    finally:
        await worker.stop()
