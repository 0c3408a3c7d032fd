"""The keyed pool: order per key, concurrency between keys, acks that never pass unfinished work."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.pool import KeyedPool
from agents.runtime.records import Record, TopicPartition
from agents.runtime.window import Batch

P0: TopicPartition = ("orders", 0)
P1: TopicPartition = ("orders", 1)


def record(offset: int, key: bytes | None, partition: int = 0) -> Record:
    return Record("orders", partition, offset, 0, key, b"")


@dataclass
class Bench:
    """A pool whose handlers end only when the test lets them."""

    concurrency: int = 100
    finishes: bool = False
    started: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    finished: list[tuple[TopicPartition, int, int]] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)
    most_running: int = 0
    gates: dict[int, asyncio.Future[None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool = KeyedPool(
            self.handle,
            on_finished=lambda *told: self.finished.append(told),
            on_crash=self.crashes.append,
            concurrency=self.concurrency,
            finishes=self.finishes,
        )
        self.pool.assign(P0, 1)

    async def handle(self, each: Record) -> None:
        self.started.append(each.offset)
        self.most_running = max(self.most_running, len(self.started) - len(self.ended))
        try:
            await self.gate(each.offset)
        except asyncio.CancelledError:
            self.cancelled.append(each.offset)
            raise
        self.ended.append(each.offset)

    def gate(self, offset: int) -> asyncio.Future[None]:
        if offset not in self.gates:
            self.gates[offset] = asyncio.get_running_loop().create_future()
        return self.gates[offset]

    async def release(self, *offsets: int) -> None:
        for offset in offsets:
            self.gate(offset).set_result(None)
        await settle()

    async def submit(self, *records: Record, epoch: int = 1) -> None:
        self.pool.submit(Batch(("orders", records[0].partition), epoch, list(records)))
        await settle()


async def settle() -> None:
    """Let everything that can go on go on."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    yield made
    await made.pool.drain(0)


@pytest.fixture
async def patient() -> AsyncIterator[Bench]:
    """Its handlers go on when their partition moves."""
    made = Bench(finishes=True)
    yield made
    await made.pool.drain(0)


async def test_records_of_one_key_are_handled_one_after_the_other(bench: Bench) -> None:
    await bench.submit(record(0, b"a"), record(1, b"a"), record(2, b"a"))
    assert bench.started == [0]
    await bench.release(0)
    assert bench.started == [0, 1]
    await bench.release(1, 2)
    assert bench.ended == [0, 1, 2]


async def test_a_key_stays_in_order_over_batches_and_partitions(bench: Bench) -> None:
    bench.pool.assign(P1, 1)
    await bench.submit(record(0, b"a"))
    await bench.submit(record(7, b"a", partition=1))
    assert bench.started == [0]
    await bench.release(0)
    assert bench.started == [0, 7]


async def test_different_keys_are_handled_at_the_same_time(bench: Bench) -> None:
    await bench.submit(record(0, b"a"), record(1, b"b"), record(2, b"c"))
    assert bench.started == [0, 1, 2]


async def test_records_without_a_key_do_not_wait_for_each_other(bench: Bench) -> None:
    await bench.submit(record(0, None), record(1, None))
    assert bench.started == [0, 1]


async def test_an_empty_key_is_a_key(bench: Bench) -> None:
    await bench.submit(record(0, b""), record(1, b""))
    assert bench.started == [0]


async def test_a_slow_key_does_not_hold_up_others(bench: Bench) -> None:
    await bench.submit(record(0, b"slow"), *(record(i, b"k%d" % i) for i in range(1, 50)))
    await bench.release(*range(1, 50))
    assert bench.ended == list(range(1, 50))


async def test_finished_never_passes_an_unfinished_record(bench: Bench) -> None:
    await bench.submit(*(record(i, b"k%d" % i) for i in range(5)))
    await bench.release(1, 2)
    assert bench.finished == []
    await bench.release(0)
    assert bench.finished == [(P0, 1, 3)]
    await bench.release(4)
    assert bench.finished == [(P0, 1, 3)]
    await bench.release(3)
    assert bench.finished == [(P0, 1, 3), (P0, 1, 5)]


async def test_finished_counts_over_gaps_between_offsets(bench: Bench) -> None:
    await bench.submit(record(3, b"a"), record(90, b"b"))
    await bench.release(3, 90)
    assert bench.finished[-1] == (P0, 1, 91)


