"""Steps that are being carried out, and how a cancel reaches them.

The router writes in the ledger that an execution is being cancelled. One query for each period and
process asks that for all steps that are running; where none is, nobody asks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Final
from uuid import UUID

import structlog

from agents.runtime.errors import InfrastructureError

DEFAULT_PERIOD: Final = 0.5
_CALLED_OFF: Final = "nothing was done"

RunKey = tuple[str, UUID]
"""Lane and correlation id."""
FindStopping = Callable[[Collection[RunKey]], Awaitable[Collection[RunKey]]]
"""Which of the executions are being cancelled."""

_log = structlog.get_logger(__name__)


def called_off() -> asyncio.CancelledError:
    """The error of something that was cancelled and has had no effect, for certain.

    Timeouts know no subclass of ``CancelledError``, so its argument says it.
    """
    return asyncio.CancelledError(_CALLED_OFF)


def is_called_off(error: BaseException | None) -> bool:
    """Whether ``error`` says that what was cancelled has had no effect."""
    return isinstance(error, asyncio.CancelledError) and error.args == (_CALLED_OFF,)


@contextmanager
def without_effect() -> Iterator[None]:
    """Says that what is cancelled inside the block has had no effect.

    An executor puts it around what it does before anything leaves the process, or can be taken
    back. Elsewhere a cancelled ``effect`` is in doubt.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        raise called_off() from error


class Running:
    """One step in the hands of an executor."""

    def __init__(self) -> None:
        self.is_stopped = False
        """Whether its execution is being cancelled."""
        self._limit: asyncio.Timeout | None = None

    @contextmanager
    def ends(self, limit: asyncio.Timeout) -> Iterator[None]:
        """Have a stop end the block around this one as if its time were up.

        Args:
            limit: The timeout that has just been entered.
        """
        self._limit = limit
        try:
            yield
        finally:
            self._limit = None

    def stop(self) -> None:
        """Say that it is not wanted any more, and break off what can be broken off."""
        self.is_stopped = True
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())


class RunningSteps:
    """All steps that a process carries out.

    Args:
        find: Asks the ledger.
        period: Seconds between two questions, and so about the longest that a step goes on.
    """

    def __init__(self, find: FindStopping, period: float = DEFAULT_PERIOD) -> None:
        self._find = find
        self._period = period
        self._steps: dict[RunKey, set[Running]] = {}
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def step_of(self, lane: str, correlation_id: UUID) -> Iterator[Running]:
        """A step of that execution, which is told inside the block when it is to stop."""
        key, step = (lane, correlation_id), Running()
        self._steps.setdefault(key, set()).add(step)
        if self._watch is None:
            self._watch = asyncio.create_task(self._follow(), name="running-steps")
        try:
            yield step
        finally:
            steps = self._steps[key]
            steps.remove(step)
            if not steps:
                del self._steps[key]

    async def close(self) -> None:
        """Ask no more."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    async def _follow(self) -> None:
        """Ask for as long as steps are running: a process that rests has nothing to ask."""
        try:
            await asyncio.sleep(self._period)
            while self._steps:
                await self._ask()
                await asyncio.sleep(self._period)
        finally:
            self._watch = None

    async def _ask(self) -> None:
        try:
            stopping = await self._find(tuple(self._steps))
        except InfrastructureError as error:
            # Who needs the database says that it is away.
            _log.debug("cancels_not_seen", reason=error.reason)
        except Exception as error:  # noqa: BLE001  # steps go on, and their ends are waited for
            _log.error("cancels_not_seen", exc_info=error)
        else:
            for key in stopping:
                for step in self._steps.get(key, ()):
                    step.stop()


async def nobody_stops(_: Collection[RunKey]) -> Collection[RunKey]:
    """The answer where there is no router."""
    return ()
