"""``millstream topics``: compare topics.yaml with a broker, and bring it in."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from agents.runtime.declarations import format_duration, format_size
from agents.runtime.errors import ConfigurationError, InfrastructureError
from agents.runtime.host import kafka_config
from agents.runtime.kafka_admin import KafkaAdmin, KafkaAdminError, wait_until_reachable
from agents.runtime.settings import Settings, load_settings
from agents.runtime.topology import Topology, load_topology
from ops.topic_changes import (
    Change,
    Difference,
    Kind,
    apply_changes,
    bring_in,
    ensure_topics,
    plan_changes,
    read_changes,
)
from schemas.base import Lane as LanePrefix

__all__ = [
    "Change",
    "Difference",
    "apply_changes",
    "bring_in",
    "ensure_topics",
    "plan_changes",
    "read_changes",
    "topics_app",
]

topics_app = typer.Typer(help="Compare topics.yaml with a broker, and bring it in.")

#: Exit codes: there is drift, or something is refused; the command could not do its work.
_DIFFERS: Final = 1
_FAILED: Final = 2

#: Seconds to wait for a broker before a person is told that there is none.
_PATIENCE: Final = 3.0

_SIGNS: Final[dict[Kind, tuple[str, str]]] = {
    "create": ("+ create", "green"),
    "change": ("~ change", "yellow"),
    "refuse": ("! refused", "red"),
    "unknown": ("? unknown", "dim"),
}
#: Kafka's own default for "for ever" does not fit a timedelta.
_LONGEST_SHOWN: Final = timedelta(days=36_500) // timedelta(milliseconds=1)

TopicsFile = Annotated[
    Path | None, typer.Option("--topics-file", help="The declaration.", show_default="topics.yaml")
]
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="The broker.", show_default="the settings'"),
]
Lane = Annotated[
    str | None, typer.Option("--lane", help="The lane, such as canary.", show_default="production")
]
ReplicationFactor = Annotated[
    int | None,
    typer.Option("--replication-factor", min=1, help="Instead of the declared one."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, slots=True)
class _Target:
    """What a command works on."""

    admin: KafkaAdmin
    topology: Topology
    lane: str
    replication_factor: int | None

    def read(self) -> list[Change]:
        return read_changes(
            self.admin,
            self.topology,
            lane=self.lane,
            replication_factor=self.replication_factor,
        )


@topics_app.command()
def plan(
    topics_file: TopicsFile = None,
    kafka: Kafka = None,
    lane: Lane = None,
    replication_factor: ReplicationFactor = None,
    as_json: AsJson = False,
) -> None:
    """Show what apply would do."""
    with _target(topics_file, kafka, lane, replication_factor) as target:
        changes = target.read()
    _print(changes, as_json=as_json)


@topics_app.command()
def apply(
    topics_file: TopicsFile = None,
    kafka: Kafka = None,
    lane: Lane = None,
    replication_factor: ReplicationFactor = None,
    as_json: AsJson = False,
) -> None:
    """Create what is missing and change what differs; nothing is ever deleted.

    Exits with 1 where something is refused, after everything else is done.
    """
    with _target(topics_file, kafka, lane, replication_factor) as target:
        changes = bring_in(
            target.admin,
            target.topology,
            lane=target.lane,
            replication_factor=target.replication_factor,
        )
    _print(changes, as_json=as_json, applied=True)
    if any(change.kind == "refuse" for change in changes):
        raise typer.Exit(_DIFFERS)


@topics_app.command()
def drift(
    topics_file: TopicsFile = None,
    kafka: Kafka = None,
    lane: Lane = None,
    replication_factor: ReplicationFactor = None,
    as_json: AsJson = False,
) -> None:
    """Show what differs, and exit with 1 if anything does. Unknown topics are no drift."""
    with _target(topics_file, kafka, lane, replication_factor) as target:
        changes = target.read()
    _print(changes, as_json=as_json)
    if any(change.kind != "unknown" for change in changes):
        raise typer.Exit(_DIFFERS)


@contextmanager
def _target(
    topics_file: Path | None, kafka: str | None, lane: str | None, replication_factor: int | None
) -> Iterator[_Target]:
    """What the options name; an error that people can mend ends the command with a sentence."""
    try:
        settings = load_settings()
        config = kafka_config(settings)
        if kafka is not None:
            config = replace(config, bootstrap_servers=kafka)
        topology = load_topology(topics_file or settings.topics_file)
        prefix = _lane(settings, lane)
        wait_until_reachable(config.bootstrap_servers, _PATIENCE, config=config.security)
        yield _Target(
            admin=KafkaAdmin(config.bootstrap_servers, config=config.security),
            topology=topology,
            lane=prefix,
            replication_factor=replication_factor or settings.replication_factor,
        )
    except (ConfigurationError, InfrastructureError) as error:
        typer.echo(str(error), err=True)
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        refused = isinstance(error, KafkaAdminError)
        raise typer.Exit(_DIFFERS if refused else _FAILED) from None


def _lane(settings: Settings, option: str | None) -> str:
    if option is None:
        return settings.lane
    prefix = option if option.endswith(".") or not option else f"{option}."
    try:
        return TypeAdapter(LanePrefix).validate_python(prefix)
    except ValidationError:
        raise typer.BadParameter(
            f"{option!r} is no lane; one is lower-case letters, digits and dashes, as in canary",
            param_hint="--lane",
        ) from None


def _print(changes: Sequence[Change], *, as_json: bool, applied: bool = False) -> None:
    counts = Counter(change.kind for change in changes)
    if as_json:
        summary = {kind: counts[kind] for kind in _SIGNS}
        body = {
            "applied": applied,
            "changes": [_as_json(change) for change in changes],
            "summary": summary,
        }
        typer.echo(json.dumps(body, indent=2))
        return
    console = Console(soft_wrap=True, highlight=False)
    width = max((len(change.topic) for change in changes), default=0)
    for change in changes:
        sign, style = _SIGNS[change.kind]
        console.print(
            Text(f"  {sign:<9}  {change.topic:<{width}}  ", style), Text(_details(change))
        )
    if all(change.kind == "unknown" for change in changes):
        unknown = f" {counts['unknown']} unknown." if counts["unknown"] else ""
        console.print(f"No changes.{unknown}")
    elif applied:
        console.print(
            f"Applied: {counts['create']} created, {counts['change']} changed, "
            f"{counts['refuse']} refused, {counts['unknown']} unknown."
        )
    else:
        console.print(
            f"Plan: {counts['create']} to create, {counts['change']} to change, "
            f"{counts['refuse']} refused, {counts['unknown']} unknown."
        )


def _details(change: Change) -> str:
    if change.new is not None:
        retention = _readable("retention.ms", change.new.config["retention.ms"])
        size = _readable("max.message.bytes", change.new.config["max.message.bytes"])
        return (
            f"{change.new.partitions} partitions, replication {change.new.replication_factor}, "
            f"{change.new.config['cleanup.policy']}, kept {retention}, messages up to {size}"
        )
    differences = ", ".join(
        f"{d.setting} {_readable(d.setting, d.actual)} → {_readable(d.setting, d.declared)}"
        for d in change.differences
    )
    return ": ".join(part for part in (differences, change.reason) if part)


def _readable(setting: str, value: str | None) -> str:
    if value is None:
        return "unset"
    if not value.isdecimal():  # -1 stands for no limit
        return value
    if setting.endswith(".ms"):
        return format_duration(timedelta(milliseconds=min(int(value), _LONGEST_SHOWN)))
    return format_size(int(value)) if setting.endswith(".bytes") else value


def _as_json(change: Change) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "topic": change.topic,
        "differences": [asdict(difference) for difference in change.differences],
        "reason": change.reason,
        "new": None if change.new is None else asdict(change.new),
    }