async def test_partitions_finish_independently(bench: Bench) -> None:
    bench.pool.assign(P1, 4)
    await bench.submit(record(0, b"a"))
    await bench.submit(record(9, b"b", partition=1), epoch=4)
    await bench.release(9)
    assert bench.finished == [(P1, 4, 10)]


async def test_no_more_handlers_run_than_allowed() -> None:
    bench = Bench(concurrency=3)
    await bench.submit(*(record(i, None) for i in range(10)))
    assert bench.started == [0, 1, 2]
    await bench.release(*range(10))
    assert sorted(bench.ended) == list(range(10))
    assert bench.most_running == 3


async def test_a_long_queue_of_one_key_does_not_starve_the_others() -> None:
    bench = Bench(concurrency=1)
    await bench.submit(*(record(i, b"busy") for i in range(5)), record(5, b"other"))
    await bench.release(0, 5)
    assert bench.started[:2] == [0, 5]
    await bench.release(1, 2, 3, 4)
    await bench.pool.drain(1)


async def test_what_a_handler_raises_stops_the_pool_and_leaves_its_record_unfinished(
    bench: Bench,
) -> None:
    await bench.submit(*(record(i, b"k%d" % i) for i in range(3)))
    bench.gate(1).set_exception(ZeroDivisionError("bug"))
    await bench.release(0, 2)
    assert [type(each) for each in bench.crashes] == [ZeroDivisionError]
    assert bench.finished == [(P0, 1, 1)]
    await bench.submit(record(3, b"new"))
    assert 3 not in bench.started


async def test_a_cancellation_that_a_handler_lets_out_by_itself_is_a_crash(bench: Bench) -> None:
    await bench.submit(record(0, b"a"))
    bench.gate(0).cancel()
    await settle()
    assert [type(each) for each in bench.crashes] == [asyncio.CancelledError]
    assert bench.finished == []


async def test_running_handlers_may_finish_when_their_partition_moves(bench: Bench) -> None:
    await bench.submit(record(0, b"a"), record(1, b"a"))
    revoked = asyncio.create_task(bench.pool.revoke([P0], grace=5))
    await settle()
    assert not revoked.done()
    await bench.release(0)
    await revoked
    assert bench.finished == [(P0, 1, 1)]
    assert bench.started == [0]


async def test_handlers_that_outlast_the_grace_are_cancelled_and_not_acked(bench: Bench) -> None:
    await bench.submit(record(0, b"a"), record(1, b"b"))
    await bench.pool.revoke([P0], grace=0.01)
    await settle()
    assert sorted(bench.cancelled) == [0, 1]
    assert bench.finished == []
    assert bench.crashes == []


async def test_handlers_that_may_finish_outlast_the_grace_and_are_not_acked(
    patient: Bench,
) -> None:
    await patient.submit(record(0, b"a"), record(1, b"a"), record(2, b"b"))
    await patient.pool.revoke([P0], grace=0.01)
    assert (patient.pool.running, patient.cancelled) == (2, [])
    await patient.release(0, 2)
    assert sorted(patient.ended) == [0, 2]
    assert patient.started == [0, 2], "what had not begun belongs to the new owner"
    assert (patient.pool.running, patient.finished, patient.crashes) == (0, [], [])


async def test_a_record_that_comes_back_waits_for_its_handler_that_may_finish(
    patient: Bench,
) -> None:
    await patient.submit(record(0, b"a"))
    await patient.pool.revoke([P0], grace=0)
    patient.pool.assign(P0, 2)
    await patient.submit(record(0, b"a"), epoch=2)
    assert patient.started == [0]
    await patient.release(0)
    assert patient.started == [0, 0]
    assert patient.finished == [(P0, 2, 1)]


async def test_draining_waits_for_handlers_that_may_finish_and_then_cancels_them(
    patient: Bench,
) -> None:
    await patient.submit(record(0, b"a"), record(1, b"b"))
    await patient.pool.revoke([P0], grace=0)
    draining = asyncio.create_task(patient.pool.drain(0.1))
    await patient.release(0)
    assert not await draining
    await settle()
    assert (patient.ended, patient.cancelled) == ([0], [1])


