"""The code of a delivery report decides whose fault it was."""

import pytest
from confluent_kafka import KafkaError

from agents.runtime.errors import DeliveryError, MillstreamError
from agents.runtime.kafka_produce_errors import (
    KafkaRefusesError,
    MessageTooLargeError,
    ProducerFatalError,
    RecordRejectedError,
    delivery_failure,
)


@pytest.mark.parametrize(
    ("code", "kind", "stable_code"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, MessageTooLargeError, "message_too_large"),
        (KafkaError.INVALID_RECORD, RecordRejectedError, "record_rejected"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaRefusesError, "kafka_refuses"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, KafkaRefusesError, "kafka_refuses"),
        (KafkaError.INVALID_CONFIG, KafkaRefusesError, "kafka_refuses"),
        (KafkaError._MSG_TIMED_OUT, DeliveryError, "delivery_failed"),
        (KafkaError._TRANSPORT, DeliveryError, "delivery_failed"),
        (KafkaError.NOT_ENOUGH_REPLICAS, DeliveryError, "delivery_failed"),
    ],
)
def test_each_kind_of_failure_is_told_apart(
    code: int, kind: type[MillstreamError], stable_code: str
) -> None:
    failure = delivery_failure(KafkaError(code), "millstream.plans.v1")
    assert type(failure) is kind
    assert failure.code == stable_code
    assert "millstream.plans.v1" in failure.reason


@pytest.mark.parametrize(
    "code",
    [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION],
)
def test_an_unknown_topic_is_believed_when_it_stays_unknown(code: int) -> None:
    error = KafkaError(code)
    assert type(delivery_failure(error, "plans")) is DeliveryError
    settled = delivery_failure(error, "plans", is_settled=True)
    assert type(settled) is KafkaRefusesError
    assert "millstream topics apply" in settled.reason


def test_a_fatal_error_ends_the_producer_whatever_its_code() -> None:
    error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "gap", fatal=True)
    assert type(delivery_failure(error, "plans")) is ProducerFatalError
