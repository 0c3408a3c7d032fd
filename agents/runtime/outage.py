"""Kafka or Postgres is away: who waits for it, said once when it goes and once when it is back.

Being away is no fault of a message. Nothing is counted, nothing is acked, and whoever waits goes
on by itself. A process has one :class:`Outages`, which speaks; each role, and whoever else can
meet an outage, has an :class:`Outage` of its own, which knows when that one has come through.
"""

import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, Literal, TypeVar

import structlog

from agents.runtime.errors import (
    DatabaseUnavailableError,
    FatalInfrastructureError,
    InfrastructureError,
)
from agents.runtime.metrics import Metrics, RoleMetrics
from agents.runtime.ports import Clock

T = TypeVar("T")
Dependency = Literal["kafka", "postgres"]
"""What every process stands on."""

START: Final = "start"
"""Who waits before there are any roles."""
_SHORTEST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_log = structlog.get_logger(__name__)


def dependency_of(error: InfrastructureError) -> Dependency:
    """What did not answer."""
    return "postgres" if isinstance(error, DatabaseUnavailableError) else "kafka"


class Outages:
    """What is away for this process, and who waits for it. May be called from any thread.

    An outage begins with the first who notices, and is over when the last has come through.

    Args:
        clock: Tells how long it took.
        metrics: Where roles show that they wait.
    """

    def __init__(self, clock: Clock, metrics: Metrics | None = None) -> None:
        self._clock = clock
        self._metrics = Metrics() if metrics is None else metrics
        self._lock = threading.Lock()
        self._waiting: dict[Dependency, set[str]] = {"kafka": set(), "postgres": set()}
        self._since: dict[Dependency, tuple[datetime, str]] = {}

    def begins(self, dependency: Dependency, who: str, reason: str) -> None:
        """``who`` has found that ``dependency`` does not answer."""
        with self._lock:
            self._waiting[dependency].add(who)
            is_new = dependency not in self._since
            if is_new:
                self._since[dependency] = (self._clock.now(), reason)
            self._show()
        if not is_new:
            return
        _log.warning("infrastructure_away", dependency=dependency, noticed_by=who, reason=reason)

    def ends(self, dependency: Dependency, who: str, *, is_back: bool = True) -> None:
        """``who`` does not wait for ``dependency`` any more.

        Args:
            dependency: What was away.
            who: As in :meth:`begins`.
            is_back: Whether it has answered; else the work was taken away, such as by a rebalance.
        """
        with self._lock:
            self._waiting[dependency].discard(who)
            found = None
            if not self._waiting[dependency]:
                found = self._since.pop(dependency, None)
            self._show()
        if found is None:
            return
        since, _ = found
        seconds = round((self._clock.now() - since).total_seconds(), 1)
        if is_back:
            _log.warning("infrastructure_back", dependency=dependency, after_seconds=seconds)
        else:
            _log.info("infrastructure_not_needed", dependency=dependency, after_seconds=seconds)

    def reason(self, dependency: Dependency) -> str | None:
        """Why ``dependency`` counts as away; ``None`` while it is there."""
        found = self._since.get(dependency)
        return None if found is None else found[1]

    def _show(self) -> None:
        """Show for every role whether the whole process waits."""
        waits = "kafka" in self._since or START in self._waiting["postgres"]
        for role in self._metrics.roles.copy().values():
            role.process_waits = waits


class Outage:
    """What one role, or something else that can meet an outage, knows of it.

    It is over when something has gone through since the last failure: what had begun before may
    just have been lucky.

    Args:
        who: The role's name.
        metrics: Where it shows that it waits.
        outages: Who says it.
    """

    def __init__(self, who: str, outages: Outages, metrics: RoleMetrics | None = None) -> None:
        self._who = who
        self._outages = outages
        self._metrics = RoleMetrics() if metrics is None else metrics
        self._missing: set[Dependency] = set()
        self._handlers = 0
        self.failures = 0
        """How often Kafka or Postgres did not answer."""

    @property
    def is_on(self) -> bool:
        """Whether something is away."""
        return bool(self._missing)

    def begins(self, error: InfrastructureError) -> None:
        """Kafka or Postgres did not answer."""
        self.failures += 1
        dependency = dependency_of(error)
        self._missing.add(dependency)
        self._metrics.handlers_wait = True
        self._outages.begins(dependency, self._who, error.reason)

    def ends(self, *, failures_before: int) -> None:
        """Something went through that began when there had been so many failures."""
        if self._missing and failures_before == self.failures:
            self._clear()

    def waits(self) -> None:
        """One more piece of work waits until it is over."""
        self._handlers += 1

    def gives_up(self) -> None:
        """One of these is not waited for any more, be it done, or its partition gone."""
        self._handlers -= 1
        if not self._handlers and self._missing:
            self._clear(is_back=False)

    def _clear(self, *, is_back: bool = True) -> None:
        self._metrics.handlers_wait = False
        for dependency in sorted(self._missing):
            self._outages.ends(dependency, self._who, is_back=is_back)
        self._missing.clear()


async def patiently(work: Callable[[], Awaitable[T]], *, clock: Clock, outage: Outage) -> T:
    """Do ``work``, and again, uncounted, as long as infrastructure is away.

    Raises:
        FatalInfrastructureError: Waiting would not help.
        Exception: Whatever else ``work`` raises.
    """
    wait = _SHORTEST_WAIT
    is_waiting = False
    try:
        while True:
            failures = outage.failures
            try:
                result = await work()
            except FatalInfrastructureError:
                raise
            except InfrastructureError as error:
                outage.begins(error)
                if not is_waiting:
                    is_waiting = True
                    outage.waits()
                await clock.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
            else:
                if outage.is_on:
                    outage.ends(failures_before=failures)
                return result
    finally:
        if is_waiting:
            outage.gives_up()
