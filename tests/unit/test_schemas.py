import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import schemas
from schemas import (
    PAYLOADS,
    AgentMessage,
    CostEstimate,
    ExecutionRequest,
    PlanStep,
    RetryPolicy,
    Verdict,
    canonical_json,
    compose,
    envelope_type,
    hash_plan,
    sha256_of,
)

CORRELATION = UUID(int=7)


def step(step_id: str = "check", **changes: Any) -> PlanStep:
    values: dict[str, Any] = {
        "step_id": step_id,
        "action": "service.status",
        "parameters": {"service": "checkout", "environment": "staging"},
        "executor": "http",
        "effect": "read",
        "risk": "low",
        "timeout": 30.0,
        "retry": RetryPolicy(),
        "cost": CostEstimate(api_calls=Decimal("0.0001")),
    }
    return PlanStep.model_validate(values | changes)


def digest(*steps: PlanStep, lane: str = "", correlation_id: UUID = CORRELATION) -> str:
    return hash_plan(steps, lane=lane, correlation_id=correlation_id)


def test_the_public_names_are_sorted_and_exist() -> None:
    assert schemas.__all__ == sorted(schemas.__all__, key=lambda name: (not name.isupper(), name))
    assert all(hasattr(schemas, name) for name in schemas.__all__)


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_example_in_a_payload_is_valid(name: str) -> None:
    model = PAYLOADS[name]
    examples = model.model_json_schema().get("examples", [])
    assert examples, f"{name} has no example"
    for example in examples:
        model.model_validate_json(json.dumps(example))


def test_an_envelope_reads_back_as_it_was_written() -> None:
    request = ExecutionRequest(text="restart checkout in staging")
    message = compose(
        request,
        message_id=UUID(int=1),
        correlation_id=CORRELATION,
        causation_id=None,
        from_agent="intake",
        tenant="acme",
        lane="canary.",
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
        received_at=datetime(2026, 1, 1, tzinfo=UTC),
        external_id="abc-123",
    )
    assert envelope_type(ExecutionRequest).model_validate_json(message.to_bytes()) == message
    assert message.key() == str(CORRELATION).encode()
    assert dict(message.headers())["message-type"] == b"ExecutionRequest"


def test_times_are_kept_in_utc_and_naive_ones_are_refused() -> None:
    model = envelope_type(ExecutionRequest)
    values: dict[str, Any] = {
        "message_id": UUID(int=1),
        "correlation_id": CORRELATION,
        "causation_id": None,
        "from_agent": "intake",
        "message_type": "ExecutionRequest",
        "schema_version": 1,
        "payload": ExecutionRequest(text="x"),
        "timestamp": datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2))),
        "received_at": datetime(2026, 1, 1, tzinfo=UTC),
        "tenant": "acme",
    }
    assert model.model_validate(values).timestamp == datetime(2026, 1, 1, 10, tzinfo=UTC)
    with pytest.raises(ValidationError, match="time zone"):
        model.model_validate(values | {"timestamp": datetime(2026, 1, 1)})  # noqa: DTZ001


def test_models_are_frozen_and_forbid_unknown_fields() -> None:
    request = ExecutionRequest(text="x")
    with pytest.raises(ValidationError, match="frozen"):
        request.text = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        ExecutionRequest.model_validate({"text": "x", "surprise": 1})


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({}, "neither a text nor a plan"),
        ({"text": "  "}, "is blank"),
        ({"text": "a\x00b"}, r"U\+0000"),
        ({"text": "x" * 10_001}, "at most 10000"),
        ({"text": "x", "tenant": "No Spaces"}, "tenant"),
        ({"plan": []}, "at least 1"),
    ],
)
def test_a_request_that_breaks_a_limit_says_which(body: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ExecutionRequest.model_validate(body)


def test_a_refusing_verdict_gives_a_reason() -> None:
    plan = {
        "request_id": UUID(int=1),
        "title": "t",
        "requester": "ann",
        "steps": [step()],
        "cost": CostEstimate(),
        "plan_hash": digest(step()),
    }
    with pytest.raises(ValidationError, match="at least one reason"):
        Verdict.model_validate(
            {
                "request_id": UUID(int=1),
                "plan_id": UUID(int=2),
                "decision": "denied",
                "reasons": [],
                "plan": plan,
            }
        )


def test_the_plan_hash_is_that_of_the_canonical_form() -> None:
    # sha256sum of {"a":[1,true],"b":"é"}, which is that object in the form of RFC 8785.
    expected = "719470661d7bcaff37673edac3675fcfc435e78ebf53ab13291e985097f14f5b"
    assert sha256_of({"b": "é", "a": [1, True]}) == expected


def test_the_plan_hash_changes_with_what_will_happen() -> None:
    base = digest(step())
    assert digest(step(parameters={"service": "payments", "environment": "staging"})) != base
    assert digest(step(action="service.restart")) != base
    assert digest(step(effect="effect")) != base
    assert digest(step(), step("again")) != base
    assert digest(step(), lane="canary.") != base
    assert digest(step(), correlation_id=UUID(int=8)) != base


def test_the_plan_hash_ignores_cost_and_the_order_of_dependencies() -> None:
    assert digest(step(cost=CostEstimate(api_calls=Decimal(1)))) == digest(step())
    one, two = step(depends_on=("a", "b")), step(depends_on=("b", "a"))
    assert digest(one) == digest(two)


def test_money_is_exact_on_the_wire() -> None:
    cost = CostEstimate(api_calls=Decimal("0.1"), llm_tokens=Decimal("0.2"))
    assert cost.total == Decimal("0.3")
    assert json.loads(cost.model_dump_json())["api_calls"] == "0.1"


def test_retries_wait_longer_each_time() -> None:
    policy = RetryPolicy(initial_delay=1.0, exponential_base=2.0)
    assert [policy.delay_after(attempt) for attempt in (1, 2, 3)] == [1.0, 2.0, 4.0]


def test_envelope_classes_are_made_once() -> None:
    assert envelope_type(ExecutionRequest) is envelope_type(ExecutionRequest)
    assert issubclass(envelope_type(ExecutionRequest), AgentMessage)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_the_quick_way_to_canonical_json_gives_the_same_bytes(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [2**53, -(2**53), float("nan"), float("inf"), "\ud800"])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each is refused in its own words
        canonical_json({"parameters": [value]})
