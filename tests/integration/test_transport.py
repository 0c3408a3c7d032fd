"""Records through a worker. The main path runs on the embedded broker, too."""

import asyncio
import os
import signal
import threading
from collections import defaultdict
from dataclasses import replace

import psutil
import pytest
from support.delivery import committed, config, create_topic, produce, running
from support.kafka_servers import KafkaServer
from support.waiting import eventually

from agents.runtime.errors import DeliveryError, InfrastructureError, KafkaUnavailableError
from agents.runtime.kafka import KafkaConfig, MessageTooLargeError, Outgoing, Producer
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.records import Record
from agents.runtime.worker import Subscription, Worker, run_worker

pytestmark = pytest.mark.integration


on_both_brokers = pytest.mark.usefixtures("broker")


@pytest.fixture
def address(request: pytest.FixtureRequest, kafka: KafkaServer) -> str:
    if "broker" in request.fixturenames:
        broker: KafkaServer = request.getfixturevalue("broker")
        return broker.bootstrap_servers
    return kafka.bootstrap_servers


@pytest.fixture
def topic(address: str, lane: str) -> str:
    return create_topic(address, f"{lane}orders.v1")


@pytest.fixture
def group(lane: str) -> str:
    return f"{lane}role"


@on_both_brokers
async def test_every_record_is_handled_once_in_order_per_key_and_committed(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, [(b"k%d" % (i % 50), b"%d" % i) for i in range(3000)])
    seen: dict[bytes | None, list[int]] = defaultdict(list)
    at_once = most_at_once = 0

    async def handle(record: Record) -> None:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        await asyncio.sleep(0)
        seen[record.key].append(int(record.value or b""))
        at_once -= 1

    async with running(address, Subscription("role", group, (topic,), handle)):
        await eventually(lambda: sum(map(len, seen.values())) == 3000, "all are handled")
    assert {key: sorted(values) for key, values in seen.items()} == seen
    assert most_at_once > 1
    assert committed(address, group) == 3000


@on_both_brokers
async def test_a_record_arrives_as_it_was_sent(address: str, topic: str, group: str) -> None:
    producer = Producer(config(address))
    arrived: list[Record] = []

    async def handle(record: Record) -> None:
        arrived.append(record)

    headers = (("trace", b"first"), ("empty", b""), ("trace", b"last"))
    async with running(address, Subscription("role", group, (topic,), handle)):
        await producer.send(Outgoing(topic, "ключ".encode(), b"\x00\xff", headers))
        await producer.send(Outgoing(topic, None, None))
        await eventually(lambda: len(arrived) == 2, "both are handled")
    await producer.close()
    by_key = {record.key: record for record in arrived}
    full = by_key["ключ".encode()]
    assert (full.topic, full.offset, full.value, full.headers) == (topic, 0, b"\x00\xff", headers)
    assert full.timestamp_ms > 1_600_000_000_000
    assert full.header("trace") == b"last"
    assert full.header("absent") is None
    assert by_key[None].headers == ()


@on_both_brokers
async def test_a_slow_key_holds_up_neither_other_keys_nor_other_partitions(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, [(b"slow", b"")] + [(b"k%d" % i, b"") for i in range(300)])
    release = asyncio.Event()
    handled: list[bytes | None] = []
    slow: list[Record] = []

    async def handle(record: Record) -> None:
        if record.key == b"slow":
            slow.append(record)
            await release.wait()
        handled.append(record.key)

    async with running(address, Subscription("role", group, (topic,), handle)) as worker:
        await eventually(lambda: len(handled) == 300, "all but the slow one are handled")
        await eventually(lambda: committed(address, group) > 0, "other partitions are committed")
        # The slow record is the first of its partition: nothing after it may be committed.
        offsets = KafkaAdmin(address).consumer_group_offsets(group)
        assert offsets.get((topic, slow[0].partition), 0) == 0
        release.set()
        await eventually(lambda: committed(address, group) == 301, "all is committed")
        worker.request_stop()


async def test_no_more_than_the_window_is_beyond_the_committed_offset(
    address: str, lane: str, group: str
) -> None:
    topic = create_topic(address, f"{lane}one.v1", partitions=1)
    await produce(address, topic, [(b"stuck", b"")] + [(b"k%d" % i, b"") for i in range(500)])
    release = asyncio.Event()
    handled = 0

    async def handle(record: Record) -> None:
        nonlocal handled
        if record.key == b"stuck":
            await release.wait()
        handled += 1

    subscription = Subscription("role", group, (topic,), handle, window=50)
    async with running(address, subscription) as worker:
        await eventually(lambda: handled == 49, "the window is used")
        pool = worker._stations[0].pool
        await asyncio.sleep(0.5)  # time in which more would come
        assert handled == 49
        assert pool.unfinished == 50
        release.set()
        await eventually(lambda: handled == 501, "the rest is handled")


