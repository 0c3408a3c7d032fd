"""Pauses of the poll thread: which partitions are fetched, without losing a resume.

librdkafka pauses partitions, too, while the group rebalances. It does so in a thread of its own,
and when both sides change the same partition at the same moment, one of the two changes can be
dropped without a word (confluentinc/librdkafka#5591). A pause that is dropped costs nothing. A
resume that is dropped would leave the partition unread for as long as we have it. Therefore:

- What was resumed is resumed once more after each rebalance. The only thing that a resume can
  collide with is librdkafka's own pause, and after that a rebalance callback always comes.
- What was ever paused is resumed before it moves, within a rebalance callback, when librdkafka
  waits for us. It keeps pauses over a new assignment, and a resume that follows a new assignment
  could collide with the start of the fetching.
"""

from collections.abc import Collection, Iterable, Mapping

import confluent_kafka

from agents.runtime.records import TopicPartition
from agents.runtime.window import PartitionWindow


class Pauses:
    """Stops fetching partitions whose backlog is full, goes on with those that have room.

    Args:
        consumer: Whose partitions they are.
        windows: Books of the partitions that are assigned now; kept up to date by the owner.
    """

    def __init__(
        self,
        consumer: confluent_kafka.Consumer,
        windows: Mapping[TopicPartition, PartitionWindow],
    ) -> None:
        self._consumer = consumer
        self._windows = windows
        self._resumed: set[TopicPartition] = set()
        self._rebalanced = False

    def adjust(self) -> None:
        """Pause and resume what needs it; to be called between polls."""
        pause = [w for w in self._windows.values() if not w.paused and w.overfull]
        resume = [w for w in self._windows.values() if w.paused and w.drained]
        for window in pause:
            window.paused = True
        for window in resume:
            window.paused = False
        paused, going_on = _places(pause), _places(resume)
        self._resumed = (self._resumed - paused) | going_on
        if self._rebalanced:
            self._rebalanced = False
            going_on = set(self._resumed)
        if paused:
            self._consumer.pause(_client_partitions(paused))
        if going_on:
            self._consumer.resume(_client_partitions(going_on))

    def rebalanced(self) -> None:
        """Note that partitions were assigned, be it none."""
        self._rebalanced = True

    def leave(self, partitions: Collection[TopicPartition]) -> None:
        """Undo the pauses of partitions that are about to move; for rebalance callbacks."""
        self._rebalanced = True
        ever_paused = {
            place
            for place in partitions
            if place in self._resumed
            or ((window := self._windows.get(place)) is not None and window.paused)
        }
        self._resumed -= ever_paused
        if ever_paused:
            self._consumer.resume(_client_partitions(ever_paused))


def _places(windows: Iterable[PartitionWindow]) -> set[TopicPartition]:
    return {window.partition for window in windows}


def _client_partitions(places: Iterable[TopicPartition]) -> list[confluent_kafka.TopicPartition]:
    return [confluent_kafka.TopicPartition(*place) for place in places]
