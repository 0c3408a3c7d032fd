"""The policy around an executor: nothing runs unapproved, and nothing that matters runs twice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import pytest
import structlog
from pydantic import BaseModel, ConfigDict
from support.clocks import RecordingClock
from support.steps import Assignment, Rig, action

from agents.runtime.assessment import Assessment, NoPolicies
from agents.runtime.catalogue import ActionSpec
from agents.runtime.context import Services
from agents.runtime.effects import EffectPolicy
from agents.runtime.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    KafkaUnavailableError,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from agents.runtime.execution import Job, executor, executor_of
from agents.runtime.outcomes import MAX_OUTPUT, UnusableAnswerError
from agents.runtime.ports import Clock, EffectClaim
from agents.runtime.roles import spec_of
from schemas import AgentMessage, JsonObject, Plan, Reason, Step, StepResult
from schemas.verdict import Decision

EFFECTS = ("read", "idempotent", "effect")
REPEATABLE = ("read", "idempotent")

Script = Callable[[], Awaitable[JsonObject]]
Ending = tuple[str, str, bool]
"""Status, code, and whether it is retriable."""


@pytest.fixture(autouse=True)
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


class NoSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Spy:
    """An executor that does what its script says, and knows how often it was called."""

    def __init__(self, *script: Exception | JsonObject | Script) -> None:
        self.script = list(script)
        self.jobs: list[Job[NoSettings]] = []
        self.opened = self.closed = 0
        self.started = asyncio.Event()

        @asynccontextmanager
        async def open_client(_: Services) -> AsyncIterator[str]:
            self.opened += 1
            yield "client"
            self.closed += 1

        @executor("test", settings=NoSettings, client=open_client)
        async def act(job: Job[NoSettings], client: str) -> JsonObject:
            assert client == "client"
            self.jobs.append(job)
            self.started.set()
            entry = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            if isinstance(entry, Exception):
                raise entry
            return await entry() if callable(entry) else entry

        self.function = act

    @property
    def calls(self) -> int:
        return len(self.jobs)


def rig_for(effect: str = "read", **fields: Any) -> Rig:
    return Rig((action(effect=effect, **fields),))


def sleeps(rig: Rig) -> list[int]:
    """What the rig's clock was asked to wait, in whole seconds."""
    assert isinstance(rig.clock, RecordingClock)
    return [int(seconds) for seconds in rig.clock.sleeps]


async def outcome(spy: Spy, assignment: Assignment) -> StepResult:
    async with assignment.rig.hosted(spy.function) as handler:
        return await assignment.run(handler)


def failure_code(result: StepResult) -> Ending:
    assert result.failure is not None
    return result.status, result.failure.code, result.failure.retriable


async def never() -> JsonObject:
    await asyncio.Event().wait()
    return {}


# --- what is a role


def test_an_executor_is_an_unordered_role_from_steps_to_results() -> None:
    spy = Spy({})
    spec = spec_of(spy.function)
    assert (spec.name, spec.executor, spec.ordered) == ("executor_test", "test", False)
    assert spec.consumes == {Step}
    assert spec.emits == {StepResult}
    assert "test_execution_policy.py" in spec.where


def test_the_function_stays_what_it_was() -> None:
    spy = Spy({})
    assert executor_of(spy.function).call is spy.function


def test_a_plain_function_is_no_executor() -> None:
    with pytest.raises(ConfigurationError, match="no @executor"):
        executor_of(failure_code)


async def test_the_client_is_opened_once_and_closed_in_the_end() -> None:
    spy, rig = Spy({}), rig_for()
    async with rig.hosted(spy.function) as handler:
        for _ in range(3):
            await (await rig.approved()).run(handler)
        assert (spy.calls, spy.opened, spy.closed) == (3, 1, 0)
    assert (spy.opened, spy.closed) == (1, 1)


async def test_a_handler_without_a_host_opens_its_own_client() -> None:
    spy = Spy({"answer": 42})
    assignment = await rig_for().approved()
    result = await assignment.run(spec_of(spy.function).handler)
    assert result.output == {"answer": 42}
    assert (spy.opened, spy.closed) == (1, 1)


