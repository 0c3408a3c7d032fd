"""Time limits of many tasks at once, by one timer.

``asyncio.timeout`` arms and disarms a timer of the loop for every message, which costs more than
many a handler. Here a running handler is an entry in a dictionary, and one task looks every now
and then which of them are overdue: the limit is kept to within a second, at a fraction of the cost.
Time limits that must be exact, such as a step's, use ``asyncio.timeout``.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

T = TypeVar("T")

LOOK_EVERY: Final = 0.5
"""Seconds between two looks, and so the most by which a limit is overrun."""


class Deadlines:
    """Cancels what takes longer than ``seconds``; for one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun: dict[asyncio.Task[object], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._looking: asyncio.Task[None] | None = None

    async def limit(self, awaitable: Awaitable[T]) -> T:
        """Await ``awaitable`` in the current task.

        Raises:
            TimeoutError: It took longer, and was cancelled.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task that it can cancel")
        loop = task.get_loop()
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look())
        self._begun[task] = loop.time()
        told = False
        try:
            return await awaitable
        except asyncio.CancelledError as error:
            # Somebody else may have cancelled the task as well: then that is what it is.
            told = True
            if task in self._overdue and task.uncancel() == 0:
                raise TimeoutError(f"it took longer than {self._seconds:g} s") from error
            raise
        finally:
            del self._begun[task]
            if task in self._overdue:
                self._overdue.discard(task)
                if not told:
                    # The handler made something else of our cancellation: it must not linger.
                    task.uncancel()

    async def _look(self) -> None:
        while self._begun:
            await asyncio.sleep(min(LOOK_EVERY, self._seconds))
            latest = asyncio.get_running_loop().time() - self._seconds
            for task, begun in self._begun.items():
                if begun <= latest and task not in self._overdue:
                    self._overdue.add(task)
                    task.cancel()
