"""``millstream status``: what runs, how far everybody is behind, how executions stand."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.runtime.errors import DatabaseUnavailableError, KafkaUnavailableError
from agents.runtime.host import kafka_config
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.settings import Settings
from agents.runtime.topology import Topology, load_topology
from ops import render
from ops.history import opened
from ops.running import RunningStack, without_credentials
from schemas import ExecutionStatus

_GROUP: Final = "millstream-"
_KAFKA_SECONDS: Final = 5.0


@dataclass
class Status:
    """What could be found out; ``None`` where something did not answer."""

    kafka: str
    database: str
    lane: str
    parts: list[dict[str, Any]] = field(default_factory=list)
    """What `millstream up` runs on this machine."""
    problems: list[str] = field(default_factory=list)
    topics: int | None = None
    missing_topics: list[str] = field(default_factory=list)
    lag: dict[str, int | None] = field(default_factory=dict)
    """By role, the records it has still to read; ``None`` for one that has committed nothing."""
    executions: dict[str, int] | None = None

    @property
    def is_sound(self) -> bool:
        """Whether everything answered and nothing is missing."""
        return not self.problems and not self.missing_topics


def run(settings: Settings, stack: RunningStack | None, *, as_json: bool) -> int:
    """Print how things stand.

    Args:
        settings: Where broker and database are.
        stack: The local stack, if one runs.
        as_json: Whether a program reads it.

    Returns:
        The exit code: 0 when all is there, 1 when topics are missing, 2 when Kafka or Postgres
        does not answer.

    Raises:
        ConfigurationError: topics.yaml is wrong.
    """
    status = read_status(settings, load_topology(settings.topics_file))
    if stack is not None:
        status.parts = [part.model_dump(mode="json") for part in stack.parts]
    if as_json:
        render.print_json({**asdict(status), "is_sound": status.is_sound})
    else:
        render.console().print(_render(status))
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        for problem in status.problems:
            errors.print(Text(problem, "red"))
    return 2 if status.problems else 0 if status.is_sound else 1


def read_status(settings: Settings, topology: Topology) -> Status:
    """Ask the broker and history; what does not answer becomes a problem."""
    status = Status(
        kafka=settings.kafka_bootstrap,
        database=without_credentials(settings.database_url.get_secret_value()),
        lane=settings.lane,
    )
    try:
        _ask_kafka(status, settings, topology)
    except KafkaUnavailableError:
        status.problems.append(
            f"Kafka at {settings.kafka_bootstrap} does not answer; is the stack up? "
            "Start it with `millstream up`."
        )
    try:
        status.executions = _count(settings)
    except DatabaseUnavailableError as error:
        status.problems.append(error.reason)
    return status


def _ask_kafka(status: Status, settings: Settings, topology: Topology) -> None:
    config = kafka_config(settings)
    admin = KafkaAdmin(config.bootstrap_servers, config=config.security, timeout=_KAFKA_SECONDS)
    present = admin.list_topics()
    declared = [topic.name_in(settings.lane) for topic in topology.topics.values()]
    status.topics = sum(name in present for name in declared)
    status.missing_topics = [name for name in declared if name not in present]
    roles = {role: None for topic in topology.topics.values() for role in topic.consumers}
    for role in roles:
        lag = admin.consumer_lag(f"{settings.lane}{_GROUP}{role}")
        status.lag[role] = sum(lag.values()) if lag else None


def _count(settings: Settings) -> dict[str, int]:
    with opened(settings) as history:
        return history.count_by_status()


def _render(status: Status) -> RenderableType:
    where = Table.grid(padding=(0, 2))
    where.add_row(Text("broker", "bold"), status.kafka, _topics(status))
    where.add_row(Text("database", "bold"), status.database, "")
    if status.lane:
        where.add_row(Text("lane", "bold"), status.lane, "")
    for part in status.parts:
        if part["name"] not in ("broker", "postgres"):
            about = "" if part["pid"] is None else f"process {part['pid']}"
            where.add_row(Text(part["name"], "bold"), part["address"] or about, "")
    parts: list[RenderableType] = [where]
    if status.lag:
        roles = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
        roles.add_column("role")
        roles.add_column("records to read", justify="right")
        for role, lag in status.lag.items():
            roles.add_row(role, Text("nothing read yet", "dim") if lag is None else str(lag))
        parts.append(roles)
    if status.executions is not None:
        parts.append(_executions(status.executions))
    return Group(*parts)


def _topics(status: Status) -> Text:
    if status.topics is None:
        return Text("does not answer", "red")
    if status.missing_topics:
        missing = ", ".join(status.missing_topics)
        return Text(f"lacks {missing}; create with `millstream topics apply`", "red")
    return Text(f"{status.topics} topics", "dim")


def _executions(counts: dict[str, int]) -> RenderableType:
    if not counts:
        return Text("No executions yet.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("executions")
    table.add_column(str(sum(counts.values())), justify="right")
    order: dict[str, Any] = {status: number for number, status in enumerate(ExecutionStatus)}
    for name, count in sorted(counts.items(), key=lambda item: order.get(item[0], len(order))):
        table.add_row(render.status_text(name), str(count))
    return table