async def test_an_executor_may_do_without_a_client() -> None:
    @executor("test", settings=NoSettings)
    async def act(_job: Job[NoSettings], nothing: None) -> JsonObject:
        return {"client": nothing}

    assignment = await rig_for().approved()
    async with assignment.rig.hosted(act) as handler:
        assert (await assignment.run(handler)).output == {"client": None}


async def test_wrong_settings_stop_the_start_and_name_the_place() -> None:
    rig = Rig((action(settings={"colour": "red"}), action("test.other", settings={"size": 1})))
    with pytest.raises(ConfigurationError) as caught:
        async with rig.hosted(Spy({}).function):
            pass
    assert "actions.yaml:1: test.act: with.colour" in str(caught.value)
    assert "test.other: with.size" in str(caught.value)


# --- what must hold before anything runs


async def test_a_step_without_a_verdict_is_refused_and_does_not_run() -> None:
    spy = Spy({})
    result = await outcome(spy, rig_for().planned())
    assert failure_code(result) == ("failed", "not_approved", False)
    assert spy.calls == 0


@pytest.mark.parametrize("decision", ["needs_approval", "denied"])
async def test_a_step_whose_plan_was_not_approved_does_not_run(decision: str) -> None:
    spy, rig = Spy({}), rig_for()
    assignment = rig.planned()
    await rig.ledger.record_verdict(assignment.verdict(decision))
    assert failure_code(await outcome(spy, assignment)) == ("failed", "not_approved", False)
    assert spy.calls == 0


async def test_a_verdict_on_another_plan_hash_does_not_count() -> None:
    spy = Spy({})
    assignment = (await rig_for().approved()).but(plan_hash="0" * 64)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "not_approved", False)
    assert spy.calls == 0


async def test_an_action_that_the_catalogue_does_not_have_any_more_is_refused() -> None:
    spy, rig = Spy({}), rig_for()
    assignment = await rig.approved()
    rig.actions = (action("test.other"),)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "unknown_action", False)
    assert spy.calls == 0


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(action("test.other"), id="the action is gone"),
        pytest.param(action(executor="other"), id="somebody else does it"),
        pytest.param(action(effect="idempotent"), id="it means something else"),
        pytest.param(action(effect="effect", parameters={"more": "string"}), id="it wants more"),
    ],
)
async def test_what_was_done_before_the_catalogue_changed_stays_done(changed: ActionSpec) -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    first = await outcome(spy, assignment)
    rig.actions = (changed,)
    assert await outcome(spy, assignment) == first
    assert (first.status, spy.calls) == ("success", 1)


async def test_what_a_dead_process_left_in_doubt_stays_so_when_the_catalogue_changes() -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    message, now = assignment.context.message, rig.clock.now()
    await rig.ledger.claim_effect(
        message, owner="dead", lease_until=now - timedelta(seconds=1), now=now
    )
    rig.actions = (action("test.other"),)
    assert failure_code(await outcome(spy, assignment)) == ("unknown", "effect_unknown", False)


async def test_an_action_of_another_executor_is_refused() -> None:
    spy, rig = Spy({}), rig_for()
    assignment = await rig.approved()
    rig.actions = (action(executor="other"),)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "invalid_plan", False)
    assert spy.calls == 0


async def test_an_action_whose_effect_has_changed_since_the_approval_is_refused() -> None:
    spy, rig = Spy({}), rig_for("read")
    assignment = await rig.approved()
    rig.actions = (action(effect="effect"),)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "invalid_plan", False)
    assert spy.calls == 0


async def test_parameters_are_checked_again_when_references_are_resolved() -> None:
    spy, rig = Spy({}), rig_for(parameters={"replicas": "integer"})
    result = await outcome(spy, await rig.approved({"replicas": "three"}))
    assert failure_code(result) == ("failed", "invalid_parameters", False)
    assert result.failure is not None
    assert "'three'" in result.failure.reason
    assert spy.calls == 0


