"""The router as a role: its ledger, its timers, and what it cannot handle."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from agents import router
from agents.routing.events import GivenUp, Wakeup
from agents.routing.machine import react
from agents.runtime import spec_of
from agents.runtime.codec import encode
from agents.runtime.context import Services
from agents.runtime.dead_letters import DeadLetterWriter
from agents.runtime.deadlines import Deadlines
from agents.runtime.delivery import Delivery
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.outage import Outage, Outages
from agents.runtime.ports import RunRecord
from agents.runtime.records import Outgoing, Record
from agents.runtime.resilience import Backoff
from agents.runtime.settings import ROOT, Settings
from agents.runtime.testing import EPOCH, ManualClock, fake_services, message_with, test_id
from agents.runtime.topology import load_topology
from schemas import (
    CostEstimate,
    ExecutionState,
    Outcome,
    Payload,
    Plan,
    PlanStep,
    RetryPolicy,
    StepResult,
    Verdict,
    envelope_type,
    hash_plan,
)

TOPOLOGY = load_topology(ROOT / "topics.yaml")
REQUEST, PLAN_ID, EXECUTION = test_id("request"), test_id("plan"), test_id("execution")
STEP = PlanStep(
    step_id="only",
    action="service.status",
    parameters={"service": "checkout", "environment": "staging"},
    executor="http",
    effect="effect",
    risk="low",
    timeout=30.0,
    retry=RetryPolicy(),
    cost=CostEstimate(),
)
PLAN = Plan(
    request_id=REQUEST,
    title="title",
    requester="ann",
    steps=(STEP,),
    cost=CostEstimate(),
    plan_hash=hash_plan((STEP,), lane="", correlation_id=EXECUTION),
)
VERDICT = Verdict(request_id=REQUEST, plan_id=PLAN_ID, decision="approved", reasons=(), plan=PLAN)
RESULT = StepResult(
    request_id=REQUEST,
    run_no=1,
    step_id="only",
    action="service.status",
    attempt=1,
    status="success",
    started_at=EPOCH,
    finished_at=EPOCH,
)
OUTCOME = Outcome(request_id=REQUEST, status="failed", code="bug", reason="nobody understands it")
TOPICS = {
    Verdict: "millstream.verdicts.v1",
    StepResult: "millstream.results.v1",
    Outcome: "millstream.outcomes.v1",
}


@dataclass
class Router:
    """The router with everything that a worker puts around it, but broker and database."""

    clock: ManualClock = field(default_factory=ManualClock)
    sent: list[Outgoing] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(self.clock)
        self.services: Services = fake_services(ledger=self.ledger, clock=self.clock)
        spec = spec_of(router.route)
        self.deliver = Delivery(
            spec=spec,
            handler=spec.handler,
            services=self.services,
            topology=TOPOLOGY,
            publisher=self,
            backoff=Backoff(),
            dead_letters=DeadLetterWriter("router", "", {}, self, limit=3),
            outage=Outage("router", Outages(self.clock)),
            deadlines=Deadlines(30.0),
        )

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        self.sent += messages

    async def gets(self, payload: Payload, name: str = "message") -> None:
        out = encode(message_with(payload, name=name), TOPICS[type(payload)], traceparent=None)
        await self.deliver(Record(out.topic, 0, 0, 0, out.key, out.value, out.headers))

    async def ticks(self) -> None:
        rows = await router.tick(self.services, 1)
        await self.deliver.publish(rows, None, None)

    @property
    def states(self) -> list[ExecutionState]:
        values = [out.value or b"" for out in self.sent if "states" in out.topic]
        return [envelope_type(ExecutionState).model_validate_json(v).payload for v in values]

    @property
    def dead_letters(self) -> int:
        return sum("dead-letters" in out.topic for out in self.sent)

    async def run(self) -> RunRecord:
        (record,) = await self.ledger.open_runs(lane="", after=None, limit=10)
        return record


@pytest.fixture
def stumbling(monkeypatch: pytest.MonkeyPatch) -> set[type[Any]]:
    """Kinds of events on which the state machine fails, as from a bug."""
    kinds: set[type[Any]] = set()

    def fails(run: Any, event: Any, **more: Any) -> Any:
        if type(getattr(event, "payload", event)) in kinds:
            raise ZeroDivisionError("a bug")
        return react(run, event, **more)

    monkeypatch.setattr(router, "react", fails)
    return kinds


@pytest.mark.parametrize("first", [VERDICT, OUTCOME])
async def test_an_execution_that_meets_a_bug_at_once_fails_and_leaves_a_dead_letter(
    first: Payload, stumbling: set[type[Any]]
) -> None:
    stumbling.add(type(first))
    machine = Router()
    for _ in range(2):
        await machine.gets(first)
    assert [(s.status, s.code, s.request_id) for s in machine.states] == [
        ("failed", "bug", REQUEST)
    ]
    assert machine.dead_letters == 2, "each delivery says what happened"
    assert not await machine.ledger.open_runs(lane="", after=None, limit=10)


async def test_a_result_that_meets_a_bug_ends_its_step(stumbling: set[type[Any]]) -> None:
    machine = Router()
    await machine.gets(VERDICT)
    stumbling.add(StepResult)
    await machine.gets(RESULT, "result")
    assert [s.status for s in machine.states] == ["running", "failed"]
    (step,) = machine.states[-1].steps
    assert step.failure is not None
    assert (step.failure.code, "ZeroDivisionError" in step.failure.reason) == ("bug", True)
    assert machine.dead_letters == 1


async def test_where_giving_up_fails_too_the_deadline_ends_the_run(
    stumbling: set[type[Any]],
) -> None:
    machine = Router()
    await machine.gets(VERDICT)
    stumbling |= {StepResult, GivenUp}
    await machine.gets(RESULT, "result")
    assert machine.dead_letters == 1
    settings = machine.services.settings
    machine.clock.advance((settings.step_patience + timedelta(minutes=3)).total_seconds())
    await machine.ticks()
    assert [s.status for s in machine.states] == ["running", "unknown"]


async def test_a_timer_that_meets_a_bug_ends_its_run(stumbling: set[type[Any]]) -> None:
    machine = Router()
    await machine.gets(VERDICT)
    stumbling.add(Wakeup)
    machine.clock.advance(24 * 3600 + 120)
    await machine.ticks()
    assert [s.status for s in machine.states] == ["running", "unknown"]


async def test_a_run_that_nothing_can_end_keeps_the_timers_of_no_other_run(
    stumbling: set[type[Any]],
) -> None:
    machine = Router()
    await machine.gets(VERDICT)
    stumbling |= {Wakeup, GivenUp}
    machine.clock.advance(24 * 3600 + 120)
    await machine.ticks()
    stumbling.clear()
    await machine.ticks()
    assert [s.status for s in machine.states] == ["running"]
    router._stuck.clear()
    await machine.ticks()
    assert [s.status for s in machine.states] == ["running", "unknown"]


async def test_raised_limits_hold_for_runs_that_are_open() -> None:
    machine = Router()
    await machine.gets(VERDICT)
    longer = Settings(step_patience=timedelta(hours=5))
    machine.services = replace(machine.services, settings=longer)
    machine.clock.advance(2 * 3600)
    for _ in range(3):
        await machine.ticks()
    assert [s.version for s in machine.states] == [1, 2], "it is armed again, once"
    next_wakeup = (await machine.run()).next_wakeup
    assert next_wakeup is not None
    assert next_wakeup > EPOCH + timedelta(hours=5)


async def test_a_dispatched_step_leaves_the_time_of_the_next_look_alone() -> None:
    machine = Router()
    await machine.gets(VERDICT)
    next_wakeup = (await machine.run()).next_wakeup
    assert next_wakeup is not None
    assert (next_wakeup.second, next_wakeup.microsecond) == (0, 0)
