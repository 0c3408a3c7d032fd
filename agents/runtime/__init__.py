"""What a role stands on: its decorator, its context and the errors that decide a message's fate.

Importing it loads neither Faust nor a Kafka client nor a database driver.
"""

from agents.runtime.context import Context, Services
from agents.runtime.errors import (
    ConfigurationError,
    InfrastructureError,
    InvalidMessageError,
    MillstreamError,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    RefusedMessageError,
    TransientError,
    UnapprovedStepError,
)
from agents.runtime.roles import RoleSpec, record_role, role, spec_of

__all__ = [
    "ConfigurationError",
    "Context",
    "InfrastructureError",
    "InvalidMessageError",
    "MillstreamError",
    "NotSentError",
    "OutcomeUnknownError",
    "PermanentError",
    "RefusedMessageError",
    "RoleSpec",
    "Services",
    "TransientError",
    "UnapprovedStepError",
    "record_role",
    "role",
    "spec_of",
]
