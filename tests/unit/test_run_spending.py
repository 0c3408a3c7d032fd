"""However a run ends, what its verdict held back is free again, and what it has cost is spent."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from support.budgets import TENANT, allow, books, costing
from support.ledgers import NOON, SettableClock, envelope

from agents.router import decide
from agents.routing.deadlines import Limits
from agents.routing.events import BrokerLost, Event, GivenUp, Wakeup
from agents.runtime.errors import RefusedMessageError
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.principals import Issuer
from schemas import (
    AgentMessage,
    Command,
    ExecutionState,
    Failure,
    Outcome,
    Plan,
    Reason,
    Step,
    StepResult,
    Verdict,
)
from schemas.command import CommandKind
from schemas.verdict import Decision

DAY = (TENANT, "day")
BOB = Issuer("bob", (), is_signed=True)
LIMITS = Limits(execution=timedelta(hours=1), answer=timedelta(hours=10))


@dataclass
class World:
    """A ledger with a budget of $10 a day, and the router's decisions on one execution."""

    ledger: MemoryLedger
    run_id: UUID = field(default_factory=uuid4)
    now: datetime = NOON
    steps: list[Step] = field(default_factory=list)
    sent_back: list[Plan] = field(default_factory=list)
    """The plans that are to be judged again."""
    states: list[ExecutionState] = field(default_factory=list)

    async def judged(self, *costs: str, **more: Any) -> AgentMessage[Verdict]:
        """A verdict as the safety checker records it."""
        return await self.ledger.record_verdict(costing(*costs, run_id=self.run_id, **more))

    async def judged_again(self, decision: Decision = "approved") -> AgentMessage[Verdict]:
        """A verdict on the plan that the router has sent back."""
        plan = self.sent_back.pop(0)
        reason = Reason(policy="hours", code="policy_denied", text="It is late by now.")
        verdict = Verdict(
            request_id=plan.request_id,
            plan_id=uuid4(),
            decision=decision,
            reasons=() if decision == "approved" else (reason,),
            plan=plan,
        )
        message = envelope(verdict, run_id=self.run_id).replace(tenant=TENANT)
        return await self.ledger.record_verdict(message)

    async def sees(self, event: Event, event_id: UUID | None = None) -> None:
        event_id = event_id or (event.message_id if isinstance(event, AgentMessage) else uuid4())
        rows = await self.ledger.advance(
            lane="",
            correlation_id=self.run_id,
            event_id=event_id,
            decide=lambda record: decide(
                record,
                event,
                lane="",
                correlation_id=self.run_id,
                event_id=event_id,
                now=self.now,
                broker_id="another" if isinstance(event, BrokerLost) else "broker",
                limits=LIMITS,
                issuer=BOB,
            ),
        )
        await self.ledger.mark_sent([row.row_id for row in rows])
        payloads = [row.message.payload for row in rows]
        self.steps += [each for each in payloads if isinstance(each, Step)]
        self.sent_back += [each for each in payloads if isinstance(each, Plan)]
        self.states += [each for each in payloads if isinstance(each, ExecutionState)]

    async def answers(self, status: str = "success", *, retriable: bool = False) -> None:
        """The oldest step that waits is answered."""
        step = self.steps.pop(0)
        failure = Failure(code="transient", reason="503", retriable=retriable)
        result = StepResult(
            request_id=step.request_id,
            run_no=step.run_no,
            step_id=step.step_id,
            action=step.action,
            attempt=step.attempt,
            status=status,
            failure=None if status == "success" else failure,
            started_at=self.now,
            finished_at=self.now,
        )
        await self.sees(envelope(result, run_id=self.run_id))

    async def commands(self, kind: CommandKind, plan_hash: str | None = None) -> None:
        command = Command(kind=kind, issued_by=BOB.name, plan_hash=plan_hash, command_id=uuid4())
        await self.sees(envelope(command, run_id=self.run_id))

    @property
    def status(self) -> str:
        return self.states[-1].status.value

    async def money(self) -> tuple[str, str]:
        """What is spent, and what is reserved."""
        return (await books(self.ledger))[DAY]


@pytest.fixture
async def world() -> World:
    ledger = MemoryLedger(SettableClock())
    await allow(ledger, "day", "10")
    return World(ledger)


