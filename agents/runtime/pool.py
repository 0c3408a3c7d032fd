"""Handles records of one key one after the other, different keys at the same time.

A partition's offset is reported as finished only up to the first record whose handler has not
returned, so a commit never passes unfinished work.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from agents.runtime.records import Record, TopicPartition
from agents.runtime.window import Batch

#: How long a cancelled handler may take to clean up before the pool stops waiting for it.
_CANCEL_SECONDS = 1.0

Handler = Callable[[Record], Awaitable[None]]
KeyOf = Callable[[Record], bytes | None]


def record_key(record: Record) -> bytes | None:
    """Return the key of the record itself: the default order of a pool."""
    return record.key


class _Entry:
    """A record and whether its handler has returned."""

    __slots__ = ("done", "ledger", "record", "taken_at")

    def __init__(self, record: Record, ledger: "_Ledger", taken_at: float) -> None:
        self.record = record
        self.ledger = ledger
        self.taken_at = taken_at
        self.done = False


class _Ledger:
    """Entries of one partition in order, for as long as one assignment lasts.

    The object itself is the generation: a completion that comes after the partition was given up
    meets a closed ledger and changes nothing.
    """

    __slots__ = ("closed", "entries", "epoch", "partition", "report_due", "running")

    def __init__(self, partition: TopicPartition, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.entries: deque[_Entry] = deque()
        self.running: set[asyncio.Task[None]] = set()
        self.report_due = False
        self.closed = False


class KeyedPool:
    """Runs a handler over records with order per key and bounded concurrency.

    It takes whatever it is given: the transport bounds how much that is, because only commits
    give permits back (see :mod:`agents.runtime.window`). All methods belong to the event loop.

    Args:
        handler: Called once for each record. Whatever it raises stops the pool: policy about
            failures lives inside the handler.
        on_finished: Told ``(partition, epoch, next_offset)`` when everything before
            ``next_offset`` is done. Called at most once per partition and loop turn.
        on_crash: Told what a handler raised. The record stays unfinished.
        key_of: What must stay in order. Records whose key is None never wait for each other.
        concurrency: Most handlers that run at the same time.
        finishes: Whether what runs may go on when its partition is given up. Nothing is reported
            of it, and it is cancelled only when the pool is drained or abandoned.
    """

    def __init__(
        self,
        handler: Handler,
        *,
        on_finished: Callable[[TopicPartition, int, int], None],
        on_crash: Callable[[BaseException], None],
        key_of: KeyOf = record_key,
        concurrency: int = 256,
        finishes: bool = False,
    ) -> None:
        self._handler = handler
        self._on_finished = on_finished
        self._on_crash = on_crash
        self._key_of = key_of
        self._concurrency = concurrency
        self._finishes = finishes
        self._ledgers: dict[TopicPartition, _Ledger] = {}
        #: Given up with handlers that still run.
        self._parted: set[_Ledger] = set()
        # A key is in here while it has a record that waits or runs.
        self._queues: dict[bytes, deque[_Entry]] = {}
        self._ready: deque[tuple[bytes | None, deque[_Entry]]] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._unstarted = 0
        self._unreported: list[_Ledger] = []
        #: How many handlers have ended, however they did.
        self.ended = 0
        self._handler_ended = asyncio.Event()
        self._halted = False

    @property
    def running(self) -> int:
        """How many handlers run now."""
        return sum(len(ledger.running) for ledger in self._all())

    @property
    def unfinished(self) -> int:
        """How many records were taken and are not covered by a reported offset."""
        return sum(len(ledger.entries) for ledger in self._ledgers.values())

    @property
    def oldest_seconds(self) -> float:
        """How long ago the oldest of them was taken; 0 if there is none."""
        taken = [ledger.entries[0].taken_at for ledger in self._ledgers.values() if ledger.entries]
        return time.monotonic() - min(taken) if taken else 0.0

    def assign(self, partition: TopicPartition, epoch: int) -> None:
        """Accept records of ``partition`` that carry ``epoch``, from now on."""
        self._part(partition)
        self._ledgers[partition] = _Ledger(partition, epoch)

    def submit(self, batch: Batch) -> None:
        """Take a batch; one of an assignment that has ended is dropped.

        Raises:
            ValueError: Offsets do not rise. Going on would let a commit pass a record.
        """
        ledger = self._ledgers.get(batch.partition)
        if ledger is None or ledger.epoch != batch.epoch or self._halted:
            return
        entries, queues, ready, key_of = ledger.entries, self._queues, self._ready, self._key_of
        last = entries[-1].record.offset if entries else -1
        now = time.monotonic()
        for record in batch.records:
            if record.offset <= last:
                raise ValueError(f"{batch.partition}: offset {record.offset} came after {last}")
            last = record.offset
            entry = _Entry(record, ledger, now)
            entries.append(entry)
            key = key_of(record)
            if key is None:
                ready.append((None, deque((entry,))))
            elif (queue := queues.get(key)) is not None:
                queue.append(entry)
            else:
                queue = queues[key] = deque((entry,))
                ready.append((key, queue))
        self._start_runners()

    async def revoke(self, partitions: Iterable[TopicPartition], *, grace: float) -> None:
        """Give partitions up.

        What has not started never will. What runs has ``grace`` seconds to finish; then it is
        cancelled, or goes on where handlers may finish. Everything that finished in time is
        reported when this returns; nothing is reported later.
        """
        ledgers = [self._ledgers[each] for each in partitions if each in self._ledgers]
        for ledger in ledgers:
            ledger.closed = True
        await self._wait(ledgers, grace)
        self._report()
        for ledger in ledgers:
            self._part(ledger.partition)

    async def drain(self, grace: float) -> bool:
        """Start nothing more and wait for what runs.

        Args:
            grace: Seconds to wait; what still runs then is cancelled.

        Returns:
            Whether everything that had started has finished.
        """
        self._halted = True
        finished = await self._wait(self._all(), grace)
        self._report()
        for ledger in self._all():
            self._close(ledger)
        if self._runners:
            await asyncio.wait(self._runners, timeout=_CANCEL_SECONDS)
        return finished

    def abandon(self) -> None:
        """Cancel every handler that runs and start nothing more."""
        self._halted = True
        for ledger in self._all():
            for task in ledger.running:
                task.cancel()

    def _all(self) -> list[_Ledger]:
        return [*self._ledgers.values(), *self._parted]

    async def _wait(self, ledgers: Iterable[_Ledger], grace: float) -> bool:
        """Wait until no handler runs for ``ledgers``; False when ``grace`` seconds were too few."""
        ledgers = list(ledgers)
        try:
            async with asyncio.timeout(grace):
                while any(ledger.running for ledger in ledgers):
                    self._handler_ended.clear()
                    await self._handler_ended.wait()
        except TimeoutError:
            return False
        return True

    def _part(self, partition: TopicPartition) -> None:
        """Forget a partition; what runs is cancelled, unless it may finish."""
        ledger = self._ledgers.get(partition)
        if ledger is None:
            return
        if self._finishes and ledger.running:
            self._parted.add(ledger)
            ledger.closed = True
            ledger.entries.clear()
            del self._ledgers[partition]
        else:
            self._close(ledger)

    def _close(self, ledger: _Ledger) -> None:
        """Forget what is left of a partition, and cancel what runs."""
        self._parted.discard(ledger)
        if self._ledgers.get(ledger.partition) is ledger:
            del self._ledgers[ledger.partition]
        ledger.closed = True
        ledger.entries.clear()
        for task in ledger.running:
            task.cancel()

    def _start_runners(self) -> None:
        if self._halted:
            return
        wanted = len(self._ready) - self._unstarted
        for _ in range(min(wanted, self._concurrency - len(self._runners))):
            self._unstarted += 1
            task = asyncio.create_task(self._run())
            self._runners.add(task)
            task.add_done_callback(self._runner_ended)

    def _runner_ended(self, task: asyncio.Task[None]) -> None:
        self._runners.discard(task)
        # A cancelled runner leaves work behind.
        self._start_runners()

    async def _run(self) -> None:
        """Handle the first record of one ready key after another, until none is ready.

        One task serves many records, which is cheaper than a task for each.
        """
        self._unstarted -= 1
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - tells the type checker that this is a coroutine of a task
        ready = self._ready
        while ready and not self._halted:
            key, queue = ready.popleft()
            entry = queue.popleft()
            try:
                if not entry.ledger.closed:
                    await self._handle(entry, task)
            finally:
                # Back of the line, so that a long queue of one key does not starve the others.
                if queue:
                    ready.append((key, queue))
                elif key is not None:
                    del self._queues[key]

    async def _handle(self, entry: _Entry, task: asyncio.Task[None]) -> None:
        ledger = entry.ledger
        ledger.running.add(task)
        try:
            await self._handler(entry.record)
        except BaseException as error:
            if task.cancelling():  # by us: the partition was given up, and nobody asks any more
                raise asyncio.CancelledError from error
            self._halted = True
            self._on_crash(error)
        else:
            entry.done = True
            self._schedule_report(entry)
        finally:
            ledger.running.discard(task)
            if not ledger.running:
                self._parted.discard(ledger)
            self.ended += 1
            self._handler_ended.set()

    def _schedule_report(self, entry: _Entry) -> None:
        ledger = entry.ledger
        if ledger.entries and ledger.entries[0] is entry and not ledger.report_due:
            ledger.report_due = True
            if not self._unreported:
                asyncio.get_running_loop().call_soon(self._report)
            self._unreported.append(ledger)

    def _report(self) -> None:
        """Report how far each partition has finished without a gap."""
        unreported, self._unreported = self._unreported, []
        for ledger in unreported:
            ledger.report_due = False
            entries = ledger.entries
            next_offset = None
            while entries and entries[0].done:
                next_offset = entries.popleft().record.offset + 1
            if next_offset is not None:
                self._on_finished(ledger.partition, ledger.epoch, next_offset)
