"""What a dead letter's record becomes when it is sent again; or why it may not be.

The record goes to the topic that it came from with its own key, value and headers. Ids that its
first place on the topic gave it are pinned in headers, so that it stays the same message of the
same execution. An edited record is another message: it gets a new id, derived from the old one and
from what was edited, so that doing it twice is doing it once.

It must be readable as the pipeline reads it, or it would only become a dead letter again. And
nobody may edit what comes after the verdict: an executor trusts the parameters of a step whose
plan was approved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from agents.runtime import dead_letters as names
from agents.runtime.delays import LADDER
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Outgoing, Record
from agents.runtime.topology import TopicSpec, Topology
from ops.dead_letter_rows import Contents, Letter, RunStatus
from ops.redrive_records import (
    Edit,
    RefusedRedriveError,
    due,
    edited,
    original_record,
    pinned,
    read_message,
    rekeyed,
    says_the_same,
)
from schemas import (
    PAYLOADS,
    AgentMessage,
    ExecutionRequest,
    ExecutionState,
    Intent,
    Payload,
    Plan,
)

DEFAULT_CAP: Final = 3
"""How often a record may be redriven."""

_EDITABLE: Final[tuple[type[Payload], ...]] = (ExecutionRequest, Intent, Plan)
"""What is judged only after it was edited."""
_DELAYS: Final = frozenset(name for name, _ in LADDER)


@dataclass(frozen=True)
class Redrive:
    """A record that is ready to be sent again."""

    letter: Letter
    outgoing: Outgoing
    message: AgentMessage[Any]
    """What the pipeline will read."""
    edited: bool


@dataclass(frozen=True)
class Redriver:
    """Makes records of dead letters.

    Args:
        lane: The lane of this pipeline.
        topology: Which topics carry what.
        run_status: How an execution stands with the router, if it has seen it.
        cap: How often a record may be redriven, so that nothing goes round for ever.
        edit: What is to be changed, if anything.
    """

    lane: str
    topology: Topology
    run_status: Callable[[UUID], RunStatus | None]
    cap: int = DEFAULT_CAP
    edit: Edit | None = None

    def prepare(self, letter: Letter, contents: Contents) -> Redrive:
        """The record of a dead letter, ready to be sent.

        Raises:
            RefusedRedriveError: It must not be sent; says why and, where something can be done
                about it, what.
        """
        self._check_letter(letter)
        record = original_record(letter, contents)
        try:
            if letter.origin_topic.removeprefix(self.lane) in _DELAYS:
                record = due(record, self.lane)
            payload = self._payload(record.topic)
            ready = record if self.edit is None else self._edited(record, payload, self.edit)
            message = read_message(ready, payload, self.lane)
        except InvalidMessageError as error:
            raise RefusedRedriveError(_unreadable(error, is_edited=self.edit is not None)) from None
        is_edited = ready.value != record.value
        self._check_execution(message, is_edited=is_edited)
        ready = pinned(ready, message)
        redrives = (names.HEADER_REDRIVES, str(letter.redrives + 1).encode())
        outgoing = Outgoing(ready.topic, ready.key, ready.value, (*ready.headers, redrives))
        return Redrive(letter, outgoing, message, is_edited)

    def _edited(self, record: Record, payload: type[Payload], edit: Edit) -> Record:
        value = edit(record.value)
        if says_the_same(value, record.value):
            return rekeyed(record, payload)
        _check_editable(payload)
        return edited(record, value, payload, self.lane)

    def _check_letter(self, letter: Letter) -> None:
        if letter.redriven_at is not None:
            raise RefusedRedriveError(
                f"it was redriven at {letter.redriven_at:%Y-%m-%d %H:%M:%S} UTC already; had that "
                "failed, there would be another dead letter"
            )
        if letter.purged_at is not None:
            raise RefusedRedriveError("it was purged")
        if letter.redrives >= self.cap:
            raise RefusedRedriveError(
                f"its record was redriven {letter.redrives} times already, and the cap is "
                f"{self.cap}; mend the cause, then raise --cap"
            )

    def _payload(self, topic: str) -> type[Payload]:
        spec: TopicSpec | None = None
        if topic.startswith(self.lane):
            spec = self.topology.topics.get(topic.removeprefix(self.lane))
        if spec is None or spec.schema not in PAYLOADS:
            raise RefusedRedriveError(
                f"{topic!r} is no topic of this lane that carries messages of the pipeline"
            )
        return PAYLOADS[spec.schema]

    def _check_execution(self, message: AgentMessage[Any], *, is_edited: bool) -> None:
        if isinstance(message.payload, ExecutionState):
            return  # a state is read after the end as well: the report is made of the last one
        run = self.run_status(message.correlation_id)
        if run is None:
            return
        if not run.is_open:
            raise RefusedRedriveError(
                f"execution {message.correlation_id} has ended ({run.status}); run it "
                "again with `millstream retry`, or submit the request anew"
            )
        if is_edited and isinstance(message.payload, ExecutionRequest):
            raise RefusedRedriveError(
                f"execution {message.correlation_id} runs already ({run.status}) under its "
                "unedited request; give the edited one a correlation_id of its own"
            )


def _check_editable(payload: type[Payload]) -> None:
    if payload not in _EDITABLE:
        allowed = ", ".join(sorted(each.__name__ for each in _EDITABLE))
        raise RefusedRedriveError(
            f"a {payload.__name__} may not be edited: what comes after the verdict was approved "
            f"as it is; only {allowed} can be"
        )


def _unreadable(error: InvalidMessageError, *, is_edited: bool) -> str:
    if is_edited:
        return f"the edited record could not be read: {error.reason}"
    hint = "edit it with --edit or --patch"
    if error.code == "wrong_key":
        hint = "--patch '[]' gives it the key that belongs to its correlation id"
    return f"it would become a dead letter again: {error.reason}; {hint}"
