"""Looks whether Kafka answers: producers would say only after minutes that it does not.

librdkafka waits for a broker by itself and without a word to its caller. So one thread of each
process asks where a topic is, again and again, through a client of its own. A cluster whose
connections break is found away within seconds; one that is silent, such as a frozen machine, after
two questions without an answer.
"""

import asyncio
import threading
import time
from typing import Any, Final, Self

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from agents.runtime.errors import ConfigurationError, KafkaUnavailableError
from agents.runtime.kafka_admin import ANY_TOPIC
from agents.runtime.kafka_admin_errors import translated
from agents.runtime.kafka_config import KafkaConfig
from agents.runtime.outage import Outages

_log = structlog.get_logger(__name__)

_WHO: Final = "kafka_watch"
_PERIOD: Final = 5.0
"""Seconds between two questions while all is well."""
_PATIENCE: Final = 5.0
"""Seconds that an answer may take which nothing speaks against."""
_SHORT_PATIENCE: Final = 2.0
"""Seconds that one may take after every connection has broken, and while Kafka is away."""
_SILENT_QUESTIONS: Final = 2
"""How many questions in a row must find no answer where no connection has broken."""
_LOOK_SECONDS: Final = 0.25
_REFUSALS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - the underscore marks librdkafka's own codes
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)


class KafkaWatch:
    """Tells ``outages`` whether Kafka answers; a context manager that holds a thread.

    Args:
        kafka: The cluster.
        outages: Who says it.
    """

    def __init__(self, kafka: KafkaConfig, outages: Outages) -> None:
        self._kafka = kafka
        self._outages = outages
        self._stopping = threading.Event()
        self._answered = threading.Event()
        self._thread = threading.Thread(target=self._run, name=_WHO, daemon=True)
        self._refusal: str | None = None
        self._client: AdminClient
        # Everything below belongs to the thread.
        self._all_down = False
        self._complaint = "no answer"

    def __enter__(self) -> Self:
        """Start to look.

        Raises:
            ConfigurationError: The settings make no client.
        """
        settings: dict[str, Any] = {**self._kafka.client(), "error_cb": self._heard}
        try:
            self._client = AdminClient(settings)
        except KafkaException as error:
            reason = error.args[0].str()
            raise ConfigurationError(f"the settings for Kafka are wrong: {reason}") from error
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()

    async def wait_until_answered(self) -> None:
        """Return when Kafka has answered for the first time.

        Raises:
            ConfigurationError: It refuses our credentials.
        """
        while not self._answered.is_set():
            if self._refusal is not None:
                raise ConfigurationError(
                    f"Kafka at {self._kafka.bootstrap_servers} refuses us: {self._refusal}; "
                    "look at MILLSTREAM_KAFKA_SECURITY_PROTOCOL and MILLSTREAM_KAFKA_SASL_*"
                )
            await asyncio.sleep(_LOOK_SECONDS / 5)

    def _run(self) -> None:
        try:
            self._look()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            # Whoever waits for the first answer must not wait for a thread that is gone.
            self._refusal = f"{type(error).__name__}: {error}"
            _log.exception("kafka_watch_failed")

    def _look(self) -> None:
        client, unanswered = self._client, 0
        while not self._stopping.is_set():
            is_short = self._all_down or unanswered >= _SILENT_QUESTIONS
            if self._ask(client, _SHORT_PATIENCE if is_short else _PATIENCE):
                unanswered = 0
                self._answered.set()
                self._outages.ends("kafka", _WHO)
                self._rest(client, _PERIOD)
                continue
            if self._refusal is not None and not self._answered.is_set():
                return  # whoever waits for the first answer is told
            unanswered = _SILENT_QUESTIONS if self._all_down else unanswered + 1
            if unanswered >= _SILENT_QUESTIONS:
                servers = self._kafka.bootstrap_servers
                reason = f"no Kafka broker answers at {servers}: {self._complaint}"
                self._outages.begins("kafka", _WHO, reason)
                self._rest(client, _LOOK_SECONDS)

    def _ask(self, client: AdminClient, patience: float) -> bool:
        """Whether the cluster answers within ``patience`` seconds."""
        try:
            client.list_topics(ANY_TOPIC, timeout=patience)
        except KafkaException as error:
            self._listen(client, 0)  # why: it may have been told meanwhile
            problem = translated(error, self._kafka.bootstrap_servers, "say where a topic is")
            refused = error.args[0].code() in _REFUSALS
            # Whatever else it says, it is there.
            if refused or isinstance(problem, KafkaUnavailableError):
                return False
        # What was heard before the answer is over.
        self._listen(client, 0)
        self._all_down = False
        self._complaint = "no answer"
        return True

    def _rest(self, client: AdminClient, seconds: float) -> None:
        """Wait, but no longer than until something is wrong."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping.is_set():
            self._listen(client, _LOOK_SECONDS)
            if self._all_down and seconds == _PERIOD:
                return

    def _listen(self, client: AdminClient, seconds: float) -> None:
        """Have the client's complaints brought to :meth:`_heard`."""
        client.poll(seconds)

    def _heard(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001 - as above
            self._all_down = True
        else:
            self._complaint = error.str()
        if error.code() in _REFUSALS:
            self._refusal = error.str()
