"""Reading topics.yaml."""

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from agents.runtime.declarations import (
    Declaration,
    Document,
    Duration,
    Matching,
    Size,
    did_you_mean,
    show,
    wrong_value,
)
from agents.runtime.topology.topics import (
    ANY,
    BYTES,
    SINK,
    STEP,
    Cleanup,
    Key,
    Timestamp,
    TopicSpec,
    Topology,
)
from schemas.registry import PAYLOADS

#: What a topic can carry.
SCHEMAS: Final = (*PAYLOADS, BYTES)


def _known_schema(name: str) -> str:
    if name not in SCHEMAS:
        expected = f"one of {', '.join(SCHEMAS)}{did_you_mean(name, SCHEMAS)}"
        raise wrong_value(f"{show(name)} is no payload model", expected)
    return name


_Name = Annotated[
    str,
    Matching(
        r"millstream\.[a-z][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)?\.v[1-9][0-9]*",
        "millstream.<noun>[.<sub>].v<N>, lower case, no underscores, such as millstream.plans.v1",
    ),
    Field(max_length=180),
]
_Role = Annotated[str, Matching(r"[a-z][a-z0-9_]{0,62}", "a role such as intent_parser")]
_Owner = Annotated[str, Matching(r"\S(.{0,98}\S)?", "a team or person")]
_Lifetime = Annotated[Duration, Field(gt=timedelta(0))]
_Partitions = Annotated[int, Field(ge=1, le=1000)]
_Replicas = Annotated[int, Field(ge=1, le=100)]
_MessageSize = Annotated[Size, Field(ge=1024, le=1024**3)]


class TopicDefaults(Declaration):
    """What holds for every topic that does not say otherwise."""

    key: Key = "correlation_id"
    partitions: _Partitions = 6
    replication_factor: _Replicas = 1
    retention: _Lifetime = timedelta(days=7)
    cleanup: Cleanup = "delete"
    max_message_bytes: _MessageSize = 1_000_000
    timestamp: Timestamp = "create"
    owner: _Owner | None = None


class TopicDeclaration(Declaration):
    """One topic; what is not given is that of the defaults."""

    schema_: Annotated[str, AfterValidator(_known_schema), Field(alias="schema")]
    """The payload model it carries, such as Plan, or bytes"""
    producers: Annotated[tuple[_Role, ...], Field(min_length=1)]
    """A list of the roles that write it"""
    consumers: Annotated[tuple[_Role, ...], Field(min_length=1)]
    """A list of the roles that read it"""
    primary: _Role | None = None
    """The consumer that dead-letters it"""
    may_wait: bool = True
    """Whether a record of it may wait on a delay topic"""
    key: Key | None = None
    partitions: _Partitions | None = None
    replication_factor: _Replicas | None = None
    retention: _Lifetime | None = None
    cleanup: Cleanup | None = None
    min_compaction_lag: _Lifetime | None = None
    max_message_bytes: _MessageSize | None = None
    timestamp: Timestamp | None = None
    owner: _Owner | None = None


class TopologyFile(Declaration):
    """The root of topics.yaml."""

    defaults: TopicDefaults = TopicDefaults()
    """What holds for every topic that does not say otherwise"""
    topics: dict[_Name, TopicDeclaration]
    """The topics by name"""


def load_topology(path: Path) -> Topology:
    """Read and check the topics at ``path``.

    Raises:
        DeclarationError: The file has problems; all of them are named, with their lines.
    """
    document = Document(path, TopologyFile)
    sound = document.sound()
    topics: dict[str, TopicSpec] = {}
    if sound is not None:
        topics = {
            name: _resolve(document, name, topic, sound.defaults)
            for name, topic in sound.topics.items()
        }
        for topic in topics.values():
            _check_roles(document, topic)
            _check_settings(document, topic)
        _check_partitions(document, topics)
        _check_destinations(document, topics)
    document.close(sound)
    return Topology(topics=topics, source=document.file)


def _resolve(
    document: Document[TopologyFile], name: str, topic: TopicDeclaration, defaults: TopicDefaults
) -> TopicSpec:
    settings: dict[str, Any] = {}
    for field in TopicDefaults.model_fields:
        own = getattr(topic, field)
        settings[field] = own if own is not None else getattr(defaults, field)
    return TopicSpec(
        name=name,
        schema=topic.schema_,
        producers=topic.producers,
        consumers=topic.consumers,
        may_wait=topic.may_wait,
        primary=topic.primary or next((r for r in topic.consumers if r != SINK), None),
        min_compaction_lag=topic.min_compaction_lag,
        source=f"{document.file}:{document.line_of(('topics', name))}",
        **settings,
    )


def _check_roles(document: Document[TopologyFile], topic: TopicSpec) -> None:
    path = ("topics", topic.name)
    for side, roles in (("producers", topic.producers), ("consumers", topic.consumers)):
        for index, role in enumerate(roles):
            if role in roles[:index]:
                document.report((*path, side, index), f"{role!r} stands twice", "each role once")
    if ANY in topic.consumers:
        document.report(
            (*path, "consumers", topic.consumers.index(ANY)),
            f"{ANY!r} is no consumer",
            "the roles by name",
        )
    readers = [role for role in topic.consumers if role != SINK]
    if topic.primary is not None and topic.primary not in readers:
        document.report(
            (*path, "primary"),
            f"{topic.primary!r} cannot dead-letter the topic",
            f"one of its consumers other than the sink ({', '.join(readers) or 'it has none'})",
        )
    if topic.schema == STEP and f"executor_{topic.executor}" not in readers:
        document.report(
            path,
            "no executor reads these steps",
            "millstream.steps.<executor>.v<N> with executor_<executor> among its consumers",
        )


def _check_settings(document: Document[TopologyFile], topic: TopicSpec) -> None:
    path = ("topics", topic.name)
    if not topic.owner:
        document.report((*path, "owner"), "it is missing", "the team that answers for the topic")
    if topic.min_compaction_lag is not None and topic.cleanup == "delete":
        document.report(
            (*path, "min_compaction_lag"),
            "the topic is not compacted",
            "cleanup: compact,delete beside it",
        )


def _check_partitions(document: Document[TopologyFile], topics: Mapping[str, TopicSpec]) -> None:
    """Messages of an execution meet in the partition of the same number, whatever the topic."""
    keyed = [topic for topic in topics.values() if topic.key == "correlation_id"]
    counts = Counter(topic.partitions for topic in keyed)
    for topic in keyed:
        usual = counts.most_common(1)[0][0]
        if topic.partitions != usual:
            document.report(
                ("topics", topic.name, "partitions"),
                f"{topic.partitions} partitions, while other topics with this key have {usual}",
                f"the same number for all topics keyed by correlation_id, such as {usual}",
            )


def _check_destinations(document: Document[TopologyFile], topics: Mapping[str, TopicSpec]) -> None:
    """A role that emits a payload knows one topic for it."""
    taken: dict[tuple[str, str, str | None], str] = {}
    for topic in topics.values():
        if topic.schema == BYTES:
            continue
        for index, role in enumerate(topic.producers):
            first = taken.setdefault((role, topic.schema, topic.executor), topic.name)
            if first != topic.name:
                document.report(
                    ("topics", topic.name, "producers", index),
                    f"{role!r} already publishes {topic.schema} on {first}",
                    "one topic for a role and a schema",
                )