async def test_a_handler_that_ignores_its_cancellation_is_not_acked() -> None:
    release = asyncio.Event()
    told: list[int] = []

    async def stubborn(_record: Record) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    pool = KeyedPool(
        stubborn,
        on_finished=lambda _partition, _epoch, offset: told.append(offset),
        on_crash=lambda error: pytest.fail(repr(error)),
    )
    pool.assign(P0, 1)
    pool.submit(Batch(P0, 1, [record(0, b"a")]))
    await settle()
    await pool.revoke([P0], grace=0)
    pool.assign(P0, 2)
    pool.submit(Batch(P0, 2, [record(0, b"b")]))
    await settle()
    release.set()
    await settle()
    assert told == [1]  # of the second assignment only


async def test_other_partitions_go_on_while_one_moves(bench: Bench) -> None:
    bench.pool.assign(P1, 1)
    await bench.submit(record(0, b"a"))
    await bench.submit(record(5, b"b", partition=1), record(6, b"c", partition=1))
    await bench.pool.revoke([P0], grace=0)
    await bench.release(5, 6)
    assert bench.finished == [(P1, 1, 7)]


async def test_a_batch_of_an_earlier_assignment_is_dropped(bench: Bench) -> None:
    await bench.pool.revoke([P0], grace=0)
    bench.pool.assign(P0, 2)
    await bench.submit(record(0, b"a"), epoch=1)
    assert bench.started == []
    await bench.submit(record(0, b"a"), epoch=2)
    await bench.release(0)
    assert bench.finished == [(P0, 2, 1)]


async def test_offsets_that_do_not_rise_are_refused(bench: Bench) -> None:
    await bench.submit(record(5, b"a"))
    with pytest.raises(ValueError, match="offset 5 came after 5"):
        await bench.submit(record(5, b"a"))


async def test_draining_finishes_what_runs_and_starts_nothing_more(bench: Bench) -> None:
    await bench.submit(record(0, b"a"), record(1, b"a"))
    draining = asyncio.create_task(bench.pool.drain(5))
    await settle()
    await bench.release(0)
    assert await draining
    assert bench.started == [0]
    assert bench.finished == [(P0, 1, 1)]


async def test_draining_cancels_what_takes_too_long(bench: Bench) -> None:
    await bench.submit(record(0, b"a"))
    assert not await bench.pool.drain(0.01)
    assert bench.cancelled == [0]
    assert bench.finished == []


async def test_abandoning_ends_a_drain_at_once(bench: Bench) -> None:
    await bench.submit(record(0, b"a"))
    draining = asyncio.create_task(bench.pool.drain(60))
    await settle()
    bench.pool.abandon()
    async with asyncio.timeout(1):
        await draining
    assert bench.finished == []


async def test_a_key_can_be_taken_from_elsewhere_than_the_record_key() -> None:
    started: list[int] = []
    by_value: Callable[[Record], bytes | None] = lambda each: each.value  # noqa: E731 - one line says it

    async def handle(each: Record) -> None:
        started.append(each.offset)
        await asyncio.Event().wait()

    pool = KeyedPool(handle, on_finished=lambda *_: None, on_crash=lambda _: None, key_of=by_value)
    pool.assign(P0, 1)
    pool.submit(
        Batch(P0, 1, [Record("orders", 0, 0, 0, b"a", b"x"), Record("orders", 0, 1, 0, b"b", b"x")])
    )
    await settle()
    assert started == [0]
    await pool.drain(0)


@given(
    keys=st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=30),
    order=st.randoms(use_true_random=False),
    concurrency=st.integers(1, 5),
)
def test_any_order_of_completion_keeps_keys_in_order_and_acks_without_gaps(
    keys: list[bytes | None], order: random.Random, concurrency: int
) -> None:
    async def scenario() -> None:
        bench = Bench(concurrency=concurrency)
        await bench.submit(*(record(offset, key) for offset, key in enumerate(keys)))
        while open_ones := [o for o in bench.started if o not in bench.ended]:
            await bench.release(order.choice(open_ones))
            acked = bench.finished[-1][2] if bench.finished else 0
            assert set(range(acked)) <= set(bench.ended)
        assert bench.finished[-1] == (P0, 1, len(keys))
        assert bench.most_running <= concurrency
        for key in {key for key in keys if key is not None}:
            mine = [offset for offset, each in enumerate(keys) if each == key]
            assert [offset for offset in bench.started if offset in mine] == mine
        assert not bench.pool._queues
        await bench.pool.drain(0)

    asyncio.run(scenario())
