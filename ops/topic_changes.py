"""What must change on a broker so that its topics are those of topics.yaml, and changing it.

Planning is a pure function of the declaration and the broker's state. Nothing here deletes a
topic or moves data: what would lose records or break the order of an execution is refused.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agents.runtime.errors import KafkaUnavailableError
from agents.runtime.kafka_admin import (
    KafkaAdmin,
    NewTopicSpec,
    TopicExistsError,
    TopicState,
    UnknownTopicError,
)
from agents.runtime.topology import TopicSpec, Topology, TopologyError

Kind = Literal["create", "change", "refuse", "unknown"]
"""What is done about a topic: ``refuse`` and ``unknown`` are only reported."""

PARTITIONS: Final = "partitions"
REPLICATION_FACTOR: Final = "replication factor"

#: Kafka's own topics, and those of its companions, start like this.
_INTERNAL: Final = "_"
_ATTEMPTS: Final = 3
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not as declared."""

    setting: str
    """``partitions``, ``replication factor`` or a key of Kafka's topic configuration."""
    actual: str | None
    """``None`` where the broker has no value of its own."""
    declared: str


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done about one topic, or why nothing is."""

    kind: Kind
    topic: str
    """With the lane."""
    differences: tuple[Difference, ...] = ()
    reason: str | None = None
    """Why it is refused or only reported."""
    new: NewTopicSpec | None = None
    """The topic to create."""

    @property
    def is_actionable(self) -> bool:
        """Whether :func:`apply_changes` does something about it."""
        return self.kind in ("create", "change")


def plan_changes(
    topology: Topology,
    actual: Mapping[str, TopicState],
    configs: Mapping[str, Mapping[str, str]],
    *,
    lane: str = "",
    replication_factor: int | None = None,
) -> list[Change]:
    """What differs between the declared topics of a lane and a broker.

    Args:
        topology: The declared topics.
        actual: The broker's topics by name.
        configs: By topic, the configuration in effect; a key that is absent has no value.
        lane: The prefix of the lane; empty for production.
        replication_factor: Overrides that of every declared topic.

    Returns:
        Declared topics in the order of the file, then unknown ones by name.
    """
    changes: list[Change] = []
    for topic in topology.topics.values():
        name = topic.name_in(lane)
        replicas = replication_factor or topic.replication_factor
        state = actual.get(name)
        if state is None:
            new = NewTopicSpec(name, topic.partitions, replicas, topic.config())
            changes.append(Change("create", name, new=new))
        else:
            changes += _compare_size(topic, state, replicas)
            changes += _compare_config(topic, name, configs.get(name, {}))
    return changes + _unknown_topics(topology, actual, lane)


def read_changes(
    admin: KafkaAdmin, topology: Topology, *, lane: str = "", replication_factor: int | None = None
) -> list[Change]:
    """:func:`plan_changes` on what ``admin`` reports.

    Raises:
        KafkaUnavailableError: No broker answers.
    """
    actual = admin.list_topics()
    declared = [topic.name_in(lane) for topic in topology.topics.values()]
    configs = admin.describe_configs([name for name in declared if name in actual])
    return plan_changes(topology, actual, configs, lane=lane, replication_factor=replication_factor)


def apply_changes(admin: KafkaAdmin, changes: Sequence[Change]) -> None:
    """Do what can be done: create topics, set their configuration, grow unkeyed ones.

    Raises:
        TopicExistsError: Somebody else created a topic since the plan was made.
        KafkaAdminError: The broker refuses something.
        KafkaUnavailableError: No broker answers.
    """
    admin.create_topics([change.new for change in changes if change.new is not None])
    for change in changes:
        if change.kind != "change":
            continue
        config = {d.setting: d.declared for d in change.differences if d.setting != PARTITIONS}
        if config:
            admin.alter_configs(change.topic, config)
        for difference in change.differences:
            if difference.setting == PARTITIONS:
                admin.add_partitions(change.topic, int(difference.declared))


def bring_in(
    admin: KafkaAdmin,
    topology: Topology,
    *,
    lane: str = "",
    replication_factor: int | None = None,
    timeout: float = 15.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Change]:
    """Make the broker's topics those of the declaration, and wait until it shows them.

    Several processes may do so at once.

    Args:
        admin: The broker.
        topology: The declared topics.
        lane: The prefix of the lane.
        replication_factor: Overrides that of every declared topic.
        timeout: Seconds that the broker may take to show what it has confirmed.
        clock: Where time comes from, in seconds.
        sleep: Waits between two looks.

    Returns:
        What there was to do: :func:`plan_changes` as it was before.

    Raises:
        KafkaAdminError: The broker refuses something.
        KafkaUnavailableError: No broker answers, or it does not show what it has confirmed.
    """

    def changes_now() -> list[Change]:
        return read_changes(admin, topology, lane=lane, replication_factor=replication_factor)

    planned = pending = changes_now()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            apply_changes(admin, pending)
            break
        except TopicExistsError:
            if attempt == _ATTEMPTS:
                raise
            pending = changes_now()
    deadline = clock() + timeout
    while missing := _not_shown(changes_now):
        if clock() >= deadline:
            raise KafkaUnavailableError(
                f"the broker confirmed the changes to {', '.join(missing)} "
                f"but did not show them within {timeout:g} s"
            )
        sleep(_POLL_SECONDS)
    return planned


def ensure_topics(
    admin: KafkaAdmin, topology: Topology, lane: str = "", *, replication_factor: int | None = None
) -> None:
    """Make sure that a lane's topics are there, for processes that are about to use them.

    Raises:
        TopologyError: The broker's topics differ in a way that no program mends.
        KafkaAdminError: The broker refuses something.
        KafkaUnavailableError: No broker answers.
    """
    changes = bring_in(admin, topology, lane=lane, replication_factor=replication_factor)
    refused = [f"{change.topic}: {change.reason}" for change in changes if change.kind == "refuse"]
    if refused:
        raise TopologyError("\n".join(refused))


def _compare_size(topic: TopicSpec, state: TopicState, replicas: int) -> list[Change]:
    changes = []
    if state.partitions != topic.partitions:
        difference = Difference(PARTITIONS, str(state.partitions), str(topic.partitions))
        if state.partitions > topic.partitions:
            reason = "Kafka cannot take partitions away; make a new version of the topic"
        elif topic.key != "any":
            reason = (
                f"partition growth of a topic keyed by {topic.key} would send messages of running "
                "executions to other partitions and break their order; make a new version of the "
                "topic"
            )
        else:
            reason = None
        kind: Kind = "change" if reason is None else "refuse"
        changes.append(Change(kind, state.name, (difference,), reason))
    if state.replication_factor != replicas:
        changes.append(
            Change(
                "refuse",
                state.name,
                (Difference(REPLICATION_FACTOR, str(state.replication_factor), str(replicas)),),
                "replicas are moved by reassigning partitions (kafka-reassign-partitions)",
            )
        )
    return changes


def _compare_config(topic: TopicSpec, name: str, actual: Mapping[str, str]) -> list[Change]:
    differences = tuple(
        Difference(key, actual.get(key), value)
        for key, value in topic.config().items()
        if _normal(actual.get(key)) != _normal(value)
    )
    return [Change("change", name, differences)] if differences else []


def _unknown_topics(
    topology: Topology, actual: Mapping[str, TopicState], lane: str
) -> list[Change]:
    """Topics that nobody declared: of this lane, or for production of no lane at all."""
    declared = tuple(topology.topics)
    in_lane = {name for name in actual if name.startswith(lane)}
    known = {
        name
        for name in in_lane
        if name.removeprefix(lane) in declared
        or name.startswith(_INTERNAL)
        or (not lane and _lane_of(name, declared) is not None)
    }
    reason = "no declaration names it; it is left as it is"
    return [Change("unknown", name, reason=reason) for name in sorted(in_lane - known)]


def _lane_of(name: str, declared: Sequence[str]) -> str | None:
    """The lane whose copy of a declared topic ``name`` is."""
    for topic in declared:
        lane = name.removesuffix(topic)
        if lane != name and lane.endswith("."):
            return lane
    return None


def _normal(value: str | None) -> frozenset[str] | None:
    """A configuration value; lists such as ``compact,delete`` have no order."""
    return None if value is None else frozenset(part.strip() for part in value.split(","))


def _not_shown(changes_now: Callable[[], Sequence[Change]]) -> list[str]:
    try:
        return [change.topic for change in changes_now() if change.is_actionable]
    except UnknownTopicError as error:  # listed, but not yet everywhere
        return [error.topic]
