"""Commits of the poll thread: what is finished, regularly, and once more before partitions move."""

import logging
import time
from collections.abc import Iterable, Mapping

import confluent_kafka

from agents.runtime.records import TopicPartition
from agents.runtime.window import PartitionWindow

_log = logging.getLogger(__name__)

#: Seconds between commits; sooner when a partition runs out of permits.
_INTERVAL = 0.5
#: Seconds after which a commit without an answer is sent again.
_ANSWER_TIMEOUT = 10.0
#: Seconds that one look for an answer takes.
_LOOK_SECONDS = 0.005


class Commits:
    """Commits what the windows of a consumer report as finished, one request at a time.

    Args:
        consumer: Its ``on_commit`` callback must be :meth:`answered`.
        windows: Books of the partitions that are assigned now; kept up to date by the owner.
    """

    def __init__(
        self,
        consumer: confluent_kafka.Consumer,
        windows: Mapping[TopicPartition, PartitionWindow],
    ) -> None:
        self._consumer = consumer
        self._windows = windows
        #: Whether a commit is on its way.
        self.pending = False
        self._failing = False
        self._sent_at = 0.0

    def send_if_due(self) -> None:
        """Commit when the interval is over, or before that when a window needs permits."""
        now = time.monotonic()
        since = now - self._sent_at
        if self.pending and since < _ANSWER_TIMEOUT:
            return
        hurry = not self._failing and any(each.crowded for each in self._windows.values())
        if hurry or since >= _INTERVAL:
            self._sent_at = now
            self._send()

    def send_and_wait(self, windows: Iterable[PartitionWindow]) -> None:
        """Commit what is finished in ``windows`` and wait for the answer.

        Blocks while the coordinator of the group is away: only for moments in which it is there.
        """
        if offsets := self._offsets(windows):
            try:
                self._consumer.commit(offsets=offsets, asynchronous=False)
            except confluent_kafka.KafkaException as raised:
                self._failed(raised.args[0], offsets)

    def finish(self, seconds: float) -> bool:
        """Commit everything that is finished; False when the broker does not answer in time."""
        deadline = time.monotonic() + seconds
        if self._answered_by(deadline):
            self._send()
        return self._answered_by(deadline)

    def answered(
        self,
        error: confluent_kafka.KafkaError | None,
        offsets: list[confluent_kafka.TopicPartition],
    ) -> None:
        """Take the answer to a commit; librdkafka calls this from within a poll."""
        self.pending = False
        if error is not None:
            self._failed(error, offsets)
            return
        self._failing = False
        for each in offsets:
            window = self._windows.get((each.topic, each.partition))
            if window is None:
                continue
            if each.error is not None:
                window.commit_failed()
            else:
                window.committed(each.offset)

    def _send(self) -> None:
        offsets = self._offsets(self._windows.values())
        self.pending = bool(offsets)
        if offsets:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except confluent_kafka.KafkaException as raised:
                self.pending = False
                self._failed(raised.args[0], offsets)

    @staticmethod
    def _offsets(windows: Iterable[PartitionWindow]) -> list[confluent_kafka.TopicPartition]:
        return [
            confluent_kafka.TopicPartition(*window.partition, offset)
            for window in windows
            if window.dirty and (offset := window.commit_requested()) is not None
        ]

    def _failed(
        self, error: confluent_kafka.KafkaError, offsets: list[confluent_kafka.TopicPartition]
    ) -> None:
        """Have the offsets committed again, unless their partitions have moved meanwhile."""
        if not self._failing:
            _log.warning("commit failed, will be repeated: %s", error.str())
        self._failing = True
        for each in offsets:
            if (window := self._windows.get((each.topic, each.partition))) is not None:
                window.commit_failed()

    def _answered_by(self, deadline: float) -> bool:
        """Wait for the answer to the commit under way, if one is; False when time is up."""
        while self.pending and time.monotonic() < deadline:
            self._consumer.poll(_LOOK_SECONDS)
        return not self.pending
