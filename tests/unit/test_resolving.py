"""Somebody says what became of an effect in doubt: the ledger holds it, the execution goes on."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from support.approvals import REQUEST, People, command, envelope

from agents.router import route, tick
from agents.runtime.context import Services
from agents.runtime.errors import DatabaseUnavailableError
from agents.runtime.outcomes import MAX_OUTPUT
from agents.runtime.ports import EffectClaim
from agents.runtime.testing import fake_context, fake_services, message_with, test_id
from schemas import (
    AgentMessage,
    Command,
    CommandAnswer,
    CostEstimate,
    ExecutionState,
    Failure,
    Payload,
    Plan,
    PlanStep,
    RetryPolicy,
    Step,
    StepResult,
    Verdict,
    hash_plan,
)

PEOPLE = People(ann=(), bob=("sre",))
OWNER = "host:1:abc"
RUN = test_id("execution")


def planned(step_id: str, *depends_on: str, effect: str = "effect", **parameters: Any) -> PlanStep:
    return PlanStep.model_validate(
        {
            "step_id": step_id,
            "action": "service.restart",
            "parameters": parameters,
            "depends_on": depends_on,
            "executor": "http",
            "effect": effect,
            "risk": "low",
            "timeout": 30.0,
            "retry": RetryPolicy(),
            "cost": CostEstimate(),
        }
    )


CHAIN = (planned("pay"), planned("tell", "pay", effect="read", text="${steps.pay.output.receipt}"))
PAIR = (planned("left"), planned("right"))


def said(step_id: str = "pay", outcome: str | None = "done", **fields: Any) -> Command:
    known = {"by": "bob", "step_id": step_id, "outcome": outcome, "run_no": 1}
    about = {**known, "reason": "I have looked", **fields}
    return command("resolve", about.pop("by"), None, **about)


@dataclass
class Desk:
    """A router, and what it has sent."""

    services: Services
    sent: list[AgentMessage[Any]] = field(default_factory=list)
    count: int = 0

    async def hears(self, message: AgentMessage[Any]) -> list[AgentMessage[Any]]:
        context = fake_context(message.payload, services=self.services, message=message)
        rows = await route(message.payload, context)
        await self.services.ledger.mark_sent([row.row_id for row in rows])
        self.sent += (fresh := [row.message for row in rows])
        return fresh

    async def told(self, payload: Payload) -> list[AgentMessage[Any]]:
        self.count += 1
        return await self.hears(message_with(payload, name=f"event {self.count}"))

    async def resolves(self, payload: Command) -> CommandAnswer:
        signed = PEOPLE.keys[payload.issued_by].sign(envelope(payload))
        [answer] = of(CommandAnswer, await self.hears(signed))
        assert isinstance(answer.payload, CommandAnswer)
        return answer.payload

    @property
    def state(self) -> ExecutionState:
        state = of(ExecutionState, self.sent)[-1].payload
        assert isinstance(state, ExecutionState)
        return state

    @property
    def stands(self) -> tuple[str, int]:
        return self.state.status.value, self.state.run_no

    def step(self, step_id: str) -> AgentMessage[Step]:
        return [each for each in of(Step, self.sent) if each.payload.step_id == step_id][-1]

    async def claims(self, step_id: str) -> EffectClaim:
        now = self.services.clock.now()
        return await self.services.ledger.claim_effect(
            self.step(step_id), owner=OWNER, lease_until=now + timedelta(seconds=60), now=now
        )

    async def settles(self, result: StepResult) -> StepResult:
        return await self.services.ledger.settle_effect(
            self.step(result.step_id), result, owner=OWNER
        )

    async def leaves_in_doubt(self, step_id: str) -> None:
        """An executor carries a step out and does not know what came of it."""
        assert await self.claims(step_id) == EffectClaim("go")
        await self.told(await self.settles(result(self.step(step_id).payload, "unknown")))


def of(model: type[Payload], messages: list[AgentMessage[Any]]) -> list[AgentMessage[Any]]:
    return [message for message in messages if isinstance(message.payload, model)]


def result(step: Step, status: str, **output: Any) -> StepResult:
    failure = Failure(code="transient", reason="no answer")
    return StepResult.model_validate(
        {
            "request_id": step.request_id,
            "run_no": step.run_no,
            "step_id": step.step_id,
            "action": step.action,
            "attempt": step.attempt,
            "status": status,
            "output": output,
            "failure": None if status == "success" else failure,
            "started_at": fake_services().clock.now(),
            "finished_at": fake_services().clock.now(),
        }
    )


async def desk(*steps: PlanStep) -> Desk:
    """A router that has dispatched the first steps of an approved plan."""
    found = Desk(Services(**{**vars(fake_services()), "principals": PEOPLE.principals}))
    plan = Plan(
        request_id=REQUEST,
        title="pay",
        requester="ann",
        steps=steps,
        cost=CostEstimate(),
        plan_hash=hash_plan(steps, lane="", correlation_id=RUN),
    )
    await found.told(
        Verdict(
            request_id=REQUEST,
            plan_id=test_id("plan"),
            decision="approved",
            reasons=(),
            plan=plan,
        )
    )
    return found


async def in_doubt(*steps: PlanStep) -> Desk:
    """The same, whose first steps are in doubt."""
    found = await desk(*steps)
    for step in of(Step, found.sent):
        await found.leaves_in_doubt(step.payload.step_id)
    assert found.stands == ("unknown", 1)
    return found


async def test_what_was_done_lets_the_execution_go_on_with_its_output() -> None:
    on = await in_doubt(*CHAIN)
    answer = await on.resolves(said(output={"receipt": "r-17"}))
    assert answer.is_accepted
    assert on.stands == ("running", 2)
    told = on.step("tell").payload
    assert (told.run_no, told.parameters) == (2, {"text": "r-17"})
    await on.told(result(told, "success"))
    assert on.stands == ("success", 2)


async def test_what_was_not_done_ends_the_execution_and_says_who_knows() -> None:
    on = await in_doubt(*CHAIN)
    assert (await on.resolves(said(outcome="failed"))).is_accepted
    assert on.stands == ("failed", 2)
    assert "it was not done, says bob: I have looked" in (on.state.reason or "")
    assert len(of(Step, on.sent)) == 1, "nothing is begun"


@pytest.mark.parametrize(("outcome", "status"), [("done", "success"), ("failed", "failed")])
async def test_the_ledger_holds_it_with_who_and_why(outcome: str, status: str) -> None:
    on = await in_doubt(*CHAIN)
    output = {"receipt": "r-1"} if outcome == "done" else None
    await on.resolves(said(outcome=outcome, output=output))
    [effect] = on.services.ledger._effects.values()  # type: ignore[attr-defined]  # the fake's
    assert (effect.status, effect.result.status, effect.owner) == (outcome, status, OWNER)
    assert (effect.resolved.by, effect.resolved.reason) == ("bob", "I have looked")
    claim = await on.claims("pay")
    assert (claim.decision, claim.result) == ("recorded", effect.result)


async def test_what_undoes_a_step_needs_its_outputs_as_well() -> None:
    book = planned("book")
    pay = planned("pay").replace(on_failure="compensate")
    undo = planned("undo-book", "book", room="${steps.book.output.room}")
    on = await desk(book, pay, undo.replace(compensates="book"))
    await on.claims("pay")
    await on.told(result(on.step("pay").payload, "failed"))
    await on.leaves_in_doubt("book")
    refusal = await on.resolves(said("book"))
    assert "say what room is" in (refusal.reason or "")
    assert (await on.resolves(said("book", output={"room": "4"}))).is_accepted
    assert on.step("undo-book").payload.parameters == {"room": "4"}


async def test_a_paused_execution_stays_paused_when_the_doubt_is_gone() -> None:
    on = await desk(*CHAIN)
    await on.hears(PEOPLE.keys["ann"].sign(envelope(command("pause", "ann", reason="lunch"))))
    await on.leaves_in_doubt("pay")
    assert on.stands == ("unknown", 1)
    assert (await on.resolves(said(output={"receipt": "r-1"}))).is_accepted
    assert on.stands == ("paused", 2)
    assert len(of(Step, on.sent)) == 1, "nothing is begun"
    resume = command("resume", "ann", reason="back again")
    await on.hears(PEOPLE.keys["ann"].sign(envelope(resume)))
    assert on.step("tell").payload.parameters == {"text": "r-1"}


@pytest.mark.parametrize(("order", "stands"), [("cancel", "cancelled"), ("pause", "paused")])
async def test_what_was_wanted_outlives_the_broker_and_the_doubt(order: str, stands: str) -> None:
    on = await desk(*CHAIN)
    await on.claims("pay")
    await on.hears(PEOPLE.keys["ann"].sign(envelope(command(order, "ann", reason="so be it"))))
    on.services = replace(on.services, broker_id="another")
    on.sent += [row.message for row in await tick(on.services, 0)]
    assert on.stands == ("failed", 1)
    await on.services.clock.sleep(61)  # whoever held the effect is gone with its lease
    await on.resolves(said(output={"receipt": "r-1"}))
    assert on.stands == (stands, 2)
    assert len(of(Step, on.sent)) == 1, "nothing is begun"


async def test_a_cancelled_execution_stays_cancelled_when_the_doubt_is_gone() -> None:
    on = await desk(*CHAIN)
    await on.hears(PEOPLE.keys["ann"].sign(envelope(command("cancel", "ann", reason="a mistake"))))
    await on.leaves_in_doubt("pay")
    assert on.stands == ("unknown", 1)
    assert (await on.resolves(said())).is_accepted
    assert on.stands == ("cancelled", 2)
    assert on.state.reason == "cancelled by ann: a mistake"
    assert len(of(Step, on.sent)) == 1, "nothing is begun"


async def test_of_two_doubts_each_is_resolved_as_of_the_run_that_it_came_up_in() -> None:
    on = await in_doubt(*PAIR)
    assert (await on.resolves(said("left"))).is_accepted
    assert on.stands == ("unknown", 2)
    wrong = await on.resolves(said("right", run_no=2))
    assert (wrong.is_accepted, wrong.code) == (False, "effect_settled")
    assert (await on.resolves(said("right"))).is_accepted
    assert on.stands == ("success", 3)
    assert {step.attempt for step in on.state.steps} == {1}


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        (said("nowhere"), "refused", "has no step nowhere"),
        (said("tell"), "effect_settled", "step tell is skipped"),
        (said(outcome=None), "refused", "does not name the outcome"),
        (said(), "refused", "say what receipt is"),
        (said(reason=None, run_no=None), "refused", "does not name the run, a reason"),
        (said(run_no=2), "effect_settled", "in doubt since run 1, not 2"),
        (said(outcome="failed", output={"a": 1}), "refused", "was not done"),
        (said(output={"a": "x" * MAX_OUTPUT}), "message_too_large", "more than"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    payload: Command, code: str, reason: str
) -> None:
    on = await in_doubt(*CHAIN)
    answer = await on.resolves(payload)
    assert (answer.is_accepted, answer.code) == (False, code)
    assert reason in (answer.reason or "")
    assert on.stands == ("unknown", 1)
    assert (await on.claims("pay")).result is not None
    answer = await on.resolves(said(output={"receipt": "r-1"}))
    assert answer.is_accepted, "the right command still is"


async def test_nobody_resolves_whom_nobody_knows() -> None:
    on = await in_doubt(*CHAIN)
    [answer] = of(CommandAnswer, await on.hears(envelope(said())))
    assert answer.payload.code == "unsigned"
    mallory = People(mallory=()).keys["mallory"].sign(envelope(said(by="mallory")))
    [answer] = of(CommandAnswer, await on.hears(mallory))
    assert answer.payload.code == "unknown_principal"
    assert on.stands == ("unknown", 1)


async def test_an_execution_that_goes_on_or_does_not_exist_is_not_resolved() -> None:
    on = await desk(*PAIR)
    assert (await on.resolves(said("left"))).code == "effect_settled"
    await on.leaves_in_doubt("left")
    answer = await on.resolves(said("left", reason="really"))
    assert answer.reason == "the execution has not ended yet; say it again when it has"
    nothing = Desk(Services(**{**vars(fake_services()), "principals": PEOPLE.principals}))
    assert (await nothing.resolves(said())).code == "refused"


async def test_who_may_still_be_at_it_is_waited_for() -> None:
    on = await desk(*CHAIN)
    assert await on.claims("pay") == EffectClaim("go")
    await on.told(
        result(on.step("pay").payload, "unknown")
    )  # as the router does that waits no more
    answer = await on.resolves(said(output={}))
    assert (answer.is_accepted, answer.code) == (False, "refused")
    assert f"{OWNER} may still be at it" in (answer.reason or "")
    on.services.clock.advance(61)  # type: ignore[attr-defined]  # the test's own clock
    assert (await on.resolves(said(reason="it is gone", output={}))).is_accepted
    assert on.stands == ("failed", 2), "what refers to the output cannot run"


async def test_what_a_late_owner_knows_is_not_overruled() -> None:
    on = await in_doubt(*CHAIN)
    await on.settles(result(on.step("pay").payload, "success", receipt="r-1"))
    answer = await on.resolves(said(outcome="failed"))
    assert (answer.code, answer.reason) == ("effect_settled", f"{OWNER} knows that it is done")
    assert on.stands == ("unknown", 1)
    assert (await on.resolves(said(output={"receipt": "made up"}))).is_accepted
    assert on.step("tell").payload.parameters == {"text": "r-1"}


async def test_a_late_owner_finds_what_was_said() -> None:
    on = await in_doubt(*CHAIN)
    await on.resolves(said(outcome="failed"))
    late = await on.settles(result(on.step("pay").payload, "success", receipt="r-1"))
    assert late.status == "failed"


async def test_what_no_executor_ever_began_can_begin_no_more() -> None:
    on = await desk(*CHAIN)
    await on.told(result(on.step("pay").payload, "unknown"))
    await on.resolves(said(outcome="failed"))
    claim = await on.claims("pay")
    assert (claim.decision, claim.result and claim.result.status) == ("recorded", "failed")


async def test_a_crash_between_the_ledger_and_the_run_loses_and_doubles_nothing() -> None:
    on = await in_doubt(*CHAIN)
    ledger = on.services.ledger
    advance = ledger.advance

    async def dies(**_: Any) -> Any:
        raise DatabaseUnavailableError("gone")

    ledger.advance = dies  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailableError):
        await on.resolves(said(output={"receipt": "r-2"}))
    ledger.advance = advance  # type: ignore[method-assign]
    assert on.stands == ("unknown", 1)
    assert (await on.resolves(said(output={"receipt": "r-2"}))).is_accepted
    assert on.stands == ("running", 2)
    again = PEOPLE.keys["bob"].sign(envelope(said(output={"receipt": "r-2"})))
    assert await on.hears(again) == [], "the same command is heard once"


async def test_of_two_who_say_different_things_the_first_is_believed() -> None:
    on = await in_doubt(*CHAIN)
    assert (await on.resolves(said(output={}))).is_accepted
    answer = await on.resolves(said(outcome="failed", by="ann"))
    assert (answer.is_accepted, answer.code) == (False, "effect_settled")


async def test_an_execution_that_goes_on_has_its_time_from_then_on() -> None:
    on = await in_doubt(*CHAIN)
    on.services.clock.advance(timedelta(days=3).total_seconds())  # type: ignore[attr-defined]
    await on.resolves(said(output={"receipt": "r-1"}))
    held = await on.services.ledger.run(lane="", correlation_id=RUN)
    assert held is not None
    assert held.next_wakeup is not None
    assert held.next_wakeup > on.services.clock.now()
