"""What the playground plays: its things, what can be done to them, and a record of what was."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

ENVIRONMENTS: Final = ("development", "staging", "production")
_VERSIONS: Final = {
    "checkout": ("2.5.0-rc.1", "2.4.1", "2.4.0"),
    "payments": ("5.2.0", "5.1.3", "5.1.3"),
    "search": ("1.9.2", "1.9.0", "1.8.7"),
    "inventory": ("3.0.0", "2.9.4", "2.9.4"),
    "web": ("7.14.0", "7.13.2", "7.13.2"),
}
"""By service, the version in each of the environments."""
_REPLICAS: Final = {"development": 1, "staging": 2, "production": 6}
_DATABASES: Final = {"orders": 1840.5, "customers": 612.0}
"""By database, its size in megabytes."""


class PlaygroundError(Exception):
    """A call that is refused.

    Args:
        status: The HTTP status of the answer.
        code: A stable word for programs.
        message: What is wrong, for people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Value(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


BodyT = TypeVar("BodyT", bound=_Value)


class Service(_Value):
    """A service in an environment."""

    service: str
    environment: str
    version: str
    health: Literal["healthy", "down"] = "healthy"
    replicas: int
    restarted_at: str | None = None
    previous_version: str | None = None


class Backup(_Value):
    """A backup that was taken."""

    backup_id: str
    database: str
    environment: str
    size_mb: float


class Message(_Value):
    """A line in the chat."""

    channel: Annotated[str, Field(min_length=1, max_length=100)]
    text: Annotated[str, Field(min_length=1, max_length=10_000)]


class Deployment(_Value):
    """The body of a deploy call."""

    version: Annotated[str, Field(min_length=1, max_length=64)]


class Size(_Value):
    """The body of a scale call."""

    replicas: Annotated[int, Field(ge=0, le=1000)]


class Fault(_Value):
    """What happens to the next calls to a service."""

    service: str
    environment: str
    count: Annotated[int, Field(ge=1)] = 1
    kind: Literal["refuse", "cut", "slow"] = "refuse"
    status: Annotated[int, Field(ge=400, le=599)] = 503
    retry_after: Annotated[float, Field(ge=0)] | None = None
    delay: Annotated[float, Field(ge=0, le=60)] = 0.0


class Call(_Value):
    """One call that asked for a change, and what it was answered."""

    at: str
    method: str
    path: str
    idempotency_key: str | None
    took_effect: bool
    status: int | None
    """``None`` where the connection was cut instead of an answer."""


class State(_Value):
    """Everything that the playground keeps."""

    services: list[Service]
    backups: list[Backup] = []
    messages: list[Message] = []
    faults: list[Fault] = []
    calls: list[Call] = []


def seed() -> State:
    """The state in which a playground begins."""
    return State(
        services=[
            Service(
                service=name,
                environment=environment,
                version=version,
                replicas=_REPLICAS[environment],
            )
            for environment, versions in zip(
                ENVIRONMENTS, zip(*_VERSIONS.values(), strict=True), strict=True
            )
            for name, version in zip(_VERSIONS, versions, strict=True)
        ]
    )


def read(body: bytes, model: type[BodyT]) -> BodyT:
    """The body of a call.

    Raises:
        PlaygroundError: It is no JSON, or does not fit ``model``; all problems are named.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'body'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise PlaygroundError(422, "invalid_body", problems) from None


class World:
    """The playground's state and what can be done to it. Not safe for threads by itself.

    Args:
        file: Where the state is kept over restarts; nowhere if not given.
        now: The clock.
    """

    def __init__(
        self, file: Path | None = None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._file = file
        self._now = now
        stored = file.read_bytes() if file is not None and file.exists() else None
        self.state = seed() if stored is None else State.model_validate_json(stored)

    def service(self, environment: str, name: str) -> Service:
        """A service.

        Raises:
            PlaygroundError: There is no such environment or service.
        """
        self._known_environment(environment)
        for service in self.state.services:
            if (service.environment, service.service) == (environment, name):
                return service
        raise PlaygroundError(404, "unknown_service", f"no service {name!r} in {environment}")

    def restart(self, service: Service) -> None:
        """Restart all replicas."""
        service.restarted_at = self._now().isoformat()
        service.health = "healthy" if service.replicas else "down"

    def deploy(self, service: Service, version: str) -> None:
        """Run ``version``, and remember which one ran before."""
        service.previous_version, service.version = service.version, version

    def rollback(self, service: Service) -> None:
        """Run the version before.

        Raises:
            PlaygroundError: Nothing was deployed since the beginning or the last rollback.
        """
        if service.previous_version is None:
            raise PlaygroundError(
                409, "nothing_to_roll_back", f"{service.service} has no earlier version"
            )
        service.version, service.previous_version = service.previous_version, None

    def scale(self, service: Service, replicas: int) -> None:
        """Set how many replicas run; a service without any is down."""
        service.replicas = replicas
        service.health = "healthy" if replicas else "down"

    def remove(self, service: Service) -> None:
        """Remove a service from its environment."""
        self.state.services.remove(service)

    def back_up(self, environment: str, database: str) -> Backup:
        """Take a backup.

        Raises:
            PlaygroundError: There is no such environment or database.
        """
        self._known_environment(environment)
        if database not in _DATABASES:
            raise PlaygroundError(404, "unknown_database", f"no database {database!r}")
        number = len(self.state.backups) + 1
        backup = Backup(
            backup_id=f"{database}-{environment}-{number:04d}",
            database=database,
            environment=environment,
            size_mb=_DATABASES[database],
        )
        self.state.backups.append(backup)
        return backup

    def add_fault(self, fault: Fault) -> None:
        """Make the next calls to a service fail.

        Raises:
            PlaygroundError: There is no such service.
        """
        self.service(fault.environment, fault.service)
        self.state.faults.append(fault)

    def next_fault(self, environment: str, service: str) -> Fault | None:
        """The fault that this call meets, if any; it is used up by one call."""
        for fault in self.state.faults:
            if (fault.environment, fault.service) == (environment, service):
                fault.count -= 1
                if fault.count == 0:
                    self.state.faults.remove(fault)
                return fault
        return None

    def record(
        self, method: str, path: str, key: str | None, *, took_effect: bool, status: int | None
    ) -> None:
        """Write down a call that asked for a change."""
        self.state.calls.append(
            Call(
                at=self._now().isoformat(),
                method=method,
                path=path,
                idempotency_key=key,
                took_effect=took_effect,
                status=status,
            )
        )

    def calls(self) -> dict[str, Any]:
        """Every call that asked for a change, and by idempotency key how many took effect."""
        effects = Counter(
            call.idempotency_key
            for call in self.state.calls
            if call.took_effect and call.idempotency_key is not None
        )
        return {"calls": [call.model_dump() for call in self.state.calls], "effects": dict(effects)}

    def save(self) -> None:
        """Write the state to its file, if there is one, so that a crash leaves a whole file."""
        if self._file is None:
            return
        draft = self._file.with_suffix(self._file.suffix + ".new")
        draft.write_bytes(self.state.model_dump_json().encode())
        draft.replace(self._file)

    def _known_environment(self, environment: str) -> None:
        if environment not in ENVIRONMENTS:
            raise PlaygroundError(
                404,
                "unknown_environment",
                f"no environment {environment!r}; there are {', '.join(ENVIRONMENTS)}",
            )
