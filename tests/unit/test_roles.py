from collections.abc import Sequence
from typing import Any

import pytest

from agents.runtime.context import Context
from agents.runtime.errors import ConfigurationError
from agents.runtime.host import check_roles
from agents.runtime.ports import OutboxRow
from agents.runtime.roles import role, spec_of
from agents.runtime.settings import ROOT
from agents.runtime.topology import load_topology
from schemas import (
    AgentMessage,
    ExecutionState,
    Intent,
    Outcome,
    Plan,
    Step,
    StepResult,
    Verdict,
)

TOPOLOGY = load_topology(ROOT / "topics.yaml")


def test_a_signature_says_what_a_role_consumes_and_emits() -> None:
    @role("planner")
    async def plan(intent: Intent, ctx: Context) -> Plan | Outcome: ...

    spec = spec_of(plan)
    assert (spec.name, spec.consumes, spec.emits) == ("planner", {Intent}, {Plan, Outcome})
    assert spec.where.startswith(__file__)


def test_envelopes_outbox_rows_and_sequences_are_seen_through() -> None:
    @role("router")
    async def route(
        event: Verdict | StepResult, ctx: Context
    ) -> Sequence[OutboxRow[Step | ExecutionState]] | AgentMessage[Plan] | None: ...

    spec = spec_of(route)
    assert spec.consumes == {Verdict, StepResult}
    assert spec.emits == {Step, ExecutionState, Plan}


def test_a_role_stays_the_function_that_it_was() -> None:
    async def plan(intent: Intent, ctx: Context) -> Plan: ...

    assert role("planner")(plan) is plan


def not_async(intent: Intent, ctx: Context) -> Plan: ...


async def no_context(intent: Intent) -> Plan: ...


async def consumes_text(intent: str, ctx: Context) -> Plan: ...


async def emits_text(intent: Intent, ctx: Context) -> str: ...


async def consumes_nothing(intent: None, ctx: Context) -> Plan: ...


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (not_async, "must be an async function"),
        (no_context, r"must take \(payload, ctx: Context\), not \(intent\)"),
        (consumes_text, "consumes <class 'str'>, which is no payload model"),
        (emits_text, "emits <class 'str'>, which is no payload model"),
        (consumes_nothing, "consumes nothing"),
    ],
)
def test_what_is_no_role_is_refused_with_its_place(function: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        role("planner")(function)
    assert __file__ in str(caught.value)


def test_a_function_without_the_decorator_is_no_role() -> None:
    with pytest.raises(ConfigurationError, match="carries no @role"):
        spec_of(no_context)


def test_a_role_that_is_there_twice_refuses_to_start() -> None:
    @role("planner")
    async def one(intent: Intent, ctx: Context) -> Plan: ...

    @role("planner")
    async def two(intent: Intent, ctx: Context) -> Plan: ...

    with pytest.raises(ConfigurationError, match="role 'planner' is also at"):
        check_roles([one, two], TOPOLOGY)


def test_a_signature_that_disagrees_with_topics_yaml_names_both_places() -> None:
    @role("planner")
    async def plan(verdict: Verdict, ctx: Context) -> Plan: ...

    with pytest.raises(ConfigurationError) as caught:
        check_roles([plan], TOPOLOGY)
    assert __file__ in str(caught.value)
    assert "topics.yaml:" in str(caught.value)


def test_a_role_before_the_run_may_always_end_the_execution() -> None:
    @role("planner")
    async def plan(intent: Intent, ctx: Context) -> Plan: ...

    assert spec_of(plan).publishes == {Plan, Outcome}
    assert [spec.name for spec in check_roles([plan], TOPOLOGY)] == ["planner"]
