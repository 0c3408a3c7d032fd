"""Topics as declared, and the comparison of a role's signature with the declaration."""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from agents.runtime.errors import ConfigurationError

Key = Literal["correlation_id", "any"]
Cleanup = Literal["delete", "compact,delete"]
Timestamp = Literal["create", "append"]

#: A producer that stands for every role.
ANY: Final = "any"
#: Reads every topic and stores what it cannot decode, so it never dead-letters.
SINK: Final = "sink"
#: The schema of a topic whose values nobody decodes.
BYTES: Final = "bytes"
#: The one schema with several topics, one for each executor.
STEP: Final = "Step"

_TIMESTAMP_TYPES: Final[Mapping[Timestamp, str]] = {
    "create": "CreateTime",
    "append": "LogAppendTime",
}


class TopologyError(ConfigurationError):
    """Code and topics.yaml disagree about who reads and writes what."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic, as topics.yaml declares it with its defaults filled in."""

    name: str
    """Without a lane; see :meth:`name_in`."""
    schema: str
    """The payload model that it carries, or ``bytes``."""
    key: Key
    partitions: int
    replication_factor: int
    retention: timedelta
    cleanup: Cleanup
    min_compaction_lag: timedelta | None
    max_message_bytes: int
    timestamp: Timestamp
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    primary: str | None
    """The consumer that dead-letters it; ``None`` where only the sink reads it."""
    source: str
    """File and line of the declaration."""
    may_wait: bool = True
    """Whether its readers bear that a later record overtakes one that waits on a delay topic."""

    @property
    def executor(self) -> str | None:
        """``http`` of ``millstream.steps.http.v1``; ``None`` where no steps are carried."""
        _, _, *sub, _ = self.name.split(".")
        return sub[0] if sub and self.schema == STEP else None

    def name_in(self, lane: str) -> str:
        """The name in a lane: ``""`` for production, else a prefix such as ``canary.``."""
        return lane + self.name

    def written_by(self, role: str) -> bool:
        """Whether ``role`` may write it."""
        return role in self.producers or ANY in self.producers

    @property
    def is_delayed(self) -> bool:
        """Whether the delayer can have records of it: a role reads it that may let them wait."""
        return self.primary is not None and self.schema != BYTES and self.may_wait

    def config(self) -> dict[str, str]:
        """The configuration in Kafka's terms."""
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": _TIMESTAMP_TYPES[self.timestamp],
            "retention.ms": _milliseconds(self.retention),
        }
        if self.min_compaction_lag is not None:
            config["min.compaction.lag.ms"] = _milliseconds(self.min_compaction_lag)
        return config


@dataclass(frozen=True, slots=True)
class Topology:
    """All topics, and the questions that workers ask of them."""

    topics: Mapping[str, TopicSpec]
    """By name without a lane, in the order of the file."""
    source: str
    """The file."""

    def consumed_by(self, role: str) -> tuple[TopicSpec, ...]:
        """The topics that ``role`` reads."""
        return tuple(topic for topic in self.topics.values() if role in topic.consumers)

    def produced_by(self, role: str) -> tuple[TopicSpec, ...]:
        """The topics that ``role`` writes, those that every role may write included."""
        return tuple(topic for topic in self.topics.values() if topic.written_by(role))

    def topic_for(self, role: str, schema: str, *, executor: str | None = None) -> TopicSpec:
        """The topic on which ``role`` publishes payloads of ``schema``.

        Args:
            role: The producer.
            schema: The payload model's name.
            executor: For a ``Step``, the executor that it is for.

        Raises:
            TopologyError: The file declares none.
        """
        for topic in self.produced_by(role):
            if topic.schema == schema and topic.executor == executor:
                return topic
        target = f" for executor {executor}" if executor is not None else ""
        raise TopologyError(
            f"{self.source}: no topic lets {role} publish {schema}{target}; "
            f"add {role} to the producers of a topic with schema {schema}"
        )

    def check_role(
        self,
        role: str,
        consumes: AbstractSet[str],
        emits: AbstractSet[str],
        where: str,
        *,
        keeps_order: bool = False,
    ) -> None:
        """Compare what a role's function does with what the file says.

        Args:
            role: The role.
            consumes: Names of the payloads that its function takes.
            emits: Names of the payloads that its function returns.
            where: File and line of the function.
            keeps_order: Whether none of its messages may wait while later ones are handled.

        Raises:
            TopologyError: They disagree; every difference is named, with both places.
        """
        complaints = [
            *self._compare(where, role, consumes, "consumes", lambda topic: topic.consumers),
            *self._compare(where, role, emits, "emits", lambda topic: topic.producers),
            *(self._overtaking(where, role) if keeps_order else ()),
        ]
        if complaints:
            raise TopologyError("\n".join(complaints))

    def _overtaking(self, where: str, role: str) -> Iterable[str]:
        for topic in self.consumed_by(role):
            if topic.may_wait:
                yield (
                    f"{topic.source}: records of {topic.name} may wait on a delay topic, but role "
                    f"{role!r} at {where} keeps their order; add `may_wait: false` there"
                )

    def _compare(
        self,
        where: str,
        role: str,
        in_code: AbstractSet[str],
        verb: str,
        listed: Callable[[TopicSpec], Iterable[str]],
    ) -> Iterable[str]:
        side = "consumers" if verb == "consumes" else "producers"
        for schema in sorted(in_code):
            carriers = [topic for topic in self.topics.values() if topic.schema == schema]
            if any(role in listed(topic) for topic in carriers):
                continue
            if carriers:
                places = " and ".join(f"{topic.source} ({topic.name})" for topic in carriers)
                yield (
                    f"{where}: role {role!r} {verb} {schema}, but it is not among the {side} at "
                    f"{places}; add it there or change the signature"
                )
            else:
                yield (
                    f"{where}: role {role!r} {verb} {schema}, but no topic of {self.source} "
                    "carries it; declare one or change the signature"
                )
        for topic in self.topics.values():
            if role in listed(topic) and topic.schema not in in_code:
                does = ", ".join(sorted(in_code)) or "nothing"
                yield (
                    f"{topic.source}: {topic.name} has role {role!r} among its {side}, but its "
                    f"function at {where} {verb} {does}, not {topic.schema}; change the signature "
                    "or remove the role there"
                )


def _milliseconds(duration: timedelta) -> str:
    return str(duration // timedelta(milliseconds=1))
