"""What every model of the vocabulary shares."""

import copy
import pickle

import pytest
from pydantic import ValidationError

from agents.runtime.testing import EPOCH, message_with, test_id
from schemas import AgentMessage, ExecutionState, ExecutionStatus, StepState, envelope_type

STATE = ExecutionState(
    request_id=test_id("request"),
    version=1,
    run_no=1,
    status=ExecutionStatus.RUNNING,
    steps=(StepState(step_id="one", action="service.check", status="running"),),
    started_at=EPOCH,
    updated_at=EPOCH,
)


def test_a_value_made_without_checks_is_like_one_that_was_checked() -> None:
    made = ExecutionState.of(dict(STATE.__dict__))

    assert made == STATE == ExecutionState.model_construct(**STATE.__dict__)
    assert made.model_dump() == STATE.model_dump()
    assert made.model_dump_json() == STATE.model_dump_json()
    assert repr(made) == repr(STATE)
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == STATE  # noqa: S301
    with pytest.raises(ValidationError, match="frozen"):
        made.version = 2  # type: ignore[misc]


def test_replacing_fields_leaves_the_old_value_as_it_was() -> None:
    changed = STATE.replace(version=2, status=ExecutionStatus.SUCCESS)

    assert changed == STATE.model_copy(update={"version": 2, "status": ExecutionStatus.SUCCESS})
    assert changed.model_dump_json() != STATE.model_dump_json()
    assert (STATE.version, STATE.status) == (1, ExecutionStatus.RUNNING)


def test_a_composed_envelope_has_every_field_and_survives_the_wire() -> None:
    message = message_with(STATE)

    assert message.__dict__.keys() == AgentMessage.model_fields.keys()
    assert envelope_type(ExecutionState).model_validate_json(message.to_bytes()) == message