async def test_a_reference_that_nobody_resolved_is_refused() -> None:
    rig = rig_for(parameters={"replicas": "integer"})
    result = await outcome(Spy({}), await rig.approved({"replicas": "${steps.a.output.b}"}))
    assert failure_code(result) == ("failed", "invalid_parameters", False)


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_step_of_an_execution_that_was_cancelled_meanwhile_does_not_begin(
    effect: str,
) -> None:
    spy, rig = Spy({"n": 1}), rig_for(effect)
    assignment = await rig.approved()
    await assignment.cancel()
    first = await outcome(spy, assignment)
    assert failure_code(first) == ("failed", "cancelled", False)
    assert await outcome(spy, assignment) == first
    assert spy.calls == 0


async def test_a_step_that_was_done_before_a_cancel_stays_done() -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    first = await outcome(spy, assignment)
    await assignment.cancel()
    assert await outcome(spy, assignment) == first
    assert first.status == "success"


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_step_of_an_earlier_run_does_not_begin_beside_the_new_one(effect: str) -> None:
    spy, rig = Spy({"n": 1}), rig_for(effect)
    assignment = await rig.approved()
    await assignment.stands("running", run_no=2)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "cancelled", False)
    assert (await outcome(spy, assignment.but(run_no=2))).status == "success"
    assert spy.calls == 1


@pytest.mark.parametrize("run_no", [2, 77])
async def test_a_step_of_a_run_that_the_router_has_not_begun_is_not_approved(run_no: int) -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    await assignment.stands("running")
    result = await outcome(spy, assignment.but(run_no=run_no))
    assert failure_code(result) == ("failed", "not_approved", False)
    assert spy.calls == 0


@pytest.mark.parametrize("status", ["planned", "needs_approval", "cancelling", "failed"])
async def test_a_step_begins_only_while_its_execution_is_under_way(status: str) -> None:
    spy, rig = Spy({"n": 1}), rig_for("idempotent")
    assignment = await rig.approved()
    await assignment.stands(status)
    assert failure_code(await outcome(spy, assignment)) == ("failed", "cancelled", False)
    assert spy.calls == 0


# --- what came from earlier steps


@dataclass
class Ruling:
    """Policies that decide about late parameters as they are told, and remember the question."""

    decision: Decision
    asked: list[dict[str, Any]] = field(default_factory=list)

    def judge_step(self, plan: Plan, step: Step, **surroundings: Any) -> Assessment:
        self.asked.append({"plan": plan, "step": step, **surroundings})
        reason = Reason(policy="test", code="policy_denied", text="Not like this.")
        reasons = () if self.decision == "approved" else (reason,)
        return Assessment(self.decision, reasons, obligations=(), policies=(), policy_set="0" * 64)

    def judge(self, plan: Plan, **surroundings: Any) -> Assessment:
        raise AssertionError((plan, surroundings))

    async def follow(self, clock: Clock) -> NoReturn:
        raise AssertionError(clock)


async def late(decision: Decision, effect: str = "effect") -> tuple[Spy, Ruling, Assignment]:
    spy, ruling = Spy({"n": 1}), Ruling(decision)
    rig = rig_for(effect, parameters={"replicas": "integer"})
    rig.policies = ruling
    return spy, ruling, await rig.approved({"replicas": 3}, resolved=("replicas",))


async def test_what_came_from_an_earlier_step_is_judged_as_the_plan_was() -> None:
    spy, ruling, assignment = await late("approved")
    recorded = await assignment.rig.ledger.recorded_verdict(
        lane="", plan_id=assignment.step.plan_id
    )
    assert recorded is not None
    assignment.rig.clock.advance(3600)  # type: ignore[attr-defined]  # the test's own clock
    assert (await outcome(spy, assignment)).output == {"n": 1}
    assert ruling.asked == [
        {
            "plan": assignment.plan,
            "step": assignment.step,
            "tenant": "default",
            "lane": "",
            "moment": recorded.timestamp,
        }
    ]


