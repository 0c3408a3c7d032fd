"""Deliberate mistakes, each put into the product from outside, to prove that the checker sees them.

And what is stuck: conditions under which a mistake shows, and which a right program survives.
A process that makes a mistake, or is held up by a condition, says so in its log where a scenario
has to know.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final
from uuid import uuid4

import structlog

from agents.runtime import delivery
from agents.runtime.context import Context
from agents.runtime.errors import InfrastructureError
from agents.runtime.kafka import Outgoing, Producer
from agents.runtime.ledger import postgres_runs
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.outage import Outage
from agents.runtime.pool import KeyedPool
from agents.runtime.ports import EffectClaim, OutboxRow
from agents.runtime.records import Record
from agents.sink.batch import Batch
from agents.sink.store import Claim, Store

HELD: Final = "planted_held"
ACKED_ANYWAY: Final = "planted_acked_anyway"
WRITTEN_UNFENCED: Final = "planted_written_unfenced"
_LATER_SECONDS: Final = 60.0

_log = structlog.get_logger(__name__)


def _ack_before_delivery() -> None:
    """A handler returns while what it has produced is on its way."""
    send_all = Producer.send_all
    under_way: set[asyncio.Task[None]] = set()

    async def send(self: Producer, messages: Iterable[Outgoing]) -> None:
        task = asyncio.create_task(send_all(self, list(messages)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    Producer.send_all = send  # type: ignore[method-assign]  # that is the mistake


def _ack_out_of_order() -> None:
    """A partition is committed up to the last record that is done, whatever is before it."""

    def report(self: Any) -> None:
        unreported, self._unreported = self._unreported, []
        for ledger in unreported:
            ledger.report_due = False
            done = [entry.record.offset for entry in ledger.entries if entry.done]
            while ledger.entries and ledger.entries[0].done:
                ledger.entries.popleft()
            if done:
                self._on_finished(ledger.partition, ledger.epoch, max(done) + 1)

    def schedule(self: Any, entry: Any) -> None:
        if not entry.ledger.report_due:
            entry.ledger.report_due = True
            if not self._unreported:
                asyncio.get_running_loop().call_soon(self._report)
            self._unreported.append(entry.ledger)

    KeyedPool._report = report  # type: ignore[method-assign]  # that is the mistake
    KeyedPool._schedule_report = schedule  # type: ignore[method-assign]  # as above


def _ack_on_exception() -> None:
    """What fails because the database is away counts as done."""

    async def once(deliver: Callable[[], Awaitable[None]], *, outage: Outage, **_: Any) -> None:
        try:
            await deliver()
        except InfrastructureError:
            _log.warning(ACKED_ANYWAY, role=outage._who)

    delivery.patiently = once  # that is the mistake


def _random_ids() -> None:
    """A message gets another id each time it is made."""
    compose = Context.compose

    def composed(self: Context, *args: Any, **kwargs: Any) -> Any:
        message = compose(self, *args, **kwargs)
        return message.model_copy(update={"message_id": uuid4()})

    Context.compose = composed  # type: ignore[method-assign]  # that is the mistake


def _no_effect_claim() -> None:
    """An executor acts whatever the effect ledger says, and records as if it owned the claim."""
    claim, settle = PostgresLedger.claim_effect, PostgresLedger.settle_effect

    async def claimed(self: PostgresLedger, *args: Any, **kwargs: Any) -> EffectClaim:
        await claim(self, *args, **kwargs)
        return EffectClaim("go")

    async def settled(self: PostgresLedger, message: Any, result: Any, *, owner: str) -> Any:
        try:
            return await settle(self, message, result, owner=owner)
        except LookupError:
            return result

    PostgresLedger.claim_effect = claimed  # type: ignore[method-assign]  # that is the mistake
    PostgresLedger.settle_effect = settled  # type: ignore[method-assign]  # as above


def _outbox_deleted_before_publish() -> None:
    """What the router has to say is struck off before the broker has it."""
    advance = PostgresLedger.advance

    async def advanced(self: PostgresLedger, **kwargs: Any) -> Sequence[OutboxRow[Any]]:
        rows = await advance(self, **kwargs)
        await self._runs.delete([row.row_id for row in rows])
        return rows

    PostgresLedger.advance = advanced  # type: ignore[assignment]  # that is the mistake


def _settled_later() -> None:
    """What a run has held back is released after its end was committed, not with it."""
    settle = postgres_runs.settle
    advance = postgres_runs.RunStore.advance
    waiting: list[Any] = []
    under_way: set[asyncio.Task[None]] = set()

    async def note(_connection: Any, settlements: Any) -> None:
        waiting.append(settlements)

    async def later(self: Any, settlements: Any) -> None:
        await asyncio.sleep(_LATER_SECONDS)
        async with self._database.connection() as connection:
            await settle(connection, settlements)

    async def advanced(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await advance(self, *args, **kwargs)
        while waiting:
            task = asyncio.create_task(later(self, waiting.pop()))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        return answer

    postgres_runs.settle = note  # that is the mistake
    postgres_runs.RunStore.advance = advanced  # type: ignore[method-assign]  # as above


def _no_fence() -> None:
    """A sink writes whether or not the partition is still its own."""
    send = Store.send

    def unfenced(self: Store, batch: Batch, _claims: Any) -> None:
        epochs = self._connection.execute(
            "SELECT topic, partition, epoch FROM history.sink_offsets WHERE lane = %s",
            (self._lane,),
        ).fetchall()
        send(self, batch, {(topic, part): Claim(epoch, 0) for topic, part, epoch in epochs})
        _log.warning(WRITTEN_UNFENCED)

    Store.send = unfenced  # type: ignore[method-assign, assignment]  # that is the mistake


def _offsets_outside_the_transaction() -> None:
    """The sink's positions move first, and the rows follow in a transaction of their own."""
    send = Store.send

    def split(self: Store, batch: Batch, claims: Any) -> None:
        send(self, Batch(positions=batch.positions), claims)
        self.finish()
        send(self, batch, claims)

    Store.send = split  # type: ignore[method-assign]  # that is the mistake


async def _hold() -> None:
    """Never return."""
    _log.warning(HELD)
    await asyncio.Event().wait()


def _stuck_broker() -> None:
    """What is produced is never taken."""

    async def send(_self: Producer, _messages: Iterable[Outgoing]) -> None:
        await _hold()

    Producer.send_all = send  # type: ignore[method-assign]  # the condition, not a mistake


def _stuck_for_some() -> None:
    """The first record of each partition and every third one after it are never done."""
    deliver = delivery.Delivery.__call__

    async def stuck(self: delivery.Delivery, record: Record) -> None:
        if record.offset % 3 == 0:
            await _hold()
        await deliver(self, record)

    delivery.Delivery.__call__ = stuck  # type: ignore[method-assign]  # the condition, no mistake


MISTAKES: Final[dict[str, Callable[[], None]]] = {
    "ack-before-delivery": _ack_before_delivery,
    "ack-out-of-order": _ack_out_of_order,
    "ack-on-exception": _ack_on_exception,
    "random-ids": _random_ids,
    "no-effect-claim": _no_effect_claim,
    "outbox-deleted-before-publish": _outbox_deleted_before_publish,
    "settled-later": _settled_later,
    "no-fence": _no_fence,
    "offsets-outside-the-transaction": _offsets_outside_the_transaction,
}
"""By name, what plants it."""

CONDITIONS: Final[dict[str, Callable[[], None]]] = {
    "stuck-broker": _stuck_broker,
    "stuck-for-some": _stuck_for_some,
}
"""By name, what brings it about; set up before a mistake is planted."""