async def test_success_spends_what_was_done_and_frees_the_rest(world: World) -> None:
    await world.sees(await world.judged("1", "2", attempts=3))
    assert await world.money() == ("0.00", "9.00")
    await world.answers()
    assert await world.money() == ("0.00", "9.00")
    await world.answers()
    assert (world.status, await world.money()) == ("success", ("3.00", "0.00"))
    assert world.states[-1].cost.total == Decimal(3)


async def test_each_attempt_costs(world: World) -> None:
    await world.sees(await world.judged("1", attempts=3))
    await world.answers("failed", retriable=True)
    world.now += timedelta(minutes=1)
    await world.sees(Wakeup())
    await world.answers()
    assert (world.status, await world.money()) == ("success", ("2.00", "0.00"))
    assert world.states[-1].cost.total == Decimal(2)


@pytest.mark.parametrize("ending", ["failed", "unknown"])
async def test_a_failure_spends_what_was_tried_and_frees_the_rest(
    world: World, ending: str
) -> None:
    await world.sees(await world.judged("1", "2"))
    await world.answers(ending)
    await world.answers()
    assert (world.status, await world.money()) == (ending, ("3.00", "0.00"))


async def test_cancelling_waits_for_what_runs_and_then_frees_the_rest(world: World) -> None:
    await world.sees(await world.judged("1", attempts=3))
    await world.commands("cancel")
    assert await world.money() == ("0.00", "3.00")
    await world.answers("failed", retriable=True)
    assert (world.status, await world.money()) == ("cancelled", ("1.00", "0.00"))


async def test_what_waits_for_an_approval_is_freed_when_it_is_cancelled(world: World) -> None:
    await world.sees(await world.judged("1", decision="needs_approval"))
    assert await world.money() == ("0.00", "1.00")
    await world.commands("cancel")
    assert (world.status, await world.money()) == ("cancelled", ("0.00", "0.00"))


async def test_what_nobody_approves_in_time_is_freed(world: World) -> None:
    await world.sees(await world.judged("1", decision="needs_approval"))
    world.now += timedelta(hours=1)
    await world.sees(Wakeup())
    assert (world.status, await world.money()) == ("expired", ("0.00", "0.00"))


@pytest.mark.parametrize(
    ("decision", "status", "money"),
    [("approved", "success", ("1.00", "0.00")), ("denied", "denied", ("0.00", "0.00"))],
)
async def test_what_is_judged_again_reserves_nothing_more_and_frees_all_when_it_ends(
    world: World, decision: Decision, status: str, money: tuple[str, str]
) -> None:
    asked = await world.judged("1", decision="needs_approval", attempts=3)
    await world.sees(asked)
    await world.commands("approve", asked.payload.plan_hash)
    assert await world.money() == ("0.00", "3.00")
    again = await world.judged_again(decision)
    assert await world.money() == ("0.00", "3.00")
    await world.sees(again)
    if decision == "approved":
        await world.answers()
    assert (world.status, await world.money()) == (status, money)


async def test_a_verdict_that_comes_when_the_approved_run_has_been_cancelled_is_freed(
    world: World,
) -> None:
    asked = await world.judged("1", decision="needs_approval")
    await world.sees(asked)
    await world.commands("approve", asked.payload.plan_hash)
    await world.commands("cancel")
    assert (world.status, await world.money()) == ("cancelled", ("0.00", "0.00"))
    late = await world.judged_again()
    assert await world.money() == ("0.00", "1.00")
    await world.sees(late)
    assert (world.status, await world.money()) == ("cancelled", ("0.00", "0.00"))


async def test_a_cancel_that_comes_before_the_verdict_frees_what_that_reserved(
    world: World,
) -> None:
    await world.commands("cancel")
    await world.sees(await world.judged("1"))
    assert (world.status, await world.money()) == ("cancelled", ("0.00", "0.00"))


async def test_a_verdict_that_comes_after_the_end_frees_what_it_reserved(world: World) -> None:
    verdict = await world.judged("1")
    outcome = Outcome(
        request_id=verdict.payload.request_id, status="failed", code="timeout", reason="too slow"
    )
    await world.sees(envelope(outcome, run_id=world.run_id))
    assert await world.money() == ("0.00", "1.00")
    await world.sees(verdict)
    assert (world.status, await world.money()) == ("failed", ("0.00", "0.00"))


async def test_a_budget_that_is_too_small_denies_the_run_with_its_figures(world: World) -> None:
    await world.sees(await world.judged("4", attempts=3))
    assert (world.status, await world.money()) == ("denied", ("0.00", "0.00"))
    assert world.states[-1].code == "budget_exceeded"
    assert "may cost $12.00" in (world.states[-1].reason or "")
    assert world.steps == []


