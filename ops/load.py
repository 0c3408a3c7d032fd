"""``millstream load``: requests at a steady rate, and how long they took.

The load is open: requests are sent when they are due, however many are still on their way, as
people do not wait for each other either. What is timed is read from history afterwards: from the
broker's receipt of a request to the end of its execution.
"""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from agents.runtime.errors import ConfigurationError, MillstreamError
from agents.runtime.host import kafka_config
from agents.runtime.kafka import Producer
from agents.runtime.settings import Settings
from ops import render
from ops.history import End, History, opened
from ops.load_mix import Mix
from ops.load_progress import LoadProgress
from ops.load_summary import Summary, render_summary, summarise
from ops.submit import Submission, check_intake

_PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|m|h))?")
_LOOK_SECONDS: Final = 0.25
_LOOK_AT: Final = 5_000
"""Executions that are asked about at once; of more, each look takes the next ones."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be sent."""

    mix: Mix
    rate: float
    """Requests a second."""
    count: int


@dataclass(slots=True)
class _Going:
    """How far a load has come."""

    sent: int = 0
    unsent: Counter[str] = field(default_factory=Counter)
    pending: deque[UUID] = field(default_factory=deque)
    """Executions that have been asked for and have not ended yet."""
    ends: list[End] = field(default_factory=list)
    began: float = 0.0
    last_sent: float = 0.0


def parse_rate(text: str) -> float:
    """Requests a second, of ``50/s``, ``600/m``, ``900/h`` or a bare number.

    Raises:
        ConfigurationError: It is no rate, or nothing would ever be sent.
    """
    match = _RATE.fullmatch(text.replace(" ", ""))
    if match is None or not float(match[1]):
        raise ConfigurationError(f"{text!r} is no rate; say 50/s, 600/m or 900/h")
    return float(match[1]) / _PER[match[2] or "s"]


def run(settings: Settings, load: Load, *, wait: float | None, as_json: bool) -> int:
    """Send a load and say what came of it.

    Args:
        settings: Where broker and database are.
        load: What to send.
        wait: Seconds to wait for ends when all is sent; ``None`` to follow nothing.
        as_json: Whether a program reads the answer.

    Returns:
        The exit code: 0 when all was sent and has ended, 1 when something is missing.

    Raises:
        KafkaUnavailableError: No broker answers.
        ConfigurationError: The broker has no intake topic.
        DatabaseUnavailableError: Postgres does not answer, so nothing can be followed.
    """
    check_intake(settings)
    with (
        opened(settings) if wait is not None else nullcontext() as history,
        LoadProgress(
            render.console(stderr=True), load.count, follows=history is not None
        ) as progress,
    ):
        summary = asyncio.run(_run(settings, load, history, wait or 0.0, progress))
    if as_json:
        render.print_json(summary.as_json())
    else:
        render.console().print(render_summary(summary))
    return 0 if summary.is_complete else 1


async def _run(
    settings: Settings, load: Load, history: History | None, wait: float, progress: LoadProgress
) -> Summary:
    going = _Going()
    if history is None:
        await _send(settings, load, going, progress)
    else:
        sending = asyncio.create_task(_send(settings, load, going, progress))
        try:
            await _follow(history, going, sending, wait, progress)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
    return summarise(
        asked_rate=load.rate,
        sending_seconds=going.last_sent - going.began,
        sent=going.sent,
        unsent=going.unsent,
        ends=going.ends,
        waited=history is not None,
    )


async def _send(settings: Settings, load: Load, going: _Going, progress: LoadProgress) -> None:
    """Send each request when it is due; returns when the broker has answered for all."""
    producer = Producer(kafka_config(settings))
    try:
        going.began = time.monotonic()
        for number, submission in enumerate(load.mix.submissions(load.count)):
            due = going.began + number / load.rate
            # A request that is late is sent at once; those behind it keep to their times.
            if (delay := due - time.monotonic()) > 0:
                await asyncio.sleep(delay)
            elif number % 64 == 0:
                await asyncio.sleep(0)  # whoever is late lets the others have their turn too
            going.last_sent = time.monotonic()
            confirmed = producer.enqueue(submission.record(settings.lane))
            confirmed.add_done_callback(_Taken(going, submission))
            progress.show(number + 1, len(going.ends))
    finally:
        await producer.close()
    await asyncio.sleep(0)  # the last answers are being handed over


@dataclass(frozen=True, slots=True)
class _Taken:
    """Notes what the broker says of a request."""

    going: _Going
    submission: Submission

    def __call__(self, confirmed: asyncio.Future[None]) -> None:
        if confirmed.cancelled():
            return
        error = confirmed.exception()
        if error is None:
            self.going.sent += 1
            self.going.pending.append(self.submission.execution_id)
        else:
            reason = error.reason if isinstance(error, MillstreamError) else repr(error)
            self.going.unsent[reason] += 1


async def _follow(
    history: History,
    going: _Going,
    sending: asyncio.Task[None],
    wait: float,
    progress: LoadProgress,
) -> None:
    """Collect the ends of what was sent, until all have ended or time is up."""
    deadline: float | None = None
    while True:
        if sending.done() and deadline is None:
            sending.result()
            deadline = time.monotonic() + wait
        slice_ = [going.pending.popleft() for _ in range(min(_LOOK_AT, len(going.pending)))]
        ends = await asyncio.to_thread(history.ends_of, slice_) if slice_ else []
        going.ends += ends
        going.pending.extend(_without(slice_, ends))
        progress.show(going.sent, len(going.ends))
        if deadline is not None and (not going.pending or time.monotonic() >= deadline):
            return
        await asyncio.sleep(_LOOK_SECONDS)


def _without(executions: Iterable[UUID], ends: Iterable[End]) -> list[UUID]:
    ended = {end.execution for end in ends}
    return [execution for execution in executions if execution not in ended]
