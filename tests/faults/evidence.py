"""What a run of the pipeline has left behind, as plain values that the checker judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from agents.runtime import dead_letters
from agents.runtime.records import Record, TopicPartition
from agents.runtime.settings import ROOT
from agents.runtime.topology import load_topology
from agents.runtime.topology.topics import SINK
from agents.sink.assembly import decoder
from agents.sink.batch import Decode
from schemas.registry import PAYLOADS

TOPOLOGY: Final = load_topology(ROOT / "topics.yaml")
SINK_TOPICS: Final = tuple(spec.name for spec in TOPOLOGY.consumed_by(SINK))
"""Names of the topics that become history, without a lane."""

Row = Mapping[str, Any]
"""A row of a table by column; JSON is parsed."""


@dataclass(frozen=True, slots=True)
class Move:
    """One change of a position that the sink has stored, as a trigger wrote it down."""

    topic: str
    partition: int
    topic_id: str | None
    before: int
    after: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Topics, tables and the outside world after everything has come to rest."""

    lane: str
    records: Sequence[Record]
    """Every record of every topic that the sink reads, in the order of each partition."""
    ends: Mapping[TopicPartition, int]
    """Where each partition of those topics ends."""
    topic_ids: Mapping[str, str]
    lags: Mapping[str, int] = field(default_factory=dict)
    """By consumer group, the records that it has not committed."""
    sink_offsets: Sequence[Row] = ()
    moves: Sequence[Move] = ()
    """Every change of those, in order."""
    events: Sequence[Row] = ()
    executions: Sequence[Row] = ()
    steps: Sequence[Row] = ()
    dead_letters: Sequence[Row] = ()
    unreadable: Sequence[Row] = ()
    runs: Sequence[Row] = ()
    effects: Sequence[Row] = ()
    reservations: Sequence[Row] = ()
    spending: Sequence[Row] = ()
    outbox: int = 0
    """Messages that nobody has published, or nobody has struck off."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """By idempotency key, how many calls took effect outside."""
    submitted: frozenset[UUID] = frozenset()
    """Executions whose requests the broker has confirmed and that are well formed."""

    @property
    def dead_letter_topic(self) -> str:
        """Its name in this lane."""
        return self.lane + dead_letters.TOPIC

    @property
    def decode(self) -> Decode:
        """What finds the message in a record of any topic but that of dead letters."""
        specs = TOPOLOGY.consumed_by(SINK)
        return decoder(
            {s.name_in(self.lane): PAYLOADS[s.schema] for s in specs if s.schema in PAYLOADS},
            lane=self.lane,
        )
