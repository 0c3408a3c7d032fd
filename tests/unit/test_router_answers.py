"""What the router tells whoever issued a command, and what it sends when a plan is approved."""

from typing import Any
from uuid import UUID

from support.approvals import HASH, ONE, PLAN, People, command, envelope, verdict

from agents.router import route
from agents.runtime.context import Services
from agents.runtime.testing import fake_context, fake_services, message_with, test_id
from schemas import AgentMessage, Command, CommandAnswer, ExecutionState, Payload, Plan

PEOPLE = People(ann=(), bob=("sre",))


def services() -> Services:
    found = fake_services()
    return Services(**{**vars(found), "principals": PEOPLE.principals})


async def sent(message: AgentMessage[Any], on: Services) -> list[AgentMessage[Any]]:
    """What the router publishes because of a message."""
    rows = await route(message.payload, fake_context(message.payload, services=on, message=message))
    await on.ledger.mark_sent([row.row_id for row in rows])
    return [row.message for row in rows]


def of(model: type[Payload], messages: list[AgentMessage[Any]]) -> list[AgentMessage[Any]]:
    return [message for message in messages if isinstance(message.payload, model)]


def signed(payload: Command, **about: Any) -> AgentMessage[Command]:
    return PEOPLE.keys[payload.issued_by].sign(envelope(payload, **about))


async def waiting(on: Services) -> None:
    await sent(message_with(verdict("needs_approval", ONE), name="verdict"), on)


async def test_an_approval_is_answered_and_the_plan_goes_back_in_the_same_transaction() -> None:
    on = services()
    await waiting(on)
    approve = signed(command("approve", "bob", HASH))
    messages = await sent(approve, on)
    [state], [plan], [answer] = (
        of(kind, messages) for kind in (ExecutionState, Plan, CommandAnswer)
    )
    assert (plan.payload.evaluation, plan.to_agent) == (2, "safety_checker")
    assert answer.payload.is_accepted
    assert {each.causation_id for each in messages} == {approve.message_id}
    assert len({each.message_id for each in messages}) == 3
    assert state.payload.approval.approvals[0].approver == "bob"


async def test_a_refusal_is_a_message_too_and_changes_nothing() -> None:
    on = services()
    await waiting(on)
    [answer] = await sent(signed(command("approve", "ann", HASH)), on)
    assert isinstance(answer.payload, CommandAnswer)
    assert (answer.payload.is_accepted, answer.payload.code) == (False, "self_approval")
    [answer] = await sent(envelope(command("approve", "bob", HASH)), on)
    assert answer.payload.code == "unsigned"


async def test_the_same_command_again_is_not_answered_again() -> None:
    on = services()
    await waiting(on)
    approve = signed(command("approve", "bob", HASH))
    await sent(approve, on)
    assert await sent(approve, on) == []


async def test_a_command_without_an_execution_is_answered_in_its_own_name() -> None:
    message = signed(command("approve", "bob", HASH), tenant="acme")
    [answer] = await sent(message, services())
    assert answer.payload.code == "refused"
    assert (answer.tenant, answer.received_at) == ("acme", message.received_at)


async def test_a_copy_under_another_execution_does_not_keep_the_original_from_being_heard() -> None:
    on = services()
    await waiting(on)
    approve = signed(command("approve", "bob", HASH))
    copied = approve.replace(correlation_id=UUID(int=7))
    [refused] = await sent(copied, on)
    assert refused.payload.code == "invalid_signature"
    assert of(CommandAnswer, await sent(approve, on))[0].payload.is_accepted


async def test_every_command_has_to_be_from_somebody() -> None:
    on = services()
    await waiting(on)
    [answer] = await sent(envelope(command("cancel", "mallory")), on)
    assert (answer.payload.kind, answer.payload.code) == ("cancel", "unsigned")
    cancelled = await sent(signed(command("cancel", "bob")), on)
    assert of(CommandAnswer, cancelled)[0].payload.is_accepted


async def test_the_plan_that_goes_back_is_the_one_that_was_approved() -> None:
    on = services()
    await waiting(on)
    [plan] = of(Plan, await sent(signed(command("approve", "bob", HASH)), on))
    unchanged = plan.payload.replace(evaluation=1, approvals=())
    assert unchanged == PLAN
    assert plan.correlation_id == test_id("execution")
