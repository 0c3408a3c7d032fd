"""What every ledger does; the one of tests and the one in Postgres pass the same."""

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

import pytest
from support.ledgers import (
    LEASE,
    NOON,
    SettableClock,
    advance,
    ids,
    moves,
    must_not_decide,
    outcome,
    refuses,
    result,
    run_record,
    step,
    verdict,
    version_of,
)

from agents.runtime.errors import RefusedMessageError
from agents.runtime.ports import Approval, Ledger, Refusal, Resolution, RunRecord, Transition
from schemas import AgentMessage, Step, Verdict

# -- runs ---------------------------------------------------------------------------------------


async def test_the_first_event_of_an_execution_makes_its_run(ledger: Ledger) -> None:
    run_id = uuid4()
    before: list[RunRecord | None] = []

    def decide(run: RunRecord | None) -> Transition:
        before.append(run)
        return Transition(run_record(run_id))

    assert list(await advance(ledger, run_id, decide)) == []
    assert before == [None]
    assert await version_of(ledger, run_id) == 1


async def test_a_later_event_meets_the_run_exactly_as_it_was_written(ledger: Ledger) -> None:
    run_id = uuid4()
    written = run_record(run_id, next_wakeup=NOON + timedelta(seconds=1.5))
    await advance(ledger, run_id, lambda _run: Transition(written))
    met: list[RunRecord | None] = []

    def decide(run: RunRecord | None) -> Transition:
        met.append(run)
        return Transition(run_record(run_id, 2, status="success", is_open=False))

    await advance(ledger, run_id, decide)
    assert met == [written]
    assert await version_of(ledger, run_id) == 2


async def test_the_answer_holds_the_very_messages_that_were_decided_on(ledger: Ledger) -> None:
    run_id = uuid4()
    first, second = outcome(run_id), outcome(run_id)
    rows = await advance(ledger, run_id, moves(run_id, first, second))
    assert [row.message for row in rows] == [first, second]
    assert rows[0].message is first
    assert rows[0].row_id < rows[1].row_id


async def test_an_event_that_changes_nothing_may_still_emit(ledger: Ledger) -> None:
    run_id = uuid4()
    message = outcome(run_id)
    rows = await advance(ledger, run_id, lambda _run: Transition(None, (message,)))
    assert ids(rows) == [message.message_id]
    assert await version_of(ledger, run_id) is None


async def test_an_event_seen_before_changes_nothing_and_finds_what_is_unsent(
    ledger: Ledger,
) -> None:
    run_id, event_id = uuid4(), uuid4()
    message = outcome(run_id, reason='a "quoted" line\nof {braces}, ünïcode and \\ slashes')
    first = await advance(ledger, run_id, moves(run_id, message), event_id=event_id)
    again = await advance(ledger, run_id, must_not_decide, event_id=event_id)
    assert [row.row_id for row in again] == [row.row_id for row in first]
    assert again[0].message == message
    assert type(again[0].message.payload) is type(message.payload)
    assert await version_of(ledger, run_id) == 1


async def test_an_event_seen_before_finds_nothing_once_all_is_sent(ledger: Ledger) -> None:
    run_id, event_id = uuid4(), uuid4()
    rows = await advance(ledger, run_id, moves(run_id, outcome(run_id)), event_id=event_id)
    await ledger.mark_sent([row.row_id for row in rows])
    assert list(await advance(ledger, run_id, must_not_decide, event_id=event_id)) == []


async def test_a_new_event_finds_what_earlier_ones_have_left_unsent(ledger: Ledger) -> None:
    run_id = uuid4()
    older, newer = outcome(run_id), outcome(run_id)
    await advance(ledger, run_id, moves(run_id, older))
    assert ids(await advance(ledger, run_id, moves(run_id, newer))) == [
        older.message_id,
        newer.message_id,
    ]


async def test_a_transition_can_discard_what_is_unsent(ledger: Ledger) -> None:
    run_id, event_id = uuid4(), uuid4()
    newer = outcome(run_id)
    await advance(ledger, run_id, moves(run_id, outcome(run_id)), event_id=event_id)
    discard = Transition(run_record(run_id, 2), (newer,), discards_outbox=True)
    assert ids(await advance(ledger, run_id, lambda _run: discard)) == [newer.message_id]
    assert ids(await advance(ledger, run_id, must_not_decide, event_id=event_id)) == [
        newer.message_id
    ]


