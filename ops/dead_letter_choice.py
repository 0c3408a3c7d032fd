"""Which dead letters a person means by what they typed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from agents.runtime.errors import InvalidMessageError
from ops.dead_letter_rows import Letter, Selection
from ops.dead_letters import DeadLetters
from ops.history import UnknownExecutionError
from ops.redrive_records import original_record, read_message
from ops.show import moment_of
from ops.submit import INTAKE_TOPIC
from schemas import ExecutionRequest


@dataclass(frozen=True)
class Filters:
    """Filters as they were typed; what is ``None`` was not."""

    role: str | None = None
    code: str | None = None
    topic: str | None = None
    since: str | None = None
    before: str | None = None
    execution: str | None = None

    @property
    def narrow(self) -> bool:
        """Whether there is one."""
        return any(each is not None for each in astuple(self))


def select(dead: DeadLetters, filters: Filters) -> Selection:
    """What is asked of the database.

    Raises:
        ConfigurationError: A moment is none.
        UnknownExecutionError: The execution is none, or several fit.
    """
    now = datetime.now(UTC)
    selection = Selection(
        role=filters.role,
        code=filters.code,
        topic=filters.topic,
        since=None if filters.since is None else moment_of(filters.since, now=now),
        before=None if filters.before is None else moment_of(filters.before, now=now),
    )
    if filters.execution is None:
        return selection
    execution = _execution(dead, filters.execution)
    return replace(selection, execution=execution, requests=_requests_of(dead, execution))


def choose(dead: DeadLetters, ids: Sequence[str], filters: Filters) -> list[Letter]:
    """The dead letters that are to be worked on, in the order in which they were given up.

    Those named by id are there whatever was done about them; of the others only the open ones.

    Raises:
        UnknownDeadLetterError: An id fits none, or several.
        ConfigurationError: A moment is none.
        UnknownExecutionError: The execution is none, or several fit.
    """
    if not ids:
        return dead.oldest(select(dead, filters))
    found = {letter.id: letter for letter in map(dead.find, ids)}
    return sorted(found.values(), key=lambda letter: letter.dead_lettered_at)


def _execution(dead: DeadLetters, given: str) -> UUID:
    try:
        return dead.history.find(given)
    except UnknownExecutionError:
        with suppress(ValueError):
            return UUID(given)  # one that history has not heard of
        raise


def _requests_of(dead: DeadLetters, execution: UUID) -> list[str]:
    """Dead requests whose body or place makes them the execution's, though no header says so."""
    found = []
    for letter, contents in dead.requests_without_id(dead.lane + INTAKE_TOPIC):
        with suppress(InvalidMessageError):
            record = original_record(letter, contents)
            message = read_message(record, ExecutionRequest, dead.lane)
            if message.correlation_id == execution:
                found.append(letter.id)
    return found