async def test_a_full_partition_pauses_and_goes_on_without_loss(
    address: str, lane: str, group: str
) -> None:
    topic = create_topic(address, f"{lane}two.v1", partitions=2)
    await produce(address, topic, [(b"k%d" % (i % 97), b"x" * 100) for i in range(2000)])
    release = asyncio.Event()
    handled: dict[tuple[int, int], int] = defaultdict(int)

    async def handle(record: Record) -> None:
        await release.wait()
        handled[record.partition, record.offset] += 1

    subscription = Subscription("role", group, (topic,), handle, window=20)
    async with running(address, subscription) as worker:
        poller = worker._stations[0].consumer._poller
        await eventually(
            lambda: [w.paused for w in list(poller._windows.values())] == [True, True],
            "both partitions are paused",
        )
        release.set()
        await eventually(lambda: len(handled) == 2000, "all are handled")
    assert set(handled.values()) == {1}
    assert committed(address, group) == 2000


async def test_a_backlog_of_fifty_thousand_records_takes_bounded_memory(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, ((b"k%d" % i, b"x" * 2000) for i in range(50_000)))
    release = asyncio.Event()
    handled = 0

    async def handle(_record: Record) -> None:
        nonlocal handled
        if handled >= 1000:
            await release.wait()
        handled += 1

    process = psutil.Process()
    before = process.memory_info().rss
    async with running(address, Subscription("role", group, (topic,), handle)):
        await asyncio.sleep(3)  # time to read as much ahead as it ever will
        growth = process.memory_info().rss - before
        release.set()
        await eventually(lambda: handled == 50_000, "all are handled")
    assert growth < 80_000_000, "100 MB wait on the broker; most of them must stay there"
    assert committed(address, group) == 50_000


@on_both_brokers
async def test_stopping_finishes_what_runs_commits_it_and_starts_nothing_more(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, [(b"same", b"%d" % i) for i in range(100)])
    started: list[int] = []
    ended: list[int] = []
    release = asyncio.Event()

    async def handle(record: Record) -> None:
        started.append(record.offset)
        await release.wait()
        ended.append(record.offset)

    worker = Worker(config(address), [Subscription("role", group, (topic,), handle)])
    await worker.start()
    await eventually(lambda: started == [0], "the first record runs")
    worker.request_stop()
    run = asyncio.create_task(worker.run())
    await asyncio.sleep(0.2)
    assert not run.done()
    release.set()
    await asyncio.wait_for(run, 8)
    assert ended == [0]
    assert committed(address, group) == 1


async def test_a_handler_that_outlasts_the_drain_is_cancelled_and_its_record_comes_again(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, [(b"k", b"")])
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def hang(_record: Record) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with running(address, Subscription("role", group, (topic,), hang), drain_timeout=0.2):
        await asyncio.wait_for(started.wait(), 30)
    assert cancelled.is_set()
    assert committed(address, group) == 0
    again = asyncio.Event()

    async def handle(_record: Record) -> None:
        again.set()

    async with running(address, Subscription("role", group, (topic,), handle)):
        await asyncio.wait_for(again.wait(), 30)


async def test_what_a_handler_raises_ends_the_worker_without_an_ack(
    address: str, topic: str, group: str
) -> None:
    await produce(address, topic, [(b"k", b"%d" % i) for i in range(10)])

    async def handle(record: Record) -> None:
        if record.offset == 5:
            raise ZeroDivisionError("a bug of the caller")

    worker = Worker(config(address), [Subscription("role", group, (topic,), handle)])
    await worker.start()
    with pytest.raises(ZeroDivisionError, match="a bug of the caller"):
        await asyncio.wait_for(worker.run(), 30)
    assert committed(address, group) == 5


@on_both_brokers
async def test_several_roles_with_several_topics_share_a_process(address: str, lane: str) -> None:
    topics = tuple(create_topic(address, f"{lane}{name}.v1") for name in ("a", "b", "c"))
    for topic in topics:
        await produce(address, topic, [(b"k%d" % i, topic.encode()) for i in range(100)])
    seen: dict[str, list[tuple[str, int, int]]] = defaultdict(list)

    def subscription(role: str, wanted: tuple[str, ...]) -> Subscription:
        async def handle(record: Record) -> None:
            seen[role].append((record.topic, record.partition, record.offset))

        return Subscription(role, f"{lane}{role}", wanted, handle)

    async with running(address, subscription("router", topics), subscription("sink", topics[:1])):
        await eventually(
            lambda: len(seen["router"]) == 300 and len(seen["sink"]) == 100, "all are handled"
        )
    assert len(set(seen["router"])) == 300
    assert {topic for topic, _, _ in seen["sink"]} == {topics[0]}


