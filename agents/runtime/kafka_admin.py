"""Administration of a Kafka cluster: topics, their configuration, consumer lag, reachability.

A thin typed layer over confluent-kafka's ``AdminClient``. Every call is bounded by a timeout and
ends in a value or in an error of ``agents.runtime.kafka_admin_errors``; the errors of
confluent-kafka itself never leave. A change is visible to the next call when the call that made it
returns: Kafka's brokers learn of changes a moment after the controller has confirmed them, so the
calls here look until they have.

The embedded broker (Tansu 0.6, memory storage) differs from Apache Kafka, as tried call by call:

* it accepts what Kafka rejects: malformed topic names, unknown configuration keys and values,
  zero partitions, a replication factor above the number of brokers;
* it reports only the configuration that was set on a topic, not the defaults in effect;
* it cannot add partitions (``UnsupportedByBrokerError``);
* its cluster id is the same for every broker, and topics are gone after a stop (topic ids are not
  reused, so they tell a new broker from an old one);
* the end of a partition, and so ``consumer_lag``, is up to a second behind.

For topics that do not exist it answers with success where Kafka reports an error; the calls here
check first, so that both raise ``UnknownTopicError``.
"""

import concurrent.futures
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it declares no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)

from agents.runtime.errors import ConfigurationError, KafkaUnavailableError, MillstreamError
from agents.runtime.kafka_admin_errors import (
    KafkaAdminError,
    TopicExistsError,
    TopicRejectedError,
    UnknownTopicError,
    UnsupportedByBrokerError,
    translated,
    unreachable,
)
from agents.runtime.kafka_config import SaidBefore

__all__ = [
    "KafkaAdmin",
    "KafkaAdminError",
    "KafkaUnavailableError",
    "NewTopicSpec",
    "TopicExistsError",
    "TopicRejectedError",
    "TopicState",
    "UnknownTopicError",
    "UnsupportedByBrokerError",
    "wait_until_reachable",
]

T = TypeVar("T")

_logger = logging.getLogger("millstream.kafka.admin")
_logger.addFilter(SaidBefore())

# Of one request while waiting for a broker, in seconds.
_SHORTEST_ATTEMPT = 0.1
_LONGEST_ATTEMPT = 2.0

ANY_TOPIC = "__consumer_offsets"
"""What is asked about where any answer will do.

Not `describe_cluster`: just after a frozen broker had come back, a failed assertion of librdkafka
2.16 (`rd_kafka_admin_response_parse`) ended a process that had asked that way.
"""

# How long a change may take from the controller to the broker that we ask, and how often to look.
_VISIBLE_SECONDS = 2.0
_LOOK_SECONDS = 0.02

# What Kafka prints for "no id": sixteen zero bytes in base64.
_NO_TOPIC_ID = "A" * 22


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster has it.

    Attributes:
        name: The topic's name.
        partitions: How many partitions it has.
        replication_factor: Replicas of each partition.
        topic_id: The id Kafka gave it, as Kafka's tools print it; a topic made anew under the same
            name has another. None where the broker has no ids.
    """

    name: str
    partitions: int
    replication_factor: int
    topic_id: str | None


@dataclass(frozen=True, slots=True)
class NewTopicSpec:
    """A topic to create; ``config`` holds only what shall differ from the broker's defaults."""

    name: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str] = field(default_factory=dict)


