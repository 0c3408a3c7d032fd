"""What happens to one record: decode, handle, emit; or, where that fails, what its error asks for.

=========================  ======================================  =========================
error                      the message                             the process
=========================  ======================================  =========================
``InvalidMessageError``    dead letter, bytes as they came         goes on
``RefusedMessageError``    dead letter                             goes on
other ``PermanentError``   the execution fails with the reason;    goes on
                           a dead letter where there is none
``TransientError``, time   again in place, 1 s, 2 s, 4 s; then     goes on
                           as a bug
``InfrastructureError``    waits, uncounted, until it is back      waits
anything else (a bug)      dead letter, and the execution fails    goes on
=========================  ======================================  =========================

A record is done, and so may be acked, when this returns: the broker has then confirmed everything
that it caused.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from agents.runtime.codec import decode, encode
from agents.runtime.context import Context, Services
from agents.runtime.dead_letters import dead_letter
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
from agents.runtime.kafka import ProducerFatalError
from agents.runtime.ports import OutboxRow
from agents.runtime.records import Outgoing, Record
from agents.runtime.resilience import Backoff
from agents.runtime.roles import Emission, Emitted, Handler, RoleSpec
from agents.runtime.topology import TopicSpec, Topology
from schemas import PAYLOADS, AgentMessage, ExecutionRequest, Intent, Outcome, Payload, Plan, Step
from schemas.envelope import HEADER_TRACEPARENT

_OUTCOME_INDEX: Final = 1000
"""Index of the outcome that the runtime writes for a role, apart from the role's own messages."""
_LONGEST_WAIT: Final = 5.0
_log = structlog.get_logger(__name__)


class Publisher(Protocol):
    """Where messages go: resolves when the broker has confirmed all of them."""

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        """Produce ``messages`` and wait for their confirmation."""
        ...


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
        topic_ids: The broker's ids of the topics that the role consumes, by full name.
    """

    spec: RoleSpec
    handler: Handler
    services: Services
    topology: Topology
    publisher: Publisher
    backoff: Backoff
    topic_ids: dict[str, str]

    async def __call__(self, record: Record) -> None:
        """Handle ``record``; returns when it may be acked."""
        wait = 0.1
        while True:
            try:
                await self._deliver(record)
            except ProducerFatalError:
                raise  # this process can produce no more: it ends, another one takes over
            except InfrastructureError as error:
                _log.warning("infrastructure_away", role=self.spec.name, error=str(error))
                await self.services.clock.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                return

    async def _deliver(self, record: Record) -> None:
        message: AgentMessage[Any] | None = None
        attempt = 1
        while True:
            try:
                if message is None:
                    message = self._decode(record)
                emission = await self._handle(message)
                await self.publish(emission, message, record.header(HEADER_TRACEPARENT))
            except (TransientError, TimeoutError, ConnectionError) as error:
                if attempt >= self.backoff.max_attempts:
                    await self._give_up(record, message, error, attempt)
                    return
                await self.services.clock.sleep(self._pause(attempt, error))
                attempt += 1
            except InfrastructureError:
                raise
            except Exception as error:  # noqa: BLE001  # no exception leaves a handler
                await self._give_up(record, message, error, attempt)
                return
            else:
                return

    def _pause(self, attempt: int, error: Exception) -> float:
        return self.backoff.delay_after(attempt, error, random=self.services.random.random())

    async def _handle(self, message: AgentMessage[Any]) -> Emission:
        context = Context(self.spec.name, message, self.services)
        if self.spec.executor is not None:
            # An executor's time limit is its step's; the policy around it keeps it.
            return await self.handler(message.payload, context)
        async with asyncio.timeout(self.services.settings.handler_timeout):
            return await self.handler(message.payload, context)

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
        envelopes = [self._envelope(item, index, cause) for index, item in enumerate(emitted)]
        await self.publisher.send_all(
            encode(envelope, self._destination(envelope.payload), traceparent=traceparent)
            for envelope in envelopes
        )
        rows = [item.row_id for item in emitted if isinstance(item, OutboxRow)]
        if rows:
            await self.services.ledger.mark_sent(rows)

    def _envelope(
        self, item: Emitted, index: int, cause: AgentMessage[Any] | None
    ) -> AgentMessage[Any]:
        match item:
            case OutboxRow():
                return item.message
            case AgentMessage():
                return item
            case payload if cause is not None:
                return Context(self.spec.name, cause, self.services).compose(payload, index)
            case _:
                raise TypeError(f"{self.spec.where}: a bare payload needs a message that caused it")

    def _destination(self, payload: Payload) -> str:
        executor = payload.executor if isinstance(payload, Step) else None
        topic = self.topology.topic_for(self.spec.name, type(payload).__name__, executor=executor)
        return topic.name_in(self.services.settings.lane)

    async def _give_up(
        self, record: Record, message: AgentMessage[Any] | None, error: Exception, attempt: int
    ) -> None:
        code: ErrorCode = (
            error.code
            if isinstance(error, MillstreamError)
            else "timeout"
            if isinstance(error, TimeoutError)
            else "bug"
        )
        outcome = None if message is None else self._outcome(message, error, code)
        blameless = isinstance(error, PermanentError) and not isinstance(
            error, InvalidMessageError | RefusedMessageError
        )
        if outcome is None or not blameless:
            await self._bury(record, error, code, attempt)
        if outcome is not None:
            await self.publish(outcome, None, record.header(HEADER_TRACEPARENT))

    async def _bury(self, record: Record, error: Exception, code: ErrorCode, attempt: int) -> None:
        unexpected = code == "bug"
        _log.log(
            40 if unexpected else 30,
            "dead_letter",
            role=self.spec.name,
            code=code,
            reason=str(error),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            exc_info=error if unexpected else None,
        )
        letter = dead_letter(
            record,
            error,
            code=code,
            role=self.spec.name,
            attempt=attempt,
            lane=self.services.settings.lane,
            topic_id=self.topic_ids.get(record.topic),
        )
        await self.publisher.send_all([letter])

    def _outcome(
        self, message: AgentMessage[Any], error: Exception, code: ErrorCode
    ) -> AgentMessage[Outcome] | None:
        """How the execution ends because of ``error``, where this role can tell that it does."""
        if isinstance(error, RefusedMessageError):
            return None
        match message.payload:
            case ExecutionRequest() as request:
                request_id, title, requester = (
                    message.message_id,
                    request.text,
                    request.requester.user,
                )
            case Intent() | Plan() as payload:
                request_id, title, requester = (
                    payload.request_id,
                    payload.title,
                    payload.requester,
                )
            case _:
                return None
        reason = str(error) if isinstance(error, MillstreamError) else _unexpected(self.spec, error)
        outcome = Outcome(
            request_id=request_id,
            status="failed",
            code=code,
            reason=reason[:10_000] or code,
            title=title,
            requester=requester,
        )
        context = Context(self.spec.name, message, self.services)
        return context.compose(outcome, _OUTCOME_INDEX)


def _unexpected(spec: RoleSpec, error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"{spec.name} did not answer in time."
    return f"{spec.name} failed unexpectedly ({type(error).__name__}); the log has the details."
