"""A sink from a deployment's settings and declarations."""

from collections.abc import Mapping
from typing import Any

from agents.runtime import dead_letters
from agents.runtime.codec import decode
from agents.runtime.intake import read_request
from agents.runtime.kafka import KafkaConfig
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.metrics import Metrics
from agents.runtime.outage import Outages
from agents.runtime.records import Record
from agents.runtime.settings import Settings
from agents.runtime.topology import Topology
from agents.runtime.topology.topics import SINK
from agents.runtime.watchdog import LEAST_SECONDS
from agents.sink.batch import Decode
from agents.sink.consumer import Sink, SinkOptions
from schemas import AgentMessage, ExecutionRequest, Payload
from schemas.registry import PAYLOADS


def assemble_sink(
    settings: Settings,
    topology: Topology,
    kafka: KafkaConfig,
    *,
    options: SinkOptions | None = None,
    metrics: Metrics | None = None,
    outages: Outages | None = None,
) -> Sink:
    """A sink for every topic that topics.yaml gives to ``sink``."""
    lane = settings.lane
    specs = topology.consumed_by(SINK)
    schemas = {
        spec.name_in(lane): PAYLOADS[spec.schema] for spec in specs if spec.schema in PAYLOADS
    }
    admin = KafkaAdmin(kafka.bootstrap_servers, config=kafka.security)
    topics = [spec.name_in(lane) for spec in specs]

    def topic_ids() -> Mapping[str, str | None]:
        known = admin.list_topics()
        return {topic: known[topic].topic_id for topic in topics if topic in known}

    return Sink(
        lane=lane,
        topics=topics,
        dead_letter_topic=lane + dead_letters.TOPIC,
        decode=decoder(schemas, lane=lane),
        topic_ids=topic_ids,
        kafka=kafka,
        database_url=settings.database_url.get_secret_value(),
        options=options or _options(settings),
        metrics=metrics,
        outages=outages,
    )


def _options(settings: Settings) -> SinkOptions:
    return SinkOptions(
        database_timeout=settings.database_timeout,
        patience=settings.watchdog_seconds or LEAST_SECONDS + settings.database_timeout,
    )


def decoder(schemas: Mapping[str, type[Payload]], *, lane: str) -> Decode:
    """What finds the message in a record of any of the topics in ``schemas``."""

    def find(record: Record) -> AgentMessage[Any]:
        schema = schemas[record.topic]
        if schema is ExecutionRequest:
            return read_request(record, lane=lane)
        return decode(record, schema, lane=lane)

    return find