async def test_discarding_leaves_other_runs_alone(ledger: Ledger) -> None:
    run_id, other = uuid4(), uuid4()
    message = outcome(other)
    await advance(ledger, other, moves(other, message))
    await advance(ledger, run_id, lambda _run: Transition(None, discards_outbox=True))
    assert ids(await advance(ledger, other, moves(other))) == [message.message_id]


async def test_a_refused_event_is_refused_again_for_the_same_reason(ledger: Ledger) -> None:
    run_id, event_id = uuid4(), uuid4()
    await advance(ledger, run_id, moves(run_id))
    for decide in (refuses("another request owns this id"), must_not_decide):
        with pytest.raises(RefusedMessageError, match="another request owns this id") as caught:
            await advance(ledger, run_id, decide, event_id=event_id)
        assert caught.value.code == "correlation_id_in_use"
    assert await version_of(ledger, run_id) == 1


async def test_a_decision_that_raises_leaves_no_trace(ledger: Ledger) -> None:
    run_id, event_id = uuid4(), uuid4()

    def fails(_run: RunRecord | None) -> Transition:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await advance(ledger, run_id, fails, event_id=event_id)
    assert await version_of(ledger, run_id) is None
    await advance(ledger, run_id, moves(run_id), event_id=event_id)
    assert await version_of(ledger, run_id) == 1


@pytest.mark.parametrize("version", [1, 3])
async def test_a_version_that_does_not_rise_by_one_is_refused_as_a_bug(
    ledger: Ledger, version: int
) -> None:
    run_id = uuid4()
    await advance(ledger, run_id, moves(run_id))
    with pytest.raises(ValueError, match="version 2"):
        await advance(ledger, run_id, lambda _run: Transition(run_record(run_id, version)))
    assert await version_of(ledger, run_id) == 1


async def test_lanes_do_not_see_each_other(ledger: Ledger) -> None:
    run_id, event_id = uuid4(), uuid4()
    for lane in ("", "canary."):
        message = outcome(run_id, lane=lane)
        rows = await advance(
            ledger, run_id, moves(run_id, message, lane=lane), event_id=event_id, lane=lane
        )
        assert ids(rows) == [message.message_id]
    assert await version_of(ledger, run_id, lane="canary.") == 1
    assert [r.lane for r in await ledger.open_runs(lane="", after=None, limit=9)] == [""]


# -- calls that are made at the same time ---------------------------------------------------------


async def test_events_of_one_run_apply_in_the_order_in_which_they_were_submitted(
    ledger: Ledger,
) -> None:
    run_id = uuid4()
    messages = [outcome(run_id) for _ in range(5)]
    answers = await asyncio.gather(
        *(advance(ledger, run_id, moves(run_id, message)) for message in messages)
    )
    expected = [message.message_id for message in messages]
    assert [ids(rows) for rows in answers] == [expected[: n + 1] for n in range(5)]
    assert await version_of(ledger, run_id) == 5


async def test_an_event_given_twice_at_once_is_applied_once(ledger: Ledger) -> None:
    run_id, event_id, message = uuid4(), uuid4(), outcome(uuid4())
    answers = await asyncio.gather(
        *(advance(ledger, run_id, moves(run_id, message), event_id=event_id) for _ in range(3))
    )
    assert [ids(rows) for rows in answers] == [[message.message_id]] * 3
    assert await version_of(ledger, run_id) == 1


async def test_a_failing_and_a_refused_call_harm_nobody_beside_them(ledger: Ledger) -> None:
    good, bad, refused = uuid4(), uuid4(), uuid4()
    message = outcome(good)

    def fails(_run: RunRecord | None) -> Transition:
        raise ZeroDivisionError

    answers = await asyncio.gather(
        advance(ledger, bad, fails),
        advance(ledger, good, moves(good, message)),
        advance(ledger, refused, refuses()),
        advance(ledger, bad, moves(bad)),
        return_exceptions=True,
    )
    assert isinstance(answers[0], ZeroDivisionError)
    assert not isinstance(answers[1], BaseException)
    assert ids(answers[1]) == [message.message_id]
    assert isinstance(answers[2], RefusedMessageError)
    assert await version_of(ledger, good) == 1
    assert await version_of(ledger, bad) == 1
    assert await version_of(ledger, refused) is None


