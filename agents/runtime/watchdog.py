"""Ends a process that has stopped to make progress, and says where it hangs.

Three things can stop: a role has work and no attempt of it ends; the thread that polls Kafka is
dead or stuck; the event loop itself is blocked. A task of the loop watches the first two, a thread
watches the loop. Either writes the stacks of all tasks and threads to the log and ends the process
with status 70, without any clean-up that could hang, too: whoever runs it starts it again, and
nothing was acked that is not done.

Time is counted in looks: a process that was stopped, or a machine that slept, has not been idle.
"""

import asyncio
import faulthandler
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final, Self, TextIO

import structlog

EXIT_STATUS: Final = 70
"""EX_SOFTWARE of sysexits.h: an internal error."""
LEAST_SECONDS: Final = 120.0
"""The shortest time that counts as a hang, unless settings say otherwise."""

_LOOK_SECONDS: Final = 1.0
#: Writing the stacks may hang as well, such as on a full pipe.
_LAST_WORDS_SECONDS: Final = 10.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pulse:
    """What can be seen of one role at a moment.

    Attributes:
        role: Its name.
        attempts: How many attempts have ended so far.
        has_work: Whether it has records that are not finished.
        is_away: Whether it waits for Kafka or Postgres, which is no hang.
        turns: How often its poll thread has come round so far; ``None`` before it is started.
        poll_thread_is_dead: Whether that thread has ended without being told to.
        patience: Seconds without progress that count as a hang.
    """

    role: str
    attempts: int
    has_work: bool
    is_away: bool
    turns: int | None
    poll_thread_is_dead: bool
    patience: float


class _Idle:
    """For how long a number has not changed."""

    __slots__ = ("_value", "seconds")

    def __init__(self) -> None:
        self._value: int | None = None
        self.seconds = 0.0

    def look(self, value: int | None, elapsed: float, *, paused: bool) -> None:
        if paused or value is None or value != self._value:
            self._value = value
            self.seconds = 0.0
        else:
            self.seconds += elapsed


class Watchdog:
    """Watches the event loop in which it is started, and what :data:`pulses` tells of its roles.

    Args:
        pulses: Called in the loop, about once a second.
        loop_patience: Seconds for which the loop may be blocked.
        end: Called with the reason when something hangs, in the loop or in the watching thread.
        monotonic: Tells the time.
        look_every: Seconds between two looks.
    """

    def __init__(
        self,
        pulses: Callable[[], Sequence[Pulse]],
        *,
        loop_patience: float = LEAST_SECONDS,
        end: Callable[[str, asyncio.AbstractEventLoop], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        look_every: float = _LOOK_SECONDS,
    ) -> None:
        self._pulses = pulses
        self._loop_patience = loop_patience
        self._end = end_process if end is None else end
        self._monotonic = monotonic
        self._look_every = look_every
        self._stalled: dict[str, _Idle] = {}
        self._stuck: dict[str, _Idle] = {}
        self._beats = 0
        self._looked_at: float | None = None
        self._problem: str | None = None
        self._stopping = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._watch_roles(), name="watchdog")
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._watch_loop, args=(loop,), name="watchdog", daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()

    def stalled(self) -> Mapping[str, float]:
        """For how many seconds each role has had work without an attempt ending."""
        return {role: idle.seconds for role, idle in self._stalled.items()}

    async def check(self) -> str | None:
        """What hangs, if anything does."""
        return self._problem

    def look(self) -> str | None:
        """Take everybody's pulse; returns what hangs for too long, if anything does."""
        now = self._monotonic()
        # The time in which we were not running either is nobody's fault.
        elapsed = min(now - (self._looked_at or now), 2 * self._look_every)
        self._looked_at = now
        problem: str | None = None
        for pulse in self._pulses():
            stalled = self._stalled.setdefault(pulse.role, _Idle())
            stuck = self._stuck.setdefault(pulse.role, _Idle())
            stalled.look(pulse.attempts, elapsed, paused=pulse.is_away or not pulse.has_work)
            stuck.look(pulse.turns, elapsed, paused=pulse.is_away)
            problem = problem or _judge(pulse, stalled.seconds, stuck.seconds)
        return problem

    async def _watch_roles(self) -> None:
        while True:
            self._beats += 1
            self._problem = self.look()
            if self._problem is not None:
                self._end(self._problem, asyncio.get_running_loop())
                return
            await asyncio.sleep(self._look_every)

    def _watch_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        blocked, beats, before = 0.0, self._beats, self._monotonic()
        while not self._stopping.wait(self._look_every):
            now = self._monotonic()
            if self._beats != beats or loop.is_closed():
                beats, blocked = self._beats, 0.0
            else:
                blocked += min(now - before, 2 * self._look_every)
            before = now
            if blocked > self._loop_patience:
                self._end(f"the event loop has been blocked for {blocked:.0f} s", loop)
                return


def _judge(pulse: Pulse, stalled: float, stuck: float) -> str | None:
    if pulse.poll_thread_is_dead:
        return f"the poll thread of {pulse.role} is dead"
    if stuck > pulse.patience:
        return f"the poll thread of {pulse.role} has been stuck for {stuck:.0f} s"
    if stalled > pulse.patience:
        return f"{pulse.role} has work, and no attempt has ended for {stalled:.0f} s"
    return None


def end_process(reason: str, loop: asyncio.AbstractEventLoop) -> None:
    """Log ``reason`` and the stacks of all tasks and threads, and end the process at once."""
    try:
        faulthandler.dump_traceback_later(_LAST_WORDS_SECONDS, exit=True)
        _log.critical("watchdog_ends_process", reason=reason, status=EXIT_STATUS)
        write_task_stacks(loop, sys.stderr)
        sys.stderr.flush()
        faulthandler.dump_traceback()
    finally:
        os._exit(EXIT_STATUS)


def write_task_stacks(loop: asyncio.AbstractEventLoop, stream: TextIO) -> None:
    """Write where every task of ``loop`` waits; tasks that wait at the same place are one entry."""
    alike: Counter[tuple[str, str]] = Counter()
    for task in asyncio.all_tasks(loop):
        stack = "".join(traceback.format_list(traceback.StackSummary.extract(_frames(task))))
        alike[_kind(task), stack] += 1
    for (name, stack), number in alike.most_common():
        times = f" ({number} of them)" if number > 1 else ""
        stream.write(f"Task {name}{times}:\n{stack or '    (no Python frame)'}\n")


def _kind(task: asyncio.Task[Any]) -> str:
    """The task's name, or its coroutine's where it has only a number."""
    name, coroutine = task.get_name(), task.get_coro()
    return getattr(coroutine, "__qualname__", name) if name.startswith("Task-") else name


def _frames(task: asyncio.Task[Any]) -> Iterator[tuple[FrameType, int]]:
    """The frames of a suspended task, outermost first; ``Task.get_stack`` gives only that one."""
    waits: Any = task.get_coro()
    while waits is not None:
        frame = (
            getattr(waits, "cr_frame", None)
            or getattr(waits, "gi_frame", None)
            or getattr(waits, "ag_frame", None)
        )
        if frame is not None:
            yield frame, frame.f_lineno
        waits = (
            getattr(waits, "cr_await", None)
            or getattr(waits, "gi_yieldfrom", None)
            or getattr(waits, "ag_await", None)
        )
