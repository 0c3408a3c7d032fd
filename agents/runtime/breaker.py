"""Circuit breakers: a dependency that is down is left alone for a while.

Otherwise every handler would ask it, and wait until its own time is over. States and terms follow
Michael Nygard's "Release It!", chapter "Stability Patterns"::

    closed ──failure_threshold failures in a row──▶ open
    open ──recovery_timeout seconds──▶ half_open
    half_open ──success──▶ closed
    half_open ──failure──▶ open
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import ClassVar, Final, Literal, TypeVar

import structlog

from agents.runtime.errors import ErrorCode, NotSentError, OutcomeUnknownError, TransientError
from agents.runtime.ports import Clock

T = TypeVar("T")
BreakerState = Literal["closed", "open", "half_open"]
StateListener = Callable[[str, BreakerState], None]

_RATE_LIMITED: Final = "rate_limited"
_log = structlog.get_logger(__name__)


class BreakerOpenError(NotSentError):
    """The breaker of a dependency is open: it was not asked at all."""

    default_code: ClassVar[ErrorCode] = "breaker_open"


def is_dependency_failure(error: BaseException) -> bool:
    """Whether ``error`` speaks against the dependency, and not against what was asked of it.

    A refusal of a bad request does not, and neither does being told that we ask too often.
    """
    if isinstance(error, TransientError):
        return error.code != _RATE_LIMITED
    return isinstance(error, OutcomeUnknownError | ConnectionError | TimeoutError)


class CircuitBreaker:
    """Guards the calls to one dependency; for all handlers of one event loop.

    Args:
        name: The dependency, for errors and metrics.
        clock: Tells when an open breaker may be tried.
        failure_threshold: Failures in a row that open it.
        recovery_timeout: Seconds for which it stays open.
        half_open_max_calls: Calls that may try at the same time whether the dependency is back.
        counts: Which errors are failures of the dependency.
        on_change: Told the name and the new state.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        failure_threshold: int = 5,
        recovery_timeout: float = 60.0,
        half_open_max_calls: int = 1,
        counts: Callable[[BaseException], bool] = is_dependency_failure,
        on_change: StateListener | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._threshold = failure_threshold
        self._recovery = timedelta(seconds=recovery_timeout)
        self._max_trials = half_open_max_calls
        self._counts = counts
        self._on_change = on_change
        self._state: BreakerState = "closed"
        self._failures = 0
        self._open_until: datetime | None = None
        self._trials = 0
        # Rises with each change of state: what a call that began before has to say is stale.
        self._generation = 0

    @property
    def state(self) -> BreakerState:
        """``closed``, ``open`` or ``half_open``."""
        if self._state == "open" and self._seconds_left() <= 0:
            self._become("half_open")
        return self._state

    async def call(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run ``operation`` unless the breaker is open.

        Raises:
            BreakerOpenError: It is; ``retry_after`` says for how many seconds more.
            BaseException: What ``operation`` raised.
        """
        is_trial = self._admit()
        generation = self._generation
        try:
            result = await operation()
        except BaseException as error:
            if generation == self._generation and self._counts(error):
                self._failed()
            raise
        else:
            if generation == self._generation:
                self._succeeded()
            return result
        finally:
            if is_trial and generation == self._generation:
                self._trials -= 1

    def _admit(self) -> bool:
        """Let a call through; returns whether it tries if the dependency is back."""
        state = self.state
        if state == "closed":
            return False
        if state == "half_open" and self._trials < self._max_trials:
            self._trials += 1
            return True
        waiting = "is being tried again" if state == "half_open" else "is left alone for a while"
        raise BreakerOpenError(
            f"{self.name} failed {self._threshold} times in a row and {waiting}",
            retry_after=max(self._seconds_left(), 1.0),
        )

    def _failed(self) -> None:
        self._failures += 1
        if self._state == "half_open" or self._failures >= self._threshold:
            self._open_until = self._clock.now() + self._recovery
            self._become("open")

    def _succeeded(self) -> None:
        self._failures = 0
        if self._state == "half_open":
            self._become("closed")

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._generation += 1
        self._trials = 0
        if state == "closed":
            self._failures = 0
        _log.warning("breaker_changed", dependency=self.name, state=state)
        if self._on_change is not None:
            self._on_change(self.name, state)

    def _seconds_left(self) -> float:
        if self._open_until is None:
            return 0.0
        return (self._open_until - self._clock.now()).total_seconds()


class Breakers:
    """The breakers of a process, one for each dependency, made when it is first asked for."""

    def __init__(self, clock: Clock, *, on_change: StateListener | None = None) -> None:
        self._clock = clock
        self._on_change = on_change
        self._breakers: dict[str, CircuitBreaker] = {}

    def of(self, dependency: str) -> CircuitBreaker:
        """The breaker of ``dependency``."""
        breaker = self._breakers.get(dependency)
        if breaker is None:
            breaker = CircuitBreaker(dependency, clock=self._clock, on_change=self._on_change)
            self._breakers[dependency] = breaker
        return breaker

    def states(self) -> Mapping[str, BreakerState]:
        """The state that each is in now, by dependency."""
        return {name: breaker.state for name, breaker in self._breakers.items()}
