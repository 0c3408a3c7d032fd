"""Which status may follow which, and what brings that about: the one table, as data.

What has ended stays as it is: only ``retry`` and ``resolve`` lead out of it, into a new run.
:mod:`agents.routing.diagram` draws the table.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from schemas import ExecutionStatus as S

Trigger = Literal[
    "verdict",
    "outcome",
    "result",
    "approve",
    "reject",
    "cancel",
    "pause",
    "resume",
    "retry",
    "resolve",
    "time",
    "bug",
    "broker lost",
]
"""What moves a run: a message, a command, or what happens by itself.

``time`` is a limit that is over or a retry that is due, ``bug`` a message that the router cannot
handle.
"""


class Move(NamedTuple):
    """A row of the table."""

    before: S | None
    """``None`` is an execution that the router has not seen yet."""
    after: S
    on: tuple[Trigger, ...]


MOVES: Final = (
    Move(None, S.RUNNING, ("verdict",)),
    Move(None, S.NEEDS_APPROVAL, ("verdict",)),
    Move(None, S.DENIED, ("verdict",)),
    Move(None, S.NEEDS_CLARIFICATION, ("outcome",)),
    Move(None, S.FAILED, ("outcome", "bug")),
    # It waits for its request, so that what is cancelled has a name and an end.
    Move(None, S.CANCELLING, ("cancel",)),
    Move(S.NEEDS_APPROVAL, S.RUNNING, ("verdict",)),
    Move(S.NEEDS_APPROVAL, S.DENIED, ("verdict", "reject")),
    Move(S.NEEDS_APPROVAL, S.CANCELLED, ("cancel",)),
    Move(S.NEEDS_APPROVAL, S.EXPIRED, ("time",)),
    Move(S.NEEDS_APPROVAL, S.FAILED, ("outcome", "bug", "broker lost")),
    Move(S.RUNNING, S.PAUSED, ("pause",)),
    Move(S.RUNNING, S.CANCELLING, ("cancel", "time")),
    Move(S.RUNNING, S.SUCCESS, ("result", "verdict", "resolve", "time")),
    Move(
        S.RUNNING,
        S.FAILED,
        ("result", "verdict", "resume", "resolve", "time", "bug", "broker lost"),
    ),
    Move(S.RUNNING, S.UNKNOWN, ("result", "resolve", "time", "bug")),
    Move(S.RUNNING, S.CANCELLED, ("cancel",)),
    Move(S.PAUSED, S.RUNNING, ("resume",)),
    Move(S.PAUSED, S.CANCELLING, ("cancel", "time")),
    Move(S.PAUSED, S.SUCCESS, ("result", "resolve", "time")),
    Move(S.PAUSED, S.FAILED, ("result", "resolve", "time", "bug", "broker lost")),
    Move(S.PAUSED, S.UNKNOWN, ("result", "resolve", "time", "bug")),
    Move(S.PAUSED, S.CANCELLED, ("cancel",)),
    # An execution that takes too long waits here for its steps in flight, too.
    Move(S.CANCELLING, S.CANCELLED, ("result", "resolve", "verdict", "outcome", "time")),
    Move(S.CANCELLING, S.EXPIRED, ("result", "resolve", "time")),
    Move(S.CANCELLING, S.UNKNOWN, ("result", "resolve", "time", "bug")),
    Move(S.CANCELLING, S.FAILED, ("bug", "broker lost")),
    # The plan of a retry is judged again.
    Move(S.PLANNED, S.RUNNING, ("verdict",)),
    Move(S.PLANNED, S.NEEDS_APPROVAL, ("verdict",)),
    Move(S.PLANNED, S.DENIED, ("verdict",)),
    Move(S.PLANNED, S.CANCELLED, ("cancel",)),
    Move(S.PLANNED, S.EXPIRED, ("time",)),
    Move(S.PLANNED, S.FAILED, ("outcome", "bug", "broker lost")),
    Move(S.FAILED, S.PLANNED, ("retry",)),
    Move(S.DENIED, S.PLANNED, ("retry",)),
    Move(S.CANCELLED, S.PLANNED, ("retry",)),
    Move(S.EXPIRED, S.PLANNED, ("retry",)),
    # What was in doubt is known now. A run can have failed with an effect in doubt when its broker
    # was lost.
    Move(S.UNKNOWN, S.RUNNING, ("resolve",)),
    Move(S.UNKNOWN, S.PAUSED, ("resolve",)),
    Move(S.UNKNOWN, S.CANCELLING, ("resolve",)),
    Move(S.FAILED, S.RUNNING, ("resolve",)),
    Move(S.FAILED, S.PAUSED, ("resolve",)),
    Move(S.FAILED, S.CANCELLING, ("resolve",)),
)
"""Every move there is. One event can bring about two of them, such as the cancel of an execution
that waits for nothing."""


_BEFORE_THE_ROUTER: Final = (S.RECEIVED, S.PARSED)


def _by_before() -> Mapping[S | None, Mapping[S, tuple[Trigger, ...]]]:
    table: dict[S | None, dict[S, tuple[Trigger, ...]]] = {
        None: {},
        **{status: {} for status in S if status not in _BEFORE_THE_ROUTER},
    }
    for move in MOVES:
        table[move.before][move.after] = move.on
    return MappingProxyType({before: MappingProxyType(after) for before, after in table.items()})


TRANSITIONS: Final = _by_before()
"""Status before → status after → what brings it about."""


class IllegalTransitionError(RuntimeError):
    """The state machine tried a move that its table does not hold: a bug."""


def check(before: S | None, after: S) -> None:
    """Make sure that ``after`` may follow ``before``.

    Raises:
        IllegalTransitionError: It may not.
    """
    if before != after and after not in TRANSITIONS.get(before, {}):
        raise IllegalTransitionError(f"{before} may not become {after}")