@pytest.mark.parametrize(
    ("decision", "code"), [("denied", "policy_denied"), ("needs_approval", "not_approved")]
)
async def test_what_policies_forbid_now_that_it_is_known_does_not_run(
    decision: Decision, code: str
) -> None:
    spy, _, assignment = await late(decision)
    result = await outcome(spy, assignment)
    assert failure_code(result) == ("failed", code, False)
    assert result.failure is not None
    assert "with replicas from an earlier step" in result.failure.reason
    assert "Not like this." in result.failure.reason
    assert spy.calls == 0
    assert await outcome(spy, assignment) == result


async def test_policies_that_change_afterwards_do_not_undo_what_was_done() -> None:
    spy, ruling, assignment = await late("approved")
    first = await outcome(spy, assignment)
    ruling.decision = "denied"
    assert await outcome(spy, assignment) == first
    assert spy.calls == 1


async def test_what_was_known_from_the_start_is_not_judged_again() -> None:
    spy, ruling, late_assignment = await late("denied")
    assignment = await late_assignment.rig.approved({"replicas": 3})
    result = await outcome(spy, assignment)
    assert (result.output, ruling.asked) == ({"n": 1}, [])


async def test_without_policies_nothing_that_came_late_may_run() -> None:
    spy, _, assignment = await late("approved")
    assignment.rig.policies = NoPolicies()
    result = await outcome(spy, assignment)
    assert failure_code(result) == ("failed", "policy_denied", False)
    assert spy.calls == 0


# --- once


@pytest.mark.parametrize("effect", EFFECTS)
async def test_a_redelivered_step_gets_its_recorded_result(effect: str) -> None:
    spy, rig = Spy({"n": 1}, {"n": 2}), rig_for(effect)
    assignment = await rig.approved()
    first = await outcome(spy, assignment)
    again = await outcome(spy, assignment)
    assert first == again
    assert (first.output, spy.calls) == ({"n": 1}, 1)


async def test_a_failed_attempt_stays_failed_and_the_next_attempt_runs() -> None:
    spy, rig = Spy(PermanentError("no"), {"n": 2}), rig_for("effect")
    assignment = await rig.approved()
    assert (await outcome(spy, assignment)).status == "failed"
    assert (await outcome(spy, assignment)).status == "failed"
    assert spy.calls == 1
    assert (await outcome(spy, assignment.but(attempt=2))).output == {"n": 2}


async def test_what_one_attempt_has_done_is_the_result_of_the_next() -> None:
    spy, rig = Spy({"n": 1}, {"n": 2}), rig_for("idempotent")
    assignment = await rig.approved()
    first = await outcome(spy, assignment)
    second = await outcome(spy, assignment.but(attempt=2))
    assert second == first.replace(attempt=2)
    assert spy.calls == 1


async def test_the_idempotency_key_is_that_of_the_effect_not_of_the_attempt() -> None:
    spy, rig = Spy(PermanentError("no")), rig_for("effect")
    assignment = await rig.approved()
    for step in (assignment, assignment.but(attempt=2), assignment.but(run_no=2)):
        await outcome(spy, step)
    await outcome(spy, await rig.approved())
    first, second, other_run, other_execution = (job.idempotency_key for job in spy.jobs)
    assert first == second
    assert len({first, other_run, other_execution}) == 3


async def claim_by_another(assignment: Assignment, lease: float) -> None:
    rig = assignment.rig
    claim = await rig.ledger.claim_effect(
        assignment.context.message,
        owner="another process",
        lease_until=rig.clock.now() + timedelta(seconds=lease),
        now=rig.clock.now(),
    )
    assert claim.decision == "go"


@pytest.mark.parametrize("effect", REPEATABLE)
async def test_a_dead_lease_of_a_repeatable_step_is_waited_for_and_taken_over(effect: str) -> None:
    spy, rig = Spy({"n": 1}), rig_for(effect)
    assignment = await rig.approved()
    began = rig.clock.now()
    await claim_by_another(assignment, lease=45)
    assert (await outcome(spy, assignment)).output == {"n": 1}
    assert timedelta(seconds=45) <= rig.clock.now() - began < timedelta(seconds=46)


