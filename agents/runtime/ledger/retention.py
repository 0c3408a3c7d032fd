"""How long the ledger remembers, and the router's part in its forgetting.

The ledger recognises what comes again, so it must outlive whatever can: a record on a topic, and a
dead letter that is redriven on the last day of its own retention and then lies on its topic for
that one's.
"""

from datetime import datetime, timedelta
from typing import Final

from agents.runtime.declarations import format_duration
from agents.runtime.errors import ConfigurationError
from agents.runtime.ports import Ledger
from agents.runtime.topology import Topology

SWEEP_LIMIT: Final = 1000
"""Inbox entries, or verdicts, that one batch deletes."""
_PAUSE: Final = timedelta(hours=1)
_UNHEARD: Final = timedelta(hours=1)
"""How long the verdict on a run that has ended may be on its way before nobody waits for it."""
_LOST: Final = timedelta(days=1)
"""How long the verdict on a plan without a run may be on its way before it is taken for lost."""


def check_retention(retention: timedelta, topology: Topology) -> None:
    """Make sure that the ledger forgets an execution only when nothing of it can come back.

    Args:
        retention: ``MILLSTREAM_LEDGER_RETENTION``.
        topology: Every topic with its retention.

    Raises:
        ConfigurationError: It is too short; says which topics ask for more.
    """
    topics = topology.topics.values()
    longest = max(topics, key=lambda topic: topic.retention, default=None)
    if longest is None:
        return
    # Where a role reads, something redriven can wait once more.
    read = [topic for topic in topics if topic.primary is not None]
    again = max(read, key=lambda topic: topic.retention, default=None)
    needed = longest.retention + (timedelta(0) if again is None else again.retention)
    if retention > needed:
        return
    redriven = (
        ""
        if again is None
        else f", and what is redriven from it may lie for {format_duration(again.retention)} "
        f"on {again.name}"
    )
    raise ConfigurationError(
        f"MILLSTREAM_LEDGER_RETENTION is {format_duration(retention)}, and must be longer than "
        f"{format_duration(needed)}: {longest.name} keeps records for "
        f"{format_duration(longest.retention)} ({longest.source}){redriven}. A ledger that "
        "forgets earlier would let an effect happen twice"
    )


class HourlySweep:
    """Sweeps a batch at each turn until nothing is left, then rests for an hour.

    One small batch at a time, so that whoever takes the turns is never held up.
    """

    def __init__(self) -> None:
        self._rests_until: datetime | None = None

    def begin(self) -> None:
        """Sweep at the next turn: a process has just started."""
        self._rests_until = None

    async def turn(self, ledger: Ledger, *, lane: str, now: datetime, retention: timedelta) -> None:
        """Release what nobody will settle, and delete a batch, if the time has come.

        Raises:
            DatabaseUnavailableError: Postgres is away.
        """
        if self._rests_until is not None and now < self._rests_until:
            return
        await ledger.release_lost(
            lane=lane, ended_before=now - _UNHEARD, lost_before=now - _LOST, limit=SWEEP_LIMIT
        )
        swept = await ledger.sweep(lane=lane, before=now - retention, limit=SWEEP_LIMIT)
        self._rests_until = None if swept else now + _PAUSE
