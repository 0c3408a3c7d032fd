"""What can go wrong in the administration of a Kafka cluster.

::

    MillstreamError
    ├── ConfigurationError
    │   └── KafkaAdminError             what the broker reports, in its words
    │       ├── TopicExistsError        created before
    │       ├── UnknownTopicError       there is no such topic
    │       ├── TopicRejectedError      the name, a size or a configuration value is refused
    │       └── UnsupportedByBrokerError  this broker cannot do that at all
    └── InfrastructureError
        └── KafkaUnavailableError       no broker answered in time
"""

from confluent_kafka import KafkaError, KafkaException

from agents.runtime.errors import ConfigurationError, KafkaUnavailableError, MillstreamError

_REJECTIONS = frozenset(
    {
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_REPLICA_ASSIGNMENT,
        KafkaError.INVALID_REQUEST,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)
_UNREACHABLE = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - librdkafka's own codes carry an underscore
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
    }
)
_UNSUPPORTED = frozenset(
    {
        KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - librdkafka's own codes carry an underscore
        KafkaError.UNSUPPORTED_VERSION,
    }
)


class KafkaAdminError(ConfigurationError):
    """The cluster answered, but did not do what was asked."""


class TopicExistsError(KafkaAdminError):
    """A topic of that name exists already."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {topic!r} exists already")
        self.topic = topic


class UnknownTopicError(KafkaAdminError):
    """There is no topic of that name."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"there is no topic {topic!r}")
        self.topic = topic


class TopicRejectedError(KafkaAdminError):
    """The broker refuses a topic's name, size or configuration."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"the broker refuses topic {topic!r}: {reason}")
        self.topic = topic
        self.reason = reason


class UnsupportedByBrokerError(KafkaAdminError):
    """The broker does not implement the operation."""

    def __init__(self, operation: str, detail: str) -> None:
        super().__init__(f"this broker cannot {operation}: {detail}")
        self.operation = operation


def translated(
    error: KafkaException, bootstrap_servers: str, operation: str, topic: str = ""
) -> MillstreamError:
    """Return the error of the tree above that says what confluent-kafka's error means.

    Args:
        error: What confluent-kafka raised.
        bootstrap_servers: The cluster that was asked.
        operation: What was asked, as an infinitive: ``list topics``.
        topic: The topic it was about, if it was about one.
    """
    reason: KafkaError = error.args[0]
    code, words = reason.code(), reason.str()
    if code in _UNREACHABLE:
        return unreachable(bootstrap_servers, words)
    if code in _UNSUPPORTED:
        return UnsupportedByBrokerError(operation, words)
    if code == KafkaError.TOPIC_ALREADY_EXISTS:
        return TopicExistsError(topic)
    if code == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return UnknownTopicError(topic)
    if code in _REJECTIONS:
        return TopicRejectedError(topic, words)
    return KafkaAdminError(f"cannot {operation}: {words} ({reason.name()})")


def unreachable(bootstrap_servers: str, detail: str) -> KafkaUnavailableError:
    """Return the error for a cluster of which no broker answers."""
    return KafkaUnavailableError(f"no Kafka broker answers at {bootstrap_servers}: {detail}")
