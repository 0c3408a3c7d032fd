"""What happens to one record: decode, handle, emit; or, where that fails, what its error asks for.

=========================  ======================================  =========================
error                      the message                             the process
=========================  ======================================  =========================
``InvalidMessageError``    dead letter, bytes as they came         goes on
``RefusedMessageError``    dead letter                             goes on
other ``PermanentError``   the execution fails with the reason;    goes on
                           a dead letter where there is none
``TransientError``, time   again in place after 1 s and 2 s; then  goes on
                           from a delay topic; then as a bug
``InfrastructureError``    waits, uncounted, until it is back      waits
its fatal kinds            not acked                               stops, and says why
anything else (a bug)      dead letter, and the execution fails    stops after too many in
                                                                   a row
=========================  ======================================  =========================

A record is done, and so may be acked, when this returns: the broker has then confirmed everything
that it caused.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from agents.runtime.codec import decode, encode
from agents.runtime.context import Context, Services
from agents.runtime.dead_letters import DeadLetterWriter, Publisher, TooManyDeadLettersError
from agents.runtime.deadlines import Deadlines
from agents.runtime.delays import delayed, delivery_attempt
from agents.runtime.endings import ending_of, reason_of
from agents.runtime.errors import (
    ErrorCode,
    InfrastructureError,
    InvalidMessageError,
    MillstreamError,
    PermanentError,
    RefusedMessageError,
    TransientError,
)
from agents.runtime.intake import read_request
from agents.runtime.metrics import Ending, RoleMetrics
from agents.runtime.outage import Outage, patiently
from agents.runtime.ports import OutboxRow
from agents.runtime.records import Outgoing, Record
from agents.runtime.resilience import JITTER, LONGEST_WAIT, Backoff
from agents.runtime.roles import Emission, Emitted, Handler, RecordHandler, RoleSpec
from agents.runtime.topology import TopicSpec, Topology
from schemas import PAYLOADS, AgentMessage, ExecutionRequest, Payload, Step
from schemas.envelope import HEADER_TRACEPARENT

_ENDING_INDEX: Final = 1000
"""Index of the message that the runtime writes for a role, apart from the role's own messages."""
LONGEST_PAUSE: Final = LONGEST_WAIT * (1 + JITTER)
"""Seconds that a retry in place waits at most; who asks for more is asked from a delay topic."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Delivery:
    """One role's way from record to confirmed effects; call it with a record.

    Args:
        spec: The role.
        handler: The role's function, with its resources where it needs some.
        services: What handlers share.
        topology: Which topics carry what.
        publisher: The producer.
        backoff: How transient errors are retried in place.
        dead_letters: Where records go that cannot be handled.
        outage: Says when Kafka or Postgres is away.
        deadlines: Keeps the time limit of handlers.
        metrics: What the role counts.
    """

    spec: RoleSpec
    handler: Handler
    services: Services
    topology: Topology
    publisher: Publisher
    backoff: Backoff
    dead_letters: DeadLetterWriter
    outage: Outage
    deadlines: Deadlines
    metrics: RoleMetrics = field(default_factory=RoleMetrics)
    _destinations: dict[tuple[type[Payload], str | None], str] = field(default_factory=dict)

    async def __call__(self, record: Record) -> None:
        """Handle ``record``; returns when it may be acked."""
        deliver = partial(self._deliver, record)
        await patiently(deliver, clock=self.services.clock, outage=self.outage)

    async def _deliver(self, record: Record) -> None:
        message: AgentMessage[Any] | None = None
        attempt = 1
        while True:
            try:
                if message is None:
                    message = self._decode(record)
                emission = await self._handle(message)
                await self.publish(emission, message, record.header(HEADER_TRACEPARENT))
                self.dead_letters.note_success()
                self.metrics.ok += 1
            except (TransientError, TimeoutError, ConnectionError) as error:
                pause = self._pause(attempt, error)
                if attempt >= self.backoff.max_attempts or pause > LONGEST_PAUSE:
                    await self._postpone(record, message, error)
                    return
                self.metrics.retries += 1
                await self.services.clock.sleep(pause)
                attempt += 1
            except (InfrastructureError, TooManyDeadLettersError):
                raise
            except Exception as error:  # noqa: BLE001  # no exception leaves a handler
                await self._give_up(record, message, error)
                return
            else:
                return

    async def _postpone(
        self, record: Record, message: AgentMessage[Any] | None, error: Exception
    ) -> None:
        """Let the record wait on a delay topic, or give up where that is over or not allowed."""
        if message is not None and not self.spec.keeps_order:
            later = delayed(record, message, lane=self.services.settings.lane)
            if later is not None:
                _log.warning(
                    "delayed",
                    role=self.spec.name,
                    topic=later.topic,
                    reason=str(error),
                    correlation_id=str(message.correlation_id),
                )
                await self.publisher.send_all([later])
                self.metrics.ended("delayed", _code(error))
                return
        await self._give_up(record, message, error)

    def _pause(self, attempt: int, error: Exception) -> float:
        return self.backoff.delay_after(attempt, error, random=self.services.random.random())

    async def _handle(self, message: AgentMessage[Any]) -> Emission:
        context = Context(self.spec.name, message, self.services)
        began = time.perf_counter()
        try:
            if self.spec.executor is not None:
                # An executor's time limit is its step's; the policy around it keeps it.
                return await self.handler(message.payload, context)
            return await self.deadlines.limit(self.handler(message.payload, context))
        finally:
            self.metrics.attempt_ended(time.perf_counter() - began)

    def _decode(self, record: Record) -> AgentMessage[Any]:
        lane = self.services.settings.lane
        topic = self._topic(record)
        payload = PAYLOADS[topic.schema]
        if payload is ExecutionRequest:
            return read_request(record, lane=lane)
        return decode(record, payload, lane=lane)

    def _topic(self, record: Record) -> TopicSpec:
        return self.topology.topics[record.topic.removeprefix(self.services.settings.lane)]

    async def publish(
        self, emission: Emission, cause: AgentMessage[Any] | None, traceparent: bytes | None
    ) -> None:
        """Send what a role returned, and strike off the outbox what the broker has confirmed."""
        emitted: Sequence[Emitted] = (
            () if emission is None else emission if isinstance(emission, Sequence) else (emission,)
        )
        if not emitted:
            return
        # All are composed before the first is sent: one that cannot be composed sends none.
        await self.publisher.send_all(
            [self._outgoing(item, index, cause, traceparent) for index, item in enumerate(emitted)]
        )
        rows = [item.row_id for item in emitted if isinstance(item, OutboxRow)]
        if rows:
            await self.services.ledger.mark_sent(rows)

    def _outgoing(
        self,
        item: Emitted,
        index: int,
        cause: AgentMessage[Any] | None,
        traceparent: bytes | None,
    ) -> Outgoing:
        value: bytes | None = None
        if isinstance(item, OutboxRow):
            message, value = item.message, item.value
        elif isinstance(item, AgentMessage):
            message = item
        elif cause is not None:
            message = Context(self.spec.name, cause, self.services).compose(item, index)
        else:
            raise TypeError(f"{self.spec.where}: a bare payload needs a message that caused it")
        topic = self._destination(message.payload)
        return encode(message, topic, traceparent=traceparent, value=value)

    def _destination(self, payload: Payload) -> str:
        kind = (type(payload), payload.executor if isinstance(payload, Step) else None)
        name = self._destinations.get(kind)
        if name is None:
            topic = self.topology.topic_for(self.spec.name, kind[0].__name__, executor=kind[1])
            name = self._destinations[kind] = topic.name_in(self.services.settings.lane)
        return name

    async def _give_up(
        self, record: Record, message: AgentMessage[Any] | None, error: Exception
    ) -> None:
        code = _code(error)
        ending = None if message is None else await self._ending(message, error, code)
        blameless = isinstance(error, PermanentError) and not isinstance(
            error, InvalidMessageError | RefusedMessageError
        )
        if ending is not None:
            # It goes first: a crash in between writes both again, under the same ids.
            await self._publish_ending(ending, record)
        if ending is None or not blameless:
            await self.dead_letters.bury(record, error, code=code, attempt=delivery_attempt(record))
        else:
            self.dead_letters.note_success()
        ended: Ending = "failed" if blameless and ending is not None else "dead_letter"
        self.metrics.ended(ended, code)

    async def _ending(
        self, message: AgentMessage[Any], error: Exception, code: ErrorCode
    ) -> Emission:
        context = Context(self.spec.name, message, self.services)
        if self.spec.gives_up is None:
            now = self.services.clock.now()
            payload = ending_of(message, error, code=code, role=self.spec.name, now=now)
            return None if payload is None else context.compose(payload, _ENDING_INDEX)
        if isinstance(error, RefusedMessageError):
            return None
        try:
            reason = reason_of(error, self.spec.name)
            return await self.spec.gives_up(code, reason, context) or None
        except InfrastructureError:
            raise
        except Exception as failure:  # noqa: BLE001  # the dead letter has to be written all the same
            _log.error("cannot_give_up", role=self.spec.name, exc_info=failure)
            return None

    async def _publish_ending(self, ending: Emission, record: Record) -> None:
        try:
            await self.publish(ending, None, record.header(HEADER_TRACEPARENT))
        except PermanentError as error:
            # Such as a message that is too large; the ticker says so as well, and tries again.
            _log.error("unpublishable", role=self.spec.name, reason=error.reason)


def _code(error: Exception) -> ErrorCode:
    if isinstance(error, MillstreamError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "bug"


@dataclass(frozen=True)
class RecordDelivery:
    """The way of a record through a role that does not look into it; call it with a record."""

    spec: RoleSpec
    handler: RecordHandler
    services: Services
    publisher: Publisher
    dead_letters: DeadLetterWriter
    outage: Outage
    metrics: RoleMetrics = field(default_factory=RoleMetrics)

    async def __call__(self, record: Record) -> None:
        """Handle ``record``; returns when it may be acked."""
        deliver = partial(self._deliver, record)
        await patiently(deliver, clock=self.services.clock, outage=self.outage)

    async def _deliver(self, record: Record) -> None:
        try:
            began = time.perf_counter()
            outgoing = await self.handler(record, self.services)
            self.metrics.attempt_ended(time.perf_counter() - began)
            await self.publisher.send_all([outgoing])
            self.dead_letters.note_success()
            self.metrics.ok += 1
        except InfrastructureError:
            raise
        except Exception as error:  # noqa: BLE001  # no exception leaves a handler
            code = _code(error)
            await self.dead_letters.bury(record, error, code=code, attempt=delivery_attempt(record))
            self.metrics.ended("dead_letter", code)
