"""A cancel reaches a step that is being carried out, and its result says what is known."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, ConfigDict
from support.clocks import RecordingClock
from support.steps import Rig, action
from support.waiting import eventually

from agents.runtime.errors import DatabaseUnavailableError, NotSentError
from agents.runtime.execution import Job, executor
from agents.runtime.running import RunKey, RunningSteps, without_effect
from schemas import JsonObject, StepResult

Act = Callable[[], Awaitable[JsonObject]]


class NoSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Stage:
    """An executor that says when it has begun."""

    def __init__(self, act: Act) -> None:
        self.begun = asyncio.Event()
        self.calls = 0

        @executor("test", settings=NoSettings)
        async def run(_job: Job[NoSettings], _client: None) -> JsonObject:
            self.calls += 1
            self.begun.set()
            return await act()

        self.function = run


class StuckClock(RecordingClock):
    """A clock whose sleeps never end."""

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.slept.set()
        await asyncio.Event().wait()


async def never() -> JsonObject:
    await asyncio.Event().wait()
    return {}


async def never_but_harmless() -> JsonObject:
    with without_effect():
        return await never()


async def not_sent() -> JsonObject:
    raise NotSentError("nobody listens")


def rig_for(effect: str) -> Rig:
    return Rig((action(effect=effect),))


async def cancelled_in_the_middle(act: Act, rig: Rig) -> tuple[StepResult, int]:
    """What came of a step that was cancelled after it had begun; and how often it was called."""
    stage, assignment = Stage(act), await rig.approved()
    async with rig.hosted(stage.function) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await stage.begun.wait()
        await assignment.cancel()
        result = await task
        assert await assignment.run(handler) == result, "a redelivered step gets the same answer"
    return result, stage.calls


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None
    return result.status, result.failure.code, result.failure.retriable


@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_what_may_be_repeated_is_broken_off_and_has_failed(effect: str) -> None:
    result, calls = await cancelled_in_the_middle(never, rig_for(effect))
    assert (ending(result), calls) == (("failed", "cancelled", False), 1)


async def test_an_effect_without_a_definite_answer_is_unknown() -> None:
    result, calls = await cancelled_in_the_middle(never, rig_for("effect"))
    assert (ending(result), calls) == (("unknown", "cancelled", False), 1)
    assert result.failure is not None
    assert "stopped in the middle of it; whether it took effect" in result.failure.reason


async def test_an_effect_that_had_not_left_the_process_has_failed() -> None:
    result, calls = await cancelled_in_the_middle(never_but_harmless, rig_for("effect"))
    assert (ending(result), calls) == (("failed", "cancelled", False), 1)


async def test_an_effect_that_waits_to_be_sent_again_has_failed() -> None:
    rig = rig_for("effect")
    rig.clock = StuckClock()
    result, calls = await cancelled_in_the_middle(not_sent, rig)
    assert (ending(result), calls) == (("failed", "cancelled", False), 1)


async def test_what_was_done_in_spite_of_a_cancel_is_done() -> None:
    async def stubborn() -> JsonObject:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"done": True}
        return {}

    result, _ = await cancelled_in_the_middle(stubborn, rig_for("effect"))
    assert (result.status, result.output) == ("success", {"done": True})


async def test_what_answers_a_cancel_with_a_failure_is_not_tried_again() -> None:
    async def refused() -> JsonObject:
        try:
            return await never()
        except asyncio.CancelledError:
            raise NotSentError("the door was closed") from None

    result, calls = await cancelled_in_the_middle(refused, rig_for("effect"))
    assert (ending(result), calls) == (("failed", "cancelled", False), 1)


async def test_what_an_executor_knows_when_its_time_is_up_is_not_in_doubt() -> None:
    stage, rig = Stage(never_but_harmless), rig_for("effect")
    assignment = await rig.approved(timeout=0.1)
    async with rig.hosted(stage.function) as handler:
        assert ending(await assignment.run(handler)) == ("failed", "timeout", True)


async def test_a_step_that_waits_for_another_owner_does_not_begin_after_a_cancel() -> None:
    rig, stage = rig_for("read"), Stage(never)
    assignment = await rig.approved()
    clock = rig.clock = StuckClock()
    waits = asyncio.Event()
    clock.sleep = lambda _: waits.wait()  # type: ignore[method-assign,assignment]
    now = clock.now()
    await rig.ledger.claim_effect(
        assignment.context.message,
        owner="another process",
        lease_until=now.replace(year=9999),
        now=now,
    )
    async with rig.hosted(stage.function) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await assignment.cancel()
        await eventually(lambda: seen(rig, assignment.correlation_id), "the cancel is seen")
        theirs = StepResult(
            request_id=assignment.step.request_id,
            run_no=1,
            step_id="only",
            action="test.act",
            attempt=1,
            status="success",
            started_at=now,
            finished_at=now,
        )
        await rig.ledger.settle_effect(assignment.context.message, theirs, owner="another process")
        waits.set()
        assert await task == theirs
    assert stage.calls == 0


def seen(rig: Rig, execution: UUID) -> bool:
    return any(step.is_stopped for step in rig.running._steps.get(("", execution), ()))


# --- how it is found out


class Ledger:
    """Counts the questions, and which executions they were about."""

    def __init__(self) -> None:
        self.asked: list[frozenset[RunKey]] = []
        self.stopping: set[RunKey] = set()
        self.is_away = False

    async def find(self, executions: Collection[RunKey]) -> Collection[RunKey]:
        assert executions, "a question about nothing"
        self.asked.append(frozenset(executions))
        if self.is_away:
            raise DatabaseUnavailableError("gone")
        return self.stopping & set(executions)


async def test_one_question_is_about_all_steps_and_none_is_asked_without_steps() -> None:
    ledger, executions = Ledger(), [uuid4() for _ in range(3)]
    steps = RunningSteps(ledger.find, 0.01)
    with (
        steps.step_of("", executions[0]),
        steps.step_of("", executions[0]),
        steps.step_of("", executions[1]),
        steps.step_of("canary.", executions[2]),
    ):
        await eventually(lambda: len(ledger.asked) > 2, "it has asked several times")
        everything = frozenset(
            {("", executions[0]), ("", executions[1]), ("canary.", executions[2])}
        )
        assert Counter(ledger.asked).keys() == {everything}
    await eventually(lambda: steps._watch is None, "nobody asks any more")
    asked = len(ledger.asked)
    with steps.step_of("", executions[0]):
        await eventually(lambda: len(ledger.asked) > asked, "it asks again")
    await steps.close()


async def test_a_cancel_stops_the_steps_of_its_execution_only() -> None:
    ledger = Ledger()
    steps = RunningSteps(ledger.find, 0.01)
    mine, other = uuid4(), uuid4()
    with (
        steps.step_of("", mine) as first,
        steps.step_of("", mine) as second,
        steps.step_of("canary.", mine) as in_another_lane,
        steps.step_of("", other) as of_another,
    ):
        ledger.stopping = {("", mine)}
        await eventually(lambda: first.is_stopped, "it is stopped")
        assert second.is_stopped
        assert not in_another_lane.is_stopped
        assert not of_another.is_stopped
    await steps.close()


async def test_a_cancel_is_seen_when_the_database_is_back() -> None:
    ledger = Ledger()
    steps, run = RunningSteps(ledger.find, 0.01), uuid4()
    ledger.is_away, ledger.stopping = True, {("", run)}
    with steps.step_of("", run) as step:
        await eventually(lambda: len(ledger.asked) > 1, "it has asked more than once")
        assert not step.is_stopped
        ledger.is_away = False
        await eventually(lambda: step.is_stopped, "it is stopped")
    await steps.close()
