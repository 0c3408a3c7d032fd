"""Requests, and waiting until their reports are in Postgres."""

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import psycopg
from bench.voice import Voice
from confluent_kafka import Message, Producer

from ops.local import LocalProcess

REQUESTS: Final = "millstream.requests.v1"
REPORTS: Final = "millstream.reports.v1"
PROGRESS: Final = (
    "SELECT coalesce(sum(next_offset), 0) AS bench_progress FROM history.sink_offsets"
    " WHERE topic LIKE %s"
)
"""How many records of a topic are in Postgres. Both sinks keep their positions in this table, and
reading its few rows costs the same however long the history is."""
EVERY_TOPIC: Final = "%"
_PADDING: Final = "x" * 250  # brings a request to about half a kilobyte
_LOOK_SECONDS: Final = 0.1
_FLUSH_SECONDS: Final = 60.0
_PATIENCE: Final = 180.0
"""Seconds without any progress after which there is no hope."""


def request(number: int) -> bytes:
    """A request as a foreign client would write it."""
    return json.dumps(
        {
            "text": f"benchmark {number}",
            "plan": [{"step_id": "only", "action": "bench.noop"}],
            "context": {"padding": _PADDING},
        }
    ).encode()


def submit(bootstrap: str, count: int, *, with_ids: bool = False) -> None:
    """Produce ``count`` requests at full speed; see :meth:`Client.submit`."""
    Client(bootstrap).submit(count, with_ids=with_ids)


class Client:
    """A foreign client that sends at full speed.

    Args:
        bootstrap: The broker.
    """

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 0})

    def submit(self, count: int, *, with_ids: bool = False) -> None:
        """Produce requests and wait until the broker has them.

        Args:
            count: How many.
            with_ids: Whether the client gives them their ids, so that whoever reads them need not
                agree on how they are derived.
        """
        for number in range(count):
            headers: list[tuple[str, str | bytes | None]] = [
                (name, str(uuid4()).encode())
                for name in (("correlation-id", "message-id") if with_ids else ())
            ]
            while True:
                try:
                    self._producer.produce(REQUESTS, request(number), headers=headers)
                    break
                except BufferError:  # librdkafka's queue is full
                    self._producer.poll(0.1)
            self._producer.poll(0)
        if self._producer.flush(_FLUSH_SECONDS):
            raise RuntimeError("the broker did not confirm all requests")


def arrive(
    bootstrap: str,
    count: int,
    rate: float,
    sent: Callable[[float, Message], None],
    *,
    is_over: Callable[[], bool] = lambda: False,
    show: Callable[[int], None] = lambda _: None,
) -> None:
    """Send requests when they are due, however many are on their way: an open load.

    The gaps are exponential, as those of people who do not know of each other, and the same ones
    each time.

    Args:
        bootstrap: The broker.
        count: How many requests.
        rate: Requests a second.
        sent: Called with the moment (seconds since 1970) in which a request was handed to the
            client, and the record when the broker has it.
        is_over: Whether to stop before all are sent.
        show: Called with how many have been sent.
    """
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 0})
    gaps = random.Random(1)  # noqa: S311  # no secret
    due = time.perf_counter()

    def delivered(moment: float) -> Callable[[Any, Message], None]:
        def callback(error: Any, message: Message) -> None:
            if error is not None:
                raise RuntimeError(f"a request was not confirmed: {error}")
            sent(moment, message)

        return callback

    for number in range(count):
        due += gaps.expovariate(rate)
        while (left := due - time.perf_counter()) > 0:
            producer.poll(left)
        if is_over():
            break
        producer.produce(REQUESTS, request(number), on_delivery=delivered(time.time()))
        show(number + 1)
    if producer.flush(_FLUSH_SECONDS):
        raise RuntimeError("the broker did not confirm all requests")


def await_records(
    url: str,
    topic: str,
    wanted: int,
    voice: Voice,
    processes: Sequence[LocalProcess] = (),
    *,
    each: Callable[[int], None] = lambda _: None,
    pause: float = _LOOK_SECONDS,
) -> None:
    """Return when ``wanted`` records of ``topic`` are in Postgres.

    Args:
        url: The database.
        topic: Which topic, or :data:`EVERY_TOPIC`.
        wanted: How many records, from the beginning of the topic.
        voice: Shows how far it is.
        processes: Who must be alive meanwhile.
        each: Called with the number after each look.
        pause: Seconds between looks.

    Raises:
        RuntimeError: A process has ended, or nothing has happened for a long time.
    """
    done, moved_at = -1, time.monotonic()
    with (
        psycopg.connect(url, autocommit=True) as connection,
        voice.counting("reported" if topic == REPORTS else "records", wanted) as update,
    ):
        while True:
            now_done = records_in(connection, topic)
            if now_done != done:
                done, moved_at = now_done, time.monotonic()
            update(done)
            each(done)
            if done >= wanted:
                return
            dead = [process.name for process in processes if not process.is_running]
            if dead or time.monotonic() - moved_at > _PATIENCE:
                why = f"{', '.join(dead)} ended" if dead else "nothing happened for too long"
                raise RuntimeError(f"{done} of {wanted} records of {topic}, then {why}")
            time.sleep(pause)


def records_in(connection: psycopg.Connection[Any], topic: str) -> int:
    """How many records of ``topic``, or of :data:`EVERY_TOPIC`, are in Postgres."""
    row = connection.execute(PROGRESS, (topic,)).fetchone()
    return int(row[0]) if row else 0
