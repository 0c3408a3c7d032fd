"""Settings of a process, from ``MILLSTREAM_*`` variables.

A variable that starts with ``MILLSTREAM_`` and means nothing is reported, since a misspelt
setting that is silently ignored is worse than none.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agents.runtime.errors import ConfigurationError
from schemas.base import Lane

PREFIX: Final = "MILLSTREAM_"
_NOT_OURS: Final = (PREFIX + "TEST_", PREFIX + "KAFKA_CACHE")
"""Variables of the test suite, and of the local Kafka, which are read before there are settings."""
ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout: topics.yaml, actions.yaml and migrations live there."""


class Settings(BaseSettings):
    """Everything that differs between deployments. Durations are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    kafka_bootstrap: str = "127.0.0.1:9092"
    """Addresses of Kafka brokers, ``host:port`` separated by commas."""
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_location: Path | None = None
    kafka_session_timeout: Annotated[float, Field(ge=1, le=1800)] = 30.0
    kafka_fetch_wait_ms: Annotated[int, Field(ge=1, le=5000)] = 500
    """How long the broker may hold back an empty fetch; 20 on the embedded broker."""
    kafka_idempotence: bool = True
    """Whether producers number their records, so that their own retries neither repeat nor reorder;
    off on the embedded broker, which forgets the numbers when it restarts and then refuses them."""
    database_url: SecretStr = SecretStr("postgresql://postgres@127.0.0.1:5432/millstream")
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    lane: Lane = ""
    """The prefix of every topic and group; empty for production, else it ends in a dot."""
    topics_file: Path = ROOT / "topics.yaml"
    actions_file: Path = ROOT / "actions.yaml"
    replication_factor: Annotated[int, Field(ge=1)] | None = None
    """Overrides the one that topics.yaml declares."""
    window: Annotated[int, Field(ge=1)] = 1000
    """Records per partition that may be in flight, and so be delivered again after a crash."""
    handler_timeout: Annotated[float, Field(gt=0)] = 30.0
    """How long a role may take over one message."""
    dead_letter_limit: Annotated[int, Field(ge=1)] = 100
    """Records in a row that a role may fail on before its worker stops."""
    drain_timeout: Annotated[float, Field(gt=0)] = 10.0
    """How long in-flight work may take to finish when the process is told to stop."""
    effect_lease_margin: Annotated[float, Field(gt=0)] = 15.0
    """How much longer than its timeout an executor's claim on an effect lives."""
    router_tick: Annotated[float, Field(gt=0)] = 0.25
    """How often the router looks for runs that want to be woken and for unsent messages."""
    outbox_sweep_age: Annotated[float, Field(gt=0)] = 5.0
    """How old an unsent message must be before somebody else publishes it."""
    playground_url: str = "http://127.0.0.1:8099"
    """Where the shipped catalogue's HTTP actions go."""
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = "json"
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    def template_values(self) -> Mapping[str, str]:
        """What a catalogue template may name as ``${settings.NAME}``; never a secret."""
        return {"playground_url": self.playground_url}


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment.

    Raises:
        ConfigurationError: A value is wrong, or a ``MILLSTREAM_`` variable means nothing. All
            problems are named at once; values are not, as they may be secrets.
    """
    source = os.environ if environ is None else environ
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    problems: list[str] = []
    values: dict[str, str] = {}
    for variable, value in sorted(source.items()):
        if not variable.upper().startswith(PREFIX) or variable.startswith(_NOT_OURS):
            continue
        if variable.upper() in known:
            values[known[variable.upper()]] = value
            continue
        near = get_close_matches(variable.upper(), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(f"{variable} is not a setting{hint}")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems.extend(
            f"{PREFIX}{'.'.join(str(part) for part in detail['loc']).upper()}: {detail['msg']}"
            for detail in error.errors(include_input=False, include_url=False)
        )
    else:
        if not problems:
            return settings
    raise ConfigurationError("wrong settings: " + "; ".join(problems))