async def test_an_event_that_fails_and_then_succeeds_at_once_is_remembered(
    ledger: Ledger,
) -> None:
    run_id, event_id = uuid4(), uuid4()

    def fails(_run: RunRecord | None) -> Transition:
        raise ZeroDivisionError

    await asyncio.gather(
        advance(ledger, run_id, fails, event_id=event_id),
        advance(ledger, run_id, moves(run_id), event_id=event_id),
        return_exceptions=True,
    )
    await advance(ledger, run_id, must_not_decide, event_id=event_id)
    assert await version_of(ledger, run_id) == 1


async def test_many_runs_of_several_lanes_advance_together(ledger: Ledger) -> None:
    keys = [(lane, uuid4()) for lane in ("", "canary.", "replay-1.") for _ in range(150)]
    for version in (1, 2):
        await asyncio.gather(
            *(advance(ledger, run_id, moves(run_id, lane=lane), lane=lane) for lane, run_id in keys)
        )
        for lane in ("", "canary.", "replay-1."):
            runs = await ledger.open_runs(lane=lane, after=None, limit=1000)
            assert {run.correlation_id for run in runs} == {r for at, r in keys if at == lane}
            assert {run.version for run in runs} == {version}


# -- outbox ---------------------------------------------------------------------------------------


async def test_unsent_rows_are_those_written_before_and_not_marked(
    ledger: Ledger, clock: SettableClock
) -> None:
    early, marked, late, elsewhere = (uuid4() for _ in range(4))
    wanted = outcome(early)
    await advance(ledger, early, moves(early, wanted))
    rows = await advance(ledger, marked, moves(marked, outcome(marked)))
    await advance(
        ledger, elsewhere, moves(elsewhere, outcome(elsewhere), lane="canary."), lane="canary."
    )
    clock.moment = NOON + timedelta(seconds=10)
    await advance(ledger, late, moves(late, outcome(late)))
    await ledger.mark_sent([row.row_id for row in rows])
    found = await ledger.unsent(lane="", older_than=NOON + timedelta(seconds=5), limit=10)
    assert [row.message for row in found] == [wanted]


async def test_unsent_rows_come_oldest_first_and_no_more_than_asked_for(ledger: Ledger) -> None:
    run_id = uuid4()
    messages = [outcome(run_id) for _ in range(3)]
    await advance(ledger, run_id, moves(run_id, *messages))
    found = await ledger.unsent(lane="", older_than=NOON + LEASE, limit=2)
    assert ids(found) == [message.message_id for message in messages[:2]]


async def test_marking_rows_twice_or_rows_that_never_were_does_no_harm(ledger: Ledger) -> None:
    run_id = uuid4()
    [row] = await advance(ledger, run_id, moves(run_id, outcome(run_id)))
    await ledger.mark_sent([row.row_id, row.row_id, 10**12])
    await ledger.mark_sent([row.row_id])
    await ledger.mark_sent([])
    assert list(await advance(ledger, run_id, moves(run_id))) == []


# -- timers and open runs -------------------------------------------------------------------------


async def test_due_runs_are_open_ones_whose_time_has_come_earliest_first(ledger: Ledger) -> None:
    def at(seconds: float, **fields: object) -> UUID:
        run_id = uuid4()
        wakeups[run_id] = {"next_wakeup": NOON + timedelta(seconds=seconds), **fields}
        return run_id

    wakeups: dict[UUID, dict[str, object]] = {}
    second, first, exactly = at(-1), at(-2), at(0)
    at(1)
    at(-3, is_open=False)
    for run_id, fields in wakeups.items():
        await advance(ledger, run_id, moves(run_id, **fields))
    sleeping = uuid4()
    await advance(ledger, sleeping, moves(sleeping))
    due = await ledger.due(lane="", now=NOON, limit=10)
    assert [run.correlation_id for run in due] == [first, second, exactly]
    assert [run.correlation_id for run in await ledger.due(lane="", now=NOON, limit=1)] == [first]
    assert list(await ledger.due(lane="canary.", now=NOON, limit=10)) == []