async def test_a_dead_lease_of_an_effect_makes_it_unknown_for_good() -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    await claim_by_another(assignment, lease=45)
    result = await outcome(spy, assignment)
    assert failure_code(result) == ("unknown", "effect_unknown", False)
    assert await outcome(spy, assignment) == result
    assert spy.calls == 0


async def test_what_another_process_finds_out_meanwhile_is_the_result() -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    assignment = await rig.approved()
    await claim_by_another(assignment, lease=45)
    theirs = StepResult(
        **assignment.step.model_dump(include={"request_id", "run_no", "step_id", "action"}),
        attempt=1,
        status="success",
        output={"n": "theirs"},
        started_at=rig.clock.now(),
        finished_at=rig.clock.now(),
    )
    async with rig.hosted(spy.function) as handler:
        waiting = asyncio.create_task(assignment.run(handler))
        assert isinstance(rig.clock, RecordingClock)
        await rig.clock.slept.wait()
        await rig.ledger.settle_effect(assignment.context.message, theirs, owner="another process")
        assert await waiting == theirs
    assert spy.calls == 0


async def test_two_deliveries_at_once_in_one_process_run_once() -> None:
    release = asyncio.Event()

    async def slow() -> JsonObject:
        await release.wait()
        return {"n": 1}

    spy, rig = Spy(slow), rig_for("effect")
    assignment = await rig.approved()
    async with rig.hosted(spy.function) as handler:
        both = [asyncio.create_task(assignment.run(handler)) for _ in range(2)]
        await spy.started.wait()
        release.set()
        first, second = await asyncio.gather(*both)
    assert first == second
    assert spy.calls == 1


class FailingLedger:
    """A ledger whose named method fails a number of times, after or before it did its work."""

    def __init__(self, inner: Any, method: str, *, times: int = 1, loses_answer: bool) -> None:
        self._inner, self._method = inner, method
        self._times, self._loses_answer = times, loses_answer

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)
        if name != self._method or self._times == 0:
            return real

        async def fail(*args: Any, **kwargs: Any) -> None:
            self._times -= 1
            if self._loses_answer:
                await real(*args, **kwargs)
            raise DatabaseUnavailableError("gone")

        return fail


@pytest.mark.parametrize("loses_answer", [True, False])
async def test_an_effect_is_not_repeated_when_the_database_goes_before_it_is_recorded(
    *, loses_answer: bool
) -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    rig.ledger = FailingLedger(rig.ledger, "settle_effect", loses_answer=loses_answer)
    assignment = await rig.approved()
    async with rig.hosted(spy.function) as handler:
        with pytest.raises(DatabaseUnavailableError):
            await assignment.run(handler)
        assert (await assignment.run(handler)).output == {"n": 1}
        assert isinstance(handler, EffectPolicy)
        assert handler._outcomes == {}
    assert spy.calls == 1


async def test_a_claim_whose_answer_was_lost_is_made_again_at_once() -> None:
    spy, rig = Spy({"n": 1}), rig_for("effect")
    rig.ledger = FailingLedger(rig.ledger, "claim_effect", loses_answer=True)
    assignment = await rig.approved()
    async with rig.hosted(spy.function) as handler:
        with pytest.raises(DatabaseUnavailableError):
            await assignment.run(handler)
        assert (await assignment.run(handler)).output == {"n": 1}
    assert (spy.calls, sleeps(rig)) == (1, [])


async def test_an_effect_that_was_cancelled_in_the_middle_is_unknown_and_not_repeated() -> None:
    spy, rig = Spy(never), rig_for("effect")
    assignment = await rig.approved()
    async with rig.hosted(spy.function) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await spy.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert failure_code(await assignment.run(handler)) == ("unknown", "effect_unknown", False)
    assert spy.calls == 1


