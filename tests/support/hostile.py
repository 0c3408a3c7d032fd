"""Hostile requests as data: the files of tests/acceptance/hostile, and the records they stand for.

Each case says what is sent, how it must end and why; :class:`Case` describes the words. Messages
that only the pipeline writes are made as the pipeline would make them, and then changed.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid5

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.nodes import SequenceNode

from agents.runtime.catalogue import Catalogue
from agents.runtime.commands import Address, Speaker, make_command
from agents.runtime.signing import SigningKey
from ops.approvals import Pending
from schemas import (
    AgentMessage,
    CostEstimate,
    ExecutionStatus,
    Intent,
    Outcome,
    Payload,
    Plan,
    PlannedStep,
    PlanStep,
    Step,
    StepResult,
    Verdict,
    compose,
    hash_plan,
)
from schemas.identity import uuid_of

FOLDER: Final = Path(__file__).resolve().parents[1] / "acceptance" / "hostile"
REQUESTS: Final = "millstream.requests.v1"
_IDS: Final = UUID("c3d1a1de-59a2-4d0f-9b86-686f7374696c")
_TOPICS: Final = {
    "request": REQUESTS,
    "intent": "millstream.intents.v1",
    "plan": "millstream.plans.v1",
    "verdict": "millstream.verdicts.v1",
    "step": "millstream.steps.http.v1",
    "result": "millstream.results.v1",
    "outcome": "millstream.outcomes.v1",
    "command": "millstream.commands.v1",
}
_NO_HASH: Final = "-"


class Said(BaseModel):
    """A command, and whose key signs it."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["approve", "reject", "cancel", "resume", "retry"]
    by: str
    key: str | None = None
    """The person whose key signs; ``own`` is a key that nobody knows."""
    plan_hash: str | None = _NO_HASH
    """That of the victim's plan unless given."""


class Case(BaseModel):
    """One hostile request: one of ``text`` to ``forge``, what it is about, and how it must end."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    """The file that it is from."""
    text: str | None = None
    plan: list[dict[str, Any]] | None = None
    message: str | None = None
    """A text that is sent to a channel."""
    body: dict[str, Any] | None = None
    """A whole request."""
    raw: str | None = None
    """The bytes of a request; ``{id}`` stands for its correlation id."""
    host: str | None = None
    """A host that the catalogue's action calls."""
    redirect: str | None = None
    """Where a server that may be called sends the call on; ``{port}`` is that of the trap."""
    forge: (
        Literal["request", "intent", "plan", "verdict", "step", "result", "outcome", "command"]
        | None
    ) = None
    """The message of the pipeline that somebody else has written."""

    user: str | None = None
    tenant: str = "default"
    headers: dict[str, str] = Field(default_factory=dict)
    about: Literal["victim", "finished"] | None = None
    """Whether it is about an execution that waits for approval, or one that was approved and has
    ended, rather than about a new one."""
    do: dict[str, Any] | None = None
    """The one step of what is forged."""
    step: dict[str, Any] = Field(default_factory=dict)
    """What the forged plan says of its step besides."""
    say: Said | None = None
    change: dict[str, Any] = Field(default_factory=dict)
    """What is changed in the message when it is made; objects are merged."""
    key: str | None = None
    """The record key, where it is not the correlation id."""

    ends: Literal[
        "",
        "success",
        "failed",
        "denied",
        "needs_approval",
        "needs_clarification",
        "dead_letter",
        "refused_command",
        "refused_step",
        "ignored",
    ]
    """How it must end. ``needs_approval`` waits, and somebody rejects it; ``ignored`` leaves no
    trace but its event."""
    because: str | list[str] = ""
    """What the reason must hold, or one of several; empty only for what succeeds or is ignored."""
    effects: int = 0
    """How many calls may take effect."""
    arrives: str | None = None
    """The message as it must arrive; ``message`` itself unless given."""
    output: dict[str, Any] | None = None
    """What the last step must put out."""

    @property
    def external_id(self) -> str:
        """The correlation id that it brings."""
        return f"{self.kind}: {self.name}"

    @property
    def execution(self) -> UUID:
        """The execution that comes of it, or that it is about."""
        if self.about is not None:
            return uuid_of(self.victim_id, tenant="default")
        given = (self.body or {}).get("correlation_id", self.external_id)
        return uuid_of(str(given), tenant=self.tenant)

    @property
    def victim_id(self) -> str:
        """The correlation id of the execution that it is about."""
        return f"{self.about} of {self.name}"

    def value(self) -> bytes:
        """The value of the record on the intake topic."""
        if self.raw is not None:
            return self.raw.replace("{id}", self.external_id).encode()
        body: dict[str, Any] = {"correlation_id": self.external_id}
        if self.user is not None:
            body["requester"] = {"user": self.user}
        if self.tenant != "default":
            body["tenant"] = self.tenant
        if self.text is not None:
            body["text"] = self.text
        if self.plan is not None:
            body["plan"] = self.plan
        if self.message is not None:
            body["plan"] = [_step("notify.send", channel="#hostile", text=self.message)]
        return json.dumps(body | (self.body or {})).encode()


