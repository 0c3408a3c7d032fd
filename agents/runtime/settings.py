"""Settings of a process, from ``MILLSTREAM_*`` variables.

A variable that starts with ``MILLSTREAM_`` and means nothing is reported, since a misspelt
setting that is silently ignored is worse than none.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agents.runtime.declarations import Duration
from agents.runtime.errors import ConfigurationError
from schemas.base import Lane

PREFIX: Final = "MILLSTREAM_"
SECRET_PREFIX: Final = PREFIX + "SECRET_"
"""Of variables that hold a secret each; the rest is its name, see :mod:`agents.runtime.secrets`."""
_NOT_OURS: Final = (PREFIX + "TEST_", PREFIX + "KAFKA_CACHE", SECRET_PREFIX)
"""Variables that are no settings; those of the test suite, and of the local Kafka, are read before
there are settings."""
ROOT: Final = Path(__file__).resolve().parents[2]
"""The checkout: topics.yaml, actions.yaml and migrations live there."""


class Settings(BaseSettings):
    """Everything that differs between deployments. Durations that are numbers are in seconds."""

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
    group_instance_id: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,100}$")] | None = None
    """Names this process in its consumer groups over restarts, such as a pod of a StatefulSet; no
    two processes may have the same. A restart within the session timeout then takes its partitions
    back at once; in return a process that leaves for good is missed only after that time."""
    kafka_idempotence: bool = True
    """Whether producers number their records, so that their own retries neither repeat nor reorder;
    off on the embedded broker, which forgets the numbers when it restarts and then refuses them."""
    database_url: SecretStr = SecretStr("postgresql://postgres@127.0.0.1:5432/millstream")
    database_pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    database_timeout: Annotated[float, Field(ge=0.5)] = 5.0
    """How long Postgres may take over one statement; what takes longer counts as away. Well below
    ``handler_timeout``, so that a Postgres that hangs is not taken for a handler that does."""
    lane: Lane = ""
    """The prefix of every topic and group; empty for production, else it ends in a dot."""
    topics_file: Path = ROOT / "topics.yaml"
    actions_file: Path = ROOT / "actions.yaml"
    prices_file: Path = ROOT / "prices.yaml"
    policies_folder: Path = ROOT / "ops" / "policies"
    """Where the Cedar policies are that every plan is judged by."""
    policies_poll: Annotated[float, Field(gt=0)] = 3.0
    """How often a worker looks whether the policies have changed."""
    policies_time_zone: str = "UTC"
    """Where it is the time that policies see, such as ``Europe/Zurich``."""
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
    watchdog_seconds: Annotated[float, Field(ge=1)] | None = None
    """How long a process may make no progress before it ends itself. If not given, longer than its
    longest attempt may take, with the pause before it and the wait for a broker that is away, and
    at least two minutes; a shorter time takes a broker that is away for a hang."""
    health_host: str = "127.0.0.1"
    """Where /livez, /readyz and /metrics are answered; 0.0.0.0 in a container."""
    health_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """The port for that; 0 for none."""
    broker_check: Annotated[float, Field(gt=0)] = 30.0
    """How often a worker looks whether its topics were made anew; then it ends."""
    effect_lease_margin: Annotated[float, Field(gt=0)] = 15.0
    """How much longer than its timeout an executor's claim on an effect lives."""
    cancel_poll: Annotated[float, Field(gt=0)] = 0.5
    """How often executors look whether executions are being cancelled whose steps they are at."""
    router_tick: Annotated[float, Field(gt=0)] = 0.25
    """How often the router looks for runs that want to be woken and for unsent messages."""
    outbox_sweep_age: Annotated[float, Field(gt=0)] = 5.0
    """How old an unsent message must be before somebody else publishes it."""
    execution_deadline: Duration = timedelta(hours=24)
    """How long an execution may take, such as ``24h``; then it expires."""
    step_patience: Duration = timedelta(hours=1)
    """How long an executor may take over a step beyond the step's own time limit, with the time
    that the step waits to be read; then the router gives the attempt up. Longer than a backlog or
    an outage that is to be sat out."""
    ledger_retention: Duration = timedelta(days=45)
    """How long the ledger remembers an execution that has ended, such as ``45d``; longer than any
    of its messages can come back, see :mod:`agents.runtime.ledger.retention`."""
    approval_ttl: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=30))] = timedelta(
        hours=1
    )
    """How long an execution waits for people's approval before it expires, such as ``1h``."""
    principals_file: Path | None = None
    """Who may issue commands, with their public keys, see :mod:`agents.runtime.principals`."""
    trust_unsigned_commands: bool = False
    """Whether the access rules of the commands topic are strict enough that an unsigned command is
    from whom it says. A signature that is there must be right all the same."""
    signing_key_file: Path | None = None
    """The private key with which the command line signs; for people, not for workers."""
    secrets_dir: Path | None = None
    """A folder with a file for each secret; a secret that has none there is looked for in the
    variable ``MILLSTREAM_SECRET_<NAME>``."""
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