async def test_the_lease_outlives_the_step_by_the_margin() -> None:
    rig = rig_for("effect", timeout="40s")
    claims: list[timedelta] = []

    class WatchingLedger(FailingLedger):
        async def claim_effect(self, message: AgentMessage[Step], **claim: Any) -> EffectClaim:
            claims.append(claim["lease_until"] - claim["now"])
            answer: EffectClaim = await self._inner.claim_effect(message, **claim)
            return answer

    rig.ledger = WatchingLedger(rig.ledger, "", loses_answer=False)
    await outcome(Spy({}), await rig.approved())
    assert claims == [timedelta(seconds=40 + rig.settings.effect_lease_margin)]


# --- what an ending means

#: What was raised; then for repeatable actions, and for effects: the ending and the calls it took.
ENDINGS: list[tuple[Exception, tuple[Ending, int], tuple[Ending, int]]] = [
    (
        NotSentError("no route"),
        (("failed", "not_sent", True), 3),
        (("failed", "not_sent", True), 3),
    ),
    (
        TransientError("busy", code="unexpected_status"),
        (("failed", "unexpected_status", True), 3),
        (("failed", "unexpected_status", True), 1),
    ),
    (
        PermanentError("no"),
        (("failed", "permanent", False), 1),
        (("failed", "permanent", False), 1),
    ),
    (
        OutcomeUnknownError("cut"),
        (("failed", "effect_unknown", True), 3),
        (("unknown", "effect_unknown", False), 1),
    ),
    (
        UnusableAnswerError("garbled"),
        (("failed", "permanent", False), 1),
        (("unknown", "permanent", False), 1),
    ),
    (
        TimeoutError("socket"),
        (("failed", "timeout", True), 3),
        (("unknown", "timeout", False), 1),
    ),
    (
        ConnectionResetError("cut"),
        (("failed", "transient", True), 3),
        (("unknown", "transient", False), 1),
    ),
    (
        ValueError("a bug"),
        (("failed", "bug", False), 1),
        (("unknown", "bug", False), 1),
    ),
]


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize(
    ("error", "repeatable", "effectful"), ENDINGS, ids=[type(row[0]).__name__ for row in ENDINGS]
)
async def test_the_error_and_the_effect_decide_the_ending(
    effect: str,
    error: Exception,
    repeatable: tuple[Ending, int],
    effectful: tuple[Ending, int],
) -> None:
    spy = Spy(error)
    result = await outcome(spy, await rig_for(effect).approved())
    ending = (failure_code(result), spy.calls)
    assert ending == (effectful if effect == "effect" else repeatable)


async def test_a_bug_is_logged_with_its_traceback(log: list[MutableMapping[str, Any]]) -> None:
    bug = ValueError("a bug")
    await outcome(Spy(bug), await rig_for("read").approved())
    (line,) = [line for line in log if line["event"] == "executor_bug"]
    assert line["exc_info"] is bug
    assert (line["action"], line["log_level"]) == ("test.act", "error")


async def test_retries_in_place_wait_one_and_two_seconds() -> None:
    spy, rig = Spy(NotSentError("no route"), NotSentError("no route"), {"n": 3}), rig_for("effect")
    assert (await outcome(spy, await rig.approved())).output == {"n": 3}
    assert sleeps(rig) == [1, 2]


async def test_retries_in_place_end_with_the_time_of_the_step() -> None:
    spy, rig = Spy(NotSentError("no route")), rig_for("read", timeout="2s")
    assert failure_code(await outcome(spy, await rig.approved())) == ("failed", "not_sent", True)
    assert (spy.calls, sleeps(rig)) == (2, [1])


async def test_what_the_other_side_asks_for_goes_on_to_the_router() -> None:
    spy = Spy(TransientError("busy", retry_after=120))
    result = await outcome(spy, await rig_for("effect").approved())
    assert result.failure is not None
    assert result.failure.retry_after == 120


