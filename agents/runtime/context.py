"""What a role's function is given beside its payload."""

from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID

from pydantic import JsonValue

from agents.runtime.assessment import NoPolicies, Policies
from agents.runtime.breaker import Breakers
from agents.runtime.catalogue import Catalogue
from agents.runtime.clock import SystemClock
from agents.runtime.metrics import Metrics
from agents.runtime.ports import Clock, Ledger
from agents.runtime.principals import Identifies, Principals
from agents.runtime.running import RunningSteps, nobody_stops
from agents.runtime.secrets import Secrets, secrets_in
from agents.runtime.settings import Settings
from agents.runtime.templates import Template
from agents.runtime.topology import Topology
from schemas import AgentMessage, Payload, compose
from schemas.identity import derive_message_id


@dataclass(frozen=True)
class Services:
    """What all handlers of a process share; everything here can be replaced in a test."""

    settings: Settings
    catalogue: Catalogue
    topology: Topology
    ledger: Ledger
    clock: Clock
    broker_id: str = "test"
    """Tells this broker's topics from their namesakes on one that is gone: the topic id of the
    lane's verdicts."""
    random: Random = field(default_factory=Random)
    breakers: Breakers = field(default_factory=lambda: Breakers(SystemClock()))
    metrics: Metrics = field(default_factory=Metrics)
    policies: Policies = field(default_factory=NoPolicies)
    principals: Identifies = field(default_factory=Principals)
    """Who may issue commands."""
    secrets: Secrets = field(default_factory=lambda: Secrets(()))
    running: RunningSteps = field(default_factory=lambda: RunningSteps(nobody_stops))
    """The steps that executors of this process are at."""

    async def values(self, *templates: JsonValue) -> dict[str, str]:
        """What ``templates`` may name beside parameters: settings, and secrets after ``secret:``.

        Raises:
            NoSecretError: A secret that they name is nowhere.
            TransientError: The place that has it does not answer.
        """
        names = frozenset[str]().union(*map(secrets_in, templates))
        secrets = await self.secrets.reveal(names)
        revealed = {f"secret:{name}": value for name, value in secrets.items()}
        return {**self.settings.template_values(), **revealed}

    async def fill_in(self, text: str) -> str:
        """``text`` of a connection, with settings and secrets filled in.

        Raises:
            MillstreamError: As :meth:`values`.
        """
        return Template.parse(text).render({}, await self.values(text))


@dataclass(frozen=True, slots=True)
class Context:
    """One message's surroundings: the envelope it came in, and the shared services."""

    role: str
    message: AgentMessage[Any]
    services: Services

    @property
    def correlation_id(self) -> UUID:
        """The execution."""
        return self.message.correlation_id

    @property
    def lane(self) -> str:
        """The execution's lane; empty for production."""
        return self.message.lane

    @property
    def tenant(self) -> str:
        """Who the execution is accounted to."""
        return self.message.tenant

    @property
    def catalogue(self) -> Catalogue:
        """The action catalogue."""
        return self.services.catalogue

    @property
    def ledger(self) -> Ledger:
        """The roles' durable state."""
        return self.services.ledger

    @property
    def policies(self) -> Policies:
        """What decides whether a plan may run."""
        return self.services.policies

    @property
    def settings(self) -> Settings:
        """The process settings."""
        return self.services.settings

    def now(self) -> datetime:
        """The moment by the injected clock, aware, in UTC."""
        return self.services.clock.now()

    def compose(
        self,
        payload: Payload,
        index: int,
        *,
        to_agent: str | None = None,
        attempt: int | None = None,
    ) -> AgentMessage[Any]:
        """The envelope for the ``index``-th message that this role writes because of its input.

        The id is derived from the input's, so that handling it again yields the same envelope id.
        """
        message = self.message
        return compose(
            payload,
            message_id=derive_message_id(
                lane=message.lane,
                correlation_id=message.correlation_id,
                role=self.role,
                cause=message.message_id,
                index=index,
            ),
            correlation_id=message.correlation_id,
            causation_id=message.message_id,
            from_agent=self.role,
            to_agent=to_agent,
            tenant=message.tenant,
            lane=message.lane,
            timestamp=self.now(),
            received_at=message.received_at,
            attempt=message.attempt if attempt is None else attempt,
            external_id=message.external_id,
        )
