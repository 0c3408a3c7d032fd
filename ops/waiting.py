"""Waiting for an execution to end."""

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from agents.runtime.errors import MillstreamError
from ops.history import History
from ops.render import as_text, render_timeline
from ops.timeline import Timeline

_POLL_SECONDS: Final = 0.05


class ExecutionTimeoutError(MillstreamError):
    """An execution has not ended in time; the message has its timeline so far."""

    default_code = "deadline_exceeded"

    def __init__(self, execution: UUID, seconds: float, timeline: Timeline | None) -> None:
        so_far = (
            "nothing has reached history yet"
            if timeline is None
            else f"so far:\n{as_text(render_timeline(timeline))}"
        )
        super().__init__(f"execution {execution} has not ended after {seconds:g} s; {so_far}")
        self.timeline = timeline


def wait_for_completion(
    history: History,
    execution: UUID,
    *,
    timeout: float = 30.0,
    on_change: Callable[[Timeline], None] = lambda _timeline: None,
) -> Timeline:
    """Wait until an execution has ended and its report is written.

    Args:
        history: Where to look.
        execution: Its correlation id.
        timeout: Seconds to wait at most.
        on_change: Called with each timeline that differs from the one before.

    Raises:
        ExecutionTimeoutError: It has not ended in that time.
        DatabaseUnavailableError: Postgres is away.
    """
    deadline = time.monotonic() + timeout
    last: Timeline | None = None
    while True:
        timeline = history.timeline(execution)
        if timeline is not None and timeline != last:
            last = timeline
            on_change(timeline)
        if timeline is not None and timeline.has_ended:
            return timeline
        if time.monotonic() >= deadline:
            raise ExecutionTimeoutError(execution, timeout, timeline)
        time.sleep(_POLL_SECONDS)
