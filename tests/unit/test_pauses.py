"""Pauses: full partitions are not fetched, and no partition stays paused that should not be."""

from typing import cast

import confluent_kafka
import pytest

from agents.runtime.pauses import Pauses
from agents.runtime.records import Record, TopicPartition
from agents.runtime.window import PartitionWindow

ONE, OTHER = ("orders", 0), ("orders", 1)
FULL = 40


class Client:
    """What librdkafka remembers of pauses; it can drop a call without a word, as that does."""

    def __init__(self) -> None:
        self.paused: set[TopicPartition] = set()
        self.calls: list[str] = []
        self.drops_calls = False

    def pause(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        self.calls.append("pause")
        if not self.drops_calls:
            self.paused |= {(each.topic, each.partition) for each in partitions}

    def resume(self, partitions: list[confluent_kafka.TopicPartition]) -> None:
        self.calls.append("resume")
        if not self.drops_calls:
            self.paused -= {(each.topic, each.partition) for each in partitions}


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def windows() -> dict[TopicPartition, PartitionWindow]:
    return {
        place: PartitionWindow(place, 1, limit=10, backlog_bytes=10_000) for place in (ONE, OTHER)
    }


@pytest.fixture
def pauses(client: Client, windows: dict[TopicPartition, PartitionWindow]) -> Pauses:
    return Pauses(cast(confluent_kafka.Consumer, client), windows)


def fill(window: PartitionWindow) -> None:
    window.add([Record("orders", 0, offset, 0, None, b"") for offset in range(FULL)])


def drain(window: PartitionWindow) -> None:
    while records := window.hand_over():
        window.committed(records[-1].offset + 1)


def test_a_full_partition_is_paused_until_it_has_room(
    client: Client, pauses: Pauses, windows: dict[TopicPartition, PartitionWindow]
) -> None:
    pauses.adjust()
    assert client.calls == []
    fill(windows[ONE])
    pauses.adjust()
    pauses.adjust()
    assert client.calls == ["pause"]
    assert client.paused == {ONE}
    drain(windows[ONE])
    pauses.adjust()
    pauses.adjust()
    assert client.calls == ["pause", "resume"]
    assert not client.paused


def test_a_resume_that_the_client_drops_is_repeated_after_the_rebalance(
    client: Client, pauses: Pauses, windows: dict[TopicPartition, PartitionWindow]
) -> None:
    for window in windows.values():
        fill(window)
    pauses.adjust()
    drain(windows[ONE])
    client.drops_calls = True
    pauses.adjust()
    pauses.rebalanced()
    pauses.adjust()  # dropped as well, since the next rebalance began at once
    client.drops_calls = False
    assert client.paused == {ONE, OTHER}
    pauses.rebalanced()
    pauses.adjust()
    assert client.paused == {OTHER}, "which is full"
    calls = len(client.calls)
    pauses.adjust()
    assert len(client.calls) == calls


@pytest.mark.parametrize("resumed", [False, True])
def test_what_was_ever_paused_is_resumed_before_it_moves(
    client: Client,
    pauses: Pauses,
    windows: dict[TopicPartition, PartitionWindow],
    resumed: bool,
) -> None:
    fill(windows[ONE])
    pauses.adjust()
    if resumed:
        drain(windows[ONE])
        client.drops_calls = True
        pauses.adjust()
        client.drops_calls = False
    pauses.leave({ONE, OTHER})
    assert not client.paused
    calls = len(client.calls)
    del windows[ONE], windows[OTHER]
    pauses.rebalanced()
    pauses.adjust()
    assert len(client.calls) == calls, "a resume of what is assigned anew could meet its start"
