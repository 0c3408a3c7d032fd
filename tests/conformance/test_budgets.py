"""Budgets in every ledger: what is reserved, settled and released, and when."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from support.budgets import TENANT, allow, books, costing, decisions, ends, settle
from support.ledgers import NOON, SettableClock, advance, moves, must_not_decide, refuses

from agents.runtime.budgets import FRESH_SECONDS, Settlement
from agents.runtime.errors import RefusedMessageError
from agents.runtime.ports import Decide, Ledger, RunRecord, Transition
from schemas import AgentMessage, Verdict

DAY = (TENANT, "day")
MONTH = (TENANT, "month")


# -- reserving ------------------------------------------------------------------------------------


async def test_without_a_budget_a_verdict_is_kept_as_it_is(ledger: Ledger) -> None:
    message = costing("1000000")
    assert await ledger.record_verdict(message) is message
    assert await books(ledger) == {}


async def test_a_plan_reserves_what_it_may_cost_at_most_and_the_verdict_says_so(
    ledger: Ledger,
) -> None:
    await allow(ledger, "day", "10")
    await allow(ledger, "month", "100")
    message = costing("0.50", "0.25", attempts=4)
    kept = await ledger.record_verdict(message)
    assert kept.payload.reserved == Decimal(3)
    assert kept.payload.decision == "approved"
    assert await books(ledger) == {DAY: ("0.00", "3.00"), MONTH: ("0.00", "3.00")}
    assert await ledger.recorded_verdict(lane="", plan_id=message.payload.plan_id) == kept


@pytest.mark.parametrize("per", ["execution", "day", "month"])
async def test_a_plan_that_a_budget_has_too_little_left_for_is_denied_with_the_figures(
    ledger: Ledger, per: str
) -> None:
    await allow(ledger, "day", "2" if per == "day" else "9")
    await allow(ledger, "month", "2" if per == "month" else "9")
    await allow(ledger, "execution", "1" if per == "execution" else "9")
    first = costing("1")
    assert (await ledger.record_verdict(first)).payload.decision == "approved"
    await settle(ledger, first, "0.75")
    await ledger.record_verdict(costing("0.5"))
    message = costing("0.4", attempts=3)
    denied = (await ledger.record_verdict(message)).payload
    assert (denied.decision, denied.reserved) == ("denied", None)
    [reason] = denied.reasons
    assert (reason.policy, reason.code) == (f"budget.{per}", "budget_exceeded")
    for figure in {
        "execution": ("may cost $1.20 ($0.40 if nothing is tried twice)", "spend $1.00 on an exec"),
        "day": ("$2.00 a day; $0.75 is spent and $0.50 reserved of 2026-03-01, so $0.75 is left",),
        "month": ("$2.00 a month; $0.75 is spent and $0.50 reserved of 2026-03, so $0.75 is left",),
    }[per]:
        assert figure in reason.text
    assert (await books(ledger))[DAY] == ("0.75", "0.50"), "what is denied holds nothing back"
    plan_id = message.payload.plan_id
    approved = await ledger.approval(
        lane="", correlation_id=message.correlation_id, plan_id=plan_id
    )
    assert approved is None


async def test_all_budgets_that_have_too_little_left_are_named(ledger: Ledger) -> None:
    for per in ("month", "execution", "day"):
        await allow(ledger, per, "1")
    denied = (await ledger.record_verdict(costing("2", decision="needs_approval"))).payload
    assert (denied.decision, denied.obligations) == ("denied", ())
    assert [reason.policy for reason in denied.reasons] == [
        "budget.execution",
        "budget.day",
        "budget.month",
    ], "what approval would have been for does not matter any more"


async def test_the_last_millionth_can_be_reserved_and_not_one_more(ledger: Ledger) -> None:
    await allow(ledger, "day", "1")
    kept = [await ledger.record_verdict(costing(cost)) for cost in ("0.999999", "0.000002")]
    kept.append(await ledger.record_verdict(costing("0.000001")))
    assert decisions(kept) == ["approved", "denied", "approved"]


async def test_what_waits_for_an_approval_reserves_and_what_is_denied_does_not(
    ledger: Ledger,
) -> None:
    await allow(ledger, "day", "10")
    await ledger.record_verdict(costing("1", decision="needs_approval"))
    await ledger.record_verdict(costing("4", decision="denied"))
    assert await books(ledger) == {DAY: ("0.00", "1.00")}


async def test_a_plan_that_costs_nothing_needs_no_budget(ledger: Ledger) -> None:
    await allow(ledger, "day", "0")
    kept = await ledger.record_verdict(costing("0"))
    assert (kept.payload.decision, kept.payload.reserved) == ("approved", None)
    assert (await ledger.record_verdict(costing("0.01"))).payload.decision == "denied"


async def test_budgets_are_those_of_one_tenant_in_one_lane(ledger: Ledger) -> None:
    await allow(ledger, "day", "1")
    others = [costing("5", tenant="other"), costing("5", lane="canary.")]
    assert decisions([await ledger.record_verdict(each) for each in others]) == ["approved"] * 2
    assert await books(ledger) == {DAY: ("0.00", "0.00")}
    assert await books(ledger, lane="canary.") == {}


# -- redelivery -----------------------------------------------------------------------------------


async def test_a_plan_that_is_delivered_again_reserves_once(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    message = costing("4")
    first = await ledger.record_verdict(message)
    again = message.replace(message_id=uuid4())
    assert await ledger.record_verdict(again) == first
    assert {each.message_id for each in await _at_once(ledger, [message, again])} == {
        first.message_id
    }
    assert await books(ledger) == {DAY: ("0.00", "4.00")}


async def test_what_is_denied_stays_denied_when_there_is_money_again(ledger: Ledger) -> None:
    await allow(ledger, "day", "1")
    message = costing("4")
    denied = await ledger.record_verdict(message)
    await allow(ledger, "day", "100")
    assert await ledger.record_verdict(message) == denied


async def test_a_plan_that_is_judged_again_keeps_its_reservation(ledger: Ledger) -> None:
    await allow(ledger, "day", "5")
    first = costing("4", decision="needs_approval")
    await ledger.record_verdict(first)
    await allow(ledger, "day", "1")
    second = costing("4", run_id=first.correlation_id, evaluation=2)
    kept = await ledger.record_verdict(second)
    assert (kept.payload.decision, kept.payload.reserved) == ("approved", Decimal(4))
    assert await books(ledger) == {DAY: ("0.00", "4.00")}


async def test_an_execution_that_runs_again_reserves_again_within_its_own_budget(
    ledger: Ledger,
) -> None:
    await allow(ledger, "day", "100")
    await allow(ledger, "execution", "10")
    run_id = uuid4()
    kept = []
    for cost in ("3", "2"):
        message = costing("4", run_id=run_id)
        kept.append(await ledger.record_verdict(message))
        await advance(ledger, run_id, _settles(message, cost))
    assert await books(ledger) == {
        DAY: ("5.00", "0.00"),
        (TENANT, "execution"): ("0.00", "0.00"),
    }
    other_plan = await ledger.record_verdict(costing("2", "1", run_id=run_id))
    kept.append(await ledger.record_verdict(costing("4", run_id=run_id)))
    assert decisions(kept) == ["approved", "approved", "denied"]
    assert other_plan.payload.decision == "approved"
    assert "$5.00 is spent and $3.00 reserved, so $2.00 is left" in kept[-1].payload.reasons[0].text


# -- settling -------------------------------------------------------------------------------------


async def test_the_end_of_a_run_spends_what_it_has_cost_and_frees_the_rest(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    await allow(ledger, "month", "10")
    message, waiting = costing("3", attempts=3), costing("1")
    for each in (message, waiting):
        await ledger.record_verdict(each)
    await settle(ledger, message, "3.5")
    assert await books(ledger) == {DAY: ("3.50", "1.00"), MONTH: ("3.50", "1.00")}
    await settle(ledger, waiting)
    assert await books(ledger) == {DAY: ("3.50", "0.00"), MONTH: ("3.50", "0.00")}


async def test_an_end_that_is_delivered_again_settles_once(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    message, event_id = costing("3"), uuid4()
    await ledger.record_verdict(message)
    run_id = message.correlation_id
    await advance(ledger, run_id, ends(message, "2"), event_id=event_id)
    await advance(ledger, run_id, must_not_decide, event_id=event_id)
    assert await books(ledger) == {DAY: ("2.00", "0.00")}


async def test_an_event_that_is_refused_or_changes_nothing_can_settle(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    refused, absorbed = costing("3"), costing("4")
    for message in (refused, absorbed):
        await ledger.record_verdict(message)
    settlement = Settlement(refused.payload.plan_hash, Decimal(0))
    transition = refuses()(None)
    with pytest.raises(RefusedMessageError):
        await advance(
            ledger,
            refused.correlation_id,
            lambda _run: Transition(None, refusal=transition.refusal, settlement=settlement),
        )
    assert await books(ledger) == {DAY: ("0.00", "4.00")}
    await advance(ledger, absorbed.correlation_id, _settles(absorbed, "0"))
    assert await books(ledger) == {DAY: ("0.00", "0.00")}


async def test_a_decision_that_raises_settles_nothing(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    message = costing("3")
    await ledger.record_verdict(message)
    wrong = ends(message, "3", version=7)
    with pytest.raises(ValueError, match="version 1"):
        await advance(ledger, message.correlation_id, wrong)
    assert await books(ledger) == {DAY: ("0.00", "3.00")}


async def test_settling_what_was_never_reserved_changes_nothing(ledger: Ledger) -> None:
    await allow(ledger, "day", "10")
    await settle(ledger, costing("3"), "3")
    assert await books(ledger) == {DAY: ("0.00", "0.00")}


async def test_ends_of_several_runs_at_once_all_count(ledger: Ledger) -> None:
    await allow(ledger, "day", "100")
    await allow(ledger, "month", "100")
    messages = [costing("2") for _ in range(20)]
    await _at_once(ledger, messages)
    await asyncio.gather(*(settle(ledger, message, "1.5") for message in messages))
    assert await books(ledger) == {DAY: ("30.00", "0.00"), MONTH: ("30.00", "0.00")}


# -- periods --------------------------------------------------------------------------------------


async def test_a_new_day_and_a_new_month_begin_with_nothing_taken(
    ledger: Ledger, clock: SettableClock
) -> None:
    await allow(ledger, "day", "1")
    await allow(ledger, "month", "2")
    first = costing("1")
    await ledger.record_verdict(first)
    assert (await ledger.record_verdict(costing("1"))).payload.decision == "denied"
    clock.moment += timedelta(days=1)
    assert (await ledger.record_verdict(costing("1"))).payload.decision == "approved"
    await settle(ledger, first, "1")
    assert await books(ledger) == {DAY: ("1.00", "0.00"), MONTH: ("1.00", "1.00")}
    assert await books(ledger, now=clock.moment) == {DAY: ("0.00", "1.00"), MONTH: ("1.00", "1.00")}
    clock.moment = NOON + timedelta(days=40)
    denied, approved = costing("2.01"), costing("1")
    assert (await ledger.record_verdict(denied)).payload.decision == "denied"
    assert (await ledger.record_verdict(approved)).payload.decision == "approved"


async def test_a_day_is_one_of_utc(ledger: Ledger, clock: SettableClock) -> None:
    await allow(ledger, "day", "1")
    clock.moment = NOON.replace(hour=23, minute=59)
    await ledger.record_verdict(costing("1"))
    clock.moment += timedelta(minutes=1)
    assert (await ledger.record_verdict(costing("1"))).payload.decision == "approved"


# -- setting --------------------------------------------------------------------------------------


async def test_a_budget_is_seen_within_seconds_of_being_set_and_removed(
    ledger: Ledger, clock: SettableClock
) -> None:
    assert (await ledger.record_verdict(costing("5"))).payload.reserved is None
    await allow(ledger, "day", "1")
    clock.moment += timedelta(seconds=FRESH_SECONDS)
    assert (await ledger.record_verdict(costing("5"))).payload.decision == "denied"
    await allow(ledger, "day", None)
    assert await books(ledger) == {}
    assert (await ledger.record_verdict(costing("5"))).payload.decision == "approved"


async def test_budgets_are_listed_by_tenant_with_the_period_that_is_running(
    ledger: Ledger,
) -> None:
    await allow(ledger, "month", "100", tenant="zoo")
    for per, cap in (("month", "100"), ("execution", "1"), ("day", "10")):
        await allow(ledger, per, cap)
    await ledger.record_verdict(costing("0.75"))
    await allow(ledger, "day", "0.50")
    uses = await ledger.budget_uses(lane="", now=NOON)
    assert [(u.budget.tenant, u.budget.per, u.period, f"{u.left:.2f}") for u in uses] == [
        ("acme", "execution", None, "1.00"),
        ("acme", "day", "2026-03-01", "0.00"),
        ("acme", "month", "2026-03", "99.25"),
        ("zoo", "month", "2026-03", "100.00"),
    ]


# -- what nobody settles --------------------------------------------------------------------------


async def release(ledger: Ledger, clock: SettableClock) -> int:
    return await ledger.release_lost(
        lane="",
        ended_before=clock.moment - timedelta(hours=1),
        lost_before=clock.moment - timedelta(days=1),
        limit=10,
    )


async def test_what_was_reserved_for_a_run_that_ended_without_it_is_released_after_a_while(
    ledger: Ledger, clock: SettableClock
) -> None:
    await allow(ledger, "day", "10")
    unheard, running = costing("3"), costing("1")
    for message in (unheard, running):
        await ledger.record_verdict(message)
    await advance(ledger, unheard.correlation_id, moves(unheard.correlation_id, is_open=False))
    await advance(ledger, running.correlation_id, moves(running.correlation_id))
    assert await release(ledger, clock) == 0
    clock.moment += timedelta(days=2)
    assert await release(ledger, clock) == 1
    assert await release(ledger, clock) == 0
    assert await books(ledger) == {DAY: ("0.00", "1.00")}


async def test_what_was_reserved_for_a_run_that_never_came_is_released_after_longer(
    ledger: Ledger, clock: SettableClock
) -> None:
    await allow(ledger, "day", "10")
    lost = costing("3")
    await ledger.record_verdict(lost)
    clock.moment += timedelta(hours=23)
    assert await release(ledger, clock) == 0
    clock.moment += timedelta(hours=2)
    assert await release(ledger, clock) == 1
    assert await books(ledger) == {DAY: ("0.00", "0.00")}
    await settle(ledger, lost, "2")
    assert await books(ledger) == {DAY: ("2.00", "0.00")}, "what it costs after all counts"


async def test_old_reservations_and_periods_are_swept_and_open_ones_are_not(
    ledger: Ledger, clock: SettableClock
) -> None:
    for per in ("day", "month"):
        await allow(ledger, per, "10")
    settled, waiting = costing("3"), costing("1", tenant="other")
    await allow(ledger, "day", "10", tenant="other")
    for message in (settled, waiting):
        await ledger.record_verdict(message)
    await settle(ledger, settled, "2")
    await advance(ledger, waiting.correlation_id, moves(waiting.correlation_id))
    clock.moment += timedelta(days=60)
    swept = []
    while rows := await ledger.sweep(lane="", before=NOON + timedelta(days=45), limit=50):
        swept.append(rows)
    # the settled run with its inbox entry and its verdict, its reservation, its day and its month
    assert sum(swept) == 6
    assert (await books(ledger))[DAY] == ("0.00", "0.00")
    assert (await books(ledger))["other", "day"] == ("0.00", "1.00")


def _settles(message: AgentMessage[Verdict], actual: str) -> Decide:
    settlement = Settlement(message.payload.plan_hash, Decimal(actual))

    def decide(_run: RunRecord | None) -> Transition:
        return Transition(None, settlement=settlement)

    return decide


async def _at_once(
    ledger: Ledger, messages: list[AgentMessage[Verdict]]
) -> list[AgentMessage[Verdict]]:
    return await asyncio.gather(*(ledger.record_verdict(message) for message in messages))
