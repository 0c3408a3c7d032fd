from uuid import UUID, uuid4, uuid5

from hypothesis import given
from hypothesis import strategies as st

from schemas import identity
from schemas.identity import (
    derive_correlation_id,
    derive_intake_message_id,
    derive_message_id,
    uuid_of,
)

A, B = UUID(int=1), UUID(int=2)


def test_the_same_cause_yields_the_same_message_id() -> None:
    first = derive_message_id(lane="", correlation_id=A, role="planner", cause=B, index=0)
    again = derive_message_id(lane="", correlation_id=A, role="planner", cause=B, index=0)
    assert first == again


@given(st.text())
def test_derived_ids_are_version_5_uuids(part: str) -> None:
    namespace = UUID(int=5)
    assert identity._derive(namespace, part, "x") == uuid5(namespace, f"{part}\x1fx")


def test_every_part_of_the_cause_matters() -> None:
    ids = {
        derive_message_id(lane=lane, correlation_id=run, role=role, cause=cause, index=index)
        for lane in ("", "canary.")
        for run in (A, B)
        for role in ("planner", "router")
        for cause in (A, "timer:1")
        for index in (0, 1)
    }
    assert len(ids) == 32


def test_a_topic_that_was_made_anew_does_not_repeat_ids() -> None:
    def at(timestamp_ms: int, value: bytes) -> UUID:
        return derive_intake_message_id(
            topic="t", partition=0, offset=0, timestamp_ms=timestamp_ms, value=value
        )

    assert len({at(1, b"a"), at(2, b"a"), at(1, b"b")}) == 3


@given(st.text(min_size=1), st.text(min_size=1))
def test_an_id_that_is_no_uuid_belongs_to_its_tenant(tenant: str, other: str) -> None:
    assert (uuid_of("abc-123", tenant=tenant) == uuid_of("abc-123", tenant=other)) == (
        tenant == other
    )


def test_a_uuid_is_taken_as_it_is_in_either_case() -> None:
    given_id = uuid4()
    assert uuid_of(str(given_id), tenant="t") == given_id
    assert uuid_of(str(given_id).upper(), tenant="t") == given_id


def test_another_spelling_of_a_uuid_is_an_id_of_its_own() -> None:
    given_id = uuid4()
    assert uuid_of(given_id.hex, tenant="t") != given_id


def test_the_execution_of_a_request_depends_on_tenant_and_message() -> None:
    assert derive_correlation_id(tenant="a", message_id=A) != derive_correlation_id(
        tenant="b", message_id=A
    )