@dataclass(frozen=True)
class Victim:
    """An execution that waits for approval, with all that an attacker may have read of it."""

    pending: Pending
    request_id: UUID
    plan_id: UUID


@dataclass(frozen=True)
class Forged:
    """A record on one of the pipeline's topics."""

    topic: str
    key: str
    value: bytes
    message_id: UUID


class _Constructor(SafeConstructor):
    """Reads what is too long to be written: ``!repeat [text, times]`` and its like."""


def _repeat(constructor: Any, node: SequenceNode) -> str:
    text, times = constructor.construct_sequence(node, deep=True)
    return str(text * times)


def _list(constructor: Any, node: SequenceNode) -> list[Any]:
    item, times = constructor.construct_sequence(node, deep=True)
    return [item] * times


def _fields(constructor: Any, node: SequenceNode) -> dict[str, Any]:
    fields, count = constructor.construct_sequence(node, deep=True)
    return {f"field {number}": number for number in range(count)} | fields


def _nest(constructor: Any, node: SequenceNode) -> str:
    head, opening, times, closing, tail = constructor.construct_sequence(node, deep=True)
    inner = "1" if closing else ""
    return str(head + opening * times + inner + closing * times + tail)


for _tag, _construct in (
    ("!repeat", _repeat),
    ("!list", _list),
    ("!fields", _fields),
    ("!nest", _nest),
):
    _Constructor.add_constructor(_tag, _construct)


