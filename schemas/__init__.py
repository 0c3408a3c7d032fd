"""The vocabulary: the envelope and every payload that travels through the pipeline.

Importing it loads pydantic and nothing else of weight.
"""

from schemas.approval import Approval, ApprovalRequest, Obligation, is_same_person, remaining, unmet
from schemas.base import PRODUCTION_LANE, JsonObject, Model, Payload
from schemas.canonical import canonical_json, sha256_of
from schemas.command import Command, CommandAnswer
from schemas.envelope import AgentMessage, compose, envelope_type
from schemas.outcome import Outcome
from schemas.plan import (
    CostEstimate,
    IntendedAction,
    Intent,
    Plan,
    PlannedStep,
    PlanStep,
    RetryPolicy,
    hash_plan,
)
from schemas.registry import PAYLOADS
from schemas.report import ExecutionReport, TimelineEntry
from schemas.request import ANONYMOUS, ExecutionRequest, Requester
from schemas.state import ExecutionState, ExecutionStatus, Judgement, StepState
from schemas.step import Failure, Step, StepResult
from schemas.verdict import Reason, Verdict

__all__ = [
    "ANONYMOUS",
    "PAYLOADS",
    "PRODUCTION_LANE",
    "AgentMessage",
    "Approval",
    "ApprovalRequest",
    "Command",
    "CommandAnswer",
    "CostEstimate",
    "ExecutionReport",
    "ExecutionRequest",
    "ExecutionState",
    "ExecutionStatus",
    "Failure",
    "IntendedAction",
    "Intent",
    "JsonObject",
    "Judgement",
    "Model",
    "Obligation",
    "Outcome",
    "Payload",
    "Plan",
    "PlanStep",
    "PlannedStep",
    "Reason",
    "Requester",
    "RetryPolicy",
    "Step",
    "StepResult",
    "StepState",
    "TimelineEntry",
    "Verdict",
    "canonical_json",
    "compose",
    "envelope_type",
    "hash_plan",
    "is_same_person",
    "remaining",
    "sha256_of",
    "unmet",
]
