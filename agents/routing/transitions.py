"""Which status may follow which: the one table, as data.

Terminal states absorb, unless a person resolves what was in doubt.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from schemas import ExecutionStatus as S

TRANSITIONS: Final[Mapping[S | None, frozenset[S]]] = MappingProxyType(
    {
        None: frozenset(
            {S.RUNNING, S.NEEDS_APPROVAL, S.DENIED, S.FAILED, S.NEEDS_CLARIFICATION, S.CANCELLING}
        ),
        S.NEEDS_APPROVAL: frozenset({S.RUNNING, S.DENIED, S.CANCELLED, S.EXPIRED, S.FAILED}),
        S.RUNNING: frozenset(
            {S.PAUSED, S.CANCELLING, S.SUCCESS, S.FAILED, S.UNKNOWN, S.CANCELLED, S.EXPIRED}
        ),
        S.PAUSED: frozenset(
            {S.RUNNING, S.CANCELLING, S.SUCCESS, S.FAILED, S.UNKNOWN, S.CANCELLED, S.EXPIRED}
        ),
        # An execution that expires with steps in flight waits for them here, too.
        S.CANCELLING: frozenset({S.CANCELLED, S.EXPIRED, S.FAILED, S.UNKNOWN}),
        S.SUCCESS: frozenset(),
        S.FAILED: frozenset({S.RUNNING}),
        S.DENIED: frozenset(),
        S.CANCELLED: frozenset(),
        S.EXPIRED: frozenset(),
        S.NEEDS_CLARIFICATION: frozenset(),
        S.UNKNOWN: frozenset({S.RUNNING, S.CANCELLING}),
    }
)
"""Status before → statuses that may follow; ``None`` is an execution not seen yet."""


class IllegalTransitionError(RuntimeError):
    """The state machine tried a move that its table does not hold: a bug."""


def check(before: S | None, after: S) -> None:
    """Make sure that ``after`` may follow ``before``.

    Raises:
        IllegalTransitionError: It may not.
    """
    if before != after and after not in TRANSITIONS[before]:
        raise IllegalTransitionError(f"{before} may not become {after}")