async def test_open_runs_come_in_the_order_of_their_ids_page_by_page(ledger: Ledger) -> None:
    opened = sorted(uuid4() for _ in range(5))
    for run_id in reversed(opened):
        await advance(ledger, run_id, moves(run_id))
    closed = uuid4()
    await advance(ledger, closed, moves(closed, is_open=False))
    first = await ledger.open_runs(lane="", after=None, limit=3)
    rest = await ledger.open_runs(lane="", after=first[-1].correlation_id, limit=3)
    assert [run.correlation_id for run in (*first, *rest)] == opened


# -- verdicts -------------------------------------------------------------------------------------


async def test_the_first_verdict_on_a_plan_wins(ledger: Ledger) -> None:
    first = verdict("denied")
    second = first.model_copy(update={"message_id": uuid4(), "timestamp": NOON + LEASE})
    plan_id = first.payload.plan_id
    assert await ledger.recorded_verdict(lane="", plan_id=plan_id) is None
    assert await ledger.record_verdict(first) == first
    assert await ledger.record_verdict(second) == first
    assert await ledger.recorded_verdict(lane="", plan_id=plan_id) == first
    assert await ledger.recorded_verdict(lane="canary.", plan_id=plan_id) is None


async def test_verdicts_recorded_at_once_agree_on_one(ledger: Ledger) -> None:
    first = verdict()
    others = [first.model_copy(update={"message_id": uuid4()}) for _ in range(4)]
    unrelated = verdict()
    *answers, apart = await asyncio.gather(
        *(ledger.record_verdict(message) for message in (first, *others, unrelated))
    )
    assert {answer.message_id for answer in answers} == {first.message_id}
    assert apart == unrelated


async def test_only_an_approved_verdict_of_that_very_execution_gives_a_hash(
    ledger: Ledger,
) -> None:
    approved, denied = verdict(), verdict("denied")
    for message in (approved, denied):
        await ledger.record_verdict(message)

    async def hash_for(
        message: AgentMessage[Verdict],
        *,
        lane: str = "",
        run_id: UUID | None = None,
        plan_id: UUID | None = None,
    ) -> str | None:
        approval = await ledger.approval(
            lane=lane,
            correlation_id=run_id or message.correlation_id,
            plan_id=plan_id or message.payload.plan_id,
        )
        return None if approval is None else approval.plan_hash

    answers = await asyncio.gather(
        hash_for(approved),
        hash_for(denied),
        hash_for(approved, run_id=uuid4()),
        hash_for(approved, lane="canary."),
        hash_for(approved, plan_id=uuid4()),
    )
    assert list(answers) == [approved.payload.plan_hash, None, None, None, None]


@pytest.mark.parametrize(
    ("status", "is_open", "is_stopped"),
    [
        ("running", True, False),
        ("paused", True, False),
        ("planned", True, True),
        ("cancelling", True, True),
        ("failed", False, True),
    ],
)
async def test_an_approval_says_whether_the_execution_was_stopped(
    ledger: Ledger, status: str, is_open: bool, is_stopped: bool
) -> None:
    approved = verdict()
    await ledger.record_verdict(approved)
    run_id, plan_id = approved.correlation_id, approved.payload.plan_id
    before = await ledger.approval(lane="", correlation_id=run_id, plan_id=plan_id)
    stands: dict[str, Any] = {"status": status, "is_open": is_open, "document": b'{"run_no": 3}'}
    await advance(ledger, run_id, moves(run_id, **stands))
    after = await ledger.approval(lane="", correlation_id=run_id, plan_id=plan_id)
    steps = [step.model_dump(mode="json") for step in approved.payload.plan.steps]
    assert before == Approval(approved.payload.plan_hash, is_stopped=False, steps=steps)
    assert after == Approval(approved.payload.plan_hash, is_stopped, steps, run_no=3)


async def test_every_step_of_a_plan_is_told_the_same_of_it(ledger: Ledger) -> None:
    several, other = verdict(steps=3), verdict(steps=2)
    for message in (several, other):
        await ledger.record_verdict(message)
    for message in (several, other, several):
        run_id, plan = message.correlation_id, message.payload.plan
        steps = [step.model_dump(mode="json") for step in plan.steps]
        given = await asyncio.gather(
            *(
                ledger.approval(lane="", correlation_id=run_id, plan_id=message.payload.plan_id)
                for _ in steps
            )
        )
        assert given == [Approval(plan.plan_hash, is_stopped=False, steps=steps)] * len(steps)


