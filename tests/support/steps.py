"""Approved steps for tests of executors, on the ledger of tests."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from pydantic import JsonValue
from support.clocks import RecordingClock
from support.ledgers import advance, moves

from agents.runtime.assessment import NoPolicies, Policies
from agents.runtime.breaker import Breakers
from agents.runtime.catalogue import ActionSpec, Catalogue
from agents.runtime.context import Context, Services
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.ports import Clock, Ledger
from agents.runtime.references import escape, secret_name
from agents.runtime.roles import Handler, spec_of
from agents.runtime.running import RunningSteps
from agents.runtime.secrets import open_secrets
from agents.runtime.settings import SECRET_PREFIX, Settings
from agents.runtime.testing import shipped_topology
from schemas import (
    AgentMessage,
    CostEstimate,
    JsonObject,
    Plan,
    PlanStep,
    RetryPolicy,
    Step,
    StepResult,
    Verdict,
    compose,
    hash_plan,
)


def action(action_id: str = "test.act", **fields: Any) -> ActionSpec:
    """An action as the catalogue holds it; texts among the parameters are their types."""
    parameters = {
        name: {"type": spec, "description": "A parameter."} if isinstance(spec, str) else spec
        for name, spec in fields.pop("parameters", {}).items()
    }
    outputs = {name: {"description": "An output."} for name in fields.pop("outputs", ())}
    return ActionSpec.model_validate(
        {
            "description": "An action of a test.",
            "executor": "test",
            "effect": "read",
            "risk": "low",
            "id": action_id,
            "source": "actions.yaml:1",
            "parameters": parameters,
            "outputs": outputs,
            **fields,
        }
    )


@dataclass
class Rig:
    """An executor's surroundings, in memory but for what the executor itself talks to."""

    actions: tuple[ActionSpec, ...]
    connections: Mapping[str, Any] = field(default_factory=dict)
    """As actions.yaml has them."""
    private_hosts: tuple[str, ...] = ("127.0.0.1",)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """By name; as a process finds them in its environment."""
    settings: Settings = field(default_factory=Settings)
    clock: Clock = field(default_factory=RecordingClock)
    policies: Policies = field(default_factory=NoPolicies)
    ledger: Ledger = field(init=False)
    running: RunningSteps = field(init=False)
    breakers: Breakers = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)
        self.breakers = Breakers(self.clock)
        self.running = RunningSteps(self.ledger.stopping, 0.01)

    @property
    def services(self) -> Services:
        catalogue = Catalogue.model_validate(
            {
                "environments": {},
                "entities": {},
                "actions": {action.id: action for action in self.actions},
                "source": "actions.yaml",
                "connections": self.connections,
                "private_hosts": self.private_hosts,
            }
        )
        variables = {SECRET_PREFIX + name.upper(): value for name, value in self.secrets.items()}
        return Services(
            settings=self.settings,
            catalogue=catalogue,
            topology=shipped_topology(),
            ledger=self.ledger,
            clock=self.clock,
            breakers=self.breakers,
            policies=self.policies,
            secrets=open_secrets(self.settings, variables),
            running=self.running,
        )

    def hosted(self, function: Callable[..., Any]) -> AbstractAsyncContextManager[Handler]:
        """The executor's handler as a process hosts it."""
        lifespan = spec_of(function).lifespan
        assert lifespan is not None
        return lifespan(self.services)

    async def approved(
        self, parameters: Mapping[str, Any] | None = None, **fields: Any
    ) -> "Assignment":
        """A step of the first action, or the one named, with an approved verdict on its plan."""
        assignment = self.planned(parameters, **fields)
        await self.ledger.record_verdict(assignment.verdict("approved"))
        return assignment

    def planned(self, parameters: Mapping[str, Any] | None = None, **fields: Any) -> "Assignment":
        """A step of the first action, with no verdict on its plan."""
        wanted = fields.get("action", self.actions[0].id)
        action = next(each for each in self.actions if each.id == wanted)
        values: JsonObject = dict(parameters or {})
        correlation_id = uuid4()
        planned = PlanStep(
            step_id="only",
            action=action.id,
            parameters={name: _planned(name, values[name], fields) for name in values},
            executor=action.executor,
            effect=action.effect,
            risk=action.risk,
            timeout=action.timeout,
            retry=RetryPolicy(),
            cost=CostEstimate(),
        )
        plan = Plan(
            request_id=uuid4(),
            title="a test",
            requester="tester",
            steps=(planned,),
            cost=CostEstimate(),
            plan_hash=hash_plan((planned,), lane="", correlation_id=correlation_id),
        )
        step = Step(
            request_id=plan.request_id,
            plan_id=uuid4(),
            plan_hash=plan.plan_hash,
            run_no=1,
            step_id="only",
            action=action.id,
            executor=action.executor,
            effect=action.effect,
            parameters=values,
            attempt=1,
            timeout=action.timeout,
        )
        return Assignment(self, plan, correlation_id, step.model_copy(update=fields))


def _planned(name: str, value: JsonValue, fields: Mapping[str, Any]) -> JsonValue:
    """A parameter as a plan has it, so that it comes to ``value`` when the step begins."""
    if name in fields.get("resolved", ()):
        return f"${{steps.before.output.{name}}}"
    if isinstance(value, str) and secret_name(value) is None:
        return escape(value)
    if isinstance(value, list):
        return [_planned("", item, {}) for item in value]
    if isinstance(value, dict):
        return {key: _planned("", item, {}) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class Assignment:
    """A step, and the message that it comes in."""

    rig: Rig
    plan: Plan
    correlation_id: UUID
    step: Step

    def but(self, **fields: Any) -> "Assignment":
        """The same with other fields of the step, such as ``attempt``."""
        return replace(self, step=self.step.model_copy(update=fields))

    @property
    def context(self) -> Context:
        return Context(
            f"executor_{self.step.executor}", self._message(self.step), self.rig.services
        )

    def verdict(self, decision: str) -> AgentMessage[Verdict]:
        verdict = Verdict.model_construct(
            request_id=self.plan.request_id,
            plan_id=self.step.plan_id,
            decision=decision,  # type: ignore[arg-type]  # a test names one of the literals
            reasons=(),
            plan=self.plan,
        )
        return self._message(verdict)

    async def cancel(self) -> None:
        """Write into the ledger that the execution is being cancelled, as the router does."""
        await self.stands("cancelling")

    async def stands(self, status: str, run_no: int = 1) -> None:
        """Write into the ledger how the execution stands."""
        run_id, document = self.correlation_id, f'{{"run_no": {run_no}}}'.encode()
        await advance(self.rig.ledger, run_id, moves(run_id, status=status, document=document))

    async def run(self, handler: Handler) -> StepResult:
        """Hand the step to an executor's handler."""
        result = await handler(self.step, self.context)
        assert isinstance(result, StepResult)
        return result

    def _message(self, payload: Step | Verdict) -> AgentMessage[Any]:
        now = self.rig.clock.now()
        return compose(
            payload,
            message_id=uuid4(),
            correlation_id=self.correlation_id,
            causation_id=uuid4(),
            from_agent="router",
            tenant="default",
            lane="",
            timestamp=now,
            received_at=now,
            attempt=self.step.attempt,
        )
