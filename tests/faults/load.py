"""A seeded load of everything that people and machines send to a pipeline, good and bad."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import confluent_kafka
import httpx
from faults.evidence import SINK_TOPICS
from faults.harness import PARTITIONS

from schemas.identity import uuid_of

_REQUESTS: Final = "millstream.requests.v1"
_DEAD_LETTERS: Final = "millstream.dead-letters.v1"
_POISONED: Final = tuple(name for name in SINK_TOPICS if name != _DEAD_LETTERS)
_ANY: Final = -1
"""The partition that the client chooses."""
_SERVICES: Final = ("checkout", "payments", "search", "inventory", "web")
_PARALLEL: Final[list[dict[str, Any]]] = [
    {
        "step_id": "look",
        "action": "service.status",
        "parameters": {"service": "search", "environment": "staging"},
    },
    {
        "step_id": "restart",
        "action": "service.restart",
        "parameters": {"service": "web", "environment": "staging"},
    },
    {
        "step_id": "scale",
        "action": "service.scale",
        "parameters": {"service": "web", "environment": "staging", "replicas": 3},
    },
    {
        "step_id": "tell",
        "action": "notify.send",
        "parameters": {"channel": "#releases", "text": "search is ${steps.look.output.health}"},
        "depends_on": ["look", "restart", "scale"],
    },
]
_FAULTS: Final = ({"kind": "refuse", "status": 503}, {"kind": "cut"}, {"kind": "slow", "delay": 1})

Body = dict[str, Any]


class Load:
    """Produces requests and garbage; the same seed gives the same load.

    Args:
        bootstrap_servers: The broker.
        lane: The lane.
        seed: What chance starts with.
        playground_url: Where some calls shall fail; none do if not given.
    """

    def __init__(
        self, bootstrap_servers: str, lane: str, seed: int, playground_url: str | None = None
    ) -> None:
        self._lane = lane
        self._chance = random.Random(seed)  # noqa: S311 - the same load each time
        self._playground_url = playground_url
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": bootstrap_servers, "linger.ms": 5, "log_level": 0}
        )
        self._sent: list[Body] = []
        self._lock = threading.Lock()
        self._submitted: set[UUID] = set()
        self._kinds: tuple[Callable[[], None], ...] = (
            *(self._ask,) * 12,
            *(self._ask_in_parallel,) * 4,
            self._poison,
            self._repeat,
            self._reuse_id,
            self._make_a_call_fail,
        )

    @property
    def submitted(self) -> frozenset[UUID]:
        """Executions whose request the broker has confirmed."""
        with self._lock:
            return frozenset(self._submitted)

    def send(self, count: int) -> None:
        """Produce ``count`` things, without waiting for the broker."""
        for _ in range(count):
            self._chance.choice(self._kinds)()
        self._producer.poll(0)

    def ask_for(self, count: int, text: str = "restart checkout in staging") -> None:
        """Produce ``count`` plain requests and wait until the broker has them.

        Each partition gets as many, so that a scenario that needs some in each has them.
        """
        for number in range(count):
            self._submit({"text": text}, partition=number % PARTITIONS)
        self.flush()

    def flush(self) -> None:
        """Wait until the broker has confirmed everything."""
        assert self._producer.flush(60) == 0, "the broker does not confirm the load"

    @contextmanager
    def running(self, per_second: float) -> Iterator[None]:
        """Produce in a thread for as long as the block runs; then wait for the broker."""
        done = threading.Event()

        def produce() -> None:
            while not done.wait(1 / per_second):
                self.send(1)

        thread = threading.Thread(target=produce, name="load")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        self.flush()

    def _ask(self) -> None:
        service = self._chance.choice(_SERVICES)
        text = self._chance.choice(
            (
                f"status of {service} in staging",
                f"restart {service} in staging",
                f"restart {service} in staging and tell #releases",
                f"scale {service} in staging to 3",
                "delete checkout in production",  # denied
                f"restart {service}",  # where? it asks
            )
        )
        self._submit({"text": text})

    def _ask_in_parallel(self) -> None:
        self._submit({"text": "four steps", "plan": _PARALLEL})

    def _poison(self) -> None:
        """Bytes that nobody can read, on a topic of the pipeline's own."""
        topic = self._chance.choice(_POISONED)
        key = self._chance.choice((None, self._chance.randbytes(5)))
        self._produce(topic, key, b"\x00\xff" + self._chance.randbytes(20))

    def _repeat(self) -> None:
        """The same message twice, as a client does that got no answer."""
        if self._sent:
            body = self._chance.choice(self._sent)
            self._produce(_REQUESTS, None, json.dumps(body).encode())

    def _reuse_id(self) -> None:
        """Another request under an id that is taken."""
        if self._sent:
            used = self._chance.choice(self._sent)["correlation_id"]
            self._submit({"text": "status of web in staging"}, correlation_id=used)

    def _make_a_call_fail(self) -> None:
        if self._playground_url is not None:
            fault = {"service": self._chance.choice(_SERVICES), "environment": "staging"}
            body = {**fault, **self._chance.choice(_FAULTS)}
            answer = httpx.post(f"{self._playground_url}/faults", json=body, trust_env=False)
            answer.raise_for_status()

    def _submit(
        self, body: Body, *, correlation_id: str | None = None, partition: int = _ANY
    ) -> None:
        number = len(self._sent)
        body = {
            **body,
            "message_id": f"{self._lane}message {number}",
            "correlation_id": correlation_id or f"{self._lane}request {number}",
        }
        self._sent.append(body)
        execution = uuid_of(body["correlation_id"], tenant="default")

        def confirmed(error: Any, _message: Any) -> None:
            if error is None:
                with self._lock:
                    self._submitted.add(execution)

        self._produce(_REQUESTS, None, json.dumps(body).encode(), confirmed, partition)

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        confirmed: Any = None,
        partition: int = _ANY,
    ) -> None:
        self._producer.produce(self._lane + topic, value, key, partition, on_delivery=confirmed)