class KafkaAdmin:
    """Administers one cluster.

    Args:
        bootstrap_servers: ``host:port[,host:port…]``.
        config: More librdkafka settings, such as those for TLS and SASL.
        timeout: Seconds that any one call may take before ``KafkaUnavailableError``.

    Raises:
        ConfigurationError: The settings make no client.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        config: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._timeout = timeout
        settings: dict[str, str | int | float | bool] = {
            # A broker that is just starting is found within a fraction of a second.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            **(config or {}),
            "bootstrap.servers": bootstrap_servers,
        }
        try:
            self._client = AdminClient(settings, logger=_logger)
        except KafkaException as error:
            reason = error.args[0].str()
            raise ConfigurationError(f"the settings for Kafka are wrong: {reason}") from error

    def cluster_id(self, *, timeout: float | None = None) -> str:
        """Return the id of the cluster that answers within ``timeout`` seconds."""
        limit = self._timeout if timeout is None else timeout
        try:
            return str(self._client.list_topics(ANY_TOPIC, timeout=limit).cluster_id)
        except KafkaException as error:
            raise translated(error, self._bootstrap_servers, "ask for the cluster's id") from error

    def list_topics(self) -> dict[str, TopicState]:
        """Return every topic by name, Kafka's internal ones left out."""
        try:
            found = self._client.list_topics(timeout=self._timeout).topics
        except KafkaException as error:
            raise translated(error, self._bootstrap_servers, "list topics") from error
        # The embedded broker makes this one when it is asked about, and does not call it internal.
        described = self._describe(sorted(found.keys() - {ANY_TOPIC}))
        return {
            name: _topic_state(description)
            for name, description in described.items()
            if not description.is_internal
        }

    def describe_configs(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the configuration in effect for each of the topics.

        On Apache Kafka that is every key, defaults included; on the embedded broker only what was
        set.

        Raises:
            UnknownTopicError: One of the topics does not exist.
        """
        self._require(names)
        if not names:
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
        futures = self._client.describe_configs(resources, request_timeout=self._timeout)
        return {
            resource.name: {
                entry.name: entry.value
                for entry in self._result(future, "describe", resource.name).values()
                if entry.value is not None
            }
            for resource, future in futures.items()
        }

    def create_topics(self, specs: Sequence[NewTopicSpec]) -> None:
        """Create the topics, each on its own: one that fails does not keep the others from being.

        Raises:
            TopicExistsError: A topic of that name exists.
            TopicRejectedError: The broker refuses its name, partitions or configuration.

        With several failures the first in the order of ``specs`` is raised and names the others
        in its notes.
        """
        if not specs:
            return
        futures = self._client.create_topics(
            [
                NewTopic(
                    spec.name, spec.partitions, spec.replication_factor, config=dict(spec.config)
                )
                for spec in specs
            ],
            request_timeout=self._timeout,
            operation_timeout=self._timeout,
        )
        try:
            self._settle({spec.name: futures[spec.name] for spec in specs}, "create topics")
        finally:
            made = [
                name
                for name, future in futures.items()
                if future.done() and future.exception() is None
            ]
            self._wait_until(lambda: len(self._describe(made)) == len(made))

    def alter_configs(self, name: str, config: Mapping[str, str]) -> None:
        """Set the given keys of one topic; its other keys keep their values.

        Raises:
            UnknownTopicError: There is no such topic.
            TopicRejectedError: The broker refuses a key or a value.
        """
        self._require([name])
        if not config:
            return
        entries = [
            ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=entries)
        futures = self._client.incremental_alter_configs([resource], request_timeout=self._timeout)
        self._settle({name: futures[resource]}, "alter topic configuration")
        self._wait_until(lambda: config.items() <= self.describe_configs([name])[name].items())

    def add_partitions(self, name: str, total: int) -> None:
        """Grow a topic to ``total`` partitions.

        Raises:
            UnknownTopicError: There is no such topic.
            TopicRejectedError: ``total`` is not above the present number.
            UnsupportedByBrokerError: The embedded broker cannot add partitions.
        """
        futures = self._client.create_partitions(
            [NewPartitions(name, total)],
            request_timeout=self._timeout,
            operation_timeout=self._timeout,
        )
        self._settle(futures, "add partitions")
        self._wait_until(lambda: len(self._describe([name])[name].partitions) == total)

    def delete_topics(self, names: Sequence[str]) -> None:
        """Delete the topics and their records for good.

        Raises:
            UnknownTopicError: One of the topics does not exist; the others are deleted.
        """
        if not names:
            return
        futures = self._client.delete_topics(
            list(names), request_timeout=self._timeout, operation_timeout=self._timeout
        )
        self._settle(futures, "delete topics")
        self._wait_until(lambda: not self._describe(names))

    def consumer_group_offsets(self, group: str) -> dict[tuple[str, int], int]:
        """Return what a group has committed, by topic and partition; empty for an unknown group.

        An offset is that of the next record the group will read.
        """
        request = [ConsumerGroupTopicPartitions(group)]
        futures = self._client.list_consumer_group_offsets(request, request_timeout=self._timeout)
        answer = self._result(futures[group], "read the offsets of a group")
        return {
            (partition.topic, partition.partition): partition.offset
            for partition in answer.topic_partitions or []
            if partition.offset >= 0
        }

    def consumer_lag(self, group: str) -> dict[tuple[str, int], int]:
        """Return how many records each committed partition of a group is behind its topic's end."""
        committed = self.consumer_group_offsets(group)
        if not committed:
            return {}
        futures = self._client.list_offsets(
            {
                TopicPartition(topic, partition): OffsetSpec.latest()  # type: ignore[no-untyped-call]  # its stub lacks a type
                for topic, partition in committed
            },
            request_timeout=self._timeout,
        )
        lag = {}
        for partition, future in futures.items():
            end = self._result(future, "read end offsets", partition.topic).offset
            key = (partition.topic, partition.partition)
            lag[key] = max(0, end - committed[key])
        return lag

    def _describe(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Describe topics; those that do not exist are left out."""
        if not names:
            return {}
        futures = self._client.describe_topics(
            TopicCollection(list(names)), request_timeout=self._timeout
        )
        described = {}
        for name, future in futures.items():
            try:
                described[name] = self._result(future, "describe topics", name)
            except UnknownTopicError:
                continue
        return described

    def _require(self, names: Sequence[str]) -> None:
        """Raise ``UnknownTopicError`` for the first topic that does not exist."""
        described = self._describe(names)
        for name in names:
            if name not in described:
                raise UnknownTopicError(name)

    def _settle(
        self, futures: Mapping[str, "concurrent.futures.Future[None]"], operation: str
    ) -> None:
        """Wait for every topic's answer, then raise the first failure, the others as its notes."""
        failures: list[MillstreamError] = []
        for topic, future in futures.items():
            try:
                self._result(future, operation, topic)
            except MillstreamError as error:
                failures.append(error)
        if failures:
            first, *others = failures
            for other in others:
                first.add_note(str(other))
            raise first

    @staticmethod
    def _wait_until(visible: Callable[[], bool]) -> None:
        """Wait until the broker shows a change that its controller has accepted.

        The change is made whether or not this sees it in time. (A value that the broker writes
        in another way, such as a list without its spaces, never looks the same.)
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while not visible() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def _result(self, future: "concurrent.futures.Future[T]", operation: str, topic: str = "") -> T:
        # librdkafka ends each request at its own timeout; the second on top is for the case that
        # its answer never comes.
        try:
            return future.result(self._timeout + 1)
        except KafkaException as error:
            raise translated(error, self._bootstrap_servers, operation, topic) from error
        except concurrent.futures.TimeoutError as error:
            raise unreachable(self._bootstrap_servers, f"no answer to {operation!r}") from error


def wait_until_reachable(
    bootstrap_servers: str,
    timeout: float,
    *,
    config: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a broker answers a metadata request.

    Args:
        bootstrap_servers: ``host:port[,host:port…]``.
        timeout: Seconds to wait altogether.
        config: More librdkafka settings.
        clock: Where the time comes from.

    Raises:
        KafkaUnavailableError: None answered in that time.
    """
    deadline = clock() + timeout
    admin = KafkaAdmin(bootstrap_servers, config=config)
    while True:
        left = max(_SHORTEST_ATTEMPT, deadline - clock())
        try:
            admin.cluster_id(timeout=min(_LONGEST_ATTEMPT, left))
        except KafkaUnavailableError:
            if clock() >= deadline:
                raise
        else:
            return


def _topic_state(description: TopicDescription) -> TopicState:
    partitions = description.partitions
    # confluent-kafka prints ids in base64's standard alphabet, Kafka's own tools in the URL-safe.
    topic_id = str(description.topic_id).translate(str.maketrans("+/", "-_"))
    return TopicState(
        name=description.name,
        partitions=len(partitions),
        replication_factor=len(partitions[0].replicas) if partitions else 0,
        topic_id=None if topic_id == _NO_TOPIC_ID else topic_id,
    )
