"""What it means that a record was not delivered, by librdkafka's error code.

=================================================  ========================  ======================
error code                                         becomes                   and so
=================================================  ========================  ======================
MSG_SIZE_TOO_LARGE, RECORD_LIST_TOO_LARGE,         ``MessageTooLargeError``  the record's own fault:
INVALID_MSG_SIZE                                                             the execution fails, or
INVALID_RECORD, INVALID_TIMESTAMP,                 ``RecordRejectedError``   a dead letter is
POLICY_VIOLATION, _BAD_MSG, _INVALID_ARG,                                    written
UNSUPPORTED_FOR_MESSAGE_FORMAT
UNKNOWN_TOPIC_OR_PART, _UNKNOWN_TOPIC,             ``KafkaRefusesError``,    the process ends and
_UNKNOWN_PARTITION: for so long that it is no      ``DeliveryError`` before  says what to do;
news on its way                                                              nothing is acked
TOPIC_AUTHORIZATION_FAILED,                        ``KafkaRefusesError``     the same
CLUSTER_AUTHORIZATION_FAILED, _AUTHENTICATION,
SASL_AUTHENTICATION_FAILED, SECURITY_DISABLED,
TOPIC_EXCEPTION, INVALID_CONFIG,
INVALID_REQUIRED_ACKS, UNSUPPORTED_VERSION,
UNSUPPORTED_COMPRESSION_TYPE
what librdkafka calls fatal                        ``ProducerFatalError``    the same: the producer
                                                                             cannot keep its promise
any other, such as _MSG_TIMED_OUT                  ``DeliveryError``         Kafka is away: handlers
                                                                             wait, uncounted
=================================================  ========================  ======================
"""

from typing import Final

from confluent_kafka import KafkaError

from agents.runtime.errors import (
    DeliveryError,
    FatalInfrastructureError,
    MillstreamError,
    PermanentError,
)

# ruff: noqa: SLF001 - the underscore marks librdkafka's own error codes

_TOO_LARGE: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
    }
)
_REJECTED: Final = frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError._BAD_MSG,
        KafkaError._INVALID_ARG,
    }
)
_UNKNOWN_TOPIC: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    }
)
_NOT_ALLOWED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.SECURITY_DISABLED,
        KafkaError._AUTHENTICATION,
    }
)
_MISCONFIGURED: Final = frozenset(
    {
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    }
)


class MessageTooLargeError(PermanentError):
    """A record is larger than the client or the broker allows; sending it again cannot help."""

    default_code = "message_too_large"


class RecordRejectedError(PermanentError):
    """The broker refuses this very record; sending it again cannot help."""

    default_code = "record_rejected"


class KafkaRefusesError(FatalInfrastructureError):
    """Kafka is there, and a person must do something before it takes our records."""

    default_code = "kafka_refuses"


class ProducerFatalError(FatalInfrastructureError):
    """The idempotent producer can no longer promise order without gaps: the process must end."""

    default_code = "kafka_unavailable"


def is_unknown_topic(error: KafkaError) -> bool:
    """Whether the broker does not know the topic, or does not know it yet."""
    return error.code() in _UNKNOWN_TOPIC


def delivery_failure(error: KafkaError, topic: str, *, is_settled: bool = False) -> MillstreamError:
    """What the reason means for which a record for ``topic`` was not delivered: see the table.

    Args:
        error: The reason.
        topic: Where the record was to go.
        is_settled: Whether a topic that is unknown has been so for long enough to believe it.
    """
    code, words = error.code(), f"{error.str()} ({error.name()})"
    if error.fatal():
        return ProducerFatalError(f"the producer cannot go on: {words}")
    if code in _TOO_LARGE:
        return MessageTooLargeError(f"the record is too large for topic {topic}: {words}")
    if code in _REJECTED:
        return RecordRejectedError(f"topic {topic} refuses the record: {words}")
    if (advice := _advice(code, is_settled=is_settled)) is not None:
        return KafkaRefusesError(f"topic {topic} does not take our records: {words}; {advice}")
    return DeliveryError(f"no confirmation from topic {topic}: {words}")


def _advice(code: int, *, is_settled: bool) -> str | None:
    """What a person must do before Kafka takes our records; ``None`` where waiting may do."""
    if code in _NOT_ALLOWED:
        return "give this user the right to WRITE, or look at MILLSTREAM_KAFKA_SASL_*"
    if code in _UNKNOWN_TOPIC and is_settled:
        return "create what is missing with `millstream topics apply`"
    if code in _MISCONFIGURED:
        return "compare the topic with topics.yaml by `millstream topics plan`"
    return None
