"""Every payload by the name it has on the wire and in topics.yaml."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from schemas.base import Payload
from schemas.command import Command, CommandAnswer
from schemas.outcome import Outcome
from schemas.plan import Intent, Plan
from schemas.report import ExecutionReport
from schemas.request import ExecutionRequest
from schemas.state import ExecutionState
from schemas.step import Step, StepResult
from schemas.verdict import Verdict

PAYLOADS: Final[Mapping[str, type[Payload]]] = MappingProxyType(
    {
        payload.__name__: payload
        for payload in (
            Command,
            CommandAnswer,
            ExecutionReport,
            ExecutionRequest,
            ExecutionState,
            Intent,
            Outcome,
            Plan,
            Step,
            StepResult,
            Verdict,
        )
    }
)
"""``message_type`` → payload model."""
