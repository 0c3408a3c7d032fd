"""What a test of a role needs: a context without broker or database, and a clock that it sets."""

import random
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID, uuid5

from agents.runtime.assessment import NoPolicies, Policies
from agents.runtime.breaker import Breakers
from agents.runtime.catalogue import Catalogue, load_catalogue
from agents.runtime.context import Context, Services
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.ports import Ledger
from agents.runtime.settings import ROOT, Settings
from agents.runtime.topology import Topology, load_topology
from schemas import AgentMessage, Payload, compose

EPOCH: Final = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
"""When a test's clock starts: a Monday morning."""
_IDS: Final = UUID("5b1f3c44-1f0e-4c57-9a52-7465737473ff")


def test_id(name: str) -> UUID:
    """An id that is the same wherever a test says the same ``name``."""
    return uuid5(_IDS, name)


test_id.__test__ = False  # type: ignore[attr-defined]  # it only looks like a test to pytest


class ManualClock:
    """A clock that stands still until it is told to move; sleeping moves it."""

    def __init__(self, start: datetime = EPOCH) -> None:
        self._now = start

    def now(self) -> datetime:
        """The moment that the test has reached."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Move on by ``seconds`` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Move on by ``seconds``."""
        self._now += timedelta(seconds=seconds)


def message_with(
    payload: Payload,
    *,
    name: str = "message",
    execution: str = "execution",
    tenant: str = "default",
    lane: str = "",
    from_agent: str = "test",
    attempt: int = 1,
) -> AgentMessage[Any]:
    """An envelope around ``payload`` whose ids follow from the names."""
    return compose(
        payload,
        message_id=test_id(name),
        correlation_id=test_id(execution),
        causation_id=None,
        from_agent=from_agent,
        tenant=tenant,
        lane=lane,
        timestamp=EPOCH,
        received_at=EPOCH,
        attempt=attempt,
    )


@cache
def shipped_topology() -> Topology:
    """What topics.yaml of the checkout says."""
    return load_topology(ROOT / "topics.yaml")


def fake_services(
    *,
    catalogue: Catalogue | None = None,
    ledger: Ledger | None = None,
    clock: ManualClock | None = None,
    settings: Settings | None = None,
    policies: Policies | None = None,
) -> Services:
    """Services that touch nothing outside; the catalogue is the shipped one unless given.

    Without policies nothing may run.
    """
    clock = ManualClock() if clock is None else clock
    return Services(
        settings=Settings() if settings is None else settings,
        catalogue=load_catalogue(ROOT / "actions.yaml") if catalogue is None else catalogue,
        topology=shipped_topology(),
        ledger=MemoryLedger() if ledger is None else ledger,
        clock=clock,
        breakers=Breakers(clock),
        random=random.Random(0),  # noqa: S311  # a test wants the same numbers each time
        policies=NoPolicies() if policies is None else policies,
    )


def fake_context(
    payload: Payload,
    *,
    role: str = "test",
    services: Services | None = None,
    message: AgentMessage[Any] | None = None,
) -> Context:
    """The context in which ``role`` handles ``payload``."""
    return Context(
        role=role,
        message=message_with(payload) if message is None else message,
        services=fake_services() if services is None else services,
    )
