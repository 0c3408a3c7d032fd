"""Places in the product at which a process ends or freezes itself, put there from outside.

Between two lines of the product's code lies a state of the world that a signal from another
process hits once in a thousand times. A barrier wraps the function before or after that place.
"""

import functools
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from agents.runtime.delivery import Delivery
from agents.runtime.kafka_consumer import BatchConsumer
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.ports import OutboxRow
from agents.sink.store import Store
from schemas import ExecutionState, ExecutionStatus, Payload, Plan

Hit = Callable[[], None]
"""Called each time the barrier is reached."""


def _before(owner: type, name: str, hit: Hit, when: Callable[..., bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if when(*args):
            hit()
        return original(self, *args, **kwargs)

    setattr(owner, name, wrapper)


def _after(
    owner: type,
    name: str,
    hit: Hit,
    when: Callable[[Any, tuple[Any, ...]], bool] = lambda _answer, _args: True,
) -> None:
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = await original(self, *args, **kwargs)
        if when(answer, args):
            hit()
        return answer

    setattr(owner, name, wrapper)


def _holds(payload: type[Payload], is_it: Callable[[Any], bool]) -> Callable[..., bool]:
    """Whether outbox rows are among something, and a message like that among them."""

    def holds(rows: Any) -> bool:
        return any(
            isinstance(row, OutboxRow)
            and isinstance(row.message.payload, payload)
            and is_it(row.message.payload)
            for row in (rows if isinstance(rows, Sequence) else ())
        )

    return holds


_sends_back = _holds(Plan, lambda plan: plan.evaluation > 1)
_expires = _holds(ExecutionState, lambda state: state.status is ExecutionStatus.EXPIRED)


def _is_effect(message: Any, *_: Any) -> bool:
    return bool(message.payload.effect == "effect")


BARRIERS: Final[dict[str, Callable[[Hit], None]]] = {
    # Workers.
    "after-produce-before-ack": lambda hit: _after(Delivery, "__call__", hit),
    "before-claim": lambda hit: _before(PostgresLedger, "claim_effect", hit, _is_effect),
    "after-claim-before-effect": lambda hit: _after(
        PostgresLedger,
        "claim_effect",
        hit,
        lambda claim, args: claim.decision == "go" and _is_effect(*args),
    ),
    "after-effect-before-record": lambda hit: _before(
        PostgresLedger, "settle_effect", hit, _is_effect
    ),
    "after-record-before-produce": lambda hit: _after(
        PostgresLedger, "settle_effect", hit, lambda _answer, args: _is_effect(*args)
    ),
    "after-resolution-before-run": lambda hit: _after(PostgresLedger, "resolve_effect", hit),
    "after-verdict-before-produce": lambda hit: _after(PostgresLedger, "record_verdict", hit),
    "after-ledger-commit-before-publish": lambda hit: _after(
        PostgresLedger, "advance", hit, lambda rows, _args: bool(rows)
    ),
    "after-publish-before-mark-sent": lambda hit: _before(PostgresLedger, "mark_sent", hit),
    # Workers, while somebody approves.
    "approval-after-commit-before-publish": lambda hit: _after(
        PostgresLedger, "advance", hit, lambda rows, _args: _sends_back(rows)
    ),
    "approval-after-publish-before-ack": lambda hit: _after(
        Delivery, "publish", hit, lambda _answer, args: _sends_back(args[0])
    ),
    "approval-before-second-verdict-is-kept": lambda hit: _before(
        PostgresLedger, "record_verdict", hit, lambda m, *_: m.payload.plan.evaluation > 1
    ),
    "approval-after-second-verdict-before-produce": lambda hit: _after(
        PostgresLedger,
        "record_verdict",
        hit,
        lambda verdict, _args: verdict.payload.plan.evaluation > 1,
    ),
    "approval-after-expiry-before-publish": lambda hit: _after(
        PostgresLedger, "advance", hit, lambda rows, _args: _expires(rows)
    ),
    # Sinks.
    "before-sink-write": lambda hit: _before(
        Store, "send", hit, lambda batch, *_: bool(batch.events)
    ),
    "before-sink-commit": lambda hit: _before(
        Store, "_merge_and_commit", hit, lambda batch, *_: bool(batch.events)
    ),
    "after-sink-commit-before-group-offset": lambda hit: _before(BatchConsumer, "commit", hit),
}
"""By name, what sets it up."""

APPROVAL_BARRIERS: Final = tuple(name for name in BARRIERS if "approval" in name)
"""They are reached only where somebody approves, or does not in time."""
WORKER_BARRIERS: Final = tuple(
    name
    for name in BARRIERS
    if not any(word in name for word in ("sink", "approval", "resolution"))
)
EFFECT_BARRIERS: Final = (
    "before-claim",
    "after-claim-before-effect",
    "after-effect-before-record",
    "after-record-before-produce",
)
"""Between the lines of an executor's way through an effect."""
SINK_BARRIERS: Final = tuple(name for name in BARRIERS if "sink" in name)


def put(name: str, *, hit: int, freeze: bool = False) -> None:
    """Have this process kill (or freeze) itself when it reaches the barrier.

    Args:
        name: One of :data:`BARRIERS`.
        hit: The how manieth time it is reached.
        freeze: Stop until somebody sends SIGCONT, instead of dying.
    """
    reached = 0

    def count() -> None:
        nonlocal reached
        reached += 1
        if reached == hit:
            # To this thread: sent to the process, another one may take it, and this one goes past.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP if freeze else signal.SIGKILL)

    BARRIERS[name](count)