@pytest.mark.parametrize(
    ("effect", "ending"),
    [
        ("read", ("failed", "timeout", True)),
        ("idempotent", ("failed", "timeout", True)),
        ("effect", ("unknown", "timeout", False)),
    ],
)
async def test_the_time_limit_ends_a_call(effect: str, ending: Ending) -> None:
    spy, rig = Spy(never), rig_for(effect, timeout="20ms")
    result = await outcome(spy, await rig.approved())
    assert failure_code(result) == ending
    assert result.failure is not None
    assert "0.02 s" in result.failure.reason


async def test_an_infrastructure_error_passes_through_and_the_step_runs_when_it_is_back() -> None:
    spy, rig = Spy(KafkaUnavailableError("away"), {"n": 1}), rig_for("read")
    assignment = await rig.approved()
    async with rig.hosted(spy.function) as handler:
        with pytest.raises(KafkaUnavailableError):
            await assignment.run(handler)
        assert (await assignment.run(handler)).output == {"n": 1}


async def test_an_infrastructure_error_in_the_middle_of_an_effect_makes_it_unknown() -> None:
    spy, rig = Spy(KafkaUnavailableError("away")), rig_for("effect")
    result = await outcome(spy, await rig.approved())
    assert failure_code(result) == ("unknown", "kafka_unavailable", False)


def nested(depth: int) -> JsonObject:
    value: JsonObject = {}
    for _ in range(depth):
        value = {"deeper": value}
    return value


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ({"text": "x" * MAX_OUTPUT}, "message_too_large"),
        ({"text": "ä" * (MAX_OUTPUT // 2)}, "message_too_large"),
        (["no object"], "bug"),
        (None, "bug"),
        ({1: "a key that is no text"}, "bug"),
        ({"value": object()}, "bug"),
        ({"value": float("nan")}, "bug"),
        ({"value": "half a pair: \ud800"}, "bug"),
        ({"value": "nul: \0"}, "invalid_message"),
        ({"\0": 1}, "invalid_message"),
        (nested(100_000), "message_too_large"),
    ],
    ids=str.split(
        "large large_in_utf8 list nothing key object nan surrogate nul nul_in_key too_deep"
    ),
)
async def test_an_output_that_cannot_travel_is_refused(output: Any, code: str) -> None:
    async def answer() -> JsonObject:
        return output  # type: ignore[no-any-return]  # what a badly behaved executor returns

    assert failure_code(await outcome(Spy(answer), await rig_for("read").approved())) == (
        "failed",
        code,
        False,
    )
    # An effect has happened all the same, so nobody may think that it can be done again.
    assert failure_code(await outcome(Spy(answer), await rig_for("effect").approved())) == (
        "unknown",
        code,
        False,
    )


@pytest.mark.parametrize("text", ["plain", "back\\u0000slash", "\ttab", "日本語", ""])
async def test_other_texts_pass_as_they_are(text: str) -> None:
    result = await outcome(Spy({"text": text}), await rig_for().approved())
    assert result.output == {"text": text}


async def test_a_reason_with_control_characters_or_without_end_still_makes_a_result() -> None:
    result = await outcome(
        Spy(PermanentError("\0\x1b[31m" + "x" * 50_000)), await rig_for().approved()
    )
    assert result.failure is not None
    assert "\x1b" not in result.failure.reason
    assert len(result.failure.reason) < 5000
    result = await outcome(Spy(PermanentError(" \0 ")), await rig_for().approved())
    assert result.failure is not None
    assert result.failure.reason == "no reason was given"


async def test_a_job_knows_its_parameters_and_the_time_left() -> None:
    spy, rig = Spy({}), rig_for(parameters={"a": "integer"}, timeout="30s")
    await outcome(spy, await rig.approved({"a": 1}))
    job = spy.jobs[0]
    assert (job.parameters, job.seconds_left, job.action.id) == ({"a": 1}, 30, "test.act")
    assert isinstance(rig.clock, RecordingClock)
    rig.clock.advance(31)
    assert job.seconds_left == 0