async def test_a_broker_that_is_gone_frees_what_its_runs_held(world: World) -> None:
    await world.sees(await world.judged("1", attempts=3))
    await world.sees(BrokerLost())
    assert (world.status, await world.money()) == ("failed", ("1.00", "0.00"))


async def test_an_execution_that_takes_too_long_frees_what_it_held(world: World) -> None:
    await world.sees(await world.judged("1", "2", attempts=2))
    await world.answers()
    world.now += timedelta(hours=1, minutes=1)
    await world.sees(Wakeup())
    await world.answers("failed", retriable=True)
    assert (world.status, await world.money()) == ("expired", ("3.00", "0.00"))


async def test_a_verdict_that_the_router_cannot_handle_frees_what_it_reserved(
    world: World,
) -> None:
    verdict = await world.judged("1")
    await world.sees(GivenUp(verdict, "bug", "it broke"))
    assert (world.status, await world.money()) == ("failed", ("0.00", "0.00"))
    await world.sees(verdict)
    assert await world.money() == ("0.00", "0.00")


async def test_another_request_under_the_same_id_frees_its_own_plan_alone(world: World) -> None:
    await world.sees(await world.judged("1"))
    other = await world.judged("2", "2")
    assert await world.money() == ("0.00", "5.00")
    with pytest.raises(RefusedMessageError):
        await world.sees(other)
    assert await world.money() == ("0.00", "1.00")
    await world.answers()
    assert await world.money() == ("1.00", "0.00")


async def test_another_request_for_the_same_plan_shares_its_reservation(world: World) -> None:
    await world.sees(await world.judged("1"))
    same = await world.judged("1")
    assert await world.money() == ("0.00", "1.00")
    with pytest.raises(RefusedMessageError):
        await world.sees(same)
    assert await world.money() == ("0.00", "1.00"), "the run still needs it"
    await world.answers()
    late = await world.judged("1")
    assert await world.money() == ("1.00", "1.00")
    with pytest.raises(RefusedMessageError):
        await world.sees(late)
    assert await world.money() == ("1.00", "0.00")


async def test_messages_that_come_twice_count_once(world: World) -> None:
    verdict = await world.judged("1")
    for _ in range(2):
        await world.sees(verdict)
    again = verdict.replace(message_id=uuid4())
    await world.sees(again)
    assert await world.money() == ("0.00", "1.00")
    step = world.steps[0]
    await world.answers()
    world.steps.append(step)
    await world.answers()
    assert await world.money() == ("1.00", "0.00")


async def test_without_a_budget_the_cost_is_told_and_nothing_is_settled() -> None:
    world = World(MemoryLedger(SettableClock()))
    await world.sees(await world.judged("1"))
    await world.answers()
    assert world.states[-1].cost.total == Decimal(1)
    assert await books(world.ledger) == {}


async def test_a_retry_reserves_again_and_only_for_what_is_left(world: World) -> None:
    first = await world.judged("1", "2", attempts=2)
    await world.sees(first)
    await world.answers()
    await world.answers("failed")
    assert (world.status, await world.money()) == ("failed", ("3.00", "0.00"))
    await world.commands("retry")
    assert await world.money() == ("3.00", "0.00"), "nothing is held back before it is judged"
    await world.sees(await world.judged_again())
    assert await world.money() == ("3.00", "4.00"), "the first step is not done again"
    await world.answers()
    assert (world.status, await world.money()) == ("success", ("5.00", "0.00"))
    assert [state.run_no for state in world.states][-1] == 2


async def test_a_retry_that_the_budget_has_nothing_left_for_is_denied(world: World) -> None:
    await world.sees(await world.judged("4", "4"))
    await world.answers("failed")
    await world.answers("failed")
    await world.commands("retry")
    await world.sees(await world.judged_again())
    assert (world.status, await world.money()) == ("denied", ("8.00", "0.00"))
    assert world.states[-1].code == "budget_exceeded"


async def test_a_retry_that_is_cancelled_before_its_verdict_frees_what_that_reserves(
    world: World,
) -> None:
    await world.sees(await world.judged("1"))
    await world.answers("failed")
    await world.commands("retry")
    await world.commands("cancel")
    await world.sees(await world.judged_again())
    assert (world.status, await world.money()) == ("cancelled", ("1.00", "0.00"))
