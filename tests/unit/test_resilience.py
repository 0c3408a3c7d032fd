"""Retrying: how often, how long in between, and when not."""

import asyncio
from datetime import timedelta

import pytest
from support.clocks import RecordingClock

from agents.runtime.errors import TransientError
from agents.runtime.resilience import (
    JITTER,
    LONGEST_WAIT,
    Backoff,
    call_with_backoff,
    retries_off,
    retry_with_backoff,
)


class Flaky:
    """Fails with the given errors, one a call, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def always_lost() -> list[Exception]:
    return [ConnectionError("lost") for _ in range(50)]


@pytest.fixture
def clock() -> RecordingClock:
    return RecordingClock()


async def test_waits_one_two_and_four_seconds(clock: RecordingClock) -> None:
    flaky = Flaky(*always_lost()[:3])
    answer = await call_with_backoff(flaky, Backoff(max_attempts=4), clock=clock, random=lambda: 0)
    assert answer == "done"
    assert clock.sleeps == [1, 2, 4]


async def test_jitter_lengthens_a_wait_by_at_most_a_quarter(clock: RecordingClock) -> None:
    await call_with_backoff(
        Flaky(*always_lost()[:3]),
        Backoff(max_attempts=4),
        clock=clock,
        random=lambda: 0.8,
    )
    for planned, waited in zip((1, 2, 4), clock.sleeps, strict=True):
        assert planned < waited <= planned * (1 + JITTER)


async def test_raises_the_last_error_when_the_attempts_are_used_up(clock: RecordingClock) -> None:
    flaky = Flaky(ConnectionError("first"), ConnectionError("second"), ConnectionError("third"))
    with pytest.raises(ConnectionError, match="third"):
        await call_with_backoff(flaky, Backoff(), clock=clock)
    assert flaky.calls == 3
    assert len(clock.sleeps) == 2


async def test_an_error_that_is_not_named_is_raised_at_once(clock: RecordingClock) -> None:
    flaky = Flaky(KeyError("bug"))
    with pytest.raises(KeyError):
        await call_with_backoff(flaky, Backoff(), clock=clock)
    assert (flaky.calls, clock.sleeps) == (1, [])


async def test_waits_as_long_as_the_other_side_asks(clock: RecordingClock) -> None:
    flaky = Flaky(TransientError("busy", retry_after=7), TransientError("busy", retry_after=0.1))
    await call_with_backoff(
        flaky, Backoff(exceptions=(TransientError,)), clock=clock, random=lambda: 0
    )
    assert clock.sleeps == [7, 2]


async def test_gives_up_when_asked_to_wait_for_longer_than_a_retry_in_place_may(
    clock: RecordingClock,
) -> None:
    flaky = Flaky(TransientError("closed for today", retry_after=LONGEST_WAIT + 1))
    with pytest.raises(TransientError, match="closed"):
        await call_with_backoff(flaky, Backoff(exceptions=(TransientError,)), clock=clock)
    assert clock.sleeps == []


async def test_backoff_is_cut_to_the_longest_wait(clock: RecordingClock) -> None:
    flaky = Flaky(*always_lost()[:9])
    await call_with_backoff(flaky, Backoff(max_attempts=10), clock=clock, random=lambda: 0)
    assert clock.sleeps == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_delay_too_large_for_a_float_is_cut_too() -> None:
    backoff = Backoff(exponential_base=10, max_attempts=1000)
    assert backoff.delay_after(999, ConnectionError(), random=0) == LONGEST_WAIT


async def test_begins_no_wait_that_would_end_after_the_deadline(clock: RecordingClock) -> None:
    flaky = Flaky(*always_lost())
    with pytest.raises(ConnectionError):
        await call_with_backoff(
            flaky,
            Backoff(max_attempts=9),
            clock=clock,
            random=lambda: 0,
            deadline=clock.now() + timedelta(seconds=4),
        )
    assert clock.sleeps == [1, 2]


async def test_can_be_switched_off_for_a_block(clock: RecordingClock) -> None:
    flaky = Flaky(*always_lost())
    with retries_off(), pytest.raises(ConnectionError):
        await call_with_backoff(flaky, Backoff(), clock=clock)
    assert flaky.calls == 1
    with pytest.raises(ConnectionError):
        await call_with_backoff(flaky, Backoff(), clock=clock)
    assert flaky.calls == 4


async def test_a_cancelled_call_is_not_tried_again(clock: RecordingClock) -> None:
    started = asyncio.Event()

    async def hang() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call_with_backoff(hang, Backoff(), clock=clock))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleeps == []


async def test_decorates_an_async_function() -> None:
    flaky = Flaky(ConnectionError("lost"), TimeoutError("late"))

    @retry_with_backoff(initial_delay=0)
    async def fetch(word: str) -> str:
        """Say it."""
        return f"{word} {await flaky()}"

    assert await fetch("all") == "all done"
    assert flaky.calls == 3
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Say it.")


def test_decorates_a_sync_function() -> None:
    errors = [ConnectionError("lost")]
    calls = 0

    @retry_with_backoff(initial_delay=0)
    def fetch() -> str:
        nonlocal calls
        calls += 1
        if errors:
            raise errors.pop()
        return "done"

    assert fetch() == "done"
    assert calls == 2


def test_a_decorated_function_can_be_switched_off_too() -> None:
    calls = 0

    @retry_with_backoff()
    def fetch() -> None:
        nonlocal calls
        calls += 1
        raise ConnectionError("lost")

    with retries_off(), pytest.raises(ConnectionError):
        fetch()
    assert calls == 1


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"initial_delay": -1}, {"exponential_base": 0.5}]
)
def test_refuses_a_policy_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        retry_with_backoff(**wrong)  # type: ignore[arg-type]  # one field at a time, by name