async def test_two_workers_get_the_same_partition_numbers_of_each_topic(
    address: str, lane: str, group: str
) -> None:
    topics = tuple(create_topic(address, f"{lane}{name}.v1") for name in ("a", "b"))

    async def handle(_record: Record) -> None: ...

    subscription = Subscription("router", group, topics, handle)
    async with running(address, subscription) as first, running(address, subscription) as second:
        numbers = []

        def split() -> bool:
            numbers[:] = [
                {
                    name: {p for t, p in w._stations[0].consumer._partitions if t == name}
                    for name in topics
                }
                for w in (first, second)
            ]
            return all(len(each[topics[0]]) in {1, 2} for each in numbers)

        await eventually(split, "both workers have partitions")
        for each in numbers:
            assert each[topics[0]] == each[topics[1]]


async def test_a_worker_that_stands_by_is_ready_also_when_others_have_taken_all_it_had(
    address: str, lane: str, group: str
) -> None:
    topics = tuple(create_topic(address, f"{lane}{name}.v1", partitions=1) for name in ("a", "b"))

    async def handle(_record: Record) -> None: ...

    subscription = Subscription("router", group, topics, handle)
    # Partitions go to members in the order of their names, which begin with that of the client.
    late, early = (
        Worker(replace(config(address), client_id=name), [subscription], drain_timeout=5)
        for name in ("b", "a")
    )
    await late.start()
    try:
        await late.wait_assigned(30)
        assert late._stations[0].consumer._partitions
        await early.start()
        await eventually(
            lambda: bool(early.pulses()) and bool(early._stations[0].consumer._partitions),
            "the other one has all partitions",
        )
        await eventually(lambda: not late.waiting_roles, "the first one stands by")
        assert not late._stations[0].consumer._partitions
        await early.stop()
        await eventually(lambda: bool(late._stations[0].consumer._partitions), "it takes over")
        await eventually(lambda: not late.waiting_roles, "and is ready")
    finally:
        await early.stop()
        await late.stop()


async def test_a_signal_stops_a_worker_gracefully(address: str, topic: str, group: str) -> None:
    await produce(address, topic, [(b"k", b"")])

    async def handle(_record: Record) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)

    worker = Worker(config(address), [Subscription("role", group, (topic,), handle)])
    await asyncio.wait_for(run_worker(worker), 30)
    assert committed(address, group) == 1


async def test_a_second_signal_stops_a_worker_at_once(address: str, topic: str, group: str) -> None:
    await produce(address, topic, [(b"k", b"")])

    async def handle(_record: Record) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.Event().wait()

    worker = Worker(
        config(address), [Subscription("role", group, (topic,), handle)], drain_timeout=60
    )
    await asyncio.wait_for(run_worker(worker), 30)
    assert committed(address, group) == 0


async def test_a_worker_leaves_no_thread_and_no_task_behind(
    address: str, topic: str, group: str
) -> None:
    async def handle(_record: Record) -> None: ...

    threads = set(threading.enumerate())
    tasks = asyncio.all_tasks()
    async with running(address, Subscription("role", group, (topic,), handle)):
        assert set(threading.enumerate()) > threads
    await eventually(lambda: set(threading.enumerate()) == threads, "threads have ended")
    await eventually(lambda: asyncio.all_tasks() == tasks, "tasks have ended")


async def test_a_worker_waits_for_a_broker_that_is_not_there_and_says_so() -> None:
    async def handle(_record: Record) -> None: ...

    worker = Worker(config("127.0.0.1:1"), [Subscription("planner", "g", ("t",), handle)])
    await worker.start()
    with pytest.raises(KafkaUnavailableError, match="no partitions after 2 s for planner"):
        await worker.wait_assigned(2)
    async with asyncio.timeout(8):
        await worker.stop()


async def test_a_poll_thread_that_dies_ends_the_worker() -> None:
    async def handle(_record: Record) -> None: ...

    wrong = KafkaConfig(bootstrap_servers="127.0.0.1:1", security={"no.such.setting": "1"})
    worker = Worker(wrong, [Subscription("role", "g", ("t",), handle)])
    await worker.start()
    with pytest.raises(InfrastructureError, match=r"no\.such\.setting"):
        await asyncio.wait_for(worker.run(), 20)


@on_both_brokers
async def test_a_record_beyond_the_limit_is_refused_and_the_producer_goes_on(
    address: str, topic: str
) -> None:
    producer = Producer(config(address))
    large = Outgoing(topic, b"k", b"x" * 5_000_000)
    with pytest.raises(MessageTooLargeError, match=topic):
        await producer.send(large)
    with pytest.raises(MessageTooLargeError):
        await producer.send_all([Outgoing(topic, b"k", b"small"), large])
    await producer.send(Outgoing(topic, b"k", b"small"))
    await producer.close()


