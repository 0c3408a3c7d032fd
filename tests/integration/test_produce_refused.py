"""Records that Kafka does not take, for each kind of reason, from a broker that has that reason."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it declares no __all__
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from support.delivery import create_topic, produce, running

from agents.runtime.errors import InfrastructureError
from agents.runtime.kafka import (
    KafkaConfig,
    KafkaRefusesError,
    MessageTooLargeError,
    Outgoing,
    Producer,
    RecordRejectedError,
)
from agents.runtime.kafka_admin import KafkaAdmin, NewTopicSpec
from agents.runtime.outage import Outage, Outages, patiently
from agents.runtime.records import Record
from agents.runtime.testing import ManualClock
from agents.runtime.worker import Subscription
from ops.local import KafkaBroker

pytestmark = [pytest.mark.integration, pytest.mark.real_kafka]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, _kafka_jars: Path | None) -> Iterator[str]:
    """A broker with access control, on which everybody may do what is not forbidden."""
    assert _kafka_jars is not None
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    folder = tmp_path_factory.mktemp("refusing")
    with KafkaBroker(folder, _kafka_jars, fast_start=True, settings=settings) as server:
        yield server.bootstrap_servers


@pytest.fixture
async def producer(address: str) -> AsyncIterator[Producer]:
    producer = Producer(KafkaConfig(bootstrap_servers=address, topic_propagation=0.5))
    yield producer
    await producer.close()


def forbid_writing(address: str, topic: str) -> None:
    binding = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:ANONYMOUS",
        "*",
        AclOperation.WRITE,
        AclPermissionType.DENY,
    )
    client = AdminClient({"bootstrap.servers": address})  # the answer dies with it
    client.create_acls([binding])[binding].result(30)


async def test_a_record_that_the_topic_finds_too_large_is_at_fault_itself(
    address: str, producer: Producer
) -> None:
    small = NewTopicSpec("small.v1", 1, 1, {"max.message.bytes": "1000"})
    KafkaAdmin(address).create_topics([small])
    with pytest.raises(MessageTooLargeError, match=r"small\.v1"):
        await producer.send(Outgoing("small.v1", b"k", b"x" * 5000))
    await producer.send(Outgoing("small.v1", b"k", b"fits"))


async def test_a_record_that_the_broker_rejects_is_at_fault_itself(
    address: str, producer: Producer
) -> None:
    compacted = NewTopicSpec("compacted.v1", 1, 1, {"cleanup.policy": "compact"})
    KafkaAdmin(address).create_topics([compacted])
    with pytest.raises(RecordRejectedError, match=r"compacted\.v1") as raised:
        await producer.send(Outgoing("compacted.v1", None, b"without a key"))
    assert raised.value.code == "record_rejected"
    await producer.send(Outgoing("compacted.v1", b"k", b"with a key"))


async def test_a_topic_that_stays_unknown_ends_the_waiting(producer: Producer) -> None:
    outages = Outages(ManualClock())

    class Realtime(ManualClock):
        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(min(seconds, 0.2))

    async def send() -> None:
        await producer.send(Outgoing("missing.v1", None, b""))

    with pytest.raises(KafkaRefusesError, match="millstream topics apply"):
        await patiently(send, clock=Realtime(), outage=Outage("planner", outages))


async def test_a_worker_that_may_not_write_stops_and_says_what_to_do(
    address: str, producer: Producer
) -> None:
    source, target = create_topic(address, "source.v1"), create_topic(address, "target.v1")
    forbid_writing(address, target)
    outage = Outage("role", Outages(ManualClock()))

    async def handle(record: Record) -> None:
        async def send() -> None:
            await producer.send(Outgoing(target, record.key, record.value))

        await patiently(send, clock=ManualClock(), outage=outage)

    async with running(address, Subscription("role", "role", (source,), handle)) as worker:
        await produce(address, source, [(b"k", b"")])
        with pytest.raises(KafkaRefusesError, match=r"topic target\.v1.*right to WRITE"):
            await asyncio.wait_for(worker.run(), 60)
    with pytest.raises(InfrastructureError):
        await producer.send(Outgoing(target, None, b""))
    assert not any(KafkaAdmin(address).consumer_group_offsets("role").values())
