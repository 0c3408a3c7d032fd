"""Carrying out one attempt at a step, and judging what came of it.

=============================  ==============================  ============================
what happened                  ``read`` and ``idempotent``     ``effect``
=============================  ==============================  ============================
an output                      success                         success
``NotSentError``               again in place, then failed*    again in place, then failed*
``TransientError``             again in place, then failed*    failed*: a definite refusal
``PermanentError``             failed                          failed
``OutcomeUnknownError``        again in place, then failed*    unknown
``UnusableAnswerError``        failed                          unknown
connection lost, time over     again in place, then failed*    unknown
an exceeded time limit         failed*                         unknown, or failed* if called off
a cancel of the execution      failed                          unknown, or failed if called off
``InfrastructureError``        passes through                  unknown
a bug                          failed                          unknown
=============================  ==============================  ============================

``*`` is retriable: the router may try the step again. In place means at most three times, after
1 s and 2 s, within the step's time limit. Called off is what the executor could still take back
(:func:`agents.runtime.running.without_effect`), and what only waited to be tried again.
"""

import asyncio
import json
import random as random_module
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog

from agents.runtime.errors import (
    ConfigurationError,
    ErrorCode,
    InfrastructureError,
    MillstreamError,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from agents.runtime.nesting import MAX_DEPTH, is_too_deep
from agents.runtime.ports import Clock
from agents.runtime.redaction import redacted
from agents.runtime.resilience import Backoff, call_with_backoff
from agents.runtime.revealed import KNOWN
from agents.runtime.running import Running, is_called_off
from schemas import Failure, JsonObject, Step, StepResult

MAX_OUTPUT: Final = 256 * 1024
"""Bytes that a step's output may take as JSON; it travels in every later state of the execution."""

_MAX_REASON: Final = 2000
_CONTROL_CHARACTERS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+")
#: U+0000 as JSON writes it, which Postgres cannot keep; not a backslash that is followed by u0000.
_ESCAPED_NUL: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

_BEFORE_SENDING: Final = (NotSentError,)
_WHEN_REPEATABLE: Final = (TransientError, OutcomeUnknownError, ConnectionError, TimeoutError)

_log = structlog.get_logger(__name__)


class UnusableAnswerError(PermanentError):
    """The other side did what was asked, but nothing can be made of its answer."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended that brought no output."""

    status: Literal["failed", "unknown"]
    failure: Failure


async def carry_out(
    step: Step,
    call: Callable[[], Awaitable[JsonObject]],
    *,
    clock: Clock,
    deadline: datetime,
    random: Callable[[], float] = random_module.random,
    running: Running | None = None,
) -> StepResult:
    """Call the executor's function within the step's time limit and say what came of it.

    Args:
        step: The attempt.
        call: Does it, and returns the output; called again where that is harmless.
        clock: For waits and for the result's times.
        deadline: When the time limit ends, by ``clock``.
        random: Yields numbers from 0 to 1, for the jitter.
        running: By which a cancel reaches it.

    Raises:
        InfrastructureError: The function met one, and the step may be run again.
    """
    started_at, running = clock.now(), running or Running()
    attempt = _Attempt(call, running)
    backoff = Backoff(exceptions=_WHEN_REPEATABLE if is_repeatable(step) else _BEFORE_SENDING)
    limit = asyncio.timeout(step.timeout)
    try:
        async with limit:
            with running.ends(limit):
                output = await call_with_backoff(
                    attempt,
                    backoff,
                    clock=clock,
                    random=random,
                    deadline=deadline,
                    name=step.action,
                )
        check_output(output)
        return _success(
            step, _without_secrets(output), started_at=started_at, finished_at=clock.now()
        )
    except Exception as error:
        if isinstance(error, InfrastructureError) and is_repeatable(step):
            raise
        if limit.expired() and isinstance(error, TimeoutError):
            ending = _broken_off(step, error, attempt, is_stopped=running.is_stopped)
        else:
            ending = judge(step, error)
        return result_of(step, ending, started_at=started_at, finished_at=clock.now())


@dataclass(slots=True)
class _Attempt:
    """Calls of the executor's function, of which at most one is under way."""

    call: Callable[[], Awaitable[JsonObject]]
    running: Running
    has_left: bool = False
    """Whether something may have left the process that is not known to have had no effect."""

    async def __call__(self) -> JsonObject:
        if self.running.is_stopped:  # the last call answered the cancel with a failure
            reason = "the execution was cancelled; nothing was done"
            raise PermanentError(reason, code="cancelled")
        self.has_left = True
        try:
            return await self.call()
        except _BEFORE_SENDING:
            self.has_left = False
            raise


def _without_secrets(output: JsonObject) -> JsonObject:
    """What the other side gave back must not carry on what it was told in confidence."""
    return {KNOWN.text(name): KNOWN.json(value) for name, value in output.items()}


def _success(
    step: Step, output: JsonObject, *, started_at: datetime, finished_at: datetime
) -> StepResult:
    return StepResult(
        request_id=step.request_id,
        run_no=step.run_no,
        step_id=step.step_id,
        action=step.action,
        attempt=step.attempt,
        status="success",
        output=output,
        started_at=started_at,
        finished_at=finished_at,
    )


def result_of(
    step: Step, ending: Ending, *, started_at: datetime, finished_at: datetime
) -> StepResult:
    """The result of an attempt that brought no output."""
    return StepResult(
        request_id=step.request_id,
        run_no=step.run_no,
        step_id=step.step_id,
        action=step.action,
        attempt=step.attempt,
        status=ending.status,
        failure=ending.failure,
        started_at=started_at,
        finished_at=finished_at,
    )


def is_repeatable(step: Step) -> bool:
    """Whether doing the step twice means no more than doing it once."""
    return step.effect != "effect"


def judge(step: Step, error: Exception) -> Ending:
    """How an attempt ended that raised ``error``; see the table of this module."""
    match error:
        case UnusableAnswerError():
            ending = _ended(step, error.code, error.reason)
        case TransientError():
            ending = _refused(error, retriable=True, retry_after=error.retry_after)
        case PermanentError() | ConfigurationError():
            ending = _refused(error)
        case MillstreamError():
            ending = _ended(step, error.code, error.reason, retriable=True)
        case TimeoutError():
            ending = _ended(step, "timeout", f"no answer in time ({error})", retriable=True)
        case ConnectionError():
            ending = _ended(step, "transient", f"the connection broke ({error})", retriable=True)
        case _:
            _log.error("executor_bug", action=step.action, step_id=step.step_id, exc_info=error)
            reason = f"the executor failed unexpectedly ({type(error).__name__}: {error})"
            ending = _ended(step, "bug", reason)
    return ending


def unknown(code: ErrorCode, reason: str) -> Ending:
    """The ending of an effect that nobody knows the outcome of."""
    text = f"{reason}; whether it took effect is not known"
    return Ending("unknown", Failure(code=code, reason=sayable(text)))


def sayable(text: str) -> str:
    """``text`` as the reason of a failure may hold it: without secrets, printable, not too long."""
    cleaned = _CONTROL_CHARACTERS.sub(" ", redacted(text)).strip()
    # A surrogate that stands alone has no form in UTF-8.
    cleaned = cleaned.encode(errors="replace").decode()
    return cleaned[:_MAX_REASON] or "no reason was given"


def check_output(output: object) -> None:
    """Make sure that ``output`` can travel on and be stored.

    Raises:
        UnusableAnswerError: It is no JSON object, has a character that Postgres or UTF-8 cannot
            hold, or is too large.
    """
    if not isinstance(output, dict) or not all(isinstance(name, str) for name in output):
        raise UnusableAnswerError(
            f"the executor returned {type(output).__name__}, not a JSON object", code="bug"
        )
    if is_too_deep(output):
        raise UnusableAnswerError(
            f"the output nests deeper than {MAX_DEPTH} levels", code="message_too_large"
        )
    try:
        text = json.dumps(output, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableAnswerError(f"the output is no JSON ({error})", code="bug") from error
    if _ESCAPED_NUL.search(text):
        raise UnusableAnswerError("the output holds the character U+0000", code="invalid_message")
    if size > MAX_OUTPUT:
        raise UnusableAnswerError(
            f"the output takes {size} bytes as JSON, more than the {MAX_OUTPUT} that a step may "
            "put out",
            code="message_too_large",
        )


def _broken_off(step: Step, error: TimeoutError, attempt: _Attempt, *, is_stopped: bool) -> Ending:
    """What to say of a call that was ended from outside, which is what ``error`` comes from."""
    reason = f"it took longer than {step.timeout:g} s"
    if is_stopped:
        reason = "the execution was stopped in the middle of it"
    code: ErrorCode = "cancelled" if is_stopped else "timeout"
    if attempt.has_left and not is_called_off(error.__cause__):
        return _ended(step, code, reason, retriable=not is_stopped)
    failure = Failure(code=code, reason=f"{reason}; nothing was done", retriable=not is_stopped)
    return Ending("failed", failure)


def _refused(
    error: MillstreamError, *, retriable: bool = False, retry_after: float | None = None
) -> Ending:
    """Failed for certain, and without an effect."""
    reason = sayable(error.reason)
    return Ending(
        "failed",
        Failure(code=error.code, reason=reason, retriable=retriable, retry_after=retry_after),
    )


def _ended(step: Step, code: ErrorCode, reason: str, *, retriable: bool = False) -> Ending:
    """Failed where a repetition does no harm, else unknown."""
    if not is_repeatable(step):
        return unknown(code, reason)
    return Ending("failed", Failure(code=code, reason=sayable(reason), retriable=retriable))
