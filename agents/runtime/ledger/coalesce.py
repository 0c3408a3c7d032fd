"""Calls that are made at the same time share one transaction.

Nobody waits for company: a batch takes what is queued when the previous one has ended. Under load
batches grow by themselves, and a lone call is on its way after one turn of the loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from agents.runtime.errors import InfrastructureError, MillstreamError
from agents.runtime.metrics import BatchMetrics

Item = TypeVar("Item")
Answer = TypeVar("Answer")

Handle = Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]]
"""Does a batch in one transaction; an exception among the answers is for its caller alone."""

DEFAULT_LIMIT: Final = 200


class Coalescer(Generic[Item, Answer]):
    """Hands what callers submit to ``handle``, one batch at a time, in the order of submission.

    When ``handle`` itself raises, an infrastructure error is everybody's; after any other error
    each item is handled alone, so that a poisonous one harms nobody else.
    """

    def __init__(
        self,
        handle: Handle[Item, Answer],
        *,
        limit: int = DEFAULT_LIMIT,
        metrics: BatchMetrics | None = None,
    ) -> None:
        self._handle = handle
        self._limit = limit
        self._metrics = BatchMetrics() if metrics is None else metrics
        self._queue: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """What ``handle`` answers for ``item``.

        Who is cancelled while waiting may find that the item was handled nevertheless.
        """
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="ledger-flusher")
        return await future

    async def drain(self) -> None:
        """Return when nothing is queued or under way."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])

    async def _flush(self) -> None:
        try:
            while self._queue:
                await asyncio.sleep(0)  # who is ready in this turn of the loop comes along
                if batch := self._take():
                    await self._answer(batch)
        finally:
            self._flusher = None
            for _, future in self._queue:  # empty, unless the loop is being shut down
                future.cancel()
            self._queue.clear()

    def _take(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        while self._queue and len(batch) < self._limit:
            entry = self._queue.popleft()
            if not entry[1].done():
                batch.append(entry)
        return batch

    async def _answer(self, batch: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        began = time.perf_counter()
        try:
            answers = await self._handle([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except InfrastructureError as error:
            for _, future in batch:
                _settle(future, _copy(error))
        except Exception as error:  # noqa: BLE001  # it is handed to the caller whose item it is
            if len(batch) == 1:
                _settle(batch[0][1], error)
                return
            for entry in batch:
                await self._answer([entry])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _settle(future, answer)
        finally:
            self._metrics.ended(len(batch), time.perf_counter() - began)


def _settle(future: asyncio.Future[Any], answer: Any) -> None:
    if future.done():  # the caller was cancelled meanwhile
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _copy(error: MillstreamError) -> MillstreamError:
    """An error of one's own for each caller, as a traceback grows with everyone who raises it."""
    copy = type(error)(error.reason, code=error.code)
    copy.__cause__ = error.__cause__
    return copy
