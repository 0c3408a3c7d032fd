import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agents.runtime.breaker import BreakerOpenError, Breakers, CircuitBreaker
from agents.runtime.errors import OutcomeUnknownError, PermanentError, TransientError
from agents.runtime.testing import ManualClock


async def succeed() -> str:
    return "done"


def fail_with(error: BaseException) -> Callable[[], Awaitable[str]]:
    async def fail() -> str:
        raise error

    return fail


async def fails(breaker: CircuitBreaker, times: int, error: BaseException | None = None) -> None:
    for _ in range(times):
        raised = error if error is not None else TransientError("503")
        with pytest.raises(type(raised)):
            await breaker.call(fail_with(raised))


def new(clock: ManualClock | None = None, **more: int) -> CircuitBreaker:
    return CircuitBreaker("billing", clock=clock or ManualClock(), **more)


async def test_it_opens_after_five_failures_in_a_row_and_then_asks_nobody() -> None:
    breaker = new()
    await fails(breaker, 4)
    assert breaker.state == "closed"
    await fails(breaker, 1)
    asked = False

    async def ask() -> None:
        nonlocal asked
        asked = True

    with pytest.raises(BreakerOpenError, match="billing failed 5 times") as caught:
        await breaker.call(ask)
    assert not asked
    assert caught.value.retry_after == 60.0
    assert caught.value.code == "breaker_open"


async def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = new()
    await fails(breaker, 4)
    assert await breaker.call(succeed) == "done"
    await fails(breaker, 4)
    assert breaker.state == "closed"


async def test_after_a_minute_one_call_may_try_and_its_success_closes_it() -> None:
    clock = ManualClock()
    breaker = new(clock)
    await fails(breaker, 5)
    clock.advance(59)
    assert breaker.state == "open"
    clock.advance(1)
    assert breaker.state == "half_open"
    assert await breaker.call(succeed) == "done"
    assert breaker.state == "closed"
    await fails(breaker, 4)
    assert breaker.state == "closed"


async def test_a_failed_try_opens_it_for_another_minute() -> None:
    clock = ManualClock()
    breaker = new(clock)
    await fails(breaker, 5)
    clock.advance(60)
    await fails(breaker, 1)
    assert breaker.state == "open"
    clock.advance(59)
    assert breaker.state == "open"


async def test_while_one_call_tries_the_others_are_rejected() -> None:
    clock = ManualClock()
    breaker = new(clock)
    await fails(breaker, 5)
    clock.advance(60)
    release = asyncio.Event()
    trial = asyncio.create_task(breaker.call(release.wait))
    await asyncio.sleep(0)
    with pytest.raises(BreakerOpenError, match="being tried again"):
        await breaker.call(succeed)
    release.set()
    await trial
    assert await breaker.call(succeed) == "done"


async def test_a_try_that_is_cancelled_gives_its_place_back() -> None:
    clock = ManualClock()
    breaker = new(clock)
    await fails(breaker, 5)
    clock.advance(60)
    trial = asyncio.create_task(breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert await breaker.call(succeed) == "done"


async def test_a_call_that_began_before_it_opened_has_no_say_any_more() -> None:
    clock = ManualClock()
    breaker = new(clock)
    release = asyncio.Event()
    early = asyncio.create_task(breaker.call(release.wait))
    await asyncio.sleep(0)
    await fails(breaker, 5)
    release.set()
    await early
    assert breaker.state == "open"


@pytest.mark.parametrize(
    "error",
    [
        PermanentError("400"),
        TransientError("429", code="rate_limited"),
        ValueError("a bug"),
    ],
)
async def test_what_the_caller_is_to_blame_for_does_not_count(error: Exception) -> None:
    breaker = new()
    await fails(breaker, 20, error)
    assert breaker.state == "closed"


@pytest.mark.parametrize(
    "error", [OutcomeUnknownError("cut"), ConnectionResetError(), TimeoutError()]
)
async def test_broken_and_silent_connections_count(error: Exception) -> None:
    breaker = new()
    await fails(breaker, 5, error)
    assert breaker.state == "open"


async def test_each_dependency_has_one_breaker_and_changes_are_told() -> None:
    seen: list[tuple[str, str]] = []
    breakers = Breakers(ManualClock(), on_change=lambda name, state: seen.append((name, state)))
    assert breakers.of("a") is breakers.of("a")
    await fails(breakers.of("a"), 5)
    assert breakers.of("b").state == "closed"
    assert seen == [("a", "open")]
