import asyncio

import pytest

from agents.runtime.deadlines import Deadlines


async def forever() -> None:
    await asyncio.Event().wait()


async def answer() -> str:
    await asyncio.sleep(0)
    return "done"


async def test_what_is_in_time_is_left_alone() -> None:
    assert await Deadlines(10.0).limit(answer()) == "done"


async def test_what_takes_longer_is_cancelled_with_a_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"longer than 0\.01 s"):
        await Deadlines(0.01).limit(forever())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_many_are_watched_and_only_those_that_are_late_end() -> None:
    deadlines = Deadlines(0.05)
    results = await asyncio.gather(
        *(deadlines.limit(forever() if number % 2 else answer()) for number in range(50)),
        return_exceptions=True,
    )
    assert [isinstance(result, TimeoutError) for result in results] == [False, True] * 25


async def test_a_cancellation_from_outside_stays_one() -> None:
    task = asyncio.create_task(Deadlines(10.0).limit(forever()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_from_outside_wins_over_a_limit_at_the_same_time() -> None:
    deadlines = Deadlines(0.01)

    async def stubborn() -> None:
        try:
            await forever()
        finally:
            task.cancel()

    task = asyncio.create_task(deadlines.limit(stubborn()))
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_handler_that_makes_an_error_of_its_cancellation_leaves_none_behind() -> None:
    async def convert() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise KeyError("converted") from None

    with pytest.raises(KeyError):
        await Deadlines(0.01).limit(convert())
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_error_is_raised_as_it_is() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Deadlines(1.0).limit(fail())


async def test_it_stops_looking_when_nothing_runs() -> None:
    deadlines = Deadlines(0.01)
    await deadlines.limit(answer())
    looking = deadlines._looking
    assert looking is not None
    await looking
    assert await deadlines.limit(answer()) == "done"
