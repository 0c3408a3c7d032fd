"""The error tree. The type of an error decides the fate of the message that met it.

::

    MillstreamError
    ├── PermanentError            can never succeed: the execution fails with this reason
    │   ├── InvalidMessageError   the record cannot be read or breaks its contract: dead letter
    │   ├── RefusedMessageError   well-formed, but the pipeline must not take it: dead letter
    │   ├── BudgetExceededError   a plan may cost more than a budget has left (in budgets)
    │   ├── UnapprovedStepError   no approved verdict for this very plan: the step is refused
    │   └── UnusableAnswerError   it was done, but what came back cannot be used (in outcomes)
    ├── TransientError            may succeed in a moment: retried in place, then from delay topics
    │   └── NotSentError          nothing left this process, so even an effect may be tried again
    │       └── BreakerOpenError  the dependency is left alone for a while (in breaker)
    ├── OutcomeUnknownError       an effect was attempted and nobody knows whether it happened
    ├── InfrastructureError       Kafka or Postgres is away: nothing is counted, nothing is acked
    │   ├── DeliveryError         the broker did not confirm a record
    │   ├── KafkaUnavailableError the broker cannot be reached
    │   ├── DatabaseUnavailableError
    │   └── FatalInfrastructureError  waiting does not help: the process ends, nothing is acked
    │       ├── KafkaRefusesError     we may not write, or a topic is missing (in kafka)
    │       ├── ProducerFatalError    the producer is broken for good (in kafka)
    │       ├── ConsumerFatalError    the same of a consumer (in kafka)
    │       └── TopicsReplacedError   the topics are not those it started with (in broker_check)
    └── ConfigurationError        start-up is refused, with the places that disagree

Any other exception that leaves a handler is a bug: its message is dead-lettered with code ``bug``.

Codes are stable: dashboards, dead-letter filters and clients match on them. The closed list is
:data:`ErrorCode`.
"""

from typing import ClassVar, Literal

ErrorCode = Literal[
    "already_approved",
    "approval_expired",
    "breaker_open",
    "broker_reset",
    "budget_exceeded",
    "bug",
    "cancelled",
    "configuration",
    "correlation_id_in_use",
    "database_unavailable",
    "deadline_exceeded",
    "delivery_failed",
    "effect_settled",
    "effect_unknown",
    "invalid_message",
    "invalid_parameters",
    "invalid_plan",
    "invalid_signature",
    "kafka_refuses",
    "kafka_unavailable",
    "message_too_large",
    "needs_approval",
    "needs_clarification",
    "not_approved",
    "not_entitled",
    "not_sent",
    "permanent",
    "policy_denied",
    "policy_error",
    "rate_limited",
    "record_rejected",
    "refused",
    "rejected",
    "self_approval",
    "stale_plan",
    "step_failed",
    "timeout",
    "tool_error",
    "transient",
    "unexpected_status",
    "unknown_action",
    "unknown_parameter",
    "unknown_principal",
    "unresolved_reference",
    "unsigned",
    "wrong_key",
]
"""Every code that an error, an outcome or a dead letter can carry."""


class MillstreamError(Exception):
    """Base of every error that Millstream raises on purpose."""

    default_code: ClassVar[ErrorCode]

    def __init__(self, reason: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code: ErrorCode = code if code is not None else self.default_code


class PermanentError(MillstreamError):
    """The same input can never succeed."""

    default_code: ClassVar[ErrorCode] = "permanent"


class InvalidMessageError(PermanentError):
    """A record cannot be decoded or breaks the contract of its topic.

    Args:
        reason: What was wrong, in one sentence.
        field: The path of the offending field, as in ``payload.steps.0.action``.
        code: A more precise code than ``invalid_message``.
    """

    default_code: ClassVar[ErrorCode] = "invalid_message"

    def __init__(
        self, reason: str, *, field: str | None = None, code: ErrorCode | None = None
    ) -> None:
        super().__init__(reason, code=code)
        self.field = field


class RefusedMessageError(PermanentError):
    """A well-formed message must not be taken, such as one under a correlation id in use."""

    default_code: ClassVar[ErrorCode] = "refused"


class UnapprovedStepError(PermanentError):
    """No approved verdict exists for the very plan that a step belongs to."""

    default_code: ClassVar[ErrorCode] = "not_approved"


class TransientError(MillstreamError):
    """The attempt failed in a way that may pass.

    Args:
        reason: What happened.
        retry_after: Seconds that the other side asked us to wait, if it did.
        code: A more precise code than ``transient``.
    """

    default_code: ClassVar[ErrorCode] = "transient"

    def __init__(
        self, reason: str, *, retry_after: float | None = None, code: ErrorCode | None = None
    ) -> None:
        super().__init__(reason, code=code)
        self.retry_after = retry_after


class NotSentError(TransientError):
    """Nothing left this process, so that even a non-repeatable effect may be tried again."""

    default_code: ClassVar[ErrorCode] = "not_sent"


class OutcomeUnknownError(MillstreamError):
    """An effect was attempted and there is no definite answer whether it happened."""

    default_code: ClassVar[ErrorCode] = "effect_unknown"


class InfrastructureError(MillstreamError):
    """Kafka or Postgres is away or not answering; the message is neither at fault nor counted."""

    default_code: ClassVar[ErrorCode] = "kafka_unavailable"


class DeliveryError(InfrastructureError):
    """The broker did not confirm a record within the delivery timeout."""

    default_code: ClassVar[ErrorCode] = "delivery_failed"


class KafkaUnavailableError(InfrastructureError):
    """The broker cannot be reached."""

    default_code: ClassVar[ErrorCode] = "kafka_unavailable"


class DatabaseUnavailableError(InfrastructureError):
    """Postgres cannot be reached or went away in the middle of a transaction."""

    default_code: ClassVar[ErrorCode] = "database_unavailable"


class FatalInfrastructureError(InfrastructureError):
    """Waiting does not help, as this process or its rights are the trouble: it ends, unacked."""


class ConfigurationError(MillstreamError):
    """Settings or declarations are wrong; the process refuses to start."""

    default_code: ClassVar[ErrorCode] = "configuration"