async def test_records_wait_in_order_when_the_queue_of_the_client_is_full(
    address: str, topic: str, group: str
) -> None:
    producer = Producer(
        KafkaConfig(bootstrap_servers=address, session_timeout=6, producer_queue=10)
    )
    await producer.send_all(Outgoing(topic, b"same", b"%d" % i) for i in range(1000))
    assert producer.pending == 0
    await producer.close()
    values: list[int] = []

    async def handle(record: Record) -> None:
        values.append(int(record.value or b""))

    async with running(address, Subscription("role", group, (topic,), handle)):
        await eventually(lambda: len(values) == 1000, "all have arrived")
    assert values == list(range(1000))


async def test_an_unconfirmed_record_fails_after_the_delivery_timeout() -> None:
    producer = Producer(KafkaConfig(bootstrap_servers="127.0.0.1:1", delivery_timeout=1))
    with pytest.raises(DeliveryError, match="orders"):
        await asyncio.wait_for(producer.send(Outgoing("orders", None, b"")), 10)
    await producer.close()


async def test_closing_a_producer_fails_what_it_could_not_deliver() -> None:
    producer = Producer(KafkaConfig(bootstrap_servers="127.0.0.1:1"))
    future = producer.enqueue(Outgoing("orders", None, b""))
    assert await producer.flush(0.1) == 1
    await producer.close(timeout=0.1)
    with pytest.raises(DeliveryError):
        await future
    with pytest.raises(DeliveryError, match="closed"):
        await producer.send(Outgoing("orders", None, b""))


@on_both_brokers
async def test_rebalances_under_load_lose_and_repeat_nothing(
    address: str, topic: str, group: str
) -> None:
    count, handled = 8000, 0

    async def handle(_record: Record) -> None:
        nonlocal handled
        handled += 1

    await produce(address, topic, [(b"k%d" % i, b"") for i in range(count)])
    subscription = Subscription("role", group, (topic,), handle, window=50)
    async with running(address, subscription) as worker:
        consumer = worker._stations[0].consumer
        for _ in range(100):
            # A rebalance that changes nothing here: Faust empties its queues all the same.
            consumer.on_assigned({}, consumer._partitions)
            await asyncio.sleep(0.003)  # records flow again meanwhile
        during = handled
        await eventually(lambda: handled == count, "all are handled")
    assert 0 < during < count
    assert handled == count
    assert committed(address, group) == count


async def test_a_batch_that_faust_drops_in_a_rebalance_is_offered_again_in_order(
    address: str, topic: str, group: str
) -> None:
    handled: list[bytes | None] = []

    async def handle(record: Record) -> None:
        handled.append(record.value)

    async with running(address, Subscription("role", group, (topic,), handle)) as worker:
        consumer = worker._stations[0].consumer
        deliver, dropped = consumer.callback, 0

        async def drop(_message: object) -> None:
            # As Faust does with what is in its queues when it resumes the flow.
            nonlocal dropped
            dropped += 1

        consumer.callback = drop
        await produce(address, topic, [(b"same", b"1")])
        await eventually(lambda: dropped == 1, "the first batch is dropped")
        consumer.callback = deliver
        consumer.on_assigned({}, consumer._partitions)
        await produce(address, topic, [(b"same", b"2")])
        await eventually(lambda: len(handled) == 2, "both are handled")
    assert handled == [b"1", b"2"]


async def test_a_partition_that_was_full_is_read_again_when_it_comes_back(
    address: str, lane: str, group: str
) -> None:
    topic = create_topic(address, f"{lane}two.v1", partitions=2)
    await produce(address, topic, [(b"k%d" % i, b"") for i in range(1000)])
    release = asyncio.Event()
    handled: set[tuple[int, int]] = set()

    async def handle(record: Record) -> None:
        await release.wait()
        handled.add((record.partition, record.offset))

    subscription = Subscription("role", group, (topic,), handle, window=20)
    async with running(address, subscription, drain_timeout=0.1) as stays:
        poller = stays._stations[0].consumer._poller
        await eventually(
            lambda: [each.paused for each in list(poller._windows.values())] == [True, True],
            "both partitions are full",
        )
        async with running(address, subscription, drain_timeout=0.1):
            await eventually(lambda: len(poller._windows) == 1, "one partition has moved")
        await eventually(lambda: len(poller._windows) == 2, "it has come back")
        release.set()
        await eventually(lambda: len(handled) == 1000, "all are handled")
