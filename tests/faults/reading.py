"""The messages in an :class:`Evidence`, decoded once and sorted for the checks."""

from collections import defaultdict
from typing import Any
from uuid import UUID

from faults.evidence import Evidence
from pydantic import ValidationError

from agents.runtime import dead_letters
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record
from agents.sink.dead_letters import read_dead_letter
from agents.sink.fold import ReadModel
from schemas import (
    AgentMessage,
    ExecutionRequest,
    ExecutionState,
    Outcome,
    Verdict,
    envelope_type,
)


class Reading:
    """What the records say.

    Attributes:
        messages: Every message, repetitions included, in the order of each partition.
        distinct: Each message once.
        states: By execution its states, each version's first appearance, in that order.
        asked: By execution the requests under its correlation id.
        refused: By execution the requests that the router turned away.
        poison: Records that are no message.
        model: The fold of all messages.
    """

    def __init__(self, evidence: Evidence) -> None:
        self.messages: list[AgentMessage[Any]] = []
        self.states: dict[UUID, list[AgentMessage[ExecutionState]]] = {}
        self.refused: dict[UUID, set[UUID]] = {}
        self.poison: list[Record] = []
        self.model = ReadModel()
        decode = evidence.decode
        for record in evidence.records:
            try:
                if record.topic == evidence.dead_letter_topic:
                    read_dead_letter(record, lane=evidence.lane)
                    self._note_refusal(record)
                    continue
                message = decode(record)
            except InvalidMessageError:
                self.poison.append(record)
                continue
            self.messages.append(message)
            self.model.add(message, evidence.topic_ids[record.topic])
        seen: dict[UUID, AgentMessage[Any]] = {}
        for message in self.messages:
            if seen.setdefault(message.message_id, message) is message and isinstance(
                message.payload, ExecutionState
            ):
                self.states.setdefault(message.correlation_id, []).append(message)
        self.distinct = list(seen.values())
        self.asked: dict[UUID, set[UUID]] = defaultdict(set)
        for message in self.distinct:
            if isinstance(message.payload, ExecutionRequest):
                self.asked[message.correlation_id].add(message.message_id)

    def requests_run(self, execution: UUID) -> set[UUID | None]:
        """The requests that its states name."""
        return {state.payload.request_id for state in self.states.get(execution, ())}

    def is_rightly_refused(self, message: AgentMessage[Any]) -> bool:
        """Whether it belongs to a request that came under the id of another one's execution."""
        execution, payload = message.correlation_id, message.payload
        return (
            isinstance(payload, Verdict | Outcome)
            and payload.request_id in self.asked[execution]
            and not self.requests_run(execution) <= {None, payload.request_id}
        )

    def _note_refusal(self, record: Record) -> None:
        if record.header(dead_letters.HEADER_CODE) != b"correlation_id_in_use":
            return
        for schema in (Verdict, Outcome):
            try:
                message = envelope_type(schema).model_validate_json(record.value or b"")
            except ValidationError:
                continue
            self.refused.setdefault(message.correlation_id, set()).add(message.payload.request_id)