async def test_a_run_is_found_as_it_was_last_written(ledger: Ledger) -> None:
    run_id = uuid4()
    assert await ledger.run(lane="", correlation_id=run_id) is None
    await advance(ledger, run_id, moves(run_id))
    await advance(ledger, run_id, moves(run_id, status="success", is_open=False))
    expected = run_record(run_id, 2, status="success", is_open=False)
    assert await ledger.run(lane="", correlation_id=run_id) == expected
    assert await ledger.run(lane="canary.", correlation_id=run_id) is None


async def test_executions_that_are_being_cancelled_are_found_among_others(ledger: Ledger) -> None:
    running, cancelling, cancelled, elsewhere = (uuid4() for _ in range(4))
    await advance(ledger, running, moves(running))
    await advance(ledger, cancelling, moves(cancelling, status="cancelling"))
    await advance(ledger, cancelled, moves(cancelled, status="cancelled", is_open=False))
    asked = [("", running), ("", cancelling), ("", cancelled), ("", elsewhere), ("x.", cancelling)]
    assert list(await ledger.stopping(asked)) == [("", cancelling)]


# -- effects --------------------------------------------------------------------------------------


async def test_a_claimed_effect_is_settled_and_its_result_found_ever_after(ledger: Ledger) -> None:
    message = step()
    outcome_of_it = result(message, output={"version": "1.2 \x00 π"})
    claim = await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    assert claim.decision == "go"
    assert await ledger.settle_effect(message, outcome_of_it, owner="a") == outcome_of_it
    again = await ledger.claim_effect(message, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert (again.decision, again.result) == ("recorded", outcome_of_it)


async def test_a_live_lease_keeps_others_waiting(ledger: Ledger) -> None:
    message = step("read")
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    claim = await ledger.claim_effect(message, owner="b", lease_until=NOON + 2 * LEASE, now=NOON)
    assert (claim.decision, claim.lease_until) == ("busy", NOON + LEASE)


async def test_a_claim_whose_answer_was_lost_can_be_repeated(ledger: Ledger) -> None:
    message = step()
    for _ in range(2):
        claim = await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
        assert claim.decision == "go"


async def test_of_many_claimers_at_once_exactly_one_may_go(ledger: Ledger) -> None:
    message = step()
    claims = await asyncio.gather(
        *(
            ledger.claim_effect(message, owner=f"o{n}", lease_until=NOON + LEASE, now=NOON)
            for n in range(20)
        )
    )
    assert sorted(claim.decision for claim in claims) == ["busy"] * 19 + ["go"]


@pytest.mark.parametrize("effect", ["read", "idempotent"])
async def test_a_dead_lease_of_what_may_be_repeated_is_taken_over(
    ledger: Ledger, effect: str
) -> None:
    message = step(effect)
    await ledger.claim_effect(message, owner="dead", lease_until=NOON + LEASE, now=NOON)
    later = NOON + LEASE
    claim = await ledger.claim_effect(message, owner="b", lease_until=later + LEASE, now=later)
    assert claim.decision == "go"
    third = await ledger.claim_effect(message, owner="c", lease_until=later + LEASE, now=later)
    assert (third.decision, third.lease_until) == ("busy", later + LEASE)


async def test_the_first_outcome_stands_when_two_owners_have_repeated_a_step(
    ledger: Ledger,
) -> None:
    message = step("idempotent")
    first, second = result(message, output={"by": "late"}), result(message, output={"by": "b"})
    await ledger.claim_effect(message, owner="late", lease_until=NOON + LEASE, now=NOON)
    later = NOON + LEASE
    await ledger.claim_effect(message, owner="b", lease_until=later + LEASE, now=later)
    assert await ledger.settle_effect(message, first, owner="late") == first
    assert await ledger.settle_effect(message, second, owner="b") == first


async def test_a_dead_lease_of_an_effect_leaves_it_in_doubt_for_good(ledger: Ledger) -> None:
    message = step("effect")
    await ledger.claim_effect(message, owner="dead", lease_until=NOON + LEASE, now=NOON)
    for later in (NOON + LEASE, NOON + 5 * LEASE):
        claim = await ledger.claim_effect(message, owner="b", lease_until=later + LEASE, now=later)
        assert (claim.decision, claim.result) == ("in_doubt", None)
    retry = step("effect", attempt=2, run_id=message.correlation_id)
    claim = await ledger.claim_effect(retry, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert claim.decision == "in_doubt"


async def test_a_late_owner_who_knows_the_outcome_resolves_the_doubt(ledger: Ledger) -> None:
    message = step("effect")
    await ledger.claim_effect(message, owner="late", lease_until=NOON + LEASE, now=NOON)
    later = NOON + LEASE
    await ledger.claim_effect(message, owner="b", lease_until=later + LEASE, now=later)
    unknown, known = result(message, "unknown"), result(message)
    assert await ledger.settle_effect(message, unknown, owner="b") == unknown
    claim = await ledger.claim_effect(message, owner="c", lease_until=later + LEASE, now=later)
    assert (claim.decision, claim.result) == ("recorded", unknown)
    assert await ledger.settle_effect(message, known, owner="late") == known
    assert await ledger.settle_effect(message, unknown, owner="b") == known


@pytest.mark.parametrize("status", ["success", "failed"])
async def test_a_definite_outcome_stays(ledger: Ledger, status: str) -> None:
    message = step("effect")
    stands = result(message, status)
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    await ledger.settle_effect(message, stands, owner="a")
    for other in ("success", "failed", "unknown"):
        assert await ledger.settle_effect(message, result(message, other), owner="a") == stands


async def test_a_failed_attempt_is_recorded_and_a_higher_one_may_go(ledger: Ledger) -> None:
    first = step("effect")
    failed = result(first, "failed")
    await ledger.claim_effect(first, owner="a", lease_until=NOON + LEASE, now=NOON)
    await ledger.settle_effect(first, failed, owner="a")
    same = await ledger.claim_effect(first, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert (same.decision, same.result) == ("recorded", failed)
    second = step("effect", attempt=2, run_id=first.correlation_id)
    claim = await ledger.claim_effect(second, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert claim.decision == "go"
    assert await ledger.settle_effect(first, failed, owner="a") == failed
    done = result(second)
    assert await ledger.settle_effect(second, done, owner="b") == done


async def test_settling_what_one_never_held_is_a_bug_that_shows(ledger: Ledger) -> None:
    message = step("effect")
    with pytest.raises(LookupError, match="nobody claimed"):
        await ledger.settle_effect(message, result(message), owner="a")
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    with pytest.raises(LookupError, match="never held"):
        await ledger.settle_effect(message, result(message), owner="b")


def said(
    message: AgentMessage[Step], status: str, *, by: str = "ann", now: datetime = NOON + LEASE
) -> Resolution:
    work = message.payload
    return Resolution(
        lane=message.lane,
        correlation_id=message.correlation_id,
        plan_id=work.plan_id,
        plan_hash=work.plan_hash,
        result=result(message, status),
        resolved_by=by,
        reason="seen with my own eyes",
        command_id=uuid5(work.request_id, f"{by} {status}"),
        now=now,
    )


@pytest.mark.parametrize("status", ["success", "failed"])
async def test_a_person_settles_what_is_in_doubt_once(ledger: Ledger, status: str) -> None:
    message = step("effect")
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    await ledger.settle_effect(message, result(message, "unknown"), owner="a")
    resolution = said(message, status)
    assert await ledger.resolve_effect(resolution) == resolution.result
    assert await ledger.resolve_effect(resolution) == resolution.result
    other = said(message, "failed" if status == "success" else "success", by="bob")
    refusal = await ledger.resolve_effect(other)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "effect_settled"
    assert refusal.reason.startswith("ann knows")
    assert await ledger.settle_effect(message, other.result, owner="a") == resolution.result
    claim = await ledger.claim_effect(message, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert (claim.decision, claim.result) == ("recorded", resolution.result)


async def test_a_person_waits_for_a_live_lease_and_not_for_a_dead_one(ledger: Ledger) -> None:
    message = step("effect")
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    refusal = await ledger.resolve_effect(said(message, "failed", now=NOON))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "refused"
    known = said(message, "failed")
    assert await ledger.resolve_effect(known) == known.result


async def test_a_person_does_not_overrule_an_owner(ledger: Ledger) -> None:
    message = step("effect")
    await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
    done = await ledger.settle_effect(message, result(message, output={"n": 1}), owner="a")
    refusal = await ledger.resolve_effect(said(message, "failed"))
    assert isinstance(refusal, Refusal)
    assert await ledger.resolve_effect(said(message, "success")) == done


async def test_what_a_person_settles_unclaimed_can_be_claimed_no_more(ledger: Ledger) -> None:
    first = step("effect")
    await ledger.claim_effect(first, owner="a", lease_until=NOON + LEASE, now=NOON)
    await ledger.settle_effect(first, result(first, "failed"), owner="a")
    second = step("effect", attempt=2, run_id=first.correlation_id)
    known = said(second, "failed")
    assert await ledger.resolve_effect(known) == known.result
    unclaimed = step("effect")
    known = said(unclaimed, "success")
    assert await ledger.resolve_effect(known) == known.result
    for message in (second, unclaimed):
        claim = await ledger.claim_effect(message, owner="b", lease_until=NOON + LEASE, now=NOON)
        assert claim.decision == "recorded"


async def test_a_run_is_read_as_it_stands(ledger: Ledger) -> None:
    run_id = uuid4()
    assert await ledger.run(lane="", correlation_id=run_id) is None
    await advance(ledger, run_id, moves(run_id))
    assert await ledger.run(lane="", correlation_id=run_id) == run_record(run_id)
    assert await ledger.run(lane="canary.", correlation_id=run_id) is None


async def test_claims_and_settlements_of_many_steps_at_once_keep_apart(ledger: Ledger) -> None:
    messages = [step() for _ in range(30)]

    async def act(number: int) -> None:
        message = messages[number]
        await ledger.claim_effect(message, owner="a", lease_until=NOON + LEASE, now=NOON)
        await ledger.settle_effect(message, result(message, output={"n": number}), owner="a")

    await asyncio.gather(*(act(number) for number in range(30)))
    for number, message in enumerate(messages):
        claim = await ledger.claim_effect(message, owner="b", lease_until=NOON + LEASE, now=NOON)
        assert claim.result is not None
        assert claim.result.output == {"n": number}


# -- sweep --------------------------------------------------------------------------------------

LONG_AFTER = NOON + timedelta(days=50)
SWEPT_BEFORE = NOON + timedelta(days=5)


async def sweep_all(ledger: Ledger, limit: int = 10) -> int:
    """Sweep batch by batch until nothing is left; returns how many rows went."""
    rows = 0
    while deleted := await ledger.sweep(lane="", before=SWEPT_BEFORE, limit=limit):
        rows += deleted
    return rows


async def test_an_execution_that_ended_long_ago_is_forgotten_with_all_it_left(
    ledger: Ledger, clock: SettableClock
) -> None:
    approved, event_id = verdict(), uuid4()
    run_id, plan_id = approved.correlation_id, approved.payload.plan_id
    work = step("effect", run_id=run_id)
    await ledger.record_verdict(approved)
    await advance(ledger, run_id, moves(run_id))
    await ledger.claim_effect(work, owner="a", lease_until=NOON + LEASE, now=NOON)
    await ledger.settle_effect(work, result(work), owner="a")
    await advance(ledger, run_id, moves(run_id, status="success", is_open=False), event_id=event_id)
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 5  # the run, two inbox entries, the verdict, the effect
    assert await version_of(ledger, run_id) is None
    assert await ledger.recorded_verdict(lane="", plan_id=plan_id) is None
    claim = await ledger.claim_effect(work, owner="b", lease_until=NOON + LEASE, now=NOON)
    assert claim.decision == "go"
    decided = await advance(ledger, run_id, moves(run_id), event_id=event_id)
    assert list(decided) == []
    assert await version_of(ledger, run_id) == 1


async def test_a_sweep_goes_on_over_batches_until_nothing_is_left(
    ledger: Ledger, clock: SettableClock
) -> None:
    run_ids = [uuid4() for _ in range(7)]
    for run_id in run_ids:
        await advance(ledger, run_id, moves(run_id))
        await advance(ledger, run_id, moves(run_id, status="failed", is_open=False))
    clock.moment = LONG_AFTER
    first = await ledger.sweep(lane="", before=SWEPT_BEFORE, limit=3)
    assert 3 <= first <= 6
    assert await sweep_all(ledger, limit=3) == 7 * 3 - first
    assert await ledger.sweep(lane="", before=SWEPT_BEFORE, limit=3) == 0


async def test_what_has_ended_lately_is_not_swept(ledger: Ledger, clock: SettableClock) -> None:
    run_id, event_id = uuid4(), uuid4()
    await advance(ledger, run_id, moves(run_id), event_id=event_id)
    clock.moment = SWEPT_BEFORE
    await advance(ledger, run_id, moves(run_id, status="success", is_open=False))
    assert await sweep_all(ledger) == 0
    await advance(ledger, run_id, must_not_decide, event_id=event_id)


async def test_an_open_run_is_never_swept(ledger: Ledger, clock: SettableClock) -> None:
    approved, event_id = verdict(), uuid4()
    run_id = approved.correlation_id
    await ledger.record_verdict(approved)
    await advance(ledger, run_id, moves(run_id), event_id=event_id)
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 0
    await advance(ledger, run_id, must_not_decide, event_id=event_id)
    assert await ledger.recorded_verdict(lane="", plan_id=approved.payload.plan_id) is not None


async def test_a_run_that_ended_as_unknown_is_never_swept(
    ledger: Ledger, clock: SettableClock
) -> None:
    run_id = uuid4()
    await advance(ledger, run_id, moves(run_id, status="unknown", is_open=False))
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 0
    assert await version_of(ledger, run_id) == 1


@pytest.mark.parametrize("settled_as", [None, "unknown"])
async def test_an_effect_that_may_have_happened_keeps_its_execution(
    ledger: Ledger, clock: SettableClock, settled_as: str | None
) -> None:
    run_id, event_id = uuid4(), uuid4()
    work = step("effect", run_id=run_id)
    await ledger.claim_effect(work, owner="a", lease_until=NOON + LEASE, now=NOON)
    if settled_as is not None:
        await ledger.settle_effect(work, result(work, settled_as), owner="a")
    ends = moves(run_id, status="failed", is_open=False)
    await advance(ledger, run_id, ends, event_id=event_id)
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 0
    await advance(ledger, run_id, must_not_decide, event_id=event_id)
    late = await ledger.claim_effect(work, owner="b", lease_until=LONG_AFTER, now=LONG_AFTER)
    assert late.decision != "go"


async def test_a_message_that_was_never_sent_keeps_its_execution(
    ledger: Ledger, clock: SettableClock
) -> None:
    run_id = uuid4()
    rows = await advance(
        ledger, run_id, moves(run_id, outcome(run_id), status="failed", is_open=False)
    )
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 0
    await ledger.mark_sent([row.row_id for row in rows])
    # Forgetting what was sent may be done lazily.
    async with asyncio.timeout(10):
        while not await sweep_all(ledger):  # noqa: ASYNC110  # nobody tells when it has happened
            await asyncio.sleep(0.05)
    assert await version_of(ledger, run_id) is None


async def test_old_refusals_and_verdicts_without_a_run_are_swept(
    ledger: Ledger, clock: SettableClock
) -> None:
    run_id, event_id = uuid4(), uuid4()
    with pytest.raises(RefusedMessageError):
        await advance(ledger, run_id, refuses(), event_id=event_id)
    lonely = verdict("denied")
    await ledger.record_verdict(lonely)
    clock.moment = LONG_AFTER
    young = verdict()
    await ledger.record_verdict(young)
    assert await sweep_all(ledger) == 2
    assert list(await advance(ledger, run_id, moves(run_id), event_id=event_id)) == []
    assert await ledger.recorded_verdict(lane="", plan_id=lonely.payload.plan_id) is None
    assert await ledger.recorded_verdict(lane="", plan_id=young.payload.plan_id) is not None


async def test_a_sweep_keeps_to_its_lane(ledger: Ledger, clock: SettableClock) -> None:
    run_id = uuid4()
    ends = moves(run_id, lane="canary.", status="success", is_open=False)
    await advance(ledger, run_id, ends, lane="canary.")
    clock.moment = LONG_AFTER
    assert await sweep_all(ledger) == 0
    assert await ledger.sweep(lane="canary.", before=SWEPT_BEFORE, limit=10) == 2
