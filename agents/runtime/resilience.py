"""Trying again: how often, how long to wait in between, and when to give up.

Built on tenacity, since its sleep function and its stop condition are arguments: the waits of a
role go through the injected :class:`~agents.runtime.ports.Clock`, so its tests wait for nothing.
(stamina reads better as a decorator, but sleeps by itself and is switched off for the whole
process.)

Two forms: :func:`retry_with_backoff` decorates a function, :func:`call_with_backoff` runs a
callable under a :class:`Backoff` that is known only at run time. A test switches both off with
:func:`retries_off`.
"""

import inspect
import random as random_module
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar, cast

import structlog
from tenacity import AsyncRetrying, RetryCallState, Retrying

from agents.runtime.clock import SystemClock
from agents.runtime.ports import Clock

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LONGEST_WAIT: Final = 60.0
"""Seconds that a retry in place may wait at most. Backoff is cut to it; where the other side asks
for more, the call gives up, since asking sooner than told would be worse."""
JITTER: Final = 0.25
"""The random share that is added to a wait, so that callers who failed together part ways."""

_log = structlog.get_logger(__name__)
_is_off: ContextVar[bool] = ContextVar("retries_off", default=False)


@contextmanager
def retries_off() -> Iterator[None]:
    """Make every call inside the block a single attempt, for tests.

    It holds for the current task and for tasks and threads that inherit its context.
    """
    token = _is_off.set(True)
    try:
        yield
    finally:
        _is_off.reset(token)


@dataclass(frozen=True, slots=True)
class Backoff:
    """When to try again.

    An exception's ``retry_after`` attribute, in seconds, lengthens the wait that follows it.
    """

    max_attempts: int = 3
    """Attempts in all, the first one included."""
    initial_delay: float = 1.0
    """Seconds before the second attempt."""
    exponential_base: float = 2.0
    """By what each further wait is multiplied."""
    exceptions: tuple[type[Exception], ...] = (ConnectionError, TimeoutError)
    """What is worth another attempt; anything else is raised at once."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if self.initial_delay < 0 or self.exponential_base < 1:
            raise ValueError("initial_delay must not be negative, exponential_base at least 1")

    def delay_after(self, attempt: int, error: BaseException, *, random: float) -> float:
        """Seconds to wait after the ``attempt``-th attempt has failed with ``error``.

        Args:
            attempt: Counted from 1.
            error: Why the attempt failed.
            random: From 0 to 1, the share of the jitter that is added.
        """
        try:
            backoff = self.initial_delay * self.exponential_base ** (attempt - 1)
        except OverflowError:
            backoff = LONGEST_WAIT
        asked = getattr(error, "retry_after", None) or 0.0
        return max(min(backoff, LONGEST_WAIT), asked) * (1 + JITTER * random)


def retry_with_backoff(
    max_attempts: int = 3,
    initial_delay: float = 1.0,
    exponential_base: float = 2.0,
    exceptions: tuple[type[Exception], ...] = (ConnectionError, TimeoutError),
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Call the decorated function again when it fails with one of ``exceptions``.

    With the defaults it waits 1 s, then 2 s, each a little lengthened at random, and raises what
    the third attempt raised. Sync functions wait in their thread: on an event loop, decorate the
    async one.

    Args:
        max_attempts: Attempts in all, the first one included.
        initial_delay: Seconds before the second attempt.
        exponential_base: By what each further wait is multiplied.
        exceptions: What is worth another attempt.
    """
    backoff = Backoff(max_attempts, initial_delay, exponential_base, exceptions)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = getattr(function, "__qualname__", repr(function))

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                return await call_with_backoff(
                    lambda: function(*args, **kwargs), backoff, clock=SystemClock(), name=name
                )

            return cast("Callable[P, R]", call_async)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            rules = _Rules(backoff, SystemClock(), random_module.random, name)
            retrying = Retrying(sleep=time.sleep, **rules.for_tenacity())
            return retrying(function, *args, **kwargs)

        return call

    return decorate


async def call_with_backoff(
    operation: Callable[[], Awaitable[T]],
    backoff: Backoff,
    *,
    clock: Clock,
    random: Callable[[], float] = random_module.random,
    deadline: datetime | None = None,
    name: str = "operation",
) -> T:
    """Call ``operation`` until it succeeds or ``backoff`` gives up; raises its last error.

    Args:
        operation: Called anew for each attempt.
        backoff: When to try again.
        clock: Through which all waits go.
        random: Yields numbers from 0 to 1, for the jitter.
        deadline: No wait is begun that would end after it.
        name: What the log calls it.
    """
    try:
        return await operation()
    except backoff.exceptions as error:
        first = error
    # Only what has failed pays for the machinery of retries: its first attempt is that failure.
    rules = _Rules(backoff, clock, random, name, deadline)
    retrying = AsyncRetrying(sleep=clock.sleep, **rules.for_tenacity())
    failures = iter((first,))

    async def attempt() -> T:
        for failure in failures:
            raise failure
        return await operation()

    return await retrying(attempt)


@dataclass(frozen=True, slots=True)
class _Rules:
    """A backoff in the terms of tenacity: wait, stop, retry and what to log."""

    backoff: Backoff
    clock: Clock
    random: Callable[[], float]
    name: str
    deadline: datetime | None = None

    def for_tenacity(self) -> dict[str, Any]:
        return {
            "wait": self._wait,
            "stop": self._stop,
            "retry": lambda state: isinstance(_error_of(state), self.backoff.exceptions),
            "before_sleep": self._report,
            "reraise": True,
        }

    def _wait(self, state: RetryCallState) -> float:
        return self.backoff.delay_after(
            state.attempt_number, _error_of(state), random=self.random()
        )

    def _stop(self, state: RetryCallState) -> bool:
        if _is_off.get() or state.attempt_number >= self.backoff.max_attempts:
            return True
        if (getattr(_error_of(state), "retry_after", None) or 0.0) > LONGEST_WAIT:
            return True
        wait = timedelta(seconds=state.upcoming_sleep)
        return self.deadline is not None and self.clock.now() + wait >= self.deadline

    def _report(self, state: RetryCallState) -> None:
        error = _error_of(state)
        _log.warning(
            "retry",
            operation=self.name,
            attempt=state.attempt_number,
            wait_seconds=round(state.upcoming_sleep, 3),
            error=f"{type(error).__name__}: {error}",
        )


def _error_of(state: RetryCallState) -> BaseException:
    """What the attempt raised; ``None`` (which is no exception of any kind) where it succeeded."""
    outcome = state.outcome
    return cast("BaseException", outcome.exception() if outcome is not None else None)