def load_cases() -> list[Case]:
    """All cases, file by file."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    return [
        Case.model_validate({"kind": file.stem, **entry})
        for file in sorted(FOLDER.glob("*.yaml"))
        for entry in yaml.load(file)
    ]


def forge(
    case: Case,
    *,
    lane: str,
    catalogue: Catalogue,
    victim: "Victim | None",
    keys: dict[str, SigningKey],
) -> Forged:
    """The record of a forged message.

    Args:
        case: What is forged.
        lane: The lane of the pipeline.
        catalogue: Its catalogue.
        victim: The execution that it is about, if there is one.
        keys: By name, whose key signs.
    """
    about = case.execution
    topic, key = _TOPICS[case.forge or ""], case.key or str(about)
    if case.forge == "request":
        body = {"correlation_id": case.victim_id, **case.change}
        return Forged(topic, key, json.dumps(body).encode(), about)
    if case.forge == "command":
        message = _command(case, lane, victim, keys)
    else:
        payload = _payload(case, about, lane, catalogue, victim)
        now = datetime.now(UTC)
        message = compose(
            payload,
            message_id=uuid5(_IDS, f"{lane}{case.name}"),
            correlation_id=about,
            causation_id=uuid5(_IDS, "cause"),
            from_agent="planner",
            tenant=case.tenant,
            lane=lane,
            timestamp=now,
            received_at=now if victim is None else victim.pending.received_at,
            external_id=case.external_id if victim is None else case.victim_id,
        )
    document = _merged(json.loads(message.to_bytes()), case.change)
    approvers = document["payload"].get("approvals")
    if approvers is not None and case.forge == "plan":
        document["payload"]["approvals"] = [_approval(name) for name in approvers]
    value = json.dumps(document).encode()
    return Forged(topic, key, value, UUID(document["message_id"]))


def _payload(
    case: Case, about: UUID, lane: str, catalogue: Catalogue, victim: Victim | None
) -> Payload:
    now = datetime.now(UTC)
    request = uuid5(_IDS, f"request {case.name}") if victim is None else victim.request_id
    plan_id = uuid5(_IDS, f"plan {case.name}") if victim is None else victim.plan_id
    if case.forge == "outcome":
        return Outcome(request_id=request, status="failed", code="bug", reason="Forged.")
    steps = (_planned(case, catalogue),) if victim is None else victim.pending.steps
    plan = Plan(
        request_id=request,
        title=case.name,
        requester="ann" if victim is None else victim.pending.requester,
        steps=steps,
        cost=sum((step.cost for step in steps), CostEstimate()),
        plan_hash=hash_plan(steps, lane=lane, correlation_id=about),
    )
    first = steps[0]
    match case.forge:
        case "plan":
            return plan
        case "intent":
            asked = PlannedStep.model_validate(case.do | {"step_id": "a"} if case.do else {})
            return Intent(
                request_id=request, title=case.name, requester="ann", steps=(asked,), parser="plan"
            )
        case "verdict":
            return Verdict(
                request_id=request,
                plan_id=plan_id,
                decision="approved",
                reasons=(),
                plan=plan,
            )
        case "step":
            return Step(
                request_id=request,
                plan_id=plan_id,
                plan_hash=plan.plan_hash,
                run_no=1,
                step_id=first.step_id,
                action=first.action,
                executor=first.executor,
                effect=first.effect,
                parameters=first.parameters,
                attempt=1,
                timeout=first.timeout,
            )
        case _:
            return StepResult(
                request_id=request,
                run_no=1,
                step_id=first.step_id,
                action=first.action,
                attempt=1,
                status="success",
                started_at=now,
                finished_at=now,
            )


def _planned(case: Case, catalogue: Catalogue) -> PlanStep:
    do = case.do or {}
    spec = catalogue.action(do["action"])
    return PlanStep.model_validate(
        {
            "step_id": "a",
            "action": spec.id,
            "parameters": do["parameters"],
            "executor": spec.executor,
            "effect": spec.effect,
            "risk": spec.risk,
            "timeout": spec.timeout,
            "retry": spec.retry,
            "cost": spec.cost,
            **case.step,
        }
    )


def _command(
    case: Case, lane: str, victim: Victim | None, keys: dict[str, SigningKey]
) -> AgentMessage[Any]:
    said = case.say
    assert said is not None, f"{case.name} says nothing"
    assert victim is not None, f"{case.name} has no victim"
    key = {**keys, "own": SigningKey.generate()}[said.key] if said.key else None
    address: Address = victim.pending.address(lane)
    return make_command(
        said.kind,
        address,
        Speaker(said.by, key),
        now=datetime.now(UTC),
        plan_hash=victim.pending.plan_hash if said.plan_hash == _NO_HASH else said.plan_hash,
    )


def _approval(name: str) -> dict[str, Any]:
    return {
        "approver": name,
        "approved_at": "2026-01-05T09:00:00Z",
        "command_id": str(uuid5(_IDS, name)),
        "is_signed": True,
    }


def _merged(document: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    for name, value in change.items():
        inner = document.get(name)
        both = isinstance(inner, dict) and isinstance(value, dict)
        document[name] = _merged(inner, value) if both and value else value
    return document


def _step(action: str, **parameters: Any) -> dict[str, Any]:
    return {"step_id": "a", "action": action, "parameters": parameters}


TERMINAL: Final = [status.value for status in ExecutionStatus if status.is_terminal]
